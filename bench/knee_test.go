package bench

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// searched runs a search against a server that bears rates up to a limit.
func searched(k *kneeSearch, limit float64) (tried []float64) {
	for rate, more := k.next(); more && len(tried) < 1000; rate, more = k.next() {
		tried = append(tried, rate)
		k.judged(rate <= limit)
	}
	return tried
}

func TestKneeSearch(t *testing.T) {
	for _, c := range []struct {
		name               string
		start, factor, max float64
		halves             int
		limit              float64
		tried              []float64
		good, bad          float64
	}{
		{"grows, then halves", 100, 2, 10_000, 2, 300, []float64{100, 200, 400, 283, 336}, 283, 336},
		{"no halving", 100, 2, 10_000, 0, 300, []float64{100, 200, 400}, 200, 400},
		{"up to the bound", 100, 2, 350, 3, 1000, []float64{100, 200, 350}, 350, 0},
		{"the bound breaks", 100, 2, 350, 1, 340, []float64{100, 200, 350, 265}, 265, 350},
		{"shrinks first", 100, 2, 10_000, 1, 10, []float64{100, 25, 6, 12}, 6, 12},
		{"never holds", 100, 2, 10_000, 3, 0, []float64{100, 25, 6, 1}, 0, 1},
		{"the bound is below the start", 100, 2, 50, 3, 1000, []float64{50}, 50, 0},
		{"neighbours end it", 1, 2, 10_000, 5, 1, []float64{1, 2}, 1, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKneeSearch(c.start, c.factor, c.max, c.halves)
			if tried := searched(k, c.limit); !slices.Equal(tried, c.tried) || k.good != c.good || k.bad != c.bad {
				t.Errorf("tried %v between %g and %g, want %v between %g and %g", tried, k.good, k.bad, c.tried, c.good, c.bad)
			}
		})
	}
}

// Whatever a server bears, the search ends, brackets the limit, tries no rate
// twice, and is as exact as its halvings allow.
func TestKneeSearchBrackets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := float64(rapid.IntRange(1, 5000).Draw(t, "start"))
		most := start * rapid.Float64Range(1, 1000).Draw(t, "most")
		factor := rapid.Float64Range(1.1, 10).Draw(t, "factor")
		halves := rapid.IntRange(0, 10).Draw(t, "halves")
		limit := rapid.Float64Range(0, 2*most).Draw(t, "limit")
		k := newKneeSearch(start, factor, most, halves)
		tried := searched(k, limit)
		if len(tried) > 200 {
			t.Fatalf("%d rates tried", len(tried))
		}
		seen := map[float64]bool{}
		for _, rate := range tried {
			if rate < 1 || rate > most || seen[rate] {
				t.Fatalf("%g is out of bounds or tried twice in %v", rate, tried)
			}
			seen[rate] = true
		}
		switch {
		case k.good > limit, k.bad != 0 && k.bad <= limit:
			t.Fatalf("%g holds and %g breaks at a limit of %g", k.good, k.bad, limit)
		case k.bad == 0 && k.good != most:
			t.Fatalf("nothing broke, and yet %g is not the bound %g", k.good, most)
		case k.good >= 100 && k.bad-k.good > 2:
			// The first gap is a factor, or its square on the way down. Rates are
			// whole: that shows below 100, and adds less than 15 % above.
			if gap := math.Pow(factor*factor, math.Pow(2, -float64(halves))); k.bad/k.good > 1.15*gap {
				t.Fatalf("%g to %g is wider than %g after %d halvings", k.good, k.bad, gap, halves)
			}
		}
	})
}
