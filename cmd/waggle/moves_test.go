package main

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// fakePlacement answers the verbs that move things; each look at a move takes
// it one state on.
type fakePlacement struct {
	controlpb.UnimplementedOperatorServer
	mu     sync.Mutex
	states []string
	left   uint64
	asked  []string
	ran    *controlpb.RunRebalanceRequest
}

func (f *fakePlacement) note(what string, dry bool) {
	if dry {
		what += " dry"
	}
	f.asked = append(f.asked, what)
}

func (f *fakePlacement) MoveRange(_ context.Context, q *controlpb.MoveRangeRequest) (*controlpb.MoveRangeReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("move", q.DryRun)
	if q.Range == 9 {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeConflict, "range 9 is being moved already"))
	}
	m := &controlpb.MoveStatus{Range: q.Range, From: "c1", To: q.To, State: "planned"}
	if !q.DryRun {
		m.Move = "m7"
		if q.StandbyMs != 60_000 || q.RateBytesPerS != 5 || q.By == "" {
			return nil, controlclient.ToStatus(proto.Errorf(proto.CodeBadRequest, "%v", q))
		}
	}
	return &controlpb.MoveRangeReply{Move: m, Estimate: &controlpb.MoveEstimate{Bytes: 3000, RateBytesPerS: 5, DurationMs: 600_000, PauseMs: 100, Nodes: []string{"c2-n1"}}}, nil
}

func (f *fakePlacement) ListMoves(_ context.Context, q *controlpb.ListMovesRequest) (*controlpb.ListMovesReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.states[0]
	if q.Move != "" && len(f.states) > 1 {
		f.states = f.states[1:]
	}
	return &controlpb.ListMovesReply{Moves: []*controlpb.MoveStatus{{
		Move: "m7", Range: 3, From: "c1", To: "c2", State: state, Percent: 50, Bytes: 1000, LagEntries: 4, PauseMs: 7.5, Error: map[string]string{"cancelled": "by an operator"}[state],
	}}}, nil
}

func (f *fakePlacement) CancelMove(_ context.Context, q *controlpb.MoveRequest) (*controlpb.MoveReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("cancel", q.DryRun)
	if q.Move == "m8" {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeConflict, "move m8 is joint"))
	}
	return &controlpb.MoveReply{Move: &controlpb.MoveStatus{Move: q.Move, State: "seeding"}}, nil
}

func (f *fakePlacement) DrainCell(_ context.Context, q *controlpb.DrainCellRequest) (*controlpb.DrainReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("drain", q.DryRun)
	reply := &controlpb.DrainReply{Left: f.left, Moves: []*controlpb.PlannedMove{{Range: 3, From: "c1", To: "c2", Reason: "drains c1", Bytes: 10}}}
	f.left -= min(f.left, 1)
	return reply, nil
}

func (f *fakePlacement) RemoveCell(context.Context, *controlpb.RemoveCellRequest) (*controlpb.RemoveCellReply, error) {
	return nil, controlclient.ToStatus(proto.Errorf(proto.CodeConflict, "cell c1 still has range 3"))
}

func (f *fakePlacement) Rebalance(_ context.Context, q *controlpb.RebalanceRequest) (*controlpb.RebalanceReply, error) {
	m := &controlpb.PlannedMove{Range: 3, From: "c1", To: "c2", Reason: "uneven"}
	return &controlpb.RebalanceReply{Moves: []*controlpb.PlannedMove{m}[:min(1, int(q.Moves))]}, nil
}

// RunRebalance is stopped where people mind 20 ms.
func (f *fakePlacement) RunRebalance(q *controlpb.RunRebalanceRequest, stream grpc.ServerStreamingServer[controlpb.RebalanceProgress]) error {
	f.mu.Lock()
	f.ran = q
	f.mu.Unlock()
	end := &controlpb.RebalanceProgress{Done: true, Planned: 1, Moved: 1}
	states := []string{"planned", "standby"}
	if q.LatencyFloorMs < 20 {
		end = &controlpb.RebalanceProgress{Done: true, Planned: 1, Cancelled: 1, Stopped: "p99 of sends in cell c2 is above 19ms"}
		states[1] = "cancelled"
	}
	for _, state := range states {
		m := &controlpb.MoveStatus{Move: "m9", Range: 3, From: "c1", To: "c2", State: state}
		if err := stream.Send(&controlpb.RebalanceProgress{Move: m}); err != nil {
			return err
		}
	}
	return stream.Send(end)
}

func startPlacement(t *testing.T, f *fakePlacement) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	controlpb.RegisterOperatorServer(s, f)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return l.Addr().String()
}

func TestRangesMove(t *testing.T) {
	f := &fakePlacement{states: []string{"seeding", "catching-up", "joint", "standby"}}
	addr := startPlacement(t, f)
	run(t, "ranges", "move", "x", "--to", "c2", "--admin", addr).expect(t, statusUsage, `"x" is not a range`)
	run(t, "ranges", "move", "3", "--admin", addr).expect(t, statusUsage, "--to")
	run(t, "ranges", "move", "9", "--to", "c2", "--yes", "--admin", addr).expect(t, statusRefused, "moved already")
	run(t, "ranges", "move", "3", "--to", "c2", "--admin", addr).expect(t, statusUsage, "--yes")
	f.asked = nil
	r := run(t, "ranges", "move", "3", "--to", "c2", "--dry-run", "--admin", addr)
	r.expect(t, statusDone)
	if !strings.Contains(r.out, "copy 2.9 KiB") || !strings.Contains(r.out, "10m0s") || !strings.Contains(r.out, "100 ms") {
		t.Errorf("%s", r.out)
	}
	if strings.Join(f.asked, ",") != "move dry" {
		t.Errorf("--dry-run asked for %v", f.asked)
	}
	r = run(t, "ranges", "move", "3", "--to", "c2", "--wait", "--standby", "1m", "--rate", "5", "--yes", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	var got startedJSON
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Move != "m7" || got.State != "standby" || got.PauseMs != 7.5 || got.Range != "3" {
		t.Errorf("%s (%v)", r.out, err)
	}
	for _, want := range []string{"seeding, 50% of 1000 B copied", "catching-up", "joint", "standby"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("standard error lacks %q: %s", want, r.err)
		}
	}
}

func TestMovesVerbs(t *testing.T) {
	f := &fakePlacement{states: []string{"seeding"}}
	addr := startPlacement(t, f)
	r := run(t, "moves", "ls", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	var got []map[string]any
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got) != 1 {
		t.Fatalf("%s (%v)", r.out, err)
	}
	for _, key := range []string{"move", "range", "from", "to", "state", "percent", "bytes", "lag_entries", "pause_ms", "error"} {
		if _, ok := got[0][key]; !ok {
			t.Errorf("moves ls lacks %q", key)
		}
	}
	run(t, "moves", "show", "m7", "--admin", addr).expect(t, statusDone)
	run(t, "moves", "show", "m1", "--admin", addr).expect(t, statusFailed, "no move m1")
	if r := run(t, "moves", "watch", "m7", "--timeout", "50ms", "--admin", addr); r.status != statusTimedOut || !strings.Contains(r.err, "50ms") {
		t.Errorf("%+v", r)
	}
	run(t, "moves", "cancel", "m7", "--admin", addr).expect(t, statusUsage, "--yes")
	run(t, "moves", "cancel", "m7", "--yes", "--admin", addr).expect(t, statusDone)
	if strings.Join(f.asked, ",") != "cancel dry,cancel dry,cancel" {
		t.Errorf("asked for %v", f.asked)
	}
	run(t, "moves", "cancel", "m8", "--yes", "--admin", addr).expect(t, statusRefused, "joint")
	f.states = []string{"cancelled"}
	if r := run(t, "moves", "watch", "m7", "--admin", addr); r.status != statusFailed || !strings.Contains(r.err, "was cancelled: by an operator") {
		t.Errorf("%+v", r)
	}
}

func TestDrainVerbs(t *testing.T) {
	f := &fakePlacement{left: 4}
	addr := startPlacement(t, f)
	run(t, "cells", "drain", "c1", "--admin", addr).expect(t, statusUsage, "--yes")
	r := run(t, "cells", "drain", "c1", "--wait", "--yes", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	var got drainJSON
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Left != 0 || len(got.Moves) != 1 || got.Moves[0].Range != "3" {
		t.Errorf("%s (%v)", r.out, err)
	}
	if !strings.Contains(r.err, "1 ranges left") {
		t.Errorf("no progress: %s", r.err)
	}
	run(t, "cells", "remove", "c1", "--yes", "--admin", addr).expect(t, statusRefused, "still has range 3")
	run(t, "nodes", "replace", "c1-n1", "--yes", "--admin", addr).expect(t, statusFailed)
}

func TestRebalance(t *testing.T) {
	f := &fakePlacement{}
	addr := startPlacement(t, f)
	for budget, want := range map[string]string{"x": "bytes per second", "5,": "at a time", "5,0": "at a time", "5,x": "at a time", "-1": "bytes per second"} {
		run(t, "ranges", "rebalance", "--budget", budget, "--admin", addr).expect(t, statusUsage, want)
	}
	run(t, "ranges", "rebalance", "--most", "1", "--apply", "--admin", addr).expect(t, statusUsage, "--yes")
	run(t, "ranges", "rebalance", "--most", "1", "--apply", "--latency-for", "0", "--yes", "--admin", addr).expect(t, statusUsage, "above 0")
	run(t, "ranges", "rebalance", "--most", "1", "--apply", "--dry-run", "--admin", addr).expect(t, statusDone)
	if f.ran != nil {
		t.Errorf("moves were made: %v", f.ran)
	}
	r := run(t, "ranges", "rebalance", "--most", "1", "--budget", "5000,3", "--apply", "--yes", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	var got rebalanceJSON
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Planned != 1 || got.Moved != 1 || len(got.Moves) != 1 || got.Moves[0].State != "standby" {
		t.Errorf("%s (%v)", r.out, err)
	}
	if q := f.ran; q.BytesPerS != 5000 || q.AtOnce != 3 || q.Moves != 1 || q.LatencyFactor != 3 || q.LatencyFloorMs != 50 || q.LatencyForMs != 5000 || q.By == "" {
		t.Errorf("asked for %v", q)
	}
	if !strings.Contains(r.err, "m9: range 3, c1 to c2: standby") {
		t.Errorf("no progress: %s", r.err)
	}
	r = run(t, "ranges", "rebalance", "--most", "1", "--apply", "--latency-floor", "10ms", "--yes", "--admin", addr)
	if r.status != statusRefused || !strings.Contains(r.err, "waggle: stopped: p99 of sends in cell c2") || !strings.Contains(r.out, "0 of 1 moves made, 1 cancelled") {
		t.Errorf("%+v", r)
	}
}

// ListAudit knows two lines.
func (f *fakePlacement) ListAudit(_ context.Context, q *controlpb.ListAuditRequest) (*controlpb.ListAuditReply, error) {
	lines := []*controlpb.AuditRecord{
		{TimeMs: 1_700_000_000_123, Who: "ann@desk", Verb: "moves cancel", Arguments: "m8", Outcome: "move m8 is joint"},
		{TimeMs: 1_690_000_000_000, Who: "the elected control plane", Verb: "nodes replace", Arguments: "c1-n1 \x1b[31m", Outcome: "done"},
	}
	return &controlpb.ListAuditReply{Records: lines[:min(len(lines), int(q.Limit))]}, nil
}

func TestAuditLs(t *testing.T) {
	addr := startPlacement(t, &fakePlacement{})
	r := run(t, "audit", "ls", "--limit", "1", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	var got []map[string]string
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got) != 1 {
		t.Fatalf("%s (%v)", r.out, err)
	}
	for key, want := range map[string]string{
		"time": "2023-11-14T22:13:20.123Z", "who": "ann@desk", "verb": "moves cancel", "arguments": "m8", "outcome": "move m8 is joint",
	} {
		if got[0][key] != want {
			t.Errorf("%s is %q, want %q", key, got[0][key], want)
		}
	}
	r = run(t, "audit", "ls", "--admin", addr)
	r.expect(t, statusDone)
	if strings.Count(r.out, "\n") != 3 || strings.Contains(r.out, "\x1b") {
		t.Errorf("%q", r.out)
	}
	run(t, "audit", "ls", "--limit", "0", "--admin", addr).expect(t, statusUsage, "--limit")
}
