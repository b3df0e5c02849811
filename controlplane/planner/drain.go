package planner

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// Off plans that the replica of a range leaves a node for another of its cell.
// With again, and if there is no other, the replica is only dropped, so that
// the same node can be given a new one afterwards ([Board.Fill]): for replicas
// that are lost or damaged.
//
// Errors: those of [Board.Record]; [proto.CodeConflict] when no node can take
// it.
func (b *Board) Off(r proto.RangeID, node proto.NodeID, again bool) (move.Plan, error) {
	rec, err := b.Record(r)
	if err != nil {
		return move.Plan{}, err
	}
	i := slices.IndexFunc(rec.Replicas, func(x *controlpb.RangeReplica) bool { return x.Node == string(node) })
	if i < 0 {
		return move.Plan{}, proto.Errorf(proto.CodeConflict, "range %d has no replica on %s", r, node)
	}
	cell := proto.CellID(rec.Cell)
	if targets := b.targets(cell, rec); len(targets) > 0 {
		return b.planned(rec, cell, targets[:1], rec.Replicas[i:i+1]), nil
	}
	// Two of three go on without the third; one alone would be lost.
	if again && len(rec.Replicas) >= 3 {
		return b.planned(rec, cell, nil, rec.Replicas[i:i+1]), nil
	}
	return move.Plan{}, proto.Errorf(proto.CodeConflict, "no other live storage node of cell %s can take the replica of range %d: start one, see `waggle nodes ls`", cell, r)
}

// Fill plans that a range with fewer replicas than its cell's have gets one
// more; ok is false when nothing is to be done or no node can take it.
func (b *Board) Fill(r proto.RangeID) (p move.Plan, ok bool) {
	rec, err := b.Record(r)
	if err != nil {
		return p, false
	}
	cell := proto.CellID(rec.Cell)
	if len(rec.Replicas) >= int(b.View.Cells[cell].GetReplicas()) {
		return p, false
	}
	targets := b.targets(cell, rec)
	if len(targets) == 0 {
		return p, false
	}
	return b.planned(rec, cell, targets[:1], nil), true
}

// Ranges are the ranges with a replica on a node, ascending.
func (b *Board) Ranges(node proto.NodeID) []proto.RangeID { return b.on[node] }

// Owned are the ranges of a cell, ascending.
func (b *Board) Owned(cell proto.CellID) []proto.RangeID { return b.owned[cell] }

// DrainNode plans that ranges leave a node, as many as max. A range for which
// there is no plan is told in problems.
func (b *Board) DrainNode(node proto.NodeID, again bool, most int) (plans []move.Plan, problems []error) {
	for _, r := range b.Ranges(node) {
		if len(plans) >= most {
			break
		}
		if b.busy[r] || !b.View.Ranges[r].Created {
			continue
		}
		p, err := b.Off(r, node, again)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		p.Reason = "drains " + string(node)
		if again {
			p.Reason = "replaces " + string(node)
		}
		plans = append(plans, p)
	}
	return plans, problems
}

// DrainCell plans that ranges leave a cell, as many as max, each to the cell
// that has most headroom for one more, and keeping no standby.
func (b *Board) DrainCell(cell proto.CellID, headroom map[proto.CellID]float64, most int) (plans []move.Plan, problems []error) {
	given := map[proto.CellID]int{}
	for _, m := range b.View.Moves {
		if !move.Phase(m.State).Settled() && m.From != m.To {
			given[proto.CellID(m.To)]++
		}
	}
	for _, r := range b.Owned(cell) {
		if len(plans) >= most {
			break
		}
		if b.busy[r] || !b.View.Ranges[r].Created {
			continue
		}
		p, err := b.toRoomiest(r, cell, headroom, given)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		given[p.To]++
		p.Reason = "drains " + string(cell)
		plans = append(plans, p)
	}
	return plans, problems
}

// rangeShare is the headroom that one range is taken to use, so that several
// planned at once spread: a cell of 100,000 sessions has some 100 ranges.
const rangeShare = 0.01

func (b *Board) toRoomiest(r proto.RangeID, from proto.CellID, headroom map[proto.CellID]float64, given map[proto.CellID]int) (move.Plan, error) {
	cells := slices.DeleteFunc(slices.Sorted(maps.Keys(b.View.Cells)), func(c proto.CellID) bool {
		return c == from || b.View.Cells[c].State == Draining
	})
	left := func(c proto.CellID) float64 { return headroom[c] - rangeShare*float64(given[c]) }
	slices.SortStableFunc(cells, func(x, y proto.CellID) int { return cmp.Compare(left(y), left(x)) })
	err := error(proto.Errorf(proto.CodeConflict, "there is no other cell that could take range %d: `waggle cells add` one", r))
	for _, c := range cells {
		p, refused := b.To(r, c)
		if refused == nil {
			return p, nil
		}
		err = fmt.Errorf("%w", refused)
	}
	return move.Plan{}, err
}
