package planner

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/sharding"
	"github.com/waggle-im/waggle/sharding/move"
)

// scale is the size of the simulation: a tenth of what is planned for, or with
// LONG_TESTS all of it.
func scale() (cells, ranges int) {
	if os.Getenv("LONG_TESTS") != "" {
		return 10_000, 100_000
	}
	return 1000, 10_000
}

// heap is the memory in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// large makes a cluster of cells with three storage nodes each, and three
// replicas of every range.
func large(cells, ranges int) *controlclient.View {
	nodes := make([]int, cells)
	for i := range nodes {
		nodes[i] = 3
	}
	v := cluster(nodes...)
	for _, c := range v.Cells {
		c.Replicas = 3
	}
	for r := range ranges {
		cell := fmt.Sprintf("c%d", 1+r%cells)
		rec := put(v, proto.RangeID(r+1), cell, cell+"-n1", cell+"-n2", cell+"-n3")
		rec.Incarnation, rec.Open = make([]byte, 16), true
	}
	return v
}

func timed(t *testing.T, what string, do func()) {
	before, began := heap(), time.Now()
	do()
	took := time.Since(began)
	t.Logf("%-45s %10s, %6.1f MB kept", what, took.Round(10*time.Microsecond), float64(int64(heap())-int64(before))/1e6)
}

// A planning round with all cells and ranges: what is planned is right, and the
// log says what it costs.
func TestScale(t *testing.T) {
	cells, ranges := scale()
	t.Logf("%d cells, %d nodes, %d ranges", cells, 3*cells, ranges)
	var v *controlclient.View
	timed(t, "the view", func() { v = large(cells, ranges) })
	var routes *sharding.Map
	timed(t, "the route map", func() {
		var all []sharding.Route
		for id, rec := range v.Ranges {
			route := sharding.Route{Range: id, Cell: proto.CellID(rec.Cell), Epoch: proto.Epoch(rec.Epoch)}
			for _, r := range rec.Replicas {
				route.Nodes = append(route.Nodes, proto.NodeID(r.Node))
			}
			all = append(all, route)
		}
		routes = sharding.New(all)
	})
	timed(t, "the route map with one route changed", func() {
		routes = routes.With(sharding.Route{Range: 1, Cell: "c2", Epoch: 2})
	})
	if routes.Len() != ranges {
		t.Errorf("%d routes", routes.Len())
	}
	var b *Board
	timed(t, "the board", func() { b = NewBoard(v, nil) })
	timed(t, "looking for missing replicas", func() {
		for r := range v.Ranges {
			if _, ok := b.Fill(r); ok {
				t.Errorf("range %d lacks nothing", r)
			}
		}
	})
	// The first tenth of the cells has half as much again as the others.
	loads := map[proto.RangeID]RangeLoad{}
	for r := range v.Ranges {
		loads[r] = RangeLoad{Messages: 1000, Bytes: 1 << 30, Sessions: 100}
		if (int(r)-1)%cells < cells/10 {
			loads[r] = RangeLoad{Messages: 1500, Bytes: 3 << 29, Sessions: 150}
		}
	}
	var plans []move.Plan
	timed(t, "rebalance, 100 moves", func() { plans = NewBoard(v, nil).Rebalance(loads, 100) })
	if len(plans) != 100 {
		t.Errorf("%d plans", len(plans))
	}
	timed(t, "rebalance, to the end", func() { plans = b.Rebalance(loads, 0) })
	t.Logf("%d moves are planned", len(plans))
	if len(plans) < cells/10 {
		t.Errorf("only %d plans for %d cells that carry more", len(plans), cells/10)
	}
	v.Cells["c1"].State = Draining
	headroom := map[proto.CellID]float64{}
	for c := range v.Cells {
		headroom[c] = 0.5
	}
	timed(t, "draining a cell, 4 moves", func() { plans, _ = NewBoard(v, nil).DrainCell("c1", headroom, 4) })
	if len(plans) != 4 {
		t.Errorf("%d plans", len(plans))
	}
	n := v.Nodes["c2-n1"]
	n.Alive = false
	v.Nodes["c2-n1"] = n
	timed(t, "replacing a lost node", func() {
		b := NewBoard(v, nil)
		for _, r := range b.Ranges("c2-n1") {
			if _, err := b.Off(r, "c2-n1", true); err != nil {
				t.Error(err)
			}
		}
	})
	runtime.KeepAlive(loads)
}
