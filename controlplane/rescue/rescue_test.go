package rescue

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixed is a cluster whose view does not change.
type fixed struct{ v *controlclient.View }

func (f fixed) View() *controlclient.View { return f.v }
func (f fixed) Changed() <-chan struct{}  { return nil }
func (f fixed) Etcd() *clientv3.Client    { return nil }

func viewOf(nodes ...string) *controlclient.View {
	v := &controlclient.View{
		Cells: map[proto.CellID]*controlpb.CellRecord{"c1": {Cell: "c1"}, "c2": {Cell: "c2"}},
		Nodes: map[proto.NodeID]controlclient.Node{}, Ranges: map[proto.RangeID]*controlpb.RangeRecord{1: {Range: 1, Cell: "c1", Epoch: 1}},
	}
	for _, n := range nodes {
		v.Nodes[proto.NodeID(n)] = controlclient.Node{ID: proto.NodeID(n), Alive: true, Record: &controlpb.NodeRecord{Node: n, Cell: n[:2], Roles: []string{"storage"}}}
		v.Ranges[1].Replicas = append(v.Ranges[1].Replicas, &controlpb.RangeReplica{Node: n})
	}
	return v
}

// digester is nodes that have a replica of range 1 each.
type digester struct {
	mu      sync.Mutex // guards the fields below
	applied map[proto.NodeID]uint64
	digest  map[proto.NodeID]uint64
	dead    map[proto.NodeID]bool
	speed   uint64 // entries that are written between two questions
	asked   []proto.NodeID
	d       *cellpb.Descriptor
	leading *bool
}

func (d *digester) Ranges(_ context.Context, node proto.NodeID, _ []uint64) ([]*cellpb.ReplicaStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead[node] {
		return nil, proto.Errorf(proto.CodeUnavailable, "dead")
	}
	leads := node == "c1-n1" && (d.leading == nil || *d.leading)
	st := &cellpb.ReplicaStatus{Descriptor_: d.d, Leading: leads, Applied: d.applied[node]}
	d.applied[node] += d.speed
	return []*cellpb.ReplicaStatus{st}, nil
}

func (d *digester) Digest(_ context.Context, node proto.NodeID, req *cellpb.DigestRangeRequest) (*cellpb.DigestRangeReply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, node)
	switch {
	case d.dead[node]:
		return nil, proto.Errorf(proto.CodeUnavailable, "dead")
	case req.Index <= d.applied[node]:
		return nil, proto.Errorf(proto.CodeNotReady, "past")
	}
	return &cellpb.DigestRangeReply{Digest: d.digest[node], Keys: 5, Bytes: 50}, nil
}

func (d *digester) Recover(context.Context, proto.NodeID, *cellpb.RecoverReplicaRequest) (*cellpb.RecoverReplicaReply, error) {
	return nil, nil
}

func newDigester() *digester {
	return &digester{
		applied: map[proto.NodeID]uint64{"c1-n1": 100, "c1-n2": 100, "c1-n3": 90}, dead: map[proto.NodeID]bool{},
		digest: map[proto.NodeID]uint64{"c1-n1": 7, "c1-n2": 7, "c1-n3": 7},
		d:      &cellpb.Descriptor{Range: 1, Replicas: []*cellpb.Replica{{Id: 1, Node: "c1-n1"}, {Id: 2, Node: "c1-n2"}, {Id: 3, Node: "c1-n3"}}},
	}
}

func TestVerify(t *testing.T) {
	v := viewOf("c1-n1", "c1-n2", "c1-n3")
	verify := func(d *digester) (*controlpb.VerifyRangeReply, error) {
		return New(fixed{v}, d).Verify(t.Context(), 1)
	}
	d := newDigester()
	r, err := verify(d)
	if err != nil || !r.Equal || len(r.Replicas) != 3 || r.Index <= 100 || r.Replicas[2].Node != "c1-n3" || r.Replicas[2].Digest != 7 || r.Replicas[2].Keys != 5 {
		t.Errorf("equal replicas: %v %v", r, err)
	}
	if d.asked[len(d.asked)-1] != "c1-n1" {
		t.Errorf("the leader is to be asked last, asked %v", d.asked)
	}
	d = newDigester()
	d.digest["c1-n2"] = 8
	if r, err := verify(d); err != nil || r.Equal {
		t.Errorf("replicas differ: %v %v", r, err)
	}
	d = newDigester()
	d.dead["c1-n3"] = true
	if r, err := verify(d); err != nil || r.Equal || r.Replicas[2].Error == "" || r.Replicas[0].Digest != 7 {
		t.Errorf("one is dead: %v %v", r, err)
	}
	d = newDigester()
	d.applied["c1-n2"] = 200 // far ahead of what the leader said
	if r, err := verify(d); err != nil || !r.Equal || r.Index <= 200 {
		t.Errorf("a range that is fast: %v %v", r, err)
	}
	d = newDigester()
	d.leading = new(bool)
	if _, err := verify(d); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("no leader: %v", err)
	}
	if _, err := New(fixed{v}, d).Verify(t.Context(), 2); proto.CodeOf(err) != proto.CodeBadRequest {
		t.Errorf("no such range: %v", err)
	}
}

// log is a replica's answer.
func log(replica, term, last, applied uint64, d *cellpb.Descriptor) *cellpb.ReplicaStatus {
	return &cellpb.ReplicaStatus{Replica: replica, LastTerm: term, LastIndex: last, Applied: applied, Descriptor_: d}
}

// Which replica goes on, and whether that may lose what was acknowledged.
func TestWhatARecoveryMayMiss(t *testing.T) {
	voter := func(id uint64, node string) *cellpb.Replica { return &cellpb.Replica{Id: id, Node: node} }
	simple := &cellpb.Descriptor{Range: 1, Epoch: 4, Version: 20, Replicas: []*cellpb.Replica{voter(1, "c1-n1"), voter(2, "c1-n2"), voter(3, "c1-n3")}}
	older := &cellpb.Descriptor{Range: 1, Epoch: 4, Version: 19, Replicas: simple.Replicas}
	joint := &cellpb.Descriptor{Range: 1, Epoch: 4, Version: 21, NextCell: "c2", Replicas: []*cellpb.Replica{
		{Id: 1, Node: "c1-n1", Outgoing: true}, {Id: 2, Node: "c1-n2", Outgoing: true}, {Id: 3, Node: "c1-n3", Outgoing: true},
		{Id: 4, Node: "c2-n1", Incoming: true}, {Id: 5, Node: "c2-n2", Incoming: true}, {Id: 6, Node: "c2-n3", Incoming: true},
	}}
	type held map[proto.NodeID]*cellpb.ReplicaStatus
	after := func(d *cellpb.Descriptor, epochs, versions uint64) *cellpb.Descriptor {
		return &cellpb.Descriptor{Range: 1, Epoch: d.Epoch + 2 + epochs, Version: d.Version + 1000 + versions}
	}
	for _, one := range []struct {
		what         string
		cell         proto.CellID
		held         held
		node         proto.NodeID
		before, then string // what is said beforehand and afterwards; empty: nothing is missing
		after        *cellpb.Descriptor
	}{
		{"one of three", "c1", held{"c1-n2": log(2, 3, 50, 50, simple)}, "c1-n2", "less than a majority", "less than a majority", after(simple, 0, 0)},
		{"two of three: the higher term is farther", "c1", held{"c1-n1": log(1, 3, 90, 90, simple), "c1-n2": log(2, 4, 50, 50, simple)}, "c1-n2", "", "", after(simple, 0, 0)},
		{"two of three: the longer log is farther", "c1", held{"c1-n1": log(1, 4, 51, 51, simple), "c1-n2": log(2, 4, 50, 50, simple)}, "c1-n1", "", "", after(simple, 0, 0)},
		{"what is not applied yet may be a change, and is none", "c1", held{"c1-n1": log(1, 4, 60, 51, simple), "c1-n2": log(2, 4, 50, 50, simple)}, "c1-n1", "being changed", "", after(simple, 0, 0)},
		{"what is not applied yet is a change", "c1", held{"c1-n1": log(1, 4, 60, 51, simple), "c1-n2": log(2, 4, 50, 50, simple)}, "c1-n1", "being changed", "being changed", after(simple, 0, 2)},
		{"an empty and a stopped one do not count", "c1", held{"c1-n1": log(1, 4, 51, 51, simple), "c1-n2": {Replica: 2, Empty: true, LastIndex: 99, Descriptor_: simple}, "c1-n3": {Replica: 3, Problem: "bad", LastIndex: 99, Descriptor_: simple}}, "c1-n1", "less than a majority", "less than a majority", after(simple, 0, 0)},
		{"a farther log is in another cell", "c2", held{"c1-n1": log(1, 4, 60, 60, joint), "c1-n2": log(2, 4, 60, 60, joint), "c2-n1": log(4, 4, 59, 59, joint)}, "c2-n1", "less than a majority", "less than a majority", after(joint, 0, 0)},
		{"joint, the old side", "c1", held{"c1-n1": log(1, 4, 60, 60, joint), "c1-n2": log(2, 4, 59, 58, simple)}, "c1-n1", "", "", after(joint, 0, 0)},
		{"joint, the old side, and it may have left", "c1", held{"c1-n1": log(1, 4, 61, 60, joint), "c1-n2": log(2, 4, 59, 58, simple)}, "c1-n1", "changing owner", "", after(joint, 0, 0)},
		{"joint, the old side, and it has left", "c1", held{"c1-n1": log(1, 4, 61, 60, joint), "c1-n2": log(2, 4, 59, 58, simple)}, "c1-n1", "changing owner", "changing owner", after(joint, 1, 1)},
		{"joint, the new side", "c2", held{"c2-n1": log(4, 4, 61, 60, joint), "c2-n2": log(5, 4, 61, 60, joint)}, "c2-n1", "", "", after(joint, 1, 1)},
		{"joint, one of each side", "c1", held{"c1-n1": log(1, 4, 61, 61, joint), "c2-n2": log(5, 4, 61, 60, joint)}, "c1-n1", "less than a majority", "less than a majority", after(joint, 0, 0)},
		{"the newest descriptor decides", "c1", held{"c1-n1": log(1, 4, 61, 61, older), "c1-n2": log(2, 4, 60, 60, simple)}, "c1-n1", "", "", after(simple, 0, 0)},
	} {
		v := viewOf("c1-n1", "c1-n2", "c1-n3", "c2-n1", "c2-n2", "c2-n3")
		c := choose(v, one.held, one.cell)
		if c.node != one.node {
			t.Errorf("%s: goes on with %s", one.what, c.node)
			continue
		}
		says := func(r *controlpb.RecoverRangeReply, want string) {
			t.Helper()
			if r.MayMiss != (want != "") || !strings.Contains(r.Why, want) {
				t.Errorf("%s: says %t %q, want %q", one.what, r.MayMiss, r.Why, want)
			}
		}
		r := c.reply(1, one.cell)
		says(r, one.before)
		if len(r.Answered)+len(r.Silent) != len(c.newest.Replicas) {
			t.Errorf("%s: %v", one.what, r)
		}
		c.outcome(r, one.after)
		says(r, one.then)
	}
	if c := choose(viewOf("c1-n1", "c2-n1"), held{"c1-n1": log(1, 1, 1, 1, simple)}, "c2"); c.best != nil {
		t.Errorf("no replica in the cell, and goes on with %s", c.node)
	}
}

// A range with a leader, or with one that a replica believes in, is not
// recovered; nor is any while placement is frozen.
func TestRecoverIsRefused(t *testing.T) {
	v := viewOf("c1-n1", "c1-n2", "c1-n3")
	ask := func(v *controlclient.View, n Nodes, r proto.RangeID, cell proto.CellID) proto.Code {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := New(fixed{v}, n).Recover(ctx, r, cell, true)
		return proto.CodeOf(err)
	}
	d := newDigester()
	if code := ask(v, d, 1, "c1"); code != proto.CodeConflict {
		t.Errorf("with a leader: %v", code)
	}
	if code := ask(v, believers{d}, 1, "c1"); code != proto.CodeConflict {
		t.Errorf("with a believed leader: %v", code)
	}
	d.leading = new(bool)
	if code := ask(v, d, 1, "c1"); code != 0 {
		t.Errorf("without a leader: %v", code)
	}
	if code := ask(v, d, 1, "c2"); code != proto.CodeConflict {
		t.Errorf("no replica there: %v", code)
	}
	if code := ask(v, d, 1, "c9"); code != proto.CodeUnknownCell {
		t.Errorf("no such cell: %v", code)
	}
	if code := ask(v, d, 9, "c1"); code != proto.CodeBadRequest {
		t.Errorf("no such range: %v", code)
	}
	frozen := *v
	frozen.Frozen = &controlpb.FrozenRecord{Reason: "test"}
	if code := ask(&frozen, d, 1, "c1"); code != proto.CodeConflict {
		t.Errorf("frozen: %v", code)
	}
}

// believers follow a leader that does not answer.
type believers struct{ *digester }

func (b believers) Ranges(context.Context, proto.NodeID, []uint64) ([]*cellpb.ReplicaStatus, error) {
	return []*cellpb.ReplicaStatus{{Descriptor_: b.d, Replica: 2, Leader: "c1-n9"}}, nil
}
