// Package listen accepts client connections: TLS, plaintext TCP and QUIC
// behind one [Conn] that carries length-prefixed frames.
//
// One port serves TCP and UDP. The ALPN decides who gets a connection:
// [proto.ALPN] is the native protocol and goes to the [Handler]; h2, http/1.1
// and h3 go to an http.Handler. An optional second port is plaintext; there
// the first byte decides, because the length of a native frame never starts
// with an ASCII letter.
//
// On Linux an idle TCP or TLS connection is parked: it has no goroutine and
// no buffer, only its socket in an epoll set and the state of crypto/tls.
// DESIGN.md says how and why. Elsewhere, and for QUIC, a connection has one
// goroutine that reads.
//
// Everything that a peer can make us do before it has logged in is bounded:
// time, bytes, connections per address and in total.
package listen
