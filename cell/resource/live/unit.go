package live

import (
	"sync"
	"time"
)

// unit is what is shown or heard at one moment: an access unit of video, or one
// or some frames of audio. Nobody changes it once it is written.
type unit struct {
	track int
	pts   int64 // in the clock of its track, on the livestream's timeline
	dts   int64 // as pts; differs where frames are reordered
	timed bool  // dts is known
	key   bool  // a decoder of its track can begin here
	start bool  // a viewer can begin here
	parts [][]byte
	size  int
	at    time.Time // when it is shown, by this node's clock
}

// The limits of a queue: a few seconds of a usual stream, and no more memory
// than a thousand viewers may take.
const (
	queueUnitsMax = 512
	queueBytesMax = 4 << 20
)

// queue holds units for one reader that may be slow. If it is full it forgets
// what it has and goes on at the next unit where a viewer can begin: a reader is
// behind by the length of the queue at most, and delays nobody.
type queue struct {
	dropped func(int) // told of forgotten units, without the lock

	mu      sync.Mutex // guards what follows
	units   []unit
	bytes   int
	waiting bool // for a unit where a viewer can begin
	closed  bool
	ready   chan struct{} // has one token while there may be something to take
}

func newQueue(dropped func(int)) *queue {
	return &queue{dropped: dropped, waiting: true, ready: make(chan struct{}, 1)}
}

// push never waits.
func (q *queue) push(u unit) {
	if n := q.put(u); n > 0 {
		q.dropped(n)
	}
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// put returns how many units were forgotten.
func (q *queue) put(u unit) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.waiting && !u.start {
		return 0
	}
	forgotten := 0
	if len(q.units) >= queueUnitsMax || q.bytes+u.size > queueBytesMax && len(q.units) > 0 {
		forgotten = len(q.units)
		clear(q.units)
		q.units, q.bytes, q.waiting = q.units[:0], 0, true
		if !u.start {
			return forgotten + 1
		}
	}
	q.waiting = false
	q.units = append(q.units, u)
	q.bytes += u.size
	return forgotten
}

// take moves all that is there into buf; false when the queue is closed.
func (q *queue) take(buf []unit) ([]unit, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	buf = append(buf[:0], q.units...)
	clear(q.units)
	q.units, q.bytes = q.units[:0], 0
	return buf, !q.closed
}

// restart forgets what is there and waits for a unit where a viewer can begin.
func (q *queue) restart() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.units)
	q.units, q.bytes, q.waiting = q.units[:0], 0, true
}

// close ends the queue; what is there can still be taken.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// each gives units to do until the queue is closed or do fails.
func (q *queue) each(do func(unit) error) error {
	var buf []unit
	for {
		var open bool
		buf, open = q.take(buf)
		for _, u := range buf {
			if err := do(u); err != nil {
				return err
			}
		}
		clear(buf)
		if !open {
			return nil
		}
		if len(buf) == 0 {
			<-q.ready
		}
	}
}
