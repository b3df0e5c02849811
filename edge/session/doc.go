// Package session is one client connection of the native protocol: hello,
// resume, heartbeat, requests, pushes and the way out. proto/client describes
// what is said; this package keeps the promises:
//
//   - A client is never disconnected because of a host: requests are kept until
//     they are answered and repeated, in order, wherever the session is
//     attached next. That is safe because every request is idempotent.
//   - Updates reach the client in order and without gaps: a session knows the
//     next pts to write; a push that does not fit is not written but fetched
//     from the log.
//   - A client that reads slowly costs bounded memory: while its queue is long
//     pushes are dropped, and fetched once it has drained.
//
// A session has no goroutine. Its connection's poller, the streams from hosts
// and the server's sweep call it; its mutex makes that one sequence.
package session
