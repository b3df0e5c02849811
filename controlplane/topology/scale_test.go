package topology

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// A keeper's round over all cells and ranges finds nothing to do where nothing
// is, and the one range that is full; the log says what it costs. LONG_TESTS=1
// is the full size.
func TestScale(t *testing.T) {
	cells, ranges := 1000, 10_000
	if os.Getenv("LONG_TESTS") != "" {
		cells, ranges = 10_000, 100_000
	}
	v := &controlclient.View{
		Revision: 1, SeenRevision: 1, Cells: map[proto.CellID]*controlpb.CellRecord{}, Nodes: map[proto.NodeID]controlclient.Node{},
		Ranges: map[proto.RangeID]*controlpb.RangeRecord{},
	}
	k := knowledge{entities: map[proto.RangeID]uint64{}, epochs: map[proto.RangeID]proto.Epoch{}}
	for i := range cells {
		cell := fmt.Sprintf("c%d", i)
		v.Cells[proto.CellID(cell)] = &controlpb.CellRecord{Cell: cell, Replicas: 3}
		for j := range 3 {
			id := proto.NodeID(fmt.Sprintf("%s-n%d", cell, j+1))
			v.Nodes[id] = controlclient.Node{ID: id, Alive: true, Record: &controlpb.NodeRecord{Node: string(id), Cell: cell, Roles: []string{"storage"}}}
		}
	}
	for i := range ranges {
		id := proto.RangeID(i + 1)
		rec := &controlpb.RangeRecord{Range: uint64(id), Cell: fmt.Sprintf("c%d", i%cells), Epoch: 1, Created: true, Open: i < 8*cells}
		for j := range 3 {
			rec.Replicas = append(rec.Replicas, &controlpb.RangeReplica{Id: uint64(j + 1), Node: fmt.Sprintf("%s-n%d", rec.Cell, j+1)})
		}
		v.Ranges[id] = rec
		k.take(&cellpb.ReplicaStatus{Leading: true, Entities: 100, Descriptor_: &cellpb.Descriptor{Range: uint64(id), Epoch: 1}})
	}
	k.entities[1] = proto.RangeEntities
	began := time.Now()
	if reason := v.Freeze() + k.ahead(v); reason != "" {
		t.Errorf("frozen: %s", reason)
	}
	t.Logf("%d cells, %d ranges: comparing epochs takes %s", cells, ranges, time.Since(began).Round(10*time.Microsecond))
	began = time.Now()
	p := planRound(v, k.entities)
	t.Logf("planning a round takes %s", time.Since(began).Round(10*time.Microsecond))
	if len(p.open) != 1 || p.open[0].Cell != "c0" || len(p.close) != 1 || len(p.finish) != 0 {
		t.Errorf("opens %d, closes %d, finishes %d", len(p.open), len(p.close), len(p.finish))
	}
}
