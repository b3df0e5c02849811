// Package sharding says which cell owns an id at an epoch. It is pure: an
// immutable map, no clock, no I/O. The control plane publishes routes, every
// other node keeps a [Map] of them, and whoever is refused with a newer route
// repairs its map by [Map.With].
package sharding
