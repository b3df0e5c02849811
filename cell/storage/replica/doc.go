// Package replica holds the replicas of one storage node: one Raft group per
// range, all of them driven by one loop, with one synced write per round for
// all groups together.
//
// What a range is stays behind [Machine]; this package decides only in which
// order entries are applied and when they are durable. DESIGN.md says why it
// is built this way.
//
// One round of the loop:
//
//	inbox ─► step ─► Ready of every touched group
//	                   ├─ append and heartbeat messages ─► transport   (beside the disk)
//	                   ├─ committed entries             ─► apply workers
//	                   └─ entries, hard states of all groups ─► one batch, one sync
//	                        └─ then: append and vote answers ─► transport
//
// Lock order: Node.mu, group.mu and inbox.mu are leaves; none is taken while
// another is held, and no callback runs under any of them.
package replica
