package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// fakeControl answers operator verbs.
type fakeControl struct {
	controlpb.UnimplementedOperatorServer
}

func (fakeControl) ListCells(context.Context, *controlpb.ListCellsRequest) (*controlpb.ListCellsReply, error) {
	return &controlpb.ListCellsReply{Cells: []*controlpb.CellStatus{{Cell: "c1", State: "active"}, {Cell: "c2", State: "waiting"}}}, nil
}

func (fakeControl) ListEdges(context.Context, *controlpb.ListEdgesRequest) (*controlpb.ListEdgesReply, error) {
	return &controlpb.ListEdgesReply{}, nil
}

func (fakeControl) ListNodes(ctx context.Context, _ *controlpb.ListNodesRequest) (*controlpb.ListNodesReply, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (fakeControl) ShowUser(_ context.Context, q *controlpb.ShowUserRequest) (*controlpb.ShowUserReply, error) {
	return nil, controlclient.ToStatus(proto.Errorf(proto.CodeUnknownUser, "there is no user %q", q.User))
}

// AddAccounts refuses those called taken.
func (fakeControl) AddAccounts(s grpc.BidiStreamingServer[controlpb.AddAccountRequest, controlpb.AddAccountReply]) error {
	for n := uint64(1); ; n++ {
		q, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		reply := &controlpb.AddAccountReply{User: n, Name: q.Name}
		if q.WithToken {
			reply.Token = "token of " + q.Name + " in " + q.Cell
		}
		if q.Name == "taken" {
			reply = &controlpb.AddAccountReply{Name: q.Name, Code: uint32(proto.CodeNameTaken), Message: "the name taken is taken"}
		}
		if err := s.Send(reply); err != nil {
			return err
		}
	}
}

func startControl(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	controlpb.RegisterOperatorServer(s, fakeControl{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return l.Addr().String()
}

func TestOperatorVerbs(t *testing.T) {
	addr := startControl(t)
	r := runWith(t, strings.NewReader(""), []string{"WAGGLE_ADMIN=" + addr}, "cells", "ls", "-o", "json")
	r.expect(t, statusDone)
	var cells []map[string]any
	if err := json.Unmarshal([]byte(r.out), &cells); err != nil || len(cells) != 2 || cells[1]["cell"] != "c2" {
		t.Errorf("%s: %v", r.out, err)
	}
	if r = run(t, "edges", "ls", "-o", "json", "--admin", addr); r.out != "[]\n" {
		t.Errorf("an empty list is %q: %s", r.out, r.err)
	}
	if r = run(t, "cells", "show", "c2", "-o", "json", "--admin", addr); !strings.HasPrefix(r.out, "{") || !strings.Contains(r.out, `"waiting"`) {
		t.Errorf("%+v", r)
	}
	run(t, "cells", "show", "c9", "--admin", addr).expect(t, statusFailed, "no cell c9", "waggle cells ls")
	run(t, "users", "where", "eve", "--admin", addr).expect(t, statusFailed, `there is no user "eve"`)
	run(t, "nodes", "ls", "--timeout", "50ms", "--admin", addr).expect(t, statusTimedOut, addr, "50ms")
	run(t, "ranges", "ls", "--admin", addr).expect(t, statusFailed, addr, "control plane")
	run(t, "status", "--admin", "127.0.0.1:1").expect(t, statusFailed, "127.0.0.1:1", "make run", "--admin")
}

// The server is told the time limit too, and may be the first to end the call.
func TestATimeoutOfTheServerIsATimeout(t *testing.T) {
	o := &operator{admin: "127.0.0.1:1", timeout: time.Second}
	err := o.explain(t.Context(), status.Error(codes.DeadlineExceeded, "context deadline exceeded"))
	if statusOf(err) != statusTimedOut || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("%v has status %d", err, statusOf(err))
	}
}

func TestAccountsAdd(t *testing.T) {
	addr := startControl(t)
	r := run(t, "accounts", "add", "ann", "--email", "ann@example.org", "-o", "json", "--admin", addr)
	r.expect(t, statusDone)
	if !strings.Contains(r.out, `"name": "ann"`) || strings.Contains(r.out, "token") {
		t.Errorf("%s", r.out)
	}
	run(t, "accounts", "add", "taken", "--email", "a@example.org", "--admin", addr).expect(t, statusRefused, "taken is taken")
}

// Lines are answered in their order, more of them than may be in flight; a
// wrong one is answered in its place and ends nothing.
func TestAccountsAddStdin(t *testing.T) {
	addr := startControl(t)
	const n = 3 * accountsInFlight
	var in strings.Builder
	for i := range n {
		switch i {
		case 5:
			in.WriteString("\nno JSON\n")
		case 700:
			in.WriteString(`{"name":"taken","email":"t@example.org"}` + "\n")
		default:
			fmt.Fprintf(&in, `{"name":"p%d","email":"p%d@example.org"}`+"\n", i, i)
		}
	}
	r := runWith(t, strings.NewReader(in.String()), nil, "accounts", "add", "--stdin", "--with-token", "--cell", "c2", "-o", "json", "--admin", addr)
	r.expect(t, statusFailed, fmt.Sprintf("2 of %d accounts", n))
	lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	if len(lines) != n {
		t.Fatalf("%d lines, want %d", len(lines), n)
	}
	for i, l := range lines {
		var out accountOut
		if err := json.Unmarshal([]byte(l), &out); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("p%d", i)
		switch i {
		case 5:
			if !strings.Contains(out.Error, "line 7") || out.Code != "bad_request" {
				t.Errorf("line %d: %s", i, l)
			}
		case 700:
			if out.Name != "taken" || out.Code != "name_taken" || out.User != "" {
				t.Errorf("line %d: %s", i, l)
			}
		default:
			if out.Name != name || out.Error != "" || out.Token != "token of "+name+" in c2" {
				t.Fatalf("line %d: %s", i, l)
			}
		}
	}
	r = runWith(t, strings.NewReader(`{"name":"a"}`), nil, "accounts", "add", "--stdin", "--admin", addr)
	r.expect(t, statusDone)
	r = runWith(t, strings.NewReader(`{"name":"a"}`), nil, "accounts", "add", "--stdin", "--admin", "127.0.0.1:1")
	r.expect(t, statusFailed, "make run")
}

// DisconnectUser closes two connections of everybody.
func (fakeControl) DisconnectUser(_ context.Context, q *controlpb.DisconnectUserRequest) (*controlpb.DisconnectUserReply, error) {
	if q.User == "gone" && !q.DryRun {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeUnavailable, "done for real"))
	}
	reply := &controlpb.DisconnectUserReply{User: 17, Name: q.User, Closed: 2}
	if q.EndDevices {
		reply.EndedDevices = 3
	}
	return reply, nil
}

func TestDisconnectAsks(t *testing.T) {
	addr := startControl(t)
	run(t, "users", "disconnect", "gone", "--admin", addr).expect(t, statusUsage, "--yes", "--dry-run")
	run(t, "users", "disconnect", "gone", "--admin", addr, "--dry-run").expect(t, statusDone)
	run(t, "users", "disconnect", "gone", "--admin", addr, "--yes").expect(t, statusFailed, "done for real")
	r := run(t, "users", "disconnect", "ann", "--admin", addr, "--yes", "--end-devices", "-o", "json")
	r.expect(t, statusDone)
	var got disconnectJSON
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got != (disconnectJSON{"17", "ann", 2, 3, false}) {
		t.Errorf("%s (%v)", r.out, err)
	}
}
