package admission

import (
	"testing"
	"time"
)

func TestOnlySoManyAreUnderWay(t *testing.T) {
	g := New(3, 0)
	now := g.start
	var tickets []Ticket
	for range 3 {
		ticket, wait := g.Enter(now, 0, new(Wait))
		if ticket == 0 || wait != 0 {
			t.Fatal("refused below the bound")
		}
		tickets = append(tickets, ticket)
		now = now.Add(slot)
	}
	if ticket, wait := g.Enter(now, 0, new(Wait)); ticket != 0 || wait < retryMin/2 || wait > retryMin*3/2 || g.Refused() != 1 {
		t.Fatalf("ticket %d, try again after %s, %d refused", ticket, wait, g.Refused())
	}
	g.Leave(tickets[1], now)
	if ticket, _ := g.Enter(now, 0, new(Wait)); ticket == 0 {
		t.Error("refused after one has left")
	}
	if ticket, _ := g.Enter(now, 0, new(Wait)); ticket != 0 {
		t.Error("one place was given twice")
	}
}

// TestWhatIsStuckDoesNotCount: a cell that is away must not keep back those of
// the others.
func TestWhatIsStuckDoesNotCount(t *testing.T) {
	g := New(2, 0)
	now := g.start
	stuck, _ := g.Enter(now, 0, new(Wait))
	late, _ := g.Enter(now.Add(young/2), 0, new(Wait))
	if ticket, _ := g.Enter(now.Add(young-slot), 0, new(Wait)); ticket != 0 {
		t.Fatal("forgotten while it is young")
	}
	now = now.Add(young)
	fresh, _ := g.Enter(now, 0, new(Wait))
	if fresh == 0 {
		t.Fatal("it still counts")
	}
	g.Leave(stuck, now) // takes nobody else's place
	if ticket, _ := g.Enter(now, 0, new(Wait)); ticket != 0 {
		t.Error("its leaving made room for two")
	}
	g.Leave(late, now)
	g.Leave(fresh, now)
	if g.underWay != 0 {
		t.Errorf("%d are under way", g.underWay)
	}
	for _, d := range []time.Duration{young, time.Hour} { // far more than all slots
		ticket, _ := g.Enter(now, 0, new(Wait))
		now = now.Add(d)
		g.Leave(ticket, now)
		if g.underWay != 0 {
			t.Errorf("%d are under way after %s", g.underWay, d)
		}
	}
}

// TestFewAreRefusedInASecond has ten thousand clients who try again when they
// are told to, while nothing is answered.
func TestFewAreRefusedInASecond(t *testing.T) {
	g := New(1, 0)
	now := g.start
	next := make([]time.Time, 10_000)
	for i := range next {
		next[i] = now
	}
	refusals := func(d time.Duration) (n int) {
		for end := now.Add(d); now.Before(end); now = now.Add(slot) {
			for i := range next {
				if !next[i].After(now) {
					if ticket, wait := g.Enter(now, 0, new(Wait)); ticket == 0 {
						next[i] = now.Add(wait)
						n++
					}
				}
			}
		}
		return n
	}
	refusals(time.Minute)
	if n := refusals(10 * time.Second); n > 10*refusalsMax*2 {
		t.Errorf("%d refusals in ten seconds", n)
	}
	if g.retry > retryMax {
		t.Errorf("try again after %s", g.retry)
	}
	g.advance(now.Add(time.Hour))
	for range 100 {
		now = now.Add(time.Hour)
		g.advance(now)
	}
	if g.retry != retryMin {
		t.Errorf("an hour later try again after %s", g.retry)
	}
}

// TestOneSessionLeavesRoom: who sends all he can does not keep out others.
func TestOneSessionLeavesRoom(t *testing.T) {
	g := New(90, 0)
	now := g.start
	hog := func() (own int) {
		for {
			if ticket, _ := g.Enter(now, own, new(Wait)); ticket == 0 {
				return own
			}
			own++
		}
	}
	total := hog()
	if total != 30 {
		t.Errorf("alone it has %d under way", total)
	}
	for range 5 {
		total += hog()
	}
	if ticket, _ := g.Enter(now, 0, new(Wait)); ticket == 0 {
		t.Errorf("with %d under way there is no room for somebody who has none", total)
	}
}

func TestNoGateLetsEverythingThrough(t *testing.T) {
	g := New(-1, 0)
	for range 10 * UnderWayMax {
		ticket, wait := g.Enter(time.Now(), 0, new(Wait))
		if wait != 0 {
			t.Fatal("refused")
		}
		g.Leave(ticket, time.Now())
	}
	if g.Refused() != 0 {
		t.Error("some are said to be refused")
	}
}
