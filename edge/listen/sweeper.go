package listen

import (
	"context"
	"sync"
	"time"
)

// sweepInterval is how late a deadline of this package may be noticed.
const sweepInterval = 50 * time.Millisecond

// halfOpener is a connection whose login has a deadline.
type halfOpener interface {
	helloExpired()
}

// writer is a connection with bytes to write, or closing.
type writer interface {
	// sweep enforces the writer's deadlines and tells whether it still has
	// any.
	sweep(now time.Time) bool
}

// sweeper holds the deadlines of all connections, so that a connection needs
// neither goroutine nor timer. Logins all have the same time-out, so their
// deadlines stand in a queue in order; connections with unwritten bytes are
// few and are looked at one by one.
type sweeper struct {
	mu      sync.Mutex // guards the fields below
	hellos  []helloDeadline
	writers map[writer]struct{}
}

type helloDeadline struct {
	at   time.Time
	conn halfOpener
}

func newSweeper() *sweeper { return &sweeper{writers: map[writer]struct{}{}} }

func (s *sweeper) awaitHello(c halfOpener, at time.Time) {
	s.mu.Lock()
	s.hellos = append(s.hellos, helloDeadline{at, c})
	s.mu.Unlock()
}

func (s *sweeper) watch(w writer) {
	s.mu.Lock()
	s.writers[w] = struct{}{}
	s.mu.Unlock()
}

func (s *sweeper) run(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.once(now)
		}
	}
}

// once enforces what is due at now. Connections are called without the lock:
// they call back.
func (s *sweeper) once(now time.Time) {
	s.mu.Lock()
	due := 0
	for due < len(s.hellos) && !s.hellos[due].at.After(now) {
		due++
	}
	expired := append([]helloDeadline(nil), s.hellos[:due]...)
	if due > 0 {
		// A copy lets the entries before it, and the connections they
		// name, go.
		s.hellos = append([]helloDeadline(nil), s.hellos[due:]...)
	}
	var writers []writer
	for w := range s.writers {
		writers = append(writers, w)
	}
	s.mu.Unlock()
	for _, h := range expired {
		h.conn.helloExpired()
	}
	for _, w := range writers {
		if w.sweep(now) {
			continue
		}
		s.mu.Lock()
		delete(s.writers, w)
		s.mu.Unlock()
		// It may have been watched again between the two calls.
		if w.sweep(now) {
			s.watch(w)
		}
	}
}
