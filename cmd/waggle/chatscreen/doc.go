// Package chatscreen is the full-screen chat of the terminal client.
//
//	client callbacks ──messages──► Model ──► view (header, threads, bubbles, compose)
//	                                 │  ▲
//	                            store│  │messages
//	                                 ▼  │
//	                               commands ──► client (the SDK): history, contacts, sends
//
// The store is what is known of threads, contacts and presence; it does no I/O,
// so that everything the server can say may be tried on it in any order. The
// [Model] turns keys and what the server says into changes of the store and
// into commands, and draws. Commands wait for the server beside the screen and
// come back as messages, so that the screen never waits.
package chatscreen
