// Package engine is the disk of a storage node: two Pebble stores, the layout
// of every key (keys.go) and the formats of the values.
//
// The log store holds the Raft logs of all ranges and is synced once per
// round. The state store holds what the ranges are. It is not synced per
// batch: the applied index rides in the same batch as the effects, so that
// after a crash the entries it lost are applied again from the log. The log
// is never cut beyond what the state store has made durable.
package engine
