package topology

import (
	"cmp"
	"crypto/rand"
	"maps"
	"slices"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// nearlyFull is when another range is opened beside one, and closeAt
	// when it takes no more users; the rest is for groups. In between both
	// take users, so that there is always room.
	nearlyFull = proto.RangeEntities * 7 / 8
	closeAt    = proto.RangeEntities * 15 / 16
	// newPerRound bounds the ranges planned in one transaction of etcd,
	// which takes 128 operations.
	newPerRound = 64
)

// plan is what one round has to do.
type plan struct {
	open   []*controlpb.RangeRecord // new; their ids are given when written
	finish []*controlpb.RangeRecord // written, not created yet
	close  []*controlpb.RangeRecord // too full
}

// planRound compares what is with what should be. entities are the counts per
// range as far as known. It is pure but for the random incarnations.
func planRound(v *controlclient.View, entities map[proto.RangeID]uint64) plan {
	var p plan
	held := map[proto.NodeID]int{} // replicas per node, to spread by fewest
	room := map[proto.CellID]int{} // open ranges that are not nearly full
	for id, rec := range v.Ranges {
		for _, r := range rec.Replicas {
			held[proto.NodeID(r.Node)]++
		}
		switch {
		case !rec.Created:
			p.finish = append(p.finish, rec)
			if allAlive(v, rec) && !rec.Canary {
				room[proto.CellID(rec.Cell)]++
			}
		case rec.Open && entities[id] >= closeAt:
			p.close = append(p.close, rec)
		case rec.Open && entities[id] < nearlyFull:
			room[proto.CellID(rec.Cell)]++
		}
	}
	slices.SortFunc(p.finish, byRange)
	cells := make([]proto.CellID, 0, len(v.Cells))
	for cell := range v.Cells {
		cells = append(cells, cell)
	}
	slices.Sort(cells)
	nodes := v.ByCell()
	// In turn over the cells, so that no cell waits for another.
	for range proto.OpenRangesPerCell {
		for _, cell := range cells {
			if draining(v.Cells[cell]) || room[cell] >= proto.OpenRangesPerCell || len(p.open) >= newPerRound {
				continue
			}
			if rec := planRange(v.Cells[cell], liveStorage(nodes[cell]), held); rec != nil {
				p.open = append(p.open, rec)
				room[cell]++
			}
		}
	}
	return p
}

// planCanary is the range that is moved for trying, if there is none yet and
// some cell can take it. It takes no users.
func planCanary(v *controlclient.View) *controlpb.RangeRecord {
	for _, rec := range v.Ranges {
		if rec.Canary {
			return nil
		}
	}
	nodes := v.ByCell()
	for _, cell := range slices.Sorted(maps.Keys(v.Cells)) {
		if draining(v.Cells[cell]) {
			continue
		}
		if rec := planRange(v.Cells[cell], liveStorage(nodes[cell]), map[proto.NodeID]int{}); rec != nil {
			rec.Open, rec.Canary = false, true
			return rec
		}
	}
	return nil
}

func draining(cell *controlpb.CellRecord) bool { return cell.GetState() != "" }

func byRange(a, b *controlpb.RangeRecord) int { return cmp.Compare(a.Range, b.Range) }

func allAlive(v *controlclient.View, rec *controlpb.RangeRecord) bool {
	for _, r := range rec.Replicas {
		if !v.Nodes[proto.NodeID(r.Node)].Alive {
			return false
		}
	}
	return true
}

// planRange chooses the nodes of a new range: those of the cell's live storage
// nodes that hold fewest replicas. nil when there are too few.
func planRange(cell *controlpb.CellRecord, nodes []controlclient.Node, held map[proto.NodeID]int) *controlpb.RangeRecord {
	replicas := int(max(1, cell.GetReplicas()))
	nodes = slices.DeleteFunc(nodes, func(n controlclient.Node) bool {
		return slices.ContainsFunc(cell.GetNodeDrains(), func(d *controlpb.NodeDrain) bool { return d.Node == string(n.ID) })
	})
	if len(nodes) < replicas {
		return nil
	}
	slices.SortStableFunc(nodes, func(a, b controlclient.Node) int { return cmp.Compare(held[a.ID], held[b.ID]) })
	rec := &controlpb.RangeRecord{Cell: cell.Cell, Epoch: 1, Open: true, Incarnation: make([]byte, 16)}
	_, _ = rand.Read(rec.Incarnation) // never fails
	for i, n := range nodes[:replicas] {
		known := max(n.Record.GetRules(), proto.FirstRules)
		if rec.Rules == 0 || known < rec.Rules {
			rec.Rules = known // what all of them support
		}
		rec.Replicas = append(rec.Replicas, &controlpb.RangeReplica{Id: uint64(i + 1), Node: string(n.ID)})
		held[n.ID]++
	}
	return rec
}
