package chat

import (
	"context"
	"sync"
	"time"

	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
)

const (
	// mailboxMax is the length past which streams from outside wait to post;
	// that is how a busy node slows down those who ask.
	mailboxMax = 4096
	// housekeeping is how often confirmations are joined and channels
	// trimmed.
	housekeeping = 200 * time.Millisecond
)

// shard runs what concerns its ranges, one function after the other.
type shard struct {
	// Touched only by the shard itself.
	hosts   map[proto.RangeID]*host
	arrived time.Time      // when the batch being handled came from its edge
	sends   latency.Recent // of people, from arrival to answer

	mu     sync.Mutex // guards the fields below
	room   sync.Cond  // signalled when the mailbox was emptied
	box    []func()
	closed bool
	wake   chan struct{}
}

func newShard() *shard {
	s := &shard{hosts: map[proto.RangeID]*host{}, wake: make(chan struct{}, 1)}
	s.room.L = &s.mu
	return s
}

// post adds to the mailbox without waiting. It is for what is bounded by
// itself: answers to what the shard has asked.
func (s *shard) post(f func()) {
	s.mu.Lock()
	s.box = append(s.box, f)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// postWaiting adds to the mailbox and waits while it is full. It is for
// streams from outside; never call it on a shard.
func (s *shard) postWaiting(f func()) {
	s.mu.Lock()
	for len(s.box) >= mailboxMax && !s.closed {
		s.room.Wait()
	}
	s.mu.Unlock()
	s.post(f)
}

func (s *shard) run(ctx context.Context) {
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	for {
		s.mu.Lock()
		box := s.box
		s.box = nil
		s.room.Broadcast()
		s.mu.Unlock()
		for _, f := range box {
			f()
		}
		for _, h := range s.hosts {
			h.flush()
		}
		select {
		case <-s.wake:
		case <-tick.C:
			for _, h := range s.hosts {
				h.housekeep()
			}
		case <-ctx.Done():
			s.stop()
			return
		}
	}
}

// stop lets go of every host and of those who wait to post.
func (s *shard) stop() {
	for _, h := range s.hosts {
		h.close("the node is shutting down")
	}
	s.mu.Lock()
	s.closed = true
	box := s.box
	s.box = nil
	s.room.Broadcast()
	s.mu.Unlock()
	for _, f := range box {
		f()
	}
}
