// Package move is the state machine of one move of a range: to another cell,
// or, when from and to are the same cell, away from one node. It is pure: no
// clock, no I/O. [Step] takes what was observed and answers with the next state
// and with what is to be done; controlplane/mover stores the state, then does
// it.
//
//	            cancel, or the plan cannot be carried out
//	planned ───────────────────────────────────────────────────────► cancelled
//	   │ ids given, a copy slot is free                                  ▲
//	seeding ────────────────┐                                            │
//	   │ learners added     │                        as it was before    │
//	catching-up ◄──┐        ├───────────────► cancelling ────────────────┘
//	   │ gate met  │ unmet  │ cancel, target lost    │
//	ready ─────────┤        │                        │ the joint change came first
//	   │ for 1 s   │ unmet, and the change not made  │
//	joint ─────────┘◄────────────────────────────────┘
//	   │ the range has left the joint configuration
//	owned
//	   │ the route table says so
//	published
//	   │
//	standby ── the time is over: old replicas removed ──► done
//	   └────── revert: the same move back begins ───────► done
//
// The range's descriptor decides, not what is stored here: whatever state a
// move is in, a descriptor that shows the joint change made leads to joint, and
// one that shows it left leads to owned. So a mover that died, slept or was
// told late goes on from what is. Every change names the version of the
// descriptor it was planned on, and the range refuses it at any other.
//
// From the joint change on there is no way back but a move back. It is cut
// short only by `waggle ranges recover`, which shows as an epoch that this move
// did not make.
package move
