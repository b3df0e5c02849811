// Package router attaches client sessions to the hosts of their ranges and
// keeps them attached.
//
// There is one stream per host node; the frames of all sessions that are
// attached there travel on it in batches: a sender takes whatever has gathered
// while the previous batch was being sent, so batches grow with load and no
// timer delays a frame.
//
// A session's [Link] is always in one of four states:
//
//	waiting ──attach sent──► attaching ──Attached──► attached
//	   ▲                         │                      │
//	   └── stream broke or silent, refused, newer epoch ┘      Close ─► closed
//
// Waiting links stand in a queue per range: finding the range's host is one
// question however many of its sessions wait, and one dispatcher attaches
// them, so that thousands re-attach without a goroutine each.
//
// Lock order: the session's own lock, Link.mu, then Router.mu or a stream's
// lock. A [Client] is called without any of them.
package router
