package admission

import (
	"slices"
	"testing"
	"time"
)

// world is clients and a server behind a gate, on a clock of milliseconds. The
// server answers in the order of arrival, perMs in each; to refuse costs it
// refusalCost answers.
type world struct {
	gate    *Gate
	now     time.Time
	perMs   float64
	lag     time.Duration // what an answer takes when nobody waits
	stall   time.Time     // it answers nothing until then
	budget  float64
	queue   []arrival
	refused int
	took    []time.Duration // of the answered ones, since they were let through
	clients []*sender
}

type arrival struct {
	ticket Ticket
	at     time.Time
	from   *sender
}

// sender sends what is due, window messages at once.
type sender struct {
	due   float64   // messages that wait with the client
	rate  float64   // messages per ms that become due; 0: one whenever one was answered
	own   int       // under way
	free  time.Time // it was told to wait until then
	wait  Wait
	rude  bool // it does not wait, and forgets what was refused
	stuck bool // its messages are never answered
}

const (
	refusalCost = 0.3
	window      = 8
)

func newWorld(less int, perSecond float64) *world {
	g := New(0, less)
	return &world{gate: g, now: g.start, perMs: perSecond / 1000}
}

func (w *world) add(n int, s sender) (added []*sender) {
	for i := range n {
		c := s
		c.due = float64(i) / float64(n) // not all at once
		w.clients = append(w.clients, &c)
		added = append(added, &c)
	}
	return added
}

// run gives how many were answered and refused in a second on the mean, and the
// 99th percentile of the time from letting through to answering.
func (w *world) run(d time.Duration) (answered, refused float64, p99 time.Duration) {
	w.took, w.refused = nil, 0
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(time.Millisecond) {
		w.budget = min(w.budget+w.perMs, w.perMs)
		for _, c := range w.clients {
			w.offer(c)
		}
		if w.now.Before(w.stall) {
			w.budget = 0
		}
		for len(w.queue) > 0 && w.budget > 0 && w.now.Sub(w.queue[0].at) >= w.lag {
			w.answer(w.queue[0])
			w.queue = w.queue[1:]
		}
	}
	if len(w.took) > 0 {
		slices.Sort(w.took)
		p99 = w.took[len(w.took)*99/100]
	}
	return float64(len(w.took)) / d.Seconds(), float64(w.refused) / d.Seconds(), p99
}

func (w *world) offer(c *sender) {
	switch {
	case c.rate > 0:
		c.due += c.rate
	case c.own == 0:
		c.due = 1
	}
	for c.due >= 1 && (c.rude || c.own < window && !w.now.Before(c.free)) {
		ticket, wait := w.gate.Enter(w.now, c.own, &c.wait)
		if ticket == 0 {
			w.refused++
			w.budget -= refusalCost
			c.free = w.now.Add(wait)
			if c.rude {
				c.due--
			}
			continue
		}
		c.due--
		c.own++
		if c.stuck {
			c.own-- // it goes on with the next one all the same
			continue
		}
		w.queue = append(w.queue, arrival{ticket, w.now, c})
	}
}

func (w *world) answer(a arrival) {
	w.budget--
	a.from.own--
	w.gate.Leave(a.ticket, w.now)
	w.took = append(w.took, w.now.Sub(a.at))
}

func (w *world) overloaded() bool { return w.gate.Overloaded(w.now) }

// TestWhatIsAcceptedInOverloadIsNotLate, with twice as much as is borne; and
// when the load is one again that the usual bound lets through, it holds again.
func TestWhatIsAcceptedInOverloadIsNotLate(t *testing.T) {
	w := newWorld(0, 8000)
	w.add(1000, sender{rate: 0.016})
	w.run(3 * time.Second)
	if !w.overloaded() {
		t.Fatal("this is no overload")
	}
	answered, refused, p99 := w.run(20 * time.Second)
	if answered < 0.9*8000 || p99 > 50*time.Millisecond || refused > 2*refusalsMax {
		t.Errorf("%.0f/s answered, %.0f/s refused, 99 %% within %s", answered, refused, p99)
	}

	w.clients = nil
	w.add(500, sender{}) // 500 under way: too many for the smaller bound, and less than the usual
	w.run(2*time.Duration(trialMin)*slot + 10*time.Second)
	if w.overloaded() {
		t.Error("this is no overload any more")
	}
	if answered, refused, _ = w.run(10 * time.Second); answered < 0.95*8000 || refused > 0 {
		t.Errorf("of a load that is borne %.0f/s are answered, %.0f/s refused", answered, refused)
	}
}

// TestOverloadOfSlowAndFastServers: what comes to a slow one while a message
// counts does not fill the usual bound, so that nobody is refused and all are
// late; on a fast one answers of a full bound take 100 ms.
func TestOverloadOfSlowAndFastServers(t *testing.T) {
	for _, server := range []struct{ bears, offered float64 }{{6000, 7200}, {20_000, 30_000}} {
		w := newWorld(0, server.bears)
		w.add(1000, sender{rate: server.offered / 1e6})
		w.run(5 * time.Second)
		answered, _, p99 := w.run(10 * time.Second)
		if !w.overloaded() || answered < 0.9*server.bears || p99 > 50*time.Millisecond {
			t.Errorf("of %.0f/s: overloaded %v, %.0f/s answered, 99 %% within %s", server.offered, w.overloaded(), answered, p99)
		}
	}
}

// TestAnOverloadThatFillsTheBoundIsNoticedAtOnce, by the answers of some
// milliseconds. While there is room they may be those of a stall.
func TestAnOverloadThatFillsTheBoundIsNoticedAtOnce(t *testing.T) {
	for _, full := range []bool{true, false} {
		g := New(0, 0)
		var tickets []Ticket
		enter := func(n int, now time.Time) {
			for range n {
				if ticket, _ := g.Enter(now, 0, new(Wait)); ticket != 0 {
					tickets = append(tickets, ticket)
				}
			}
		}
		enter(UnderWayMax, g.start)
		now := g.start.Add(100 * time.Millisecond)
		const answers = 200
		for _, ticket := range tickets[:answers] {
			g.Leave(ticket, now)
		}
		enter(answers-1, now)
		if g.Overloaded(now) {
			t.Fatal("there is room for one more, and this is an overload")
		}
		if full {
			enter(2, now)
		}
		if g.Overloaded(now) != full {
			t.Errorf("full %v, overloaded %v", full, g.Overloaded(now))
		}
	}
}

// TestTrialsAreFew: of a long overload, little is spent on trying whether it is
// over.
func TestTrialsAreFew(t *testing.T) {
	w := newWorld(0, 8000)
	w.add(1000, sender{rate: 0.016})
	var late int
	const minutes = 4
	for range minutes * 60 {
		if _, _, p99 := w.run(time.Second); p99 > 50*time.Millisecond {
			late++
		}
	}
	t.Logf("%d late seconds", late)
	if late > 2*minutes {
		t.Errorf("%d late seconds in %d minutes", late, minutes)
	}
}

func TestOverloadEndsWithTheLoad(t *testing.T) {
	w := newWorld(0, 8000)
	all := w.add(1000, sender{rate: 0.016})
	w.run(3 * time.Second)
	for i, c := range all {
		c.rate, c.due = 0.004, float64(i)/float64(len(all))
	}
	w.run(retryMax + 2*time.Second)
	if w.overloaded() {
		t.Error("it goes on")
	}
}

// TestAStallIsNoOverload: three quarters of what is borne, and nothing is
// answered for a while. What gathered is late, and soon over: the smaller bound,
// which may bear less than this load, would hold until the next trial.
func TestAStallIsNoOverload(t *testing.T) {
	w := newWorld(0, 8000)
	w.add(1000, sender{rate: 0.006})
	w.run(2 * time.Second)
	for range 5 {
		w.stall = w.now.Add(130 * time.Millisecond)
		_, refused, _ := w.run(2 * time.Second)
		if w.overloaded() || refused > 0 {
			t.Fatalf("overloaded %v, %.0f/s refused", w.overloaded(), refused)
		}
	}
}

// TestThoseWhoDoNotWaitAreLetThrough: to refuse them costs as much.
func TestThoseWhoDoNotWaitAreLetThrough(t *testing.T) {
	rate := func(less int) float64 {
		w := newWorld(less, 8000)
		w.add(16, sender{rate: 1, rude: true})
		answered, tenths := 0.0, 0
		const seconds = 120
		for range 10 * seconds {
			each, _, _ := w.run(time.Second / 10)
			answered += each / 10
			if w.overloaded() {
				tenths++
			}
		}
		if tenths > 15 { // until it was noticed
			t.Errorf("for %d tenths of a second they are refused what others would come back for", tenths)
		}
		return answered / seconds
	}
	if with, without := rate(0), rate(-1); with < 0.9*without {
		t.Errorf("%.0f/s are answered, %.0f/s without a bound for overload", with, without)
	}
	w := newWorld(0, 8000)
	w.add(1000, sender{rate: 0.016})
	w.run(3 * time.Second)
	if !w.overloaded() {
		t.Fatal("this is no overload")
	}
	for _, c := range w.clients {
		c.rude = true
	}
	w.run(3 * time.Second)
	if w.overloaded() {
		t.Error("they have stopped waiting, and are refused still")
	}
}

// TestASmallerBoundThatDoesNotHelpDoesNotHold: where answers take long even when
// nobody waits, 144 under way are 1,440 a second and not the 5,000 that are borne.
func TestASmallerBoundThatDoesNotHelpDoesNotHold(t *testing.T) {
	w := newWorld(0, 5000)
	w.lag = 100 * time.Millisecond
	w.add(1000, sender{rate: 0.006})
	var overloaded int
	const minutes = 10
	answered := 0.0
	for range minutes * 60 {
		each, _, _ := w.run(time.Second)
		answered += each
		if w.overloaded() {
			overloaded++
		}
	}
	if overloaded == 0 {
		t.Error("it was never tried")
	}
	if answered /= minutes * 60; answered < 0.95*5000 || overloaded > 3*int(judgedAfter*int64(slot)/int64(time.Second)) {
		t.Errorf("%.0f/s are answered, for %d seconds the smaller bound holds", answered, overloaded)
	}
}

// TestACellAwayIsNoOverload: its messages are not answered at all, those of
// others in time.
func TestACellAwayIsNoOverload(t *testing.T) {
	w := newWorld(0, 8000)
	w.add(500, sender{rate: 0.008})
	w.add(300, sender{rate: 0.008, stuck: true})
	answered, refused, p99 := w.run(20 * time.Second)
	if w.overloaded() || refused > 0 || answered < 0.95*4000 || p99 > 50*time.Millisecond {
		t.Errorf("overloaded %v, %.0f/s answered, %.0f/s refused, 99 %% within %s", w.overloaded(), answered, refused, p99)
	}
}

// TestOneOldAnswerIsNoOverload: that of a cell that was away for ten minutes.
func TestOneOldAnswerIsNoOverload(t *testing.T) {
	g := New(0, 0)
	old, _ := g.Enter(g.start, 0, new(Wait))
	now := g.start.Add(10 * time.Minute)
	for range UnderWayMax / 2 {
		g.Enter(now, 0, new(Wait))
	}
	g.Leave(old, now)
	g.Enter(now, 0, new(Wait))
	if g.Overloaded(now) {
		t.Error("this is an overload")
	}
}

// TestASlowCellIsNoOverload: with 500 under way answers take 170 ms, and nobody
// would be served sooner if others were refused.
func TestASlowCellIsNoOverload(t *testing.T) {
	w := newWorld(0, 3000)
	w.add(500, sender{})
	if answered, refused, _ := w.run(10 * time.Second); w.overloaded() || refused > 0 || answered < 0.95*3000 {
		t.Errorf("overloaded %v, %.0f/s answered, %.0f/s refused", w.overloaded(), answered, refused)
	}
}

// TestWhatWasOnItsWayIsNotEarly: a client hears of a refusal later than the edge
// gets what it had sent before.
func TestWhatWasOnItsWayIsNotEarly(t *testing.T) {
	var w Wait
	at := time.UnixMilli(1000)
	for _, step := range []struct {
		after int64 // ms
		early bool
	}{{0, false}, {40, false}, {60, true}, {90, true}, {101, false}, {120, false}} {
		if early := w.refuse(at.Add(time.Duration(step.after)*time.Millisecond), 100*time.Millisecond); early != step.early {
			t.Errorf("told to wait for 100 ms, and after %d ms refused again: early is %v", step.after, early)
		}
	}
}
