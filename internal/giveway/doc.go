// Package giveway makes transfers of files give way to messages. A process has
// one [Gate]: what moves content asks it before every piece, and what carries
// messages tells it of each. While messages flow, the gate measures how late
// this process gets to anything, and lets content through at a rate that keeps
// that small. While none flow, content passes as fast as it can.
//
// # The rate
//
// Ten uploads keep every CPU busy, with encryption, hashing and copying, in
// turns that are short each; a message waits at each of its steps for a CPU
// and for the network to be looked at, which a busy scheduler does every 10 ms
// only. Neither the number of transfers nor the length of a turn changes that:
// what does is that a CPU is idle now and then. So the gate limits bytes per
// second, of all transfers of the process together:
//
//	every 2 ms     a byte goes through a pipe: how late does it come?
//	every 50 ms    late (one in ten)    the rate falls by a quarter, not below the floor
//	               in time, and used    the rate rises a little
//	               no messages          no limit; the rate is remembered
//
// Pieces are let through in the order in which they asked. A transfer asks for
// one at a time, so all get the same share. Nobody holds anything while he
// waits, and who goes away leaves the queue: a transfer that passes an edge and
// a node of one process asks twice, and neither waits for the other's turn.
package giveway
