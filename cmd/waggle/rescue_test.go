package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

func (f *fakePlacement) ListRanges(context.Context, *controlpb.ListRangesRequest) (*controlpb.ListRangesReply, error) {
	return &controlpb.ListRangesReply{Ranges: []*controlpb.RangeStatus{{Range: 3}, {Range: 4}, {Range: 5}}}, nil
}

// VerifyRange finds range 4 different and range 5 without a leader.
func (f *fakePlacement) VerifyRange(_ context.Context, q *controlpb.VerifyRangeRequest) (*controlpb.VerifyRangeReply, error) {
	if q.Range == 5 {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeUnavailable, "range 5 has no leader"))
	}
	return &controlpb.VerifyRangeReply{Range: q.Range, Index: 40, Equal: q.Range != 4, Replicas: []*controlpb.ReplicaDigest{
		{Node: "c1-n1", Replica: 1, Digest: 0xab, Keys: 7, Bytes: 70}, {Node: "c1-n2", Replica: 2, Error: map[uint64]string{4: "dead"}[q.Range], Digest: 0xab, Keys: 7, Bytes: 70},
	}}, nil
}

func (f *fakePlacement) RecoverRange(_ context.Context, q *controlpb.RecoverRangeRequest) (*controlpb.RecoverRangeReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("recover", q.DryRun)
	if q.Range == 9 {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeConflict, "range 9 is led by node c1-n1"))
	}
	return &controlpb.RecoverRangeReply{Range: q.Range, Cell: q.Cell, Epoch: 6, Node: "c1-n2", LastTerm: 3, LastIndex: 99, MayMiss: true, Why: "too few answer",
		Answered: []*controlpb.RangeReplica{{Id: 2, Node: "c1-n2"}}, Silent: []*controlpb.RangeReplica{{Id: 1, Node: "c1-n1"}}}, nil
}

func (f *fakePlacement) Reconcile(_ context.Context, q *controlpb.ReconcileRequest) (*controlpb.ReconcileReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("reconcile", q.DryRun)
	if !slices.Contains(q.Without, "c1-n3") {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeConflict, "nodes c1-n3 do not answer"))
	}
	return &controlpb.ReconcileReply{NextRange: 30, Changes: []*controlpb.RouteChange{{Range: 3, OldCell: "c1", OldEpoch: 1, Cell: "c2", Epoch: 2, Voters: []string{"c2-n1"}}}}, nil
}

func TestRangesVerify(t *testing.T) {
	addr := startPlacement(t, &fakePlacement{})
	run(t, "ranges", "verify", "--admin", addr).expect(t, statusUsage, "--all")
	run(t, "ranges", "verify", "3", "--all", "--admin", addr).expect(t, statusUsage, "--all")
	r := run(t, "ranges", "verify", "3", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	var got verifyJSON
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || !got.Equal || got.Range != "3" || got.Index != 40 || len(got.Replicas) != 2 ||
		got.Replicas[0] != (digestJSON{Node: "c1-n1", Replica: "1", Digest: "00000000000000ab", Keys: 7, Bytes: 70}) {
		t.Errorf("%s (%v)", r.out, err)
	}
	r = run(t, "ranges", "verify", "4", "-o", "json", "--admin", addr)
	if r.status != statusFailed || !strings.Contains(r.out, `"error": "dead"`) || !strings.Contains(r.err, "range 4") {
		t.Errorf("%+v", r)
	}
	run(t, "ranges", "verify", "5", "--admin", addr).expect(t, statusFailed, "no leader")
	r = run(t, "ranges", "verify", "--all", "-o", "json", "--admin", addr)
	if r.status != statusFailed || strings.Count(r.out, "\n") != 3 || !strings.Contains(r.err, "range 4, 5") {
		t.Errorf("%+v", r)
	}
}

func TestRangesRecover(t *testing.T) {
	f := &fakePlacement{}
	addr := startPlacement(t, f)
	run(t, "ranges", "recover", "3", "--admin", addr).expect(t, statusUsage, "--cell")
	run(t, "ranges", "recover", "9", "--cell", "c1", "--yes", "--admin", addr).expect(t, statusRefused, "is led by")
	f.asked = nil
	run(t, "ranges", "recover", "3", "--cell", "c1", "--admin", addr).expect(t, statusUsage, "--yes")
	r := run(t, "ranges", "recover", "3", "--cell", "c1", "--dry-run", "--admin", addr)
	r.expect(t, statusDone)
	if strings.Join(f.asked, ",") != "recover dry,recover dry" {
		t.Errorf("asked for %v", f.asked)
	}
	r = run(t, "ranges", "recover", "3", "--cell", "c1", "--yes", "--admin", addr)
	r.expect(t, statusDone)
	if !strings.Contains(r.out, "MAY BE MISSING: too few answer") || !strings.Contains(r.out, "given up: c1-n1") || f.asked[len(f.asked)-1] != "recover" {
		t.Errorf("%s %v", r.out, f.asked)
	}
	r = run(t, "ranges", "recover", "3", "--cell", "c1", "--yes", "-o", "json", "--admin", addr)
	var got recoverJSON
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || !got.MayMiss || got.Epoch != 6 || got.DryRun || len(got.Answered) != 1 {
		t.Errorf("%s (%v)", r.out, err)
	}
}

func TestRangesReconcile(t *testing.T) {
	f := &fakePlacement{}
	addr := startPlacement(t, f)
	run(t, "ranges", "reconcile", "--yes", "--admin", addr).expect(t, statusRefused, "do not answer")
	run(t, "ranges", "reconcile", "--without", "c1-n3", "--admin", addr).expect(t, statusUsage, "--yes")
	f.asked = nil
	run(t, "ranges", "reconcile", "--without", "c1-n3", "--dry-run", "--admin", addr).expect(t, statusDone)
	if strings.Join(f.asked, ",") != "reconcile dry" {
		t.Errorf("asked for %v", f.asked)
	}
	r := run(t, "ranges", "reconcile", "--without", "c1-n3", "--yes", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	var got reconcileJSON
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.NextRange != "30" || len(got.Changes) != 1 || got.Changes[0].Cell != "c2" {
		t.Errorf("%s (%v)", r.out, err)
	}
}
