package planner

import (
	"cmp"
	"maps"
	"slices"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// Draining is the state of a cell's record while its ranges are moved away.
const Draining = "draining"

// Board is what planning looks at: the cluster, and what is planned on it. A
// plan made is counted by the next one, so that many at once spread.
type Board struct {
	View *controlclient.View
	// Bytes are the sizes of ranges, as far as known.
	Bytes map[proto.RangeID]uint64

	held map[proto.NodeID]int // replicas, planned ones included
	busy map[proto.RangeID]bool
	kept map[proto.RangeID][]proto.NodeID // nodes that hold a standby

	// Indexes of the view, made once: planning looks at every cell and range.
	nodes map[proto.CellID][]controlclient.Node
	owned map[proto.CellID][]proto.RangeID // ascending
	on    map[proto.NodeID][]proto.RangeID // with a replica there, ascending
}

// NewBoard makes the board of a view.
func NewBoard(v *controlclient.View, bytes map[proto.RangeID]uint64) *Board {
	b := &Board{View: v, Bytes: bytes, held: map[proto.NodeID]int{}, busy: map[proto.RangeID]bool{}, kept: map[proto.RangeID][]proto.NodeID{},
		nodes: v.ByCell(), owned: map[proto.CellID][]proto.RangeID{}, on: map[proto.NodeID][]proto.RangeID{}}
	for _, id := range slices.Sorted(maps.Keys(v.Ranges)) {
		rec := v.Ranges[id]
		b.owned[proto.CellID(rec.Cell)] = append(b.owned[proto.CellID(rec.Cell)], id)
		for _, r := range rec.Replicas {
			node := proto.NodeID(r.Node)
			b.held[node]++
			if on := b.on[node]; len(on) == 0 || on[len(on)-1] != id {
				b.on[node] = append(on, id)
			}
		}
	}
	for _, m := range v.Moves {
		p := move.Phase(m.State)
		if p.Over() {
			continue
		}
		if !p.Settled() {
			b.busy[proto.RangeID(m.Range)] = true
			for _, r := range m.Add {
				b.held[proto.NodeID(r.Node)]++
			}
			continue
		}
		for _, r := range m.Drop {
			b.kept[proto.RangeID(m.Range)] = append(b.kept[proto.RangeID(m.Range)], proto.NodeID(r.Node))
			b.held[proto.NodeID(r.Node)]++
		}
	}
	return b
}

// Busy tells whether a range is being moved.
func (b *Board) Busy(r proto.RangeID) bool { return b.busy[r] }

// Record is a range's record.
//
// Errors: [proto.CodeBadRequest] when there is none; [proto.CodeConflict] when
// it is being moved or not made yet.
func (b *Board) Record(r proto.RangeID) (*controlpb.RangeRecord, error) {
	rec := b.View.Ranges[r]
	switch {
	case rec == nil:
		return nil, proto.Errorf(proto.CodeBadRequest, "there is no range %d: `waggle ranges ls` lists them", r)
	case !rec.Created:
		return nil, proto.Errorf(proto.CodeConflict, "range %d is being opened: try again in a moment", r)
	case b.busy[r]:
		return nil, proto.Errorf(proto.CodeConflict, "range %d is being moved already: see `waggle moves ls`", r)
	}
	return rec, nil
}

// drained tells whether a node is to be emptied.
func (b *Board) drained(n controlclient.Node) bool {
	cell := b.View.Cells[proto.CellID(n.Record.GetCell())]
	return slices.ContainsFunc(cell.GetNodeDrains(), func(d *controlpb.NodeDrain) bool { return d.Node == string(n.ID) })
}

// targets are the nodes of a cell that may get replicas of r: alive, with
// storage, not being emptied, and without one of r; those that hold fewest
// first, then by name.
func (b *Board) targets(cell proto.CellID, rec *controlpb.RangeRecord) []proto.NodeID {
	var out []proto.NodeID
	for _, n := range b.nodes[cell] {
		holds := slices.ContainsFunc(rec.Replicas, func(r *controlpb.RangeReplica) bool { return r.Node == string(n.ID) })
		if n.Alive && n.Has("storage") && !holds && !b.drained(n) {
			out = append(out, n.ID)
		}
	}
	kept := b.kept[proto.RangeID(rec.Range)]
	// A node that keeps a replica of an earlier move has to delete that first.
	slices.SortStableFunc(out, func(x, y proto.NodeID) int {
		keeps := func(n proto.NodeID) int {
			if slices.Contains(kept, n) {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(keeps(x), keeps(y)), cmp.Compare(b.held[x], b.held[y]), cmp.Compare(x, y))
	})
	return out
}

// To plans the move of a range to another cell, with as many replicas as that
// cell's ranges have.
//
// Errors: those of [Board.Record]; [proto.CodeUnknownCell];
// [proto.CodeConflict] when the cell cannot take it.
func (b *Board) To(r proto.RangeID, cell proto.CellID) (move.Plan, error) {
	rec, err := b.Record(r)
	if err != nil {
		return move.Plan{}, err
	}
	c := b.View.Cells[cell]
	switch {
	case c == nil:
		return move.Plan{}, proto.Errorf(proto.CodeUnknownCell, "there is no cell %.40q: see `waggle cells ls`", string(cell))
	case rec.Cell == string(cell):
		return move.Plan{}, proto.Errorf(proto.CodeConflict, "range %d is in cell %s already", r, cell)
	case c.State == Draining:
		return move.Plan{}, proto.Errorf(proto.CodeConflict, "cell %s is being drained and takes no ranges", cell)
	}
	want, targets := int(max(1, c.Replicas)), b.targets(cell, rec)
	if len(targets) < want {
		return move.Plan{}, proto.Errorf(proto.CodeConflict, "range %d needs %d storage nodes in cell %s, and %d can take it: start more, see `waggle nodes ls`", r, want, cell, len(targets))
	}
	return b.planned(rec, cell, targets[:want], rec.Replicas), nil
}

// planned is the plan, counted on the board.
func (b *Board) planned(rec *controlpb.RangeRecord, to proto.CellID, add []proto.NodeID, drop []*controlpb.RangeReplica) move.Plan {
	p := move.Plan{Range: proto.RangeID(rec.Range), From: proto.CellID(rec.Cell), To: to, Epoch: proto.Epoch(rec.Epoch)}
	for _, n := range add {
		p.Add = append(p.Add, move.Member{Node: n})
		b.held[n]++
	}
	for _, r := range drop {
		p.Drop = append(p.Drop, move.Member{ID: proto.ReplicaID(r.Id), Node: proto.NodeID(r.Node)})
		b.held[proto.NodeID(r.Node)]--
	}
	b.busy[p.Range] = true
	return p
}
