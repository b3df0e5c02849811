// Package ceiling is the least a durable chat server can do, to hold Waggle's
// figures against on the machine they were measured on.
//
// A server takes frames from people over TLS, writes all that wait in one
// synced Pebble batch, acknowledges each to its sender and pushes it to the
// peer. With three copies it sends the same batch to two followers, processes
// of their own, over TCP, and goes on when one of them and itself have synced.
// It knows no accounts, threads, order, resumption, routes or marks: a server
// that has them cannot be expected to reach more.
//
//	r, err := ceiling.Run(ctx, ceiling.Config{Command: []string{self, "ceiling-process"}, Dir: dir, Copies: 1, Pairs: 500, Window: 500, …})
//
// Frames, all integers big endian: a connection begins with the four bytes of
// its person's number, which a welcome answers; each frame has a four-byte
// length and
//
//	person → server   peer (4 bytes), body
//	server → person   'w': welcome; 'a': the oldest unanswered is stored; 'p', body
//	leader → follower the bytes of a Pebble batch
//	follower → leader an empty frame: synced
//
// The first byte of a body tells whether the message was due in the measured
// time. Two hold others up: a follower that is behind by more than the buffers
// of its connection, and a person who does not read.
package ceiling
