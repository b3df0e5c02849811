package planner

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/sharding/move"
)

// balanced is the difference between the most and the least loaded cell, in
// parts of their mean, that is not worth a move.
const balanced = 0.10

// RangeLoad is what a range was measured to use.
type RangeLoad struct {
	Sessions uint64
	Messages uint64 // stored within some time, the same for all ranges
	Bytes    uint64
}

// Rebalance plans the moves that even out what the cells' storage nodes carry,
// at most as many as most; 0: no limit. A range weighs its share of all
// sessions, messages and bytes, each counted alike; a cell's load is that of its ranges
// per live storage node.
func (b *Board) Rebalance(loads map[proto.RangeID]RangeLoad, most int) []move.Plan {
	weight := weights(loads)
	nodes := map[proto.CellID]float64{}
	for id, cell := range b.View.Cells {
		if cell.State == Draining {
			continue
		}
		for _, n := range b.nodes[id] {
			if n.Alive && n.Has("storage") && !b.drained(n) {
				nodes[id]++
			}
		}
		if nodes[id] == 0 {
			delete(nodes, id)
		}
	}
	c := newCells(nodes)
	for id, rec := range b.View.Ranges {
		if i, counts := c.index[proto.CellID(rec.Cell)]; counts {
			c.load[i] += weight[id]
		}
	}
	var total, all float64
	for i := range c.ids {
		total, all = total+c.load[i], all+c.nodes[i]
	}
	var plans []move.Plan
	tried := map[proto.RangeID]bool{}
	for (most == 0 || len(plans) < most) && len(c.ids) > 1 && total > 0 {
		high, low := c.extremes()
		mean := total / all
		gap := c.each(high) - c.each(low)
		if gap <= balanced*mean {
			break
		}
		r := b.best(c.ids[high], weight, tried, difference{gap, 1 / c.nodes[high], 1 / c.nodes[low]})
		if r == 0 {
			break
		}
		tried[r] = true
		p, err := b.To(r, c.ids[low])
		if err != nil {
			continue
		}
		p.Reason = fmt.Sprintf("%s carries %.0f%% of the mean per node, %s %.0f%%", c.ids[high], 100*c.each(high)/mean, c.ids[low], 100*c.each(low)/mean)
		plans = append(plans, p)
		c.load[high] -= weight[r]
		c.load[low] += weight[r]
	}
	return plans
}

// cells are what the cells carry, by name: lists, because every plan looks
// through all of them.
type cells struct {
	ids         []proto.CellID
	index       map[proto.CellID]int
	nodes, load []float64
}

func newCells(nodes map[proto.CellID]float64) cells {
	c := cells{ids: slices.Sorted(maps.Keys(nodes)), index: map[proto.CellID]int{}, load: make([]float64, len(nodes))}
	for i, id := range c.ids {
		c.index[id] = i
		c.nodes = append(c.nodes, nodes[id])
	}
	return c
}

func (c cells) each(i int) float64 { return c.load[i] / c.nodes[i] }

// extremes are the cells that carry most and least per node.
func (c cells) extremes() (high, low int) {
	for i := range c.ids {
		if c.each(i) > c.each(high) {
			high = i
		}
		if c.each(i) < c.each(low) {
			low = i
		}
	}
	return high, low
}

// weights are the ranges' shares of all that is used.
func weights(loads map[proto.RangeID]RangeLoad) map[proto.RangeID]float64 {
	var sessions, messages, bytes float64
	for _, l := range loads {
		sessions, messages, bytes = sessions+float64(l.Sessions), messages+float64(l.Messages), bytes+float64(l.Bytes)
	}
	share := func(part, whole float64) float64 {
		if whole == 0 {
			return 0
		}
		return part / whole / 3
	}
	out := map[proto.RangeID]float64{}
	for r, l := range loads {
		out[r] = share(float64(l.Sessions), sessions) + share(float64(l.Messages), messages) + share(float64(l.Bytes), bytes)
	}
	return out
}

// difference is what lies between the most and the least loaded cell. Moving
// weight w takes w·high off the one and puts w·low on the other.
type difference struct{ gap, high, low float64 }

// best is the range of a cell whose move leaves the smallest difference, if
// that is smaller than the one there is; 0: none. The other cell must not get
// above where this one was, nor this one below: then they would be farther
// from a third.
func (b *Board) best(cell proto.CellID, weight map[proto.RangeID]float64, tried map[proto.RangeID]bool, d difference) (best proto.RangeID) {
	least := d.gap
	for _, r := range b.Owned(cell) {
		if tried[r] || b.busy[r] || !b.View.Ranges[r].Created || b.View.Ranges[r].Canary {
			continue
		}
		if weight[r]*max(d.low, d.high) > d.gap {
			continue
		}
		if left := math.Abs(d.gap - weight[r]*(d.high+d.low)); left < least-1e-9 {
			best, least = r, left
		}
	}
	return best
}
