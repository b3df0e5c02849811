package rebalance

import (
	"fmt"
	"time"

	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
)

// Limits say what is too slow: a p99 above both Factor times what it was
// before and Floor, for as long as For without a pause.
type Limits struct {
	Factor     float64
	Floor, For time.Duration
}

// WithDefaults fills in what is 0.
func (l Limits) WithDefaults() Limits {
	if l.Factor == 0 {
		l.Factor = 3
	}
	if l.Floor == 0 {
		l.Floor = 50 * time.Millisecond
	}
	if l.For == 0 {
		l.For = 5 * time.Second
	}
	return l
}

// Sends are what the hosts of each cell have counted, by the classes of
// internal/latency. A cell none of whose hosts answers is missing.
type Sends map[proto.CellID][]uint64

// guard compares what people see with what they saw before.
type guard struct {
	Limits
	before map[proto.CellID]time.Duration
	since  map[proto.CellID]time.Time // above the limit, without a pause
	worst  map[proto.CellID]time.Duration
}

func newGuard(l Limits, before Sends) *guard {
	g := &guard{Limits: l, before: map[proto.CellID]time.Duration{}, since: map[proto.CellID]time.Time{}, worst: map[proto.CellID]time.Duration{}}
	for cell, counts := range before {
		g.before[cell] = latency.Quantile(counts, 0.99)
	}
	return g
}

// limit is the p99 above which a cell is slow.
func (g *guard) limit(cell proto.CellID) time.Duration {
	return max(g.Floor, time.Duration(g.Factor*float64(g.before[cell])))
}

// look tells why the moves that touch these cells are to stop; "" if they are
// not. Cells that are not touched are forgotten.
func (g *guard) look(now time.Time, touched []proto.CellID, sends Sends) (why string) {
	slow := map[proto.CellID]bool{}
	for _, cell := range touched {
		counts, answers := sends[cell]
		p99 := latency.Quantile(counts, 0.99)
		if answers && p99 <= g.limit(cell) {
			continue
		}
		slow[cell] = true
		g.worst[cell] = max(g.worst[cell], p99)
		if g.since[cell].IsZero() {
			g.since[cell] = now
		}
		if lasts := now.Sub(g.since[cell]); lasts >= g.For {
			if !answers {
				return fmt.Sprintf("no chat node of cell %s has answered for %s", cell, lasts.Round(time.Second))
			}
			return fmt.Sprintf("p99 of sends in cell %s is above %s for %s, at most %s; it was %s before", cell,
				short(g.limit(cell)), lasts.Round(time.Second), short(g.worst[cell]), short(g.before[cell]))
		}
	}
	for cell := range g.since {
		if !slow[cell] {
			delete(g.since, cell)
			delete(g.worst, cell)
		}
	}
	return ""
}

func short(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
