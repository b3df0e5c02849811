package latency

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestClassesCoverEverything(t *testing.T) {
	for class := range Classes - 1 {
		if Class(Bound(class)) != class || Class(Bound(class)+1) != class+1 {
			t.Errorf("class %d ends at %v: %d, %d", class, Bound(class), Class(Bound(class)), Class(Bound(class)+1))
		}
	}
	if Class(0) != 0 || Class(time.Hour) != Classes-1 || Bound(Classes-2) < 30*time.Second {
		t.Errorf("%d %d, the last but one ends at %v", Class(0), Class(time.Hour), Bound(Classes-2))
	}
}

// A quantile is at least the true one, and at most a quarter above it.
func TestQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(rapid.Int64Range(int64(time.Millisecond), int64(20*time.Second)), 1, 300).Draw(t, "times")
		halves := [][]uint64{make([]uint64, Classes), make([]uint64, Classes)}
		for i, d := range times {
			halves[i%2][Class(time.Duration(d))]++
		}
		sum := Add(Add(nil, halves[0]), halves[1])
		slices.Sort(times)
		got, want := Quantile(sum, 0.99), time.Duration(times[(len(times)*99+99)/100-1])
		if got < want || float64(got) > 1.26*float64(want) {
			t.Errorf("p99 of %d is %v, true is %v", len(times), got, want)
		}
	})
	if Quantile(nil, 0.99) != 0 || Quantile(make([]uint64, Classes), 0.5) != 0 {
		t.Error("a quantile of nothing")
	}
}

func TestRecentForgets(t *testing.T) {
	var r Recent
	start := time.Unix(1_700_000_000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	r.Begin(at(0.1))
	r.End(at(0.1), at(0.2))
	r.Begin(at(3))
	r.End(at(3), at(3.4))
	for _, c := range []struct {
		now     float64
		seconds int
		count   uint64
		longest time.Duration
	}{{0.3, 1, 1, 126 * time.Millisecond}, {3.5, 10, 2, 500 * time.Millisecond}, {3.5, 1, 1, 500 * time.Millisecond}, {10.9, 10, 2, 500 * time.Millisecond}, {11, 10, 1, 500 * time.Millisecond}, {14, 10, 0, 0}} {
		counts := r.Counts(at(c.now), c.seconds)
		if n := Count(counts); n != c.count || Quantile(counts, 1) > c.longest || c.count > 0 && Quantile(counts, 1) < c.longest*7/10 {
			t.Errorf("at %v, of the last %d s: %d, the longest %v", c.now, c.seconds, n, Quantile(counts, 1))
		}
	}
}

// What is not over yet counts by its age, and what never ends is forgotten.
func TestRecentCountsWhatIsOpen(t *testing.T) {
	var r Recent
	start := time.Unix(1_700_000_000, 0)
	r.Begin(start)
	r.Begin(start)
	r.Begin(start)
	if n := Count(r.Counts(start.Add(900*time.Millisecond), 10)); n != 0 {
		t.Errorf("%d, although they have only begun", n)
	}
	r.End(start, start.Add(4*time.Second))
	counts := r.Counts(start.Add(6*time.Second), 1)
	if Count(counts) != 2 || Quantile(counts, 0.01) < 4*time.Second || Quantile(counts, 1) > 8*time.Second {
		t.Errorf("%d open for 6 s: %v to %v", Count(counts), Quantile(counts, 0.01), Quantile(counts, 1))
	}
	r.End(start, start.Add(70*time.Second)) // forgotten by then
	r.End(start, start.Add(70*time.Second))
	if n := Count(r.Counts(start.Add(90*time.Second), 10)); n != 0 {
		t.Errorf("%d are left", n)
	}
}

func TestRate(t *testing.T) {
	var r Rate
	start := time.Unix(1_700_000_000, 0)
	for s := range 30 {
		r.Add(start.Add(time.Duration(s)*time.Second), s)
	}
	now := start.Add(30 * time.Second)
	if n := r.Count(now, 3); n != 27+28+29 {
		t.Errorf("%d in the last 3 s", n)
	}
	if n := r.Count(now, 10); n != 245 {
		t.Errorf("%d in the last 10 s", n)
	}
	if n := r.Count(now.Add(time.Hour), 10); n != 0 {
		t.Errorf("%d an hour later", n)
	}
}
