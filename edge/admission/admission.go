// Package admission bounds the messages an edge has under way, so that overload
// is answered "retry later" and what is accepted is not late.
//
// Messages that come faster than a cell stores them wait: at each goroutine and
// stream on their way, and for the machine's CPUs. More under way means larger
// batches and so more throughput, up to some hundreds; beyond that only the wait
// grows, by Little's law in step with their number. So there are two bounds: the
// usual one leaves room for a thousand people who write at once, and bears most.
// Where answers are late although nobody waits for anything else, this is
// overload, and a smaller bound holds until it is over: less is borne, in time.
// docs/PERFORMANCE.md has what several bounds gave.
//
// The bound does not follow the latency: where refusing keeps the CPUs busy, a
// bound that falls until nothing is late falls for ever, and does not rise again
// when the load that was borne before comes back (tried). For the same reason the
// smaller one does not hold where those who are refused do not wait, and now and
// then it is tried whether the usual one would do again. Nor does it hold where
// answers are late under it too: replicas on several nodes wait for each other,
// and a few messages under way do not fill their CPUs.
//
// Who has unanswered messages already needs more room for the next one, ownCost
// times as many: so those who write now and then find room beside those who send
// as much as they can.
//
// A message that is not answered within [young] is not counted any more: it does
// not wait for a CPU but for a range that moves, a leader that is elected or a
// cell that is away, and must not keep back those of everybody else.
//
// To be refused and asked again costs the servers a good part of what storing a
// message does. So the time after which a client may try again grows until only
// [refusalsMax] of them come in a second, however many wait.
package admission

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// UnderWayMax is the default of New's first bound.
	UnderWayMax = 2048
	// OverloadedMax is the default of its second, between 128 and 160, which
	// were measured on two CPUs (docs/PERFORMANCE.md).
	OverloadedMax = 144
	// ownCost is how many places must be free for each message of a session
	// that is under way. Alone, one session has a third of the bound.
	ownCost = 2
	// crowd is the part of the bound that must be unanswered for an overload to
	// begin: where there are fewer, refusing some would not serve others sooner.
	crowd = 4
	// slot is the grain of the clock.
	slot = 25 * time.Millisecond
	// young is how long a message counts: more than what one takes that waits
	// for nothing but a busy machine's CPUs.
	young = slots * slot
	slots = 10
	// refusalsMax is how many are refused in a second before the time until the
	// next try grows: some tenth of what two CPUs do. With half as many, too few
	// came to use the bound of overload up: 8 % less was borne.
	refusalsMax = 2000
	// The time until the next try is drawn from half to one and a half of a mean.
	retryMin = 100 * time.Millisecond
	retryMax = 8 * time.Second
	// The mean is adjusted every adjustSlots.
	adjustSlots = 10
)

// Gate counts the messages under way. A nil Gate lets everything through.
type Gate struct {
	max   int // under way
	less  int // the same, in overload
	start time.Time

	mu       sync.Mutex // guards the fields below
	now      int64      // slot, since start
	counts   [slots]int // by the slot they came in, modulo slots
	underWay int        // their sum
	retry    time.Duration
	adjusted int64 // slot
	refused  int   // since then
	early    int   // of those, who had not waited since they were refused before
	inside   int   // let through and not answered, however old
	total    int64
	overload overload
}

// Ticket is for a message that was let through. The zero Ticket is of none.
type Ticket int64

// Wait is what a session was told when it was refused. The zero Wait is of one
// that was not.
type Wait struct {
	from, until int64 // Unix milliseconds
}

// refuse notes a refusal and tells whether the session has not waited. What
// comes in the first half of the time was on its way, perhaps.
func (w *Wait) refuse(now time.Time, retry time.Duration) (early bool) {
	at := now.UnixMilli()
	if at >= w.until {
		w.from, w.until = at+retry.Milliseconds()/2, at+retry.Milliseconds()
		return false
	}
	return at >= w.from
}

// New makes a gate for at most so many messages under way, and so many in
// overload. 0 is the default. With less than 0 there is no bound and no gate, or
// none of overload's own.
func New(underWayMax, overloadedMax int) *Gate {
	switch {
	case underWayMax < 0:
		return nil
	case underWayMax == 0:
		underWayMax = UnderWayMax
	}
	if overloadedMax == 0 {
		overloadedMax = OverloadedMax
	}
	if overloadedMax < 0 || overloadedMax > underWayMax {
		overloadedMax = underWayMax
	}
	return &Gate{max: underWayMax, less: overloadedMax, start: time.Now(), retry: retryMin}
}

// Enter lets a message of a session through that has so many of its own under
// way, or tells after what time to try again, which it keeps in the session's
// wait. A message let through must [Gate.Leave].
func (g *Gate) Enter(now time.Time, own int, wait *Wait) (Ticket, time.Duration) {
	if g == nil {
		return 0, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advance(now)
	if full := g.underWay+ownCost*own >= g.max; full || g.inside >= g.max/crowd {
		g.overload.begin(g.now, full)
	}
	bound := g.max
	if g.overload.on {
		bound = g.less
	}
	if g.underWay+ownCost*own >= bound {
		g.refused++
		g.total++
		retry := g.retry/2 + rand.N(g.retry)
		if wait.refuse(now, retry) {
			g.early++
		}
		return 0, retry
	}
	g.counts[g.now%slots]++
	g.underWay++
	g.inside++
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
	g.inside--
	came := int64(t) - 1
	if g.now-came < slots {
		g.counts[came%slots]--
		g.underWay--
	}
	g.overload.answered(g.now - came)
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

// Overloaded says whether the bound of overload holds.
func (g *Gate) Overloaded(now time.Time) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advance(now)
	return g.overload.on
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
		perSecond := int64(g.refused) * int64(time.Second/slot) / past
		switch {
		case perSecond > refusalsMax:
			g.retry = min(g.retry*3/2, retryMax)
		case perSecond < refusalsMax/2:
			g.retry = max(g.retry*2/3, retryMin)
		}
		g.overload.adjust(g.now, g.refused, g.early)
		g.adjusted, g.refused, g.early = g.now, 0, 0
	}
}
