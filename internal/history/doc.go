// Package history judges what people saw. A [History] joins the clients' own
// records (what was posted, acknowledged and received, by each device in its
// own order) with what the servers hold in the end, and [Check] says which of
// the promises it breaks:
//
//	I1  no acknowledged message is lost
//	I2  none is stored or shown twice
//	I3  one order per thread, the same for all members and devices
//	I4  seq and pts are dense from 1
//	I5  a device's own sends keep their order
//	I6  no reader goes backwards
//	I7  at most one owner per epoch; epochs only grow
//	I9  what is delivered is stored
//	I10 replicas have equal running hashes at equal applied index
//	I11 unacknowledged sends appear 0 or 1 times, and nothing else appears
//
// What was posted is recognised by the hash of its text, since a client learns
// a message's id only when it is sent: so every text of a history must be
// different, and a history where two are equal is refused as such.
//
// Checking is linear in the size of the history. Histories are kept as lines
// of JSON ([Write], [Read]), so that those of several processes can be joined
// ([Merge]) and looked at with ordinary tools.
package history
