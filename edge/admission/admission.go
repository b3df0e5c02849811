// Package admission bounds the messages an edge has under way, so that overload
// is answered "retry later" and what is accepted is not late.
//
// Messages that come faster than a cell stores them wait: at each goroutine and
// stream on their way, and for the machine's CPUs. More under way means larger
// batches and so more throughput, up to some hundreds; beyond that only the wait
// grows, by Little's law in step with their number. The bound is where an operator
// wants to be between the two; docs/PERFORMANCE.md has what several of them gave.
// It does not follow the latency: where refusing keeps the CPUs busy, a bound that
// falls until nothing is late falls for ever, and does not rise again when the
// load that was borne before comes back (tried).
//
// Who has unanswered messages already needs more room for the next one, ownCost
// times as many: so those who write now and then find room beside those who send
// as much as they can.
//
// A message that is not answered within [young] is not counted any more: it does
// not wait for a CPU but for a range that moves, a leader that is elected or a
// cell that is away, and must not keep back those of everybody else.
//
// To be refused and asked again costs the servers about as much as to store a
// message. So the time after which a client may try again grows until only
// [refusalsMax] of them come in a second, however many wait.
package admission

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// UnderWayMax is the default of New's bound.
	UnderWayMax = 2048
	// ownCost is how many places must be free for each message of a session
	// that is under way. Alone, one session has a third of the bound.
	ownCost = 2
	// slot is the grain of the clock.
	slot = 25 * time.Millisecond
	// young is how long a message counts: more than what one takes that waits
	// for nothing but a busy machine's CPUs.
	young = slots * slot
	slots = 10
	// refusalsMax is how many are refused in a second before the time until the
	// next try grows: about a tenth of what two CPUs do.
	refusalsMax = 1000
	// The time until the next try is drawn from half to one and a half of a mean.
	retryMin = 100 * time.Millisecond
	retryMax = 8 * time.Second
	// The mean is adjusted every adjustSlots.
	adjustSlots = 10
)

// Gate counts the messages under way. A nil Gate lets everything through.
type Gate struct {
	max   int
	start time.Time

	mu       sync.Mutex // guards the fields below
	now      int64      // slot, since start
	counts   [slots]int // by the slot they came in, modulo slots
	underWay int        // their sum
	retry    time.Duration
	adjusted int64 // slot
	refused  int   // since then
	total    int64
}

// Ticket is for a message that was let through. The zero Ticket is of none.
type Ticket int64

// New makes a gate for at most so many messages under way; 0 is [UnderWayMax],
// and below it there is no bound and no gate.
func New(underWayMax int) *Gate {
	switch {
	case underWayMax < 0:
		return nil
	case underWayMax == 0:
		underWayMax = UnderWayMax
	}
	return &Gate{max: underWayMax, start: time.Now(), retry: retryMin}
}

// Enter lets a message of a session through that has so many of its own under
// way, or tells after what time to try again. A message let through must
// [Gate.Leave].
func (g *Gate) Enter(now time.Time, own int) (Ticket, time.Duration) {
	if g == nil {
		return 0, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advance(now)
	if g.underWay+ownCost*own >= g.max {
		g.refused++
		g.total++
		return 0, g.retry/2 + rand.N(g.retry)
	}
	g.counts[g.now%slots]++
	g.underWay++
	return Ticket(g.now + 1), 0
}

// Leave takes a message off: it is answered, or its client has gone.
func (g *Gate) Leave(t Ticket, now time.Time) {
	if g == nil || t == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advance(now)
	if came := int64(t) - 1; g.now-came < slots {
		g.counts[came%slots]--
		g.underWay--
	}
}

// Refused is how many messages were, since the start.
func (g *Gate) Refused() int64 {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// advance forgets what is not young any more, and adjusts the time until the
// next try.
func (g *Gate) advance(now time.Time) {
	at := int64(now.Sub(g.start) / slot)
	for n := 0; g.now < at && n < slots; n++ {
		g.now++
		g.underWay -= g.counts[g.now%slots]
		g.counts[g.now%slots] = 0
	}
	g.now = max(g.now, at)
	if past := g.now - g.adjusted; past >= adjustSlots {
		switch perSecond := int64(g.refused) * int64(time.Second/slot) / past; {
		case perSecond > refusalsMax:
			g.retry = min(g.retry*3/2, retryMax)
		case perSecond < refusalsMax/2:
			g.retry = max(g.retry*2/3, retryMin)
		}
		g.adjusted, g.refused = g.now, 0
	}
}
