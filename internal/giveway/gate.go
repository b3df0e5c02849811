package giveway

import (
	"container/list"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// smallBytes is up to which size a piece passes without waiting: lists,
	// errors and the end of a file are no load.
	smallBytes = 4 << 10
	// burst is how much of the rate may come at once after a pause.
	burst = 5 * time.Millisecond
)

// Gate is where the transfers of a process wait. A nil Gate holds nobody back,
// nor does one that does not run.
type Gate struct {
	messages, moved atomic.Int64
	waited          atomic.Int64  // nanoseconds
	wake            chan struct{} // holds one: there was something to move
	probe           func() (prober, error)

	mu      sync.Mutex // guards the fields below
	running bool
	pace    pace
	late    time.Duration // in the last window
	credit  float64       // bytes that may pass at once; below 0: that passed too early
	queue   list.List     // of *waiter, the first came first
	held    bool          // somebody has waited in this window
}

type waiter struct {
	n     int
	ready chan struct{} // closed: pass
}

// New makes a gate. It holds nobody back until it runs.
func New() *Gate {
	return &Gate{wake: make(chan struct{}, 1), probe: func() (prober, error) { return newPipe() }}
}

// NewFake makes a gate that believes late instead of measuring, for tests.
func NewFake(late func() time.Duration) *Gate {
	g := New()
	g.probe = func() (prober, error) { return fake(late), nil }
	return g
}

// Message tells of a message, or something else that somebody waits for.
func (g *Gate) Message() {
	if g != nil {
		g.messages.Add(1)
	}
}

// Wait returns when n bytes of content may be worked on, or when ctx ends: what
// then happens to them is the caller's business. No lock may be held that a
// message needs.
func (g *Gate) Wait(ctx context.Context, n int) {
	if g == nil || n <= smallBytes {
		return
	}
	g.moved.Add(int64(n))
	select {
	case g.wake <- struct{}{}:
	default:
	}
	w := g.ask(n)
	if w == nil {
		return
	}
	began := time.Now()
	select {
	case <-w.Value.(*waiter).ready:
	case <-ctx.Done():
		g.leave(w)
	}
	g.waited.Add(int64(time.Since(began)))
}

// ask takes a place in the queue; nil: pass at once.
func (g *Gate) ask(n int) *list.Element {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.running || g.pace.limit == 0:
		return nil
	case g.queue.Len() == 0 && g.credit > 0:
		g.credit -= float64(n)
		return nil
	}
	g.held = true
	return g.queue.PushBack(&waiter{n: n, ready: make(chan struct{})})
}

// leave gives a place up. The bytes of one that was just let pass are lost.
func (g *Gate) leave(w *list.Element) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue.Remove(w) // nothing if it is not in it
}

// refill lets pass what the time since the last call allows.
func (g *Gate) refill(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	limit := g.pace.limit
	g.credit = min(g.credit+limit*took.Seconds(), limit*burst.Seconds())
	for g.queue.Len() > 0 && (limit == 0 || g.credit > 0) {
		w := g.queue.Remove(g.queue.Front()).(*waiter)
		g.credit -= float64(w.n)
		close(w.ready)
	}
	if limit == 0 {
		g.credit = 0
	}
}

// decide ends a window.
func (g *Gate) decide(s sample, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.held, g.held = g.held || g.queue.Len() > 0, false
	g.late = s.late
	g.pace.next(s, took)
}

// open begins or ends the gate's work. At the end all pass.
func (g *Gate) open(running bool) {
	g.mu.Lock()
	g.running = running
	if !running {
		g.pace.limit = 0
	}
	g.mu.Unlock()
	g.refill(0)
}

// Reader is r with every read waiting at the gate.
func (g *Gate) Reader(ctx context.Context, r io.Reader) io.Reader {
	if g == nil {
		return r
	}
	return &reader{g, ctx, r}
}

type reader struct {
	g   *Gate
	ctx context.Context
	r   io.Reader
}

// Read implements [io.Reader].
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.g.Wait(r.ctx, n)
	return n, err
}
