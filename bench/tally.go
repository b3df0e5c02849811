package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// latencyMax is the highest latency told apart from a higher one.
const latencyMax = 10 * time.Minute

// tally gathers latencies, in microseconds, of one kind.
type tally struct {
	mu      sync.Mutex // guards the fields below
	all     *hdrhistogram.Histogram
	seconds []*hdrhistogram.Histogram // by second of the due time, warm-up included
}

func newTally() *tally { return &tally{all: newHistogram(3)} }

func newHistogram(digits int) *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), digits)
}

// add records a latency of a message due at since the start. It counts in the
// whole only if measured.
func (t *tally) add(at, latency time.Duration, measured bool) {
	us := min(max(latency.Microseconds(), 1), latencyMax.Microseconds())
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := int(at / time.Second); len(t.seconds) <= n; {
		t.seconds = append(t.seconds, newHistogram(2))
	}
	// Values are within the histogram's bounds, so that recording cannot fail.
	_ = t.seconds[at/time.Second].RecordValue(us)
	if measured {
		_ = t.all.RecordValue(us)
	}
}

func (t *tally) count() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.TotalCount()
}

// mean is in milliseconds.
func (t *tally) mean() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.Mean() / 1000
}

// quantiles are nil where nothing was measured.
func (t *tally) quantiles() *Quantiles {
	t.mu.Lock()
	defer t.mu.Unlock()
	return quantilesOf(t.all)
}

func quantilesOf(h *hdrhistogram.Histogram) *Quantiles {
	if h.TotalCount() == 0 {
		return nil
	}
	at := func(percent float64) float64 { return float64(h.ValueAtQuantile(percent)) / 1000 }
	return &Quantiles{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1000}
}
