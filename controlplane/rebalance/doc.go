// Package rebalance makes planned moves one after the other, a few at a time,
// and stops when people notice: when the time from a send to its answer rises
// in a cell that a move touches, and stays up.
package rebalance
