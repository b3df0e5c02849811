package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"time"
)

// errLine is why a handshake was refused. The client gets an alert.
var errLine = errors.New("listen: the line of handshakes is too long")

// line is where TLS connections wait for their handshakes, first come, first
// served. When all the clients of a lost edge come back at once, each handshake
// among all of them would take as long as all of them, and so longer than its
// client waits: the client would give up and begin again, for ever. In a line
// nearly every handshake is one that its client still waits for.
//
//	accepted ──► standing ──place──► reads the client's hello ──turn──► computes ──► done
//	                └─────────────────────────┴── too late, or gone: refused
//
// A place is for what may wait for the client, a turn for what needs the CPU: a
// client that sends nothing keeps nobody from computing. There is a turn for each
// CPU: what is runnable beyond that stands in people's way, message by message.
type line struct {
	waitMax  time.Duration
	standing chan standing // as many as may be half open
	places   chan struct{} // one element per place taken
	turns    chan struct{} // one element per turn taken; about a third of a millisecond each
}

type standing struct {
	conn   *net.TCPConn
	remote netip.AddrPort
}

func newLine(cfg Config) line {
	return line{
		waitMax:  cfg.LineWaitMax,
		standing: make(chan standing, cfg.HalfOpenMax),
		places:   make(chan struct{}, cfg.HandshakesMax),
		turns:    make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
}

// join never waits: the limit of half-open connections has room in the line for
// each.
func (ln *line) join(s standing) { ln.standing <- s }

// run gives places until ctx ends.
func (ln *line) run(ctx context.Context, l *Listener) {
	for {
		select {
		case ln.places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		s, ok := ln.next(ctx, l)
		if !ok {
			return
		}
		l.tasks.Go(func() { l.handshake(ctx, s.conn, s.remote) })
	}
}

// next is the first in the line who has not waited for too long.
func (ln *line) next(ctx context.Context, l *Listener) (s standing, ok bool) {
	for {
		select {
		case s := <-ln.standing:
			if !ln.tooLate(s.conn) {
				return s, true
			}
			ln.dismiss(s, l)
		case <-ctx.Done():
			return standing{}, false
		}
	}
}

// empty dismisses who is left, when nobody joins any more.
func (ln *line) empty(l *Listener) {
	for {
		select {
		case s := <-ln.standing:
			ln.dismiss(s, l)
		default:
			return
		}
	}
}

func (ln *line) dismiss(s standing, l *Listener) {
	l.limiter.release(s.remote.Addr())
	l.refuse(s.conn, errLine, false)
}

// leave gives a place back.
func (ln *line) leave() { <-ln.places }

// turn is that of one handshake: from the client's hello, when there is
// something to compute, to the server's next wait for the client.
type turn struct {
	line  *line
	conn  *net.TCPConn
	begun func()
	held  bool
}

// begin waits for the turn. It is errLine if that took too long.
func (t *turn) begin(ctx context.Context) error {
	if t.held {
		return nil
	}
	select {
	case t.line.turns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	t.held = true
	if t.line.tooLate(t.conn) {
		return errLine
	}
	t.begun()
	return nil
}

// end gives the turn to the next, if it is held.
func (t *turn) end() {
	if t.held {
		t.held = false
		<-t.line.turns
	}
}

// tooLate tells whether a client has waited for too long, or has gone.
func (ln *line) tooLate(conn *net.TCPConn) bool {
	waited, gone := sinceHeard(conn)
	return gone || waited > ln.waitMax
}
