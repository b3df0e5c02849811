package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
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

// What a client waits for its turn is not taken off its time for the handshake.
func TestWaitingInLineTakesNoTime(t *testing.T) {
	const limit = 3 * time.Second
	l := start(t, Config{HandshakeTimeout: limit, HelloTimeout: limit, LineWaitMax: patience}, &echo{})
	for range cap(l.line.turns) {
		l.line.turns <- struct{}{}
	}
	var waited *client
	var err error
	var dialling sync.WaitGroup
	dialling.Go(func() { waited, err = tryDial(l, TransportTCP) })
	<-time.After(limit + 500*time.Millisecond)
	for range cap(l.line.turns) {
		<-l.line.turns
	}
	if dialling.Wait(); err != nil {
		t.Fatal(err)
	}
	waited.send(t, []byte("hello"))
	waited.expect(t, "hello")
}

// Who still stands in line when the listener ends is not left without an end.
func TestTheLineEndsWithTheListener(t *testing.T) {
	certificate := testCertificate(t)
	l, err := New(Config{Addr: "127.0.0.1:0", TLS: certificate, HandshakesMax: 1}, &echo{}, nil)
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
