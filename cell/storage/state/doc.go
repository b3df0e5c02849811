// Package state is what a range is: its users, their update logs and devices,
// the threads it owns, and its channels to other ranges. A [Machine] applies
// committed entries to it, the same way on every replica: no clock, no
// randomness, no map order. Time comes with the entry.
//
// # Applying
//
//	entry ──► fences (epoch, grant) ──► command by command ──► batch ──► Commit
//	                                         │
//	                                         └──► results, logged updates, channel rows
//
// One entry is all or nothing only towards the disk: its commands are judged
// one after the other and each has its own result. Their effects, the applied
// index and the running hash go into one Pebble batch, so that a crash never
// leaves half an entry.
//
// # Messages
//
// Appending a message to a thread writes: the event under the thread's owner;
// the client message id, so that it is never stored twice; for each member of
// this range a row in his update log, which refers to the event, and his
// thread row; for each other member's range one row on the channel there.
//
// # Channels
//
// Rows of the channel to a range are numbered 1, 2, 3 … The destination keeps
// one number per source, takes only the next and always counts it, whatever
// its effect there; the source trims what was counted. So nothing that
// crosses is lost, doubled or reordered, whatever dies.
//
// # The running hash
//
// Every applied entry extends a hash by its index, its term and the bytes of
// the batch it produced. Replicas that applied the same log differ in it as
// soon as they differ in what they wrote.
package state
