// Package cellclient is how our own nodes call the nodes of cells: a [Dialer]
// that keeps one connection per node, a [Locator] that finds a range's host
// and learns from refusals, and a [Relay] that carries requests to ranges in
// batches over one stream per node.
package cellclient
