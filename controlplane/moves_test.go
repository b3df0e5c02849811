package controlplane

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// The verbs that move things refuse what the state does not allow, do nothing
// on a dry run, and leave a line in the audit log otherwise.
func TestPlacementVerbs(t *testing.T) {
	c := newCluster(t)
	_, op, _ := c.start("cp1")
	for _, cell := range []string{"c1", "c2"} {
		c.addCellNode(cell, cell+"-n1")
		if _, err := op.AddCell(t.Context(), &controlpb.AddCellRequest{Cell: cell}); err != nil {
			t.Fatal(err)
		}
	}
	c.open("c1", "c2")
	var r uint64 // one of c1
	for id, rec := range c.client.View().Ranges {
		if rec.Cell == "c1" {
			r = uint64(id)
		}
	}
	refused := func(want proto.Code, err error) {
		t.Helper()
		if proto.CodeOf(controlclient.FromStatus(err)) != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
	_, err := op.MoveRange(t.Context(), &controlpb.MoveRangeRequest{Range: r, To: "c9"})
	refused(proto.CodeUnknownCell, err)
	_, err = op.MoveRange(t.Context(), &controlpb.MoveRangeRequest{Range: r, To: "c1"})
	refused(proto.CodeConflict, err)
	_, err = op.RemoveCell(t.Context(), &controlpb.RemoveCellRequest{Cell: "c1"})
	refused(proto.CodeConflict, err)
	_, err = op.DrainNode(t.Context(), &controlpb.DrainNodeRequest{Node: "c1-n1"})
	refused(proto.CodeConflict, err) // the only node of its cell
	_, err = op.CancelMove(t.Context(), &controlpb.MoveRequest{Move: "m1"})
	refused(proto.CodeBadRequest, err)

	dry, err := op.MoveRange(t.Context(), &controlpb.MoveRangeRequest{Range: r, To: "c2", DryRun: true, RateBytesPerS: 10})
	if err != nil || dry.Estimate.Bytes != 100 || dry.Estimate.DurationMs != 11_000 || len(dry.Estimate.Nodes) != 1 || dry.Estimate.Nodes[0] != "c2-n1" || len(c.client.View().Moves) != 0 {
		t.Fatalf("%v %v", dry, err)
	}
	drain, err := op.DrainCell(t.Context(), &controlpb.DrainCellRequest{Cell: "c1", DryRun: true})
	if err != nil || len(drain.Moves) != proto.OpenRangesPerCell || drain.Left != proto.OpenRangesPerCell || c.client.View().Cells["c1"].State != "" {
		t.Fatalf("%v %v", drain, err)
	}

	started, err := op.MoveRange(t.Context(), &controlpb.MoveRangeRequest{Range: r, To: "c2", By: "ann"})
	if err != nil || started.Move.Move != "m1" || started.Move.State != "planned" {
		t.Fatalf("%v %v", started, err)
	}
	_, err = op.MoveRange(t.Context(), &controlpb.MoveRangeRequest{Range: r, To: "c2"})
	refused(proto.CodeConflict, err)
	c.eventually("the move is known", func(v *controlclient.View) bool { return v.Moves["m1"] != nil })
	list, err := op.ListMoves(t.Context(), &controlpb.ListMovesRequest{Move: "m1"})
	if err != nil || len(list.Moves) != 1 || list.Moves[0].Range != r || list.Moves[0].By != "ann" || list.Moves[0].From != "c1" {
		t.Errorf("%v %v", list, err)
	}
	ranges, err := op.ListRanges(t.Context(), &controlpb.ListRangesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range ranges.Ranges {
		if want := map[bool]string{true: "m1"}[st.Range == r]; st.Move != want {
			t.Errorf("range %d is moved by %q", st.Range, st.Move)
		}
	}
	if st, err := op.Status(t.Context(), &controlpb.StatusRequest{}); err != nil || len(st.Moves) != 1 {
		t.Errorf("%v %v", st, err)
	}
	if _, err := op.DrainCell(t.Context(), &controlpb.DrainCellRequest{Cell: "c2", By: "ann"}); err != nil {
		t.Fatal(err)
	}
	c.eventually("c2 drains", func(v *controlclient.View) bool { return v.Cells["c2"].State == "draining" })
	cells, err := op.ListCells(t.Context(), &controlpb.ListCellsRequest{})
	if err != nil || cells.Cells[1].State != "draining" {
		t.Errorf("%v %v", cells, err)
	}
	got, err := c.client.Etcd().Get(t.Context(), controlclient.AuditPrefix, clientv3.WithPrefix())
	// Five refusals that asked for something, the move, its repetition, the drain.
	if err != nil || len(got.Kvs) != 8 {
		t.Errorf("%d lines in the audit log (%v)", len(got.Kvs), err)
	}
}
