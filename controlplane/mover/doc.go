// Package mover carries out moves of ranges. The elected control plane runs it
// ([Mover.Serve]); any control plane may submit a move or ask for its end
// ([Book]).
//
// A round looks at the nodes of every move that is not over, lets sharding/move
// say what comes next, stores that in one transaction that fails unless this
// control plane is still the elected one and nobody else has written the
// record, and then does it. What is done may be done twice, late, or by one who
// is not elected any more: it names the descriptor's version, and replicas whose
// time is over are refused by their nodes.
//
//	View.Moves ─► look at nodes ─► move.Step ─► store (seat, record unchanged) ─► do ─► look …
//
// One goroutine decides; calls to nodes run beside it, at most one effect of a
// move at a time, so that a node that does not answer delays only the moves
// that need it.
package mover
