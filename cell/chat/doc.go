// Package chat is the chat role of a cell node. It hosts ranges: holds their
// users' sessions, validates and limits what they ask, proposes it in batches
// to the range's leader, acknowledges what was applied, pushes updates, and
// drains the channels to other ranges. It keeps no truth: everything here can
// be lost at any moment and is found again in the log.
//
//	edges ──Attach──┐                        ┌── Link ──► leader (this node or another)
//	                ├─► shard ─► host ───────┤
//	hosts ──Relay───┘   (one goroutine       └── Relay ─► hosts of other ranges
//	                     for many ranges)
//
// # Shards
//
// A hosted range belongs to one shard, a goroutine that runs one function
// after the other from its mailbox. All state of a [host] is touched only
// there, so that it needs no lock and one range's events keep their order. A
// shard never waits: everything slow answers by posting another function.
//
// # Batches
//
// Commands gather while proposals are under way and go out together when one
// returns: alone when the system is idle, in hundreds when it is busy, and
// never by a timer.
//
// # Pushes
//
// A session knows the last update it was sent. A live update is pushed when it
// is the next one; otherwise the session catches up from the log, page by
// page, until it is level with it. The edge checks the same on its side: a
// push is only a hint.
package chat
