// Package rights knows the people of livestreams: who may publish and watch,
// who is told, and where a recording goes. It implements [live.Rights] for the
// media side, and serves what edges ask about livestreams:
//
//	POST /live              make one and announce it in a thread
//	GET  /live/ID           what it is doing, for its owner and the members of the thread
//	POST /live/ID/ticket    a ticket to watch, for the same
//	POST /live/ID/admit     a ticket becomes a session of HLS; edges only
//	POST /live/ID/check     which sessions still count, and how many watch; edges only
//	GET  /live/ID/FILE      playlists and media, as the media side has them; edges only
//
// Nothing is decided here: the owner's range has the livestream and its keys,
// the range that owns the thread says who takes part in it. Tickets and sessions
// are signed with a key of the livestream, which its row has, so that every node
// can check those of every other, wherever the range is.
package rights
