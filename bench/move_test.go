package bench

import (
	"strings"
	"testing"
	"time"

	controlpb "github.com/waggle-im/waggle/proto/control"
)

// What is moved is not where it is to go.
func TestChooseRange(t *testing.T) {
	users := map[uint64]int{1: 25, 2: 25, 3: 25, 4: 30, 5: 2}
	ranges := []*controlpb.RangeStatus{
		{Range: 1, Cell: "c2"}, {Range: 2, Cell: "c1"}, {Range: 3, Cell: "c1"}, {Range: 4, Cell: "c2"}, {Range: 5, Cell: "c1"}, {Range: 6, Cell: "c1"},
	}
	for _, c := range []struct {
		rng, to, home, err string
		want               uint64
	}{
		{rng: "auto", to: "c2", want: 2, home: "c1"},
		{rng: "auto", to: "c1", want: 4, home: "c2"},
		{rng: "5", to: "c2", want: 5, home: "c1"},
		{rng: "1", to: "c2", err: "in cell c2 already"},
		{rng: "6", to: "c2", err: "none of the run's users"},
		{rng: "7", to: "c2", err: "no range 7"},
	} {
		got, home, err := chooseRange(MoveConfig{Range: c.rng, To: c.to}, users, ranges)
		if got != c.want || home != c.home || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s to %s: range %d of %s, %v", c.rng, c.to, got, home, err)
		}
	}
	if _, _, err := chooseRange(MoveConfig{Range: "auto", To: "c1"}, map[uint64]int{2: 1}, ranges); err == nil || !strings.Contains(err.Error(), "all users of the run") {
		t.Error("nothing to move:", err)
	}
}

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
