package bench

import (
	"testing"
	"time"
)

// Each sender counts once per move, with his longest wait in its window.
func TestPausesAreOfSenders(t *testing.T) {
	p := &pauses{rng: 1}
	if p.quantiles() != nil && p.quantiles().Max != 0 {
		t.Error("a pause without a move")
	}
	ms := time.Millisecond
	for _, w := range []wait{
		{1, 100 * ms, 5 * ms}, {1, 200 * ms, 40 * ms}, {2, 150 * ms, 10 * ms}, {3, 150 * ms, 20 * ms},
		{1, 900 * ms, 500 * ms}, // outside
		{2, 2000 * ms, 30 * ms}, // of the second move
	} {
		p.add(w)
	}
	p.window(0, 300*ms)
	p.window(1900*ms, 2100*ms)
	q := p.quantiles()
	if q == nil || int(q.Max+0.5) != 40 || int(q.P50+0.5) != 20 {
		t.Errorf("pauses of 40, 10, 20 and 30 ms: %+v", q)
	}
}
