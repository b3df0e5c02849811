// Package hls serves livestreams to viewers of HLS through an edge, over
// whichever HTTP they speak, so that a thousand of them cost the node that
// carries the livestream as much as one.
//
//	GET /live/ID/index.m3u8?ticket=T    begins: a ticket becomes a session
//	GET /live/ID/s/SESSION/FILE         goes on
//
// The playlist that a ticket gives has addresses with the session in them, so
// that every player goes on by itself, without cookies. A session names user,
// login and livestream and is signed by the node, so any edge can take it over.
// The edge asks a node again every few seconds which of its sessions still
// count; who has left the thread gets 403 from then on. With the same question
// it tells how many watch.
//
// Whatever viewers ask, one request goes to the node: those who ask for the same
// while it is under way share its answer, blocking playlists included. Segments
// and parts never change and are kept, up to a number of bytes; playlists for a
// moment.
package hls
