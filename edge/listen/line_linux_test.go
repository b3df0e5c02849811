package listen

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// How long a client has waited, and whether it has gone, is known on Linux only.

// served wants the next client served; on a slow machine it may have to come again.
func served(t *testing.T, l *Listener) {
	t.Helper()
	eventually(t, "the next is served", func() bool {
		c, err := tryDial(l, TransportTCP)
		if err == nil {
			c.send(t, []byte("hello"))
			c.expect(t, "hello")
		}
		return err == nil
	})
}

// Whoever has waited for too long when a place becomes free is refused, and the
// next is served: a handshake its client does not wait for would keep it waiting.
func TestLateHandshakesAreRefused(t *testing.T) {
	l := start(t, Config{HandshakesMax: 1, HandshakeTimeout: 2500 * time.Millisecond, LineWaitMax: time.Second}, &echo{})
	silent(t, l)
	eventually(t, "the place is taken", func() bool { return l.Stats().HalfOpen == 1 && len(l.line.standing) == 0 })
	if _, err := tryDial(l, TransportTCP); !ended(err) {
		t.Errorf("a client that waited for the silent one's time-out: %v", err)
	}
	if n := l.Stats().Refused; n != 1 {
		t.Errorf("%d are counted as refused", n)
	}
	served(t, l)
	eventually(t, "nothing is half-open", func() bool { return l.Stats().HalfOpen == 0 })
}

// The same holds for the turn to compute.
func TestLateTurnsAreRefused(t *testing.T) {
	l := start(t, Config{LineWaitMax: time.Second}, &echo{})
	for range cap(l.line.turns) {
		l.line.turns <- struct{}{}
	}
	var late error
	var dialling sync.WaitGroup
	dialling.Go(func() { _, late = tryDial(l, TransportTCP) })
	eventually(t, "it has begun", func() bool { return l.Stats().HalfOpen == 1 && len(l.line.standing) == 0 })
	<-time.After(1500 * time.Millisecond) // longer than it may wait
	for range cap(l.line.turns) {
		<-l.line.turns
	}
	dialling.Wait()
	if on, ok := errors.AsType[*net.OpError](late); !ok || on.Op != "remote error" {
		t.Errorf("a client whose turn came late: %v", late)
	}
	// Counted when the handshake is over, which is after the client was told.
	eventually(t, "one is counted as refused", func() bool { return l.Stats().Refused == 1 })
	served(t, l)
}

// Nothing is computed for a client that has given up in the line.
func TestWhoLeftTheLineIsPassedOver(t *testing.T) {
	l := start(t, Config{HandshakesMax: 1, HandshakeTimeout: 400 * time.Millisecond}, &echo{})
	silent(t, l)
	eventually(t, "the place is taken", func() bool { return l.Stats().HalfOpen == 1 && len(l.line.standing) == 0 })
	_ = onlyHello(t, l).Close()
	eventually(t, "it is refused", func() bool { return l.Stats().Refused == 1 })
	eventually(t, "nothing is half-open", func() bool { return l.Stats().HalfOpen == 0 })
}
