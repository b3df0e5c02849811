package faultlink

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Quality is how a link is. The zero value is a good one.
type Quality struct {
	Cut    bool          // nothing passes
	Delay  time.Duration // added in each direction
	Jitter time.Duration // up to so much more; datagrams overtake each other by it
	// BytesPerSecond bounds what passes in each direction of a TCP connection;
	// 0: no bound.
	BytesPerSecond int
	// Loss and Double are the shares of datagrams, 0 … 1, that are lost or pass
	// twice. TCP has neither.
	Loss, Double float64
}

// quality is shared by a link and all that passes on it.
type quality struct {
	mu     sync.Mutex // guards the fields below
	now    Quality
	change chan struct{} // closed when now changes
	closed bool
	random *rand.Rand
}

func newQuality(seed uint64) *quality {
	return &quality{change: make(chan struct{}), random: rand.New(rand.NewPCG(seed, seed))}
}

func (q *quality) set(to Quality) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.now = to
	close(q.change)
	q.change = make(chan struct{})
}

func (q *quality) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	close(q.change)
	q.change = make(chan struct{})
}

func (q *quality) get() (now Quality, change <-chan struct{}, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.now, q.change, q.closed
}

// passable waits while the link is cut. It tells false when the link is
// closed.
func (q *quality) passable() bool {
	for {
		now, change, closed := q.get()
		switch {
		case closed:
			return false
		case !now.Cut:
			return true
		}
		<-change
	}
}

// fate draws what becomes of a datagram: how often it passes and when.
func (q *quality) fate() (copies int, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.now.Cut || q.random.Float64() < q.now.Loss {
		return 0, 0
	}
	copies = 1
	if q.random.Float64() < q.now.Double {
		copies = 2
	}
	return copies, q.lateLocked()
}

// late draws how much later something passes.
func (q *quality) late() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lateLocked()
}

func (q *quality) lateLocked() time.Duration {
	delay := q.now.Delay
	if q.now.Jitter > 0 {
		delay += time.Duration(q.random.Int64N(int64(q.now.Jitter)))
	}
	return delay
}
