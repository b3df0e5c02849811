package router

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// batchFramesMax and batchBytesMax close a batch.
	batchFramesMax = 1024
	batchBytesMax  = 1 << 20
	// queueBytesMax bounds what waits for one host. Past it requests are
	// answered "overloaded".
	queueBytesMax = 32 << 20
	// frameOverheadBytes is what a queued frame costs beside its body.
	frameOverheadBytes = 128
)

// stream is the one stream to a host node. It is used once: after it broke a
// new one is made.
type stream struct {
	r        *Router
	node     proto.NodeID
	ctx      context.Context
	cancel   context.CancelFunc
	wake     chan struct{}
	heard    atomic.Int64 // Unix nanoseconds of the last batch received
	sessions atomic.Int64 // links whose newest attach is here

	mu     sync.Mutex // guards the fields below
	queue  []*cellpb.EdgeFrame
	bytes  int // of queue
	ping   bool
	broken bool
}

// streamTo is the stream to node, a new one if need be.
func (r *Router) streamTo(node proto.NodeID) *stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.streams[node]; s != nil {
		return s
	}
	s := &stream{r: r, node: node, wake: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(r.ctx)
	s.heard.Store(time.Now().UnixNano())
	r.streams[node] = s
	if r.stopped {
		s.broken = true
		s.cancel()
		return s
	}
	r.tasks.Go(s.run)
	return s
}

// enqueue queues f; false when the stream is broken or the queue full.
func (s *stream) enqueue(f *cellpb.EdgeFrame) bool {
	size := frameBytes(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken || s.bytes+size > queueBytesMax {
		return false
	}
	s.queue = append(s.queue, f)
	s.bytes += size
	s.wakeSender()
	return true
}

// frameBytes is about what a queued frame takes up.
func frameBytes(f *cellpb.EdgeFrame) int {
	size := frameOverheadBytes + len(f.GetRequest())
	for _, r := range f.GetAttach().GetRequests() {
		size += len(r)
	}
	return size
}

func (s *stream) wakeSender() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// askAlive makes the sender send an empty batch if nothing else.
func (s *stream) askAlive() {
	s.mu.Lock()
	s.ping = true
	s.wakeSender()
	s.mu.Unlock()
}

// take is the next batch's frames.
func (s *stream) take() (frames []*cellpb.EdgeFrame, ping bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(s.queue) && n < batchFramesMax && size < batchBytesMax {
		size += frameBytes(s.queue[n])
		n++
	}
	frames = s.queue[:n:n]
	s.queue = s.queue[n:]
	s.bytes -= size
	if len(s.queue) == 0 {
		s.queue = nil
	}
	ping, s.ping = s.ping, false
	return frames, ping
}

func (s *stream) run() {
	err := s.serve()
	s.cancel()
	s.r.broke(s, err)
}

func (s *stream) serve() error {
	conn, err := s.r.dialer.Conn(s.node)
	if err != nil {
		return err
	}
	call, err := cellpb.NewChatClient(conn).Attach(s.ctx)
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	s.r.tasks.Go(func() {
		d := newDeliveries()
		for {
			batch, err := call.Recv()
			if err != nil {
				s.cancel() // the sender may be waiting for room
				received <- err
				return
			}
			s.heard.Store(time.Now().UnixNano())
			d.batch(s, batch.Frames)
		}
	})
	err = s.sendAll(call)
	s.cancel()
	if recvErr := <-received; err == nil || s.ctx.Err() == nil {
		err = recvErr
	}
	return err
}

func (s *stream) sendAll(call cellpb.Chat_AttachClient) error {
	if err := call.Send(&cellpb.EdgeBatch{Edge: string(s.r.edge)}); err != nil {
		return err
	}
	for {
		frames, ping := s.take()
		if len(frames) > 0 || ping {
			if err := call.Send(&cellpb.EdgeBatch{Frames: frames}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// broke re-attaches every session of s.
func (r *Router) broke(s *stream, err error) {
	s.mu.Lock()
	s.broken = true
	s.queue, s.bytes = nil, 0
	s.mu.Unlock()
	r.mu.Lock()
	if r.streams[s.node] == s {
		delete(r.streams, s.node)
	}
	stopped := r.ctx.Err() != nil
	r.mu.Unlock()
	if stopped {
		return
	}
	r.breaks.Add(1)
	affected := 0
	for _, l := range r.snapshot() {
		l.mu.Lock()
		mine := l.stream == s
		l.mu.Unlock()
		if mine {
			affected++
			r.locator.Forget(l.rng, s.node)
			r.again(l, s, backoff(l.failed()))
		}
	}
	r.log.Info("stream to host ended", "node", s.node, "sessions", affected, "err", err)
}

// checkStreams asks hosts for signs of life and gives up silent ones.
func (r *Router) checkStreams(now time.Time, judge bool) {
	r.mu.Lock()
	streams := make([]*stream, 0, len(r.streams))
	for _, s := range r.streams {
		streams = append(streams, s)
	}
	r.mu.Unlock()
	for _, s := range streams {
		if s.sessions.Load() == 0 {
			s.heard.Store(now.UnixNano()) // not asked, so not silent
			continue
		}
		if silent := now.Sub(time.Unix(0, s.heard.Load())); judge && silent >= r.cfg.HostSilentTimeout {
			r.log.Warn("host is silent", "node", s.node, "silent", silent)
			s.cancel()
			continue
		}
		s.askAlive()
	}
	r.repeatUnacked(now)
}

// repeatUnacked repeats attaches that a living host left unanswered.
func (r *Router) repeatUnacked(now time.Time) {
	r.mu.Lock()
	due := 0
	for due < len(r.unacked) && !r.unacked[due].at.After(now) {
		due++
	}
	late := r.unacked[:due:due]
	if r.unacked = r.unacked[due:]; len(r.unacked) == 0 {
		r.unacked = nil
	}
	r.mu.Unlock()
	for _, u := range late {
		u.link.mu.Lock()
		missing := u.link.state == attaching && u.link.attempt == u.attempt
		s := u.link.stream
		u.link.mu.Unlock()
		if missing {
			r.locator.Forget(u.link.rng, s.node)
			r.again(u.link, s, backoff(u.link.failed()))
		}
	}
}
