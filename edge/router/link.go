package router

import (
	"sync"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Client is a session as the router sees it. Its methods may come from
// several goroutines and must not block.
type Client interface {
	// Attach is what the host must know; the router adds range, epoch and
	// attempt. Nil: the session has ended.
	Attach() *cellpb.AttachSession
	// Attached says that requests with this attempt go to a host from now on.
	Attached(*cellpb.Attached)
	// Deliver carries what one batch of the host brought for the session:
	// responses, which are encoded waggle.client.v1.ServerFrames, and pushes,
	// which are shared with other sessions. The slice is the router's again
	// when Deliver returns.
	Deliver(frames []*cellpb.HostFrame)
	// Ended says that the host gives the session up, for the reason of err.
	Ended(err *proto.Error)
}

type state uint8

const (
	waiting state = iota
	attaching
	attached
	closed
)

// Link ties one session to the host of its range. It lives inside the session
// and is made ready by [Router.Open].
type Link struct {
	router *Router
	client Client
	id     uint64
	rng    proto.RangeID

	mu       sync.Mutex // guards the fields below
	state    state
	failures uint8 // attaches in a row that failed
	attempt  uint32
	epoch    proto.Epoch
	stream   *stream // of the newest attach; nil: none
}

// Request sends an encoded waggle.client.v1.ClientFrame, which the router
// keeps until it is written. attempt is that of the last Attached; false when
// the session is no longer attached by it, or too much waits for the host.
func (l *Link) Request(attempt uint32, frame []byte) bool {
	return l.send(attempt, &cellpb.EdgeFrame{Session: l.id, Body: &cellpb.EdgeFrame_Request{Request: frame}})
}

// Confirm says up to where the device has processed updates.
func (l *Link) Confirm(attempt uint32, pts uint64) bool {
	return l.send(attempt, &cellpb.EdgeFrame{Session: l.id, Body: &cellpb.EdgeFrame_Confirm{Confirm: pts}})
}

// Fetch asks for the updates after pts again.
func (l *Link) Fetch(attempt uint32, pts uint64) bool {
	return l.send(attempt, &cellpb.EdgeFrame{Session: l.id, Body: &cellpb.EdgeFrame_Fetch{Fetch: pts}})
}

func (l *Link) send(attempt uint32, f *cellpb.EdgeFrame) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == attached && l.attempt == attempt && l.stream.enqueue(f)
}

// Reattach says that the host of attempt answered that it is the wrong one.
func (l *Link) Reattach(attempt uint32) {
	l.mu.Lock()
	stale := l.state != attached || l.attempt != attempt
	s := l.stream
	l.mu.Unlock()
	if stale {
		return
	}
	l.router.locator.Forget(l.rng, s.node)
	l.router.again(l, s, backoff(l.failed()))
}

// Overflowed says that a request could not be queued: if the session is still
// attached by attempt, it is attached anew a little later, so that everything
// unanswered is repeated in order.
func (l *Link) Overflowed(attempt uint32) {
	l.mu.Lock()
	stale := l.state != attached || l.attempt != attempt
	s := l.stream
	l.mu.Unlock()
	if !stale {
		l.router.again(l, s, jitter(backoffMax/2))
	}
}

// Close detaches for good.
func (l *Link) Close() {
	l.mu.Lock()
	if l.state == closed || l.router == nil {
		l.mu.Unlock()
		return
	}
	if l.stream != nil {
		l.stream.enqueue(&cellpb.EdgeFrame{Session: l.id, Body: &cellpb.EdgeFrame_Detach{Detach: &cellpb.DetachSession{}}})
	}
	l.setStreamLocked(nil)
	l.state = closed
	l.mu.Unlock()
	l.router.forget(l.id)
}

// failed counts one more failure in a row and is their number.
func (l *Link) failed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = min(l.failures+1, 100)
	return int(l.failures)
}

func (l *Link) setStreamLocked(s *stream) {
	if l.stream != nil {
		l.stream.sessions.Add(-1)
	}
	l.stream = s
	if s != nil {
		s.sessions.Add(1)
	}
}
