// Package sim is the simulation of replicas: many ranges on many nodes in one
// process, with the real state machines, over an in-memory network and
// crashable file systems. It holds tests only.
//
// One seed decides everything: who runs next, what the network does to each
// batch, which disks lose what was not synced, which clocks jump, what people
// send. The whole runs inside a synctest bubble, so that nothing but the
// simulation itself lets time pass, and two runs of a seed are the same run.
//
//	devices ── requests, lost, doubled, late ──► hosts ── entries ──► replicas
//	   ▲                                          │  ▲                   │
//	   └──────── answers, pushes, reads ──────────┘  └── rows of channels ┘
//
// Hosts are the least that can be called one: they pass commands on under the
// grant they once got, also when another has it by now, and they forget
// everything when they die. What protects people is below them.
//
// In half of the worlds there are two cells of three nodes, and ranges of one
// replica or of three move between them, back again, and within a cell
// (move_test.go). What moves them is the real state machine of sharding/move
// over a store that loses nothing. The mover dies between storing and doing;
// what it does comes late, twice, or long after, on the descriptor of that day.
//
//	store ──step──► effects, lost, doubled, late ──► nodes, leaders
//	  ▲                                                  │
//	  └───── what nodes say of their replicas ◄──────────┘
//
// A run is judged twice: while it goes on, by what every replica applies
// (judge_test.go) and by the judge's own account of versions, epochs and owners
// (owner_test.go), and afterwards, by the history of all devices
// (internal/history) and by what is left on nodes that hold nothing any more.
// Each planted fault of fault_test.go and movefault_test.go must be found.
package sim
