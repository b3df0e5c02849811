package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// silent is a connection that sends nothing.
func silent(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// onlyHello is a client that says its hello in TLS and nothing more, until the
// test ends.
func onlyHello(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	c := &deafConn{Conn: silent(t, l), said: make(chan struct{}), over: make(chan struct{})}
	var handshake sync.WaitGroup
	handshake.Go(func() { _ = tls.Client(c, clientTLS(proto.ALPN)).Handshake() })
	t.Cleanup(func() { close(c.over); handshake.Wait() })
	<-c.said
	return c.Conn
}

// deafConn never reads.
type deafConn struct {
	net.Conn
	once       sync.Once
	said, over chan struct{}
}

func (c *deafConn) Write(b []byte) (int, error) {
	defer c.once.Do(func() { close(c.said) })
	return c.Conn.Write(b)
}

func (c *deafConn) Read([]byte) (int, error) {
	<-c.over
	return 0, io.EOF
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }

// Whoever has waited for too long when a place becomes free is refused, and the
// next is served: a handshake its client does not wait for would keep it waiting.
func TestLateHandshakesAreRefused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("how long a client waits is known on Linux only")
	}
	l := start(t, Config{HandshakesMax: 1, HandshakeTimeout: 400 * time.Millisecond, LineWaitMax: 100 * time.Millisecond}, &echo{})
	silent(t, l)
	eventually(t, "the place is taken", func() bool { return l.Stats().HalfOpen == 1 && len(l.line.standing) == 0 })
	if _, err := tryDial(l, TransportTCP); !ended(err) {
		t.Errorf("a client that waited for the silent one's time-out: %v", err)
	}
	if n := l.Stats().Refused; n != 1 {
		t.Errorf("%d are counted as refused", n)
	}
	p := dial(t, l, TransportTCP)
	p.send(t, []byte("hello"))
	p.expect(t, "hello")
	eventually(t, "nothing is half-open", func() bool { return l.Stats().HalfOpen == 0 })
}

// The same holds for the turn to compute.
func TestLateTurnsAreRefused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("how long a client waits is known on Linux only")
	}
	l := start(t, Config{LineWaitMax: 100 * time.Millisecond}, &echo{})
	for range cap(l.line.turns) {
		l.line.turns <- struct{}{}
	}
	var late error
	var dialling sync.WaitGroup
	dialling.Go(func() { _, late = tryDial(l, TransportTCP) })
	eventually(t, "it has begun", func() bool { return l.Stats().HalfOpen == 1 && len(l.line.standing) == 0 })
	<-time.After(300 * time.Millisecond)
	for range cap(l.line.turns) {
		<-l.line.turns
	}
	dialling.Wait()
	if on, ok := errors.AsType[*net.OpError](late); !ok || on.Op != "remote error" {
		t.Errorf("a client whose turn came late: %v", late)
	}
	if n := l.Stats().Refused; n != 1 {
		t.Errorf("%d are counted as refused", n)
	}
	dial(t, l, TransportTCP)
}

// Nothing is computed for a client that has given up in the line.
func TestWhoLeftTheLineIsPassedOver(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("that a client has gone is known on Linux only")
	}
	h := &echo{}
	l := start(t, Config{HandshakesMax: 1, HandshakeTimeout: 400 * time.Millisecond}, h)
	silent(t, l)
	eventually(t, "the place is taken", func() bool { return l.Stats().HalfOpen == 1 && len(l.line.standing) == 0 })
	_ = onlyHello(t, l).Close()
	eventually(t, "it is refused", func() bool { return l.Stats().Refused == 1 })
	eventually(t, "nothing is half-open", func() bool { return l.Stats().HalfOpen == 0 })
}

// A client that leaves its handshake unfinished keeps a place, but no turn.
func TestUnfinishedHandshakesKeepNoTurn(t *testing.T) {
	l := start(t, Config{HandshakeTimeout: patience, HelloTimeout: patience, ExemptLoopback: true}, &echo{})
	for range 2 * cap(l.line.turns) {
		onlyHello(t, l)
	}
	p := dial(t, l, TransportTCP)
	p.send(t, []byte("hello"))
	p.expect(t, "hello")
}

// Who still stands in line when the listener ends is not left without an end.
func TestTheLineEndsWithTheListener(t *testing.T) {
	certificate := testCertificate(t)
	l, err := New(Config{Addr: "127.0.0.1:0", TLS: func() *tls.Config { return certificate }, HandshakesMax: 1}, &echo{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	conns := []net.Conn{silent(t, l), silent(t, l), silent(t, l), silent(t, l)}
	eventually(t, "all are taken in", func() bool { return l.Stats().HalfOpen == len(conns) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for i, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); !ended(err) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if n := l.Stats().HalfOpen; n != 0 {
		t.Errorf("%d are half-open after the end", n)
	}
}
