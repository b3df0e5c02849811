package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// DrainEdge has one session less at each look; e9 has no alternative.
func (f *fakePlacement) DrainEdge(_ context.Context, q *controlpb.DrainEdgeRequest) (*controlpb.DrainEdgeReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what := "edge"
	if q.Undo {
		what = "undo"
	}
	f.note(what, q.DryRun)
	if q.Edge == "e9" {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeConflict, "there is no other edge"))
	}
	reply := &controlpb.DrainEdgeReply{
		Edge: &controlpb.EdgeStatus{Edge: q.Edge, State: "draining", Sessions: f.left}, Alternatives: []string{"e2"}, Done: f.left == 0,
	}
	f.left -= min(f.left, 1)
	return reply, nil
}

func TestEdgesDrain(t *testing.T) {
	f := &fakePlacement{left: 100}
	addr := startPlacement(t, f)
	run(t, "edges", "drain", "--admin", addr).expect(t, statusUsage, "")
	run(t, "edges", "drain", "e9", "--yes", "--admin", addr).expect(t, statusRefused, "no other edge")
	run(t, "edges", "drain", "e1", "--admin", addr).expect(t, statusUsage, "--yes")
	f.asked = nil
	run(t, "edges", "drain", "e1", "--dry-run", "--admin", addr).expect(t, statusDone)
	if strings.Join(f.asked, ",") != "edge dry" {
		t.Errorf("--dry-run asked for %v", f.asked)
	}
	late := run(t, "edges", "drain", "e1", "--yes", "--wait", "--timeout", "300ms", "--admin", addr)
	if late.status != statusTimedOut || !strings.Contains(late.err, "`waggle edges ls`") {
		t.Errorf("status %d: %s", late.status, late.err)
	}
	f.left, f.asked = 4, nil
	r := run(t, "edges", "drain", "e1", "--wait", "--yes", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	var got edgeDrainJSON
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Edge != "e1" || got.Sessions != 0 || got.State != "draining" || len(got.Alternatives) != 1 {
		t.Errorf("%s (%v)", r.out, err)
	}
	if !strings.Contains(r.err, "e1: draining, 2 sessions left") || strings.Join(f.asked[:2], ",") != "edge dry,edge" {
		t.Errorf("asked %v: %s", f.asked, r.err)
	}
	f.asked = nil
	run(t, "edges", "drain", "e1", "--undo", "--yes", "--admin", addr).expect(t, statusDone)
	if strings.Join(f.asked, ",") != "undo dry,undo" {
		t.Errorf("--undo asked for %v", f.asked)
	}
}
