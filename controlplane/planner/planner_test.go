package planner

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// cluster makes a view of cells with that many live storage nodes each, named
// c1-n1 and so on, whose ranges have one replica.
func cluster(nodes ...int) *controlclient.View {
	v := &controlclient.View{
		Cells: map[proto.CellID]*controlpb.CellRecord{}, Nodes: map[proto.NodeID]controlclient.Node{},
		Ranges: map[proto.RangeID]*controlpb.RangeRecord{}, Moves: map[string]*controlpb.MoveRecord{},
	}
	for i, n := range nodes {
		cell := fmt.Sprintf("c%d", i+1)
		v.Cells[proto.CellID(cell)] = &controlpb.CellRecord{Cell: cell, Replicas: 1}
		for j := range n {
			id := proto.NodeID(fmt.Sprintf("%s-n%d", cell, j+1))
			v.Nodes[id] = controlclient.Node{ID: id, Alive: true, Record: &controlpb.NodeRecord{Node: string(id), Cell: cell, Roles: []string{"storage"}}}
		}
	}
	return v
}

func put(v *controlclient.View, id proto.RangeID, cell string, nodes ...string) *controlpb.RangeRecord {
	rec := &controlpb.RangeRecord{Range: uint64(id), Cell: cell, Epoch: 1, Created: true}
	for i, n := range nodes {
		rec.Replicas = append(rec.Replicas, &controlpb.RangeReplica{Id: uint64(i + 1), Node: n})
	}
	v.Ranges[id] = rec
	return rec
}

func added(p move.Plan) []proto.NodeID {
	var out []proto.NodeID
	for _, m := range p.Add {
		out = append(out, m.Node)
	}
	return out
}

func refused(t *testing.T, want proto.Code, err error) {
	t.Helper()
	if proto.CodeOf(err) != want {
		t.Errorf("%v, want %v", err, want)
	}
}

// Targets hold fewest replicas, are alive, store, are not being emptied, hold
// none of the range; those that keep one of an earlier move come last.
func TestTo(t *testing.T) {
	v := cluster(1, 6)
	v.Cells["c2"].Replicas = 3
	put(v, 1, "c1", "c1-n1")
	put(v, 2, "c2", "c2-n1")
	dead := v.Nodes["c2-n2"]
	dead.Alive = false
	v.Nodes["c2-n2"] = dead
	v.Cells["c2"].NodeDrains = []*controlpb.NodeDrain{{Node: "c2-n3"}}
	v.Moves["m1"] = &controlpb.MoveRecord{Range: 1, State: "standby", Drop: []*controlpb.RangeReplica{{Id: 9, Node: "c2-n4"}}}
	p, err := NewBoard(v, nil).To(1, "c2")
	if want := []proto.NodeID{"c2-n5", "c2-n6", "c2-n1"}; err != nil || !slices.Equal(added(p), want) {
		t.Errorf("%v (%v), want %v", added(p), err, want)
	}
	if p.From != "c1" || p.To != "c2" || p.Epoch != 1 || !slices.Equal(p.Drop, []move.Member{{ID: 1, Node: "c1-n1"}}) {
		t.Errorf("%+v", p)
	}
	b := NewBoard(v, nil)
	_, err = b.To(7, "c2")
	refused(t, proto.CodeBadRequest, err)
	_, err = b.To(1, "c9")
	refused(t, proto.CodeUnknownCell, err)
	_, err = b.To(1, "c1")
	refused(t, proto.CodeConflict, err)
	v.Cells["c2"].State = Draining
	_, err = b.To(1, "c2")
	refused(t, proto.CodeConflict, err)
	v.Cells["c2"].State = ""
	v.Cells["c2"].Replicas = 5
	_, err = b.To(1, "c2")
	refused(t, proto.CodeConflict, err)
	v.Cells["c2"].Replicas = 1
	v.Ranges[1].Created = false
	_, err = b.To(1, "c2")
	refused(t, proto.CodeConflict, err)
	v.Ranges[1].Created = true
	v.Moves["m2"] = &controlpb.MoveRecord{Range: 1, State: "joint"}
	_, err = NewBoard(v, nil).To(1, "c2")
	refused(t, proto.CodeConflict, err)
}

func TestOffANode(t *testing.T) {
	v := cluster(3)
	v.Cells["c1"].Replicas = 3
	put(v, 1, "c1", "c1-n1", "c1-n2", "c1-n3")
	_, err := NewBoard(v, nil).Off(1, "c1-n2", false)
	refused(t, proto.CodeConflict, err)
	p, err := NewBoard(v, nil).Off(1, "c1-n2", true)
	if err != nil || len(p.Add) != 0 || !slices.Equal(p.Drop, []move.Member{{ID: 2, Node: "c1-n2"}}) {
		t.Errorf("%+v %v", p, err)
	}
	// Then it is added again, on the same node.
	put(v, 1, "c1", "c1-n1", "c1-n3")
	if p, ok := NewBoard(v, nil).Fill(1); !ok || !slices.Equal(added(p), []proto.NodeID{"c1-n2"}) || len(p.Drop) != 0 {
		t.Errorf("%+v %t", p, ok)
	}
	put(v, 2, "c1", "c1-n1")
	v.Cells["c1"].Replicas = 1
	if _, ok := NewBoard(v, nil).Fill(2); ok {
		t.Error("filled what is full")
	}
	// The only replica is never dropped.
	put(v, 3, "c1", "c1-n1")
	for _, n := range []proto.NodeID{"c1-n2", "c1-n3"} {
		v.Cells["c1"].NodeDrains = append(v.Cells["c1"].NodeDrains, &controlpb.NodeDrain{Node: string(n)})
	}
	_, err = NewBoard(v, nil).Off(3, "c1-n1", true)
	refused(t, proto.CodeConflict, err)
}

// The ranges of a cell go where there is most headroom, and spread.
func TestDrainCellSpreads(t *testing.T) {
	v := cluster(1, 1, 1, 1)
	v.Cells["c4"].State = Draining
	for r := proto.RangeID(1); r <= 20; r++ {
		put(v, r, "c1", "c1-n1")
	}
	headroom := map[proto.CellID]float64{"c2": 0.9, "c3": 0.8, "c4": 1}
	plans, problems := NewBoard(v, nil).DrainCell("c1", headroom, 15)
	to := map[proto.CellID]int{}
	for _, p := range plans {
		to[p.To]++
		if p.Standby != 0 || p.Reason == "" {
			t.Errorf("%+v", p)
		}
	}
	if len(problems) > 0 || to["c2"]+to["c3"] != 15 || to["c2"] != 13 && to["c2"] != 12 {
		t.Errorf("%v %v", to, problems)
	}
	for _, c := range []proto.CellID{"c2", "c3"} {
		v.Cells[c].State = Draining
	}
	if plans, problems = NewBoard(v, nil).DrainCell("c1", headroom, 15); len(plans) != 0 || len(problems) != 20 {
		t.Errorf("%d plans, %d problems", len(plans), len(problems))
	}
}

// Rebalancing ends when no single move makes it better, never makes the worst
// cell worse, and keeps to its budget.
func TestRebalance(t *testing.T) {
	v := cluster(1, 1)
	loads := map[proto.RangeID]RangeLoad{}
	for r := proto.RangeID(1); r <= 10; r++ {
		put(v, r, "c1", "c1-n1")
		loads[r] = RangeLoad{Messages: 100, Bytes: 1000, Sessions: 10}
	}
	if plans := NewBoard(v, nil).Rebalance(loads, 0); len(plans) != 5 {
		t.Errorf("%d moves of 10 equal ranges", len(plans))
	}
	if plans := NewBoard(v, nil).Rebalance(loads, 2); len(plans) != 2 || plans[0].Reason == "" || plans[0].To != "c2" {
		t.Errorf("%+v", plans)
	}
	rapid.Check(t, func(t *rapid.T) {
		v := cluster(rapid.IntRange(1, 3).Draw(t, "n1"), rapid.IntRange(1, 3).Draw(t, "n2"), rapid.IntRange(1, 3).Draw(t, "n3"))
		loads := map[proto.RangeID]RangeLoad{}
		for r := proto.RangeID(1); r <= proto.RangeID(rapid.IntRange(0, 30).Draw(t, "ranges")); r++ {
			cell := fmt.Sprintf("c%d", rapid.IntRange(1, 3).Draw(t, "cell"))
			put(v, r, cell, cell+"-n1")
			loads[r] = RangeLoad{Sessions: rapid.Uint64Range(0, 4000).Draw(t, "sessions"), Messages: rapid.Uint64Range(0, 4000).Draw(t, "messages"), Bytes: rapid.Uint64Range(0, 1<<30).Draw(t, "bytes")}
		}
		before := spread(v, loads)
		plans := NewBoard(v, nil).Rebalance(loads, 0)
		moved := map[proto.RangeID]bool{}
		for _, p := range plans {
			if moved[p.Range] || p.Validate() == nil && p.ID != "" {
				t.Fatalf("range %d is moved twice", p.Range)
			}
			moved[p.Range] = true
			v.Ranges[p.Range].Cell = string(p.To)
		}
		if after := spread(v, loads); after > before+1e-9 {
			t.Fatalf("from a difference of %f to %f", before, after)
		}
	})
}

// spread is the difference between the most and the least loaded cell, per
// node.
func spread(v *controlclient.View, loads map[proto.RangeID]RangeLoad) float64 {
	nodes := map[proto.CellID]float64{}
	for id := range v.Cells {
		nodes[id] = float64(len(v.InCell(id)))
	}
	c, w := newCells(nodes), weights(loads)
	for id, rec := range v.Ranges {
		c.load[c.index[proto.CellID(rec.Cell)]] += w[id]
	}
	high, low := c.extremes()
	return c.each(high) - c.each(low)
}
