// Package embedredis is a Redis server inside this process, for clusters on
// one machine. It speaks the real protocol on a loopback port, keeps
// everything in memory and forgets it when it ends.
package embedredis
