package bench

import "math"

// kneeSearch looks for the knee: the highest rate that passes. From a first
// rate it grows by a factor until one breaks, then it halves the gap between
// the highest that passed and the lowest that broke, by ratio, a number of
// times. Where the first rate breaks already it first shrinks.
type kneeSearch struct {
	factor float64 // above 1
	max    float64 // highest rate tried
	halves int     // still to do

	rate      float64 // to try next; whole messages per second
	good, bad float64 // 0: none yet
	over      bool
}

func newKneeSearch(start, factor, most float64, halves int) *kneeSearch {
	return &kneeSearch{factor: factor, max: most, halves: halves, rate: min(start, most)}
}

// next is the rate to try, false when there is nothing left to learn.
func (k *kneeSearch) next() (float64, bool) { return k.rate, !k.over }

// judged tells how the rate did that next said.
func (k *kneeSearch) judged(passed bool) {
	if passed {
		k.good = k.rate
	} else {
		k.bad = k.rate
	}
	switch {
	case k.bad == 0:
		k.over = k.rate >= k.max
		k.rate = min(math.Ceil(k.rate*k.factor), k.max)
	case k.good == 0:
		// Far below: what breaks at the first rate mostly breaks well before.
		k.over = k.rate <= 1
		k.rate = max(math.Floor(k.rate/(k.factor*k.factor)), 1)
	default:
		k.rate = math.Round(math.Sqrt(k.good * k.bad))
		k.over = k.halves == 0 || k.rate <= k.good || k.rate >= k.bad
		k.halves--
	}
}

// bisecting tells whether the knee is between two known rates.
func (k *kneeSearch) bisecting() bool { return k.good > 0 && k.bad > 0 }
