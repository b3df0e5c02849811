package files

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"
)

// locker lets one request at a time work on an upload. A request that wants
// one that is held interrupts its holder: a client that comes back must not
// wait for its own dead connection. tusd has a locker and an interruption of
// its own, which reads a field while the request writes it.
type locker struct {
	mu   sync.Mutex // guards the field below
	held map[string]*holder
}

type holder struct {
	interrupt func()
	done      chan struct{} // closed when it lets go
}

type uploadLock struct {
	l    *locker
	id   string
	mine *holder
}

// NewLock implements [handler.Locker].
func (l *locker) NewLock(id string) (handler.Lock, error) { return &uploadLock{l: l, id: id}, nil }

// Lock implements [handler.Lock].
func (u *uploadLock) Lock(ctx context.Context, _ func()) error {
	u.mine = &holder{interrupt: askedOf(ctx).interrupt, done: make(chan struct{})}
	for {
		u.l.mu.Lock()
		other := u.l.held[u.id]
		if other == nil {
			u.l.held[u.id] = u.mine
			u.l.mu.Unlock()
			return nil
		}
		u.l.mu.Unlock()
		if other.interrupt != nil {
			other.interrupt()
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return handler.ErrLockTimeout
		}
	}
}

// Unlock implements [handler.Lock].
func (u *uploadLock) Unlock() error {
	u.l.mu.Lock()
	delete(u.l.held, u.id)
	u.l.mu.Unlock()
	close(u.mine.done)
	return nil
}

// stoppable is a body that can be ended from outside.
type stoppable struct {
	io.ReadCloser
	stopped atomic.Bool

	mu      sync.Mutex               // guards the field below
	control *http.ResponseController // nil: the request has ended
}

// stop ends reading: the read under way by its deadline, the next by itself.
// In this order, because tusd moves the deadline after each read.
func (s *stoppable) stop() {
	s.stopped.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control != nil {
		_ = s.control.SetReadDeadline(time.Now())
	}
}

// end is called when the request ends: from then on its connection is another's.
func (s *stoppable) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.control = nil
}

// Read implements [io.Reader].
func (s *stoppable) Read(p []byte) (int, error) {
	if s.stopped.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return s.ReadCloser.Read(p)
}
