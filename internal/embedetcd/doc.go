// Package embedetcd starts the metadata store inside our own process: what
// `make run` uses, and what a process of its own runs in larger set-ups. It is
// the same etcd as outside, with its defaults changed where they do not suit
// (history kept for ever, a chatty log, a second until it leads).
package embedetcd
