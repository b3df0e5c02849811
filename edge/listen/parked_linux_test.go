package listen

import (
	"encoding/binary"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-im/waggle/proto"
)

// parkedConns are the connections that the pollers of l have.
func parkedConns(l *Listener) (out []*parked) {
	for _, p := range l.pollers.all {
		p.mu.Lock()
		for _, c := range p.table {
			if c != nil {
				out = append(out, c)
			}
		}
		p.mu.Unlock()
	}
	return out
}

// Once the last word is written a closing connection waits for the end of its
// peer and for nothing else: what can be written to has an event at all times,
// and its poller would never wait.
func TestAClosingConnectionWaitsForItsPeerOnly(t *testing.T) {
	for _, transport := range []Transport{TransportPlain, TransportTCP} {
		t.Run(string(transport), func(t *testing.T) {
			l := start(t, Config{CloseFlushTimeout: patience}, &echo{})
			c := dial(t, l, transport)
			_, _ = c.Write(binary.BigEndian.AppendUint32(nil, proto.FrameBytesMax+1))
			c.expect(t, "refused: too_big")
			if _, err := c.receive(); err != io.EOF {
				t.Fatalf("after the last frame: %v, want EOF", err)
			}
			conns := parkedConns(l)
			if len(conns) != 1 {
				t.Fatalf("%d connections are parked, want 1", len(conns))
			}
			conns[0].mu.Lock()
			defer conns[0].mu.Unlock()
			if left, events := len(conns[0].out), conns[0].interest; left > 0 || events != unix.EPOLLIN {
				t.Errorf("%d bytes are left, and it waits for events %#x, want %#x", left, events, unix.EPOLLIN)
			}
		})
	}
}
