// Package faultlink puts bad links between programs on one machine: a TCP and
// a UDP proxy that can be cut, slowed, delayed and made to lose, double and
// reorder datagrams while they run. Tests stand them in front of nodes and
// edges; the kernel of a test machine need not be able to do any of it.
//
// A cut link is what a pulled cable is: connections stay open, nothing passes,
// nobody is told. Data that a TCP link holds back is kept and passes when the
// link is mended, as a retransmission would; datagrams are lost.
package faultlink
