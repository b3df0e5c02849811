package faultlink

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// chunkBytes is what passes at once, chunksHeld what one direction of a
	// connection holds while it is delayed or cut: past it the sender feels a
	// full window.
	chunkBytes = 32 << 10
	chunksHeld = 64
)

// TCP is a bad link in front of a TCP server. Its methods may be called by any
// number of goroutines.
type TCP struct {
	listener net.Listener
	target   func() (string, error)
	quality  *quality
	wg       sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

// ListenTCP starts a link from listen (host:port) to the address target gives;
// it is asked for every connection. Close ends it.
func ListenTCP(listen string, target func() (string, error)) (*TCP, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("faultlink: %w", err)
	}
	t := &TCP{listener: l, target: target, quality: newQuality(1), conns: map[net.Conn]struct{}{}}
	t.wg.Go(t.accept)
	return t, nil
}

// Addr is where to connect.
func (t *TCP) Addr() string { return t.listener.Addr().String() }

// Set changes how the link is, for running connections too.
func (t *TCP) Set(q Quality) { t.quality.set(q) }

// Reset breaks every connection, as a router that forgets them does.
func (t *TCP) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// Close ends the link and every connection, and waits for both.
func (t *TCP) Close() error {
	err := t.listener.Close()
	t.quality.close()
	t.Reset()
	t.wg.Wait()
	return err
}

func (t *TCP) accept() {
	for {
		c, err := t.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		t.keep(c)
		t.wg.Go(func() { t.serve(c) })
	}
}

func (t *TCP) keep(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns[c] = struct{}{}
	if _, _, closed := t.quality.get(); closed {
		_ = c.Close()
	}
}

func (t *TCP) drop(c net.Conn) {
	_ = c.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
}

func (t *TCP) serve(c net.Conn) {
	defer t.drop(c)
	if !t.quality.passable() { // on a cut link the handshake does not pass either
		return
	}
	addr, err := t.target()
	if err != nil {
		return
	}
	d, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return
	}
	t.keep(d)
	defer t.drop(d)
	var both sync.WaitGroup
	both.Go(func() { t.pass(c, d) })
	both.Go(func() { t.pass(d, c) })
	both.Wait()
}

type chunk struct {
	bytes []byte
	due   time.Time
}

// pass carries one direction, until its end has passed too.
func (t *TCP) pass(from, to net.Conn) {
	held := make(chan chunk, chunksHeld)
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		defer close(held)
		for {
			buf := make([]byte, chunkBytes)
			n, err := from.Read(buf)
			if n > 0 {
				held <- chunk{buf[:n], time.Now().Add(t.quality.late())}
			}
			if err != nil {
				return
			}
		}
	})
	failed := false
	for c := range held {
		if failed || !t.quality.passable() {
			failed = true
			continue // let the reader end
		}
		time.Sleep(time.Until(c.due)) // the fault itself
		if !t.quality.passable() {
			failed = true
			continue
		}
		if now, _, _ := t.quality.get(); now.BytesPerSecond > 0 {
			time.Sleep(time.Duration(len(c.bytes)) * time.Second / time.Duration(now.BytesPerSecond))
		}
		if _, err := to.Write(c.bytes); err != nil {
			failed = true
			_ = from.Close()
		}
	}
	// The end of a stream does not pass a cut link either.
	if t.quality.passable() {
		if w, ok := to.(interface{ CloseWrite() error }); ok && !failed {
			_ = w.CloseWrite()
			return
		}
	}
	_ = to.Close()
}
