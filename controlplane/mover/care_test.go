package mover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/planner"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// becomes waits until a range is as described.
func (w *world) becomes(id uint64, want string) {
	w.t.Helper()
	w.eventually(want, func(*controlclient.View) bool { return w.model.describe(id) == want })
	w.expect(id, want)
}

// settled waits until no move is under way.
func (w *world) settled() {
	w.t.Helper()
	w.eventually("all moves are over", func(v *controlclient.View) bool {
		for _, m := range v.Moves {
			if !move.Phase(m.State).Over() {
				return false
			}
		}
		return true
	})
}

// Everything leaves a cell that is drained, the old replicas of earlier moves
// too, at most two ranges being copied and one changing owner at a time.
func TestDrainCell(t *testing.T) {
	w := newWorld(t)
	for id := uint64(2); id <= 6; id++ {
		w.addRange(id, "c1", "c1-n1", "c1-n2", "c1-n3")
	}
	m := w.mover()
	var mu sync.Mutex
	states := map[string]string{}
	m.stored = func(rec *controlpb.MoveRecord) {
		mu.Lock()
		defer mu.Unlock()
		states[rec.Move] = rec.State
		copying, switching := 0, 0
		for _, s := range states {
			if move.Phase(s).Copying() {
				copying++
			}
			if move.Phase(s).Switching() {
				switching++
			}
		}
		if copying > copiesPerCell || switching > 1 {
			t.Errorf("%d ranges are copied and %d change owner: %v", copying, switching, states)
		}
	}
	w.care(m)
	w.reaches(w.submit(toC2(time.Hour)), move.Standby)
	w.put(controlclient.CellKey("c1"), &controlpb.CellRecord{Cell: "c1", Replicas: 3, State: planner.Draining})
	for id := uint64(1); id <= 6; id++ {
		w.becomes(id, moved)
	}
	w.settled()
}

func TestDrainNode(t *testing.T) {
	w := newWorld(t)
	w.addRange(2, "c1", "c1-n2", "c1-n3", "c1-n4")
	w.care(w.mover())
	w.put(controlclient.CellKey("c1"), &controlpb.CellRecord{Cell: "c1", Replicas: 3, NodeDrains: []*controlpb.NodeDrain{{Node: "c1-n3"}}})
	w.becomes(1, "c1@1 [c1-n1 c1-n2 c1-n4] [] holds [c1-n1 c1-n2 c1-n4]")
	w.becomes(2, "c1@1 [c1-n1 c1-n2 c1-n4] [] holds [c1-n1 c1-n2 c1-n4]")
	w.settled()
	route := w.client.View().Ranges[1]
	if len(route.Replicas) != 3 || route.Replicas[2].Node != "c1-n4" || route.Epoch != 1 {
		t.Errorf("the route table has %v", route)
	}
}

// A node that is gone and silent is replaced, after a time; when it comes back
// its replicas are deleted.
func TestLostNodeIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.care(w.mover())
	w.model.mu.Lock()
	w.model.silent["c1-n3"] = true
	w.model.mu.Unlock()
	w.node("c1-n3", "c1", false)
	w.becomes(1, "c1@1 [c1-n1 c1-n2 c1-n4] [] holds [c1-n1 c1-n2 c1-n3 c1-n4]")
	w.settled()
	w.model.mu.Lock()
	delete(w.model.silent, "c1-n3")
	w.model.mu.Unlock()
	w.becomes(1, "c1@1 [c1-n1 c1-n2 c1-n4] [] holds [c1-n1 c1-n2 c1-n4]")
}

// A damaged replica is replaced by one on another node, and where there is no
// other node, by a new one on the same.
func TestDamagedReplicaIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.addRange(2, "c2", "c2-n1", "c2-n2", "c2-n3")
	w.model.mu.Lock()
	w.model.problem["c1-n3"], w.model.problem["c2-n2"] = 3, 2
	w.model.mu.Unlock()
	w.care(w.mover())
	w.becomes(1, "c1@1 [c1-n1 c1-n2 c1-n4] [] holds [c1-n1 c1-n2 c1-n4]")
	w.eventually("a new replica", func(v *controlclient.View) bool {
		rec := v.Ranges[2]
		return len(rec.Replicas) == 3 && rec.Replicas[2].Id == 4 && rec.Replicas[2].Node == "c2-n2"
	})
	w.settled()
	w.expect(2, "c2@1 [c2-n1 c2-n2 c2-n3] [] holds [c2-n1 c2-n2 c2-n3]")
}

// A node is lost only when its lease is gone, it does not answer, and the
// leaders have not heard of it, all for LostAfter on end; an outage of etcd
// counts it anew.
func TestWhenANodeIsLost(t *testing.T) {
	now := time.Unix(1000, 0)
	c := &care{Mover: New(Config{Now: func() time.Time { return now }, LostAfter: time.Minute, Logger: slog.New(slog.DiscardHandler)}), silent: map[proto.NodeID]time.Time{}}
	look := func(alive, answers bool, heard ...time.Duration) []proto.NodeID {
		v := &controlclient.View{Nodes: map[proto.NodeID]controlclient.Node{"n1": {ID: "n1", Alive: true}, "n2": {ID: "n2", Alive: alive}}}
		s := seen{leaders: map[proto.RangeID]*cellpb.ReplicaStatus{}, held: map[proto.NodeID][]*cellpb.ReplicaStatus{"n1": nil}}
		if answers {
			s.held["n2"] = nil
		}
		for i, h := range heard {
			s.leaders[proto.RangeID(i+1)] = &cellpb.ReplicaStatus{
				Descriptor_: &cellpb.Descriptor{Replicas: []*cellpb.Replica{{Id: 1, Node: "n1"}, {Id: 2, Node: "n2"}}},
				Progress:    []*cellpb.ReplicaProgress{{Replica: 2, HeardMs: h.Milliseconds()}},
			}
		}
		return c.lost(v, s)
	}
	const long = time.Hour
	step := func(what string, want int, alive, answers bool, heard ...time.Duration) {
		t.Helper()
		if got := look(alive, answers, heard...); len(got) != want {
			t.Errorf("%s: lost %v", what, got)
		}
		now = now.Add(50 * time.Second)
	}
	step("at first", 0, false, false, long)
	step("not long enough", 0, false, false, long)
	step("long enough", 1, false, false, long)
	step("one leader hears it", 0, false, false, long, time.Second)
	step("counted anew", 0, false, false, long)
	step("its lease is back", 0, true, false, long)
	step("counted anew", 0, false, false, long)
	step("it answers", 0, false, true, long)
	step("counted anew", 0, false, false, long)
	step("no leader says anything", 0, false, false)
	step("counted anew", 0, false, false, long)
	step("not long enough", 0, false, false, long)
	if step("long enough", 1, false, false, long); len(c.silent) != 1 {
		t.Error(c.silent)
	}
}

// What a leader says decides which replicas are strays; no other node's word
// does, and none whose id the leader has not given yet.
func TestWhatIsStray(t *testing.T) {
	d := func(version, next uint64, replicas ...*cellpb.Replica) *cellpb.Descriptor {
		return &cellpb.Descriptor{Range: 1, Epoch: 1, Version: version, NextReplica: next, Replicas: replicas}
	}
	a, b, c := &cellpb.Replica{Id: 1, Node: "n1"}, &cellpb.Replica{Id: 2, Node: "n2"}, &cellpb.Replica{Id: 3, Node: "n3"}
	type held map[string]*cellpb.ReplicaStatus
	for _, one := range []struct {
		what string
		held held
		want string
	}{
		{"a replica that was removed", held{"n1": {Replica: 1, Leading: true, Descriptor_: d(9, 4, a, b)}, "n3": {Replica: 3, Descriptor_: d(5, 4, a, b, c)}}, "n3 below 4"},
		{"an older one where a newer is named", held{"n1": {Replica: 1, Leading: true, Descriptor_: d(9, 6, a, &cellpb.Replica{Id: 5, Node: "n3"})}, "n3": {Replica: 3, Descriptor_: d(5, 4, a, c)}}, "n3 below 4"},
		{"no leader", held{"n1": {Replica: 1, Descriptor_: d(9, 4, a, b)}, "n3": {Replica: 3, Descriptor_: d(5, 4, a, b, c)}}, ""},
		{"one about to be added", held{"n1": {Replica: 1, Leading: true, Descriptor_: d(9, 4, a, b)}, "n3": {Replica: 4, Empty: true, Descriptor_: d(9, 4, a, b)}}, ""},
		{"in the joint configuration", held{"n1": {Replica: 1, Leading: true, Descriptor_: d(9, 4, a, &cellpb.Replica{Id: 2, Node: "n2", Outgoing: true})}, "n3": {Replica: 3, Descriptor_: d(5, 4, c)}}, ""},
		{"two lead after a recovery", held{
			"n1": {Replica: 1, Leading: true, Term: 90, Descriptor_: d(9, 4, a, b, c)},
			"n3": {Replica: 1004, Leading: true, Term: 5, Descriptor_: d(1009, 1005, &cellpb.Replica{Id: 1004, Node: "n3"})},
		}, "n1 below 2"},
		{"a stopped one that may be the named", held{"n1": {Replica: 1, Leading: true, Descriptor_: d(9, 4, a, b)}, "n2": {Problem: "bad", Descriptor_: d(9, 4)}}, ""},
		{"a stopped one of a node that is not named", held{"n1": {Replica: 1, Leading: true, Descriptor_: d(9, 4, a, b)}, "n3": {Problem: "bad", Descriptor_: d(9, 4)}}, "n3 below 1"},
	} {
		nodes := &strayNodes{held: one.held}
		m := New(Config{Nodes: nodes, Logger: slog.New(slog.DiscardHandler)})
		c := &care{Mover: m}
		v := &controlclient.View{Nodes: map[proto.NodeID]controlclient.Node{}}
		for n := range one.held {
			v.Nodes[proto.NodeID(n)] = controlclient.Node{ID: proto.NodeID(n), Record: &controlpb.NodeRecord{Roles: []string{"storage"}}}
		}
		c.removeStray(t.Context(), c.sweep(t.Context(), v))
		if got := strings.Join(nodes.removed, ", "); got != one.want {
			t.Errorf("%s: removed %q, want %q", one.what, got, one.want)
		}
	}
}

// strayNodes hold one replica each.
type strayNodes struct {
	Nodes
	held    map[string]*cellpb.ReplicaStatus
	mu      sync.Mutex // guards removed
	removed []string
}

func (s *strayNodes) Ranges(_ context.Context, node proto.NodeID, _ []uint64) ([]*cellpb.ReplicaStatus, error) {
	return []*cellpb.ReplicaStatus{s.held[string(node)]}, nil
}

func (s *strayNodes) RemoveReplica(_ context.Context, node proto.NodeID, req *cellpb.RemoveReplicaRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(s.removed, fmt.Sprintf("%s below %d", node, req.Below))
	return nil
}

// A learner that no move explains is taken out of its range, and its replica
// deleted; one of a move stays.
func TestLearnersOfNoMove(t *testing.T) {
	w := newWorld(t)
	w.addRange(2, "c1", "c1-n1", "c1-n2", "c1-n3")
	w.care(w.mover())
	w.reaches(w.submit(toC2(time.Hour)), move.Standby)
	w.model.mu.Lock()
	r := w.model.ranges[2]
	r.d.Replicas = append(r.d.Replicas, &cellpb.Replica{Id: 4, Node: "c1-n4", Learner: true})
	r.d.NextReplica, r.holds["c1-n4"] = 5, 4
	r.d.Version++
	w.model.mu.Unlock()
	w.eventually("it is gone", func(*controlclient.View) bool {
		w.model.mu.Lock()
		defer w.model.mu.Unlock()
		return r.replica(4) == nil && r.holds["c1-n4"] == 0
	})
	w.expect(1, standby)
}

// The route of a range whose recovery broke off before it was published.
func TestARecoveredRangeIsPublished(t *testing.T) {
	w := newWorld(t)
	rec := pb.CloneOf(w.client.View().Ranges[1])
	rec.Recovering = true
	w.put(controlclient.RangeKey(1), rec)
	w.model.mu.Lock()
	r := w.model.ranges[1]
	r.d.Epoch, r.d.Version, r.d.NextReplica, r.leader = 3, 1001, 1006, 1005
	r.d.Replicas = []*cellpb.Replica{{Id: 1005, Node: "c1-n2"}}
	r.holds = map[string]uint64{"c1-n1": 1, "c1-n2": 1005}
	w.model.mu.Unlock()
	w.eventually("the mark", func(v *controlclient.View) bool { return v.Ranges[1].Recovering })
	w.care(w.mover())
	w.eventually("the route", func(v *controlclient.View) bool {
		now := v.Ranges[1]
		return now.Epoch == 3 && !now.Recovering && len(now.Replicas) == 3
	})
	w.settled()
}

// While placement is frozen nothing is planned, moved or repaired, and nothing
// is written, whatever was decided before.
func TestNothingIsDoneWhileFrozen(t *testing.T) {
	w := newWorld(t)
	id := w.submit(toC2(0))
	w.put(controlclient.FrozenKey, &controlpb.FrozenRecord{Reason: "test"})
	w.eventually("the freeze", func(v *controlclient.View) bool { return v.Freeze() != "" && v.Moves[id] != nil })
	if _, err := NewBook(w.client.Etcd()).Submit(t.Context(), toC2(0)); proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "reconcile") {
		t.Errorf("a move is planned: %v", err)
	}
	m, st := w.mover(), w.take()
	if _, err := st.Commit(t.Context(), nil); err == nil {
		t.Error("a seat writes")
	}
	// What a node has seen is enough, before anybody has written it down.
	w.put(controlclient.AliveKey("c2-n3"), &controlpb.NodeRecord{Node: "c2-n3", Cell: "c2", Roles: []string{"storage"}, SeenRevision: 1 << 40})
	if _, err := w.client.Etcd().Delete(t.Context(), controlclient.FrozenKey); err != nil {
		t.Fatal(err)
	}
	w.eventually("the sighting alone", func(v *controlclient.View) bool { return v.Frozen == nil && v.Freeze() != "" })
	term := m.begin(st)
	defer term.wg.Wait()
	w.model.mu.Lock()
	delete(w.model.ranges[1].holds, "c1-n3")
	w.model.problem["c1-n2"] = 2
	w.model.ranges[1].d.NextReplica, w.model.ranges[1].holds["c1-n4"] = 9, 5 // a stray
	w.model.mu.Unlock()
	for range 5 {
		term.round(t.Context())
		if err := (&care{Mover: m, seat: st, silent: map[proto.NodeID]time.Time{}}).round(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if changes := w.model.changes(); len(changes) > 0 || w.client.View().Moves[id].State != string(move.Planned) || len(w.client.View().Moves) != 1 {
		t.Errorf("%v %v", changes, w.client.View().Moves)
	}
}

// With etcd away silence is not counted: every lease may have lapsed.
func TestAnOutageOfEtcdCountsSilenceAnew(t *testing.T) {
	w := newWorld(t)
	c := &care{Mover: w.mover(), silent: map[proto.NodeID]time.Time{"c1-n3": w.now()}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.round(ctx); !errors.Is(err, context.Canceled) || len(c.silent) != 0 {
		t.Errorf("%v, and counted on: %v", err, c.silent)
	}
}

// One node of a cell is replaced at a time.
func TestOneLostNodeOfACellAtATime(t *testing.T) {
	v := &controlclient.View{
		Cells: map[proto.CellID]*controlpb.CellRecord{"c1": {Cell: "c1", Replicas: 3}},
		Nodes: map[proto.NodeID]controlclient.Node{}, Ranges: map[proto.RangeID]*controlpb.RangeRecord{},
	}
	s := seen{leaders: map[proto.RangeID]*cellpb.ReplicaStatus{}, held: map[proto.NodeID][]*cellpb.ReplicaStatus{}}
	for i := 1; i <= 8; i++ {
		id := proto.NodeID(fmt.Sprintf("n%d", i))
		v.Nodes[id] = controlclient.Node{ID: id, Alive: i > 2, Record: &controlpb.NodeRecord{Cell: "c1", Roles: []string{"storage"}}}
	}
	for r := uint64(1); r <= 3; r++ {
		v.Ranges[proto.RangeID(r)] = &controlpb.RangeRecord{Range: r, Cell: "c1", Epoch: 1, Created: true, Replicas: []*controlpb.RangeReplica{{Id: 1, Node: fmt.Sprintf("n%d", 1+r%2)}, {Id: 2, Node: "n3"}, {Id: 3, Node: "n4"}}}
		s.leaders[proto.RangeID(r)] = &cellpb.ReplicaStatus{
			Descriptor_: &cellpb.Descriptor{Replicas: []*cellpb.Replica{{Id: 1, Node: fmt.Sprintf("n%d", 1+r%2)}}},
			Progress:    []*cellpb.ReplicaProgress{{Replica: 1, HeardMs: 3_600_000}},
		}
	}
	long := time.Unix(0, 0)
	c := &care{Mover: New(Config{Logger: slog.New(slog.DiscardHandler)}), silent: map[proto.NodeID]time.Time{"n1": long, "n2": long}}
	c.repair(planner.NewBoard(v, nil), s, func(p move.Plan) {
		if p.Drop[0].Node != "n1" {
			t.Errorf("replaces %v while n1 is", p.Drop)
		}
	})
}

// A move that waits for a node that does not answer holds up no other.
func TestADeadNodeHoldsUpOnlyItsMoves(t *testing.T) {
	w := newWorld(t)
	w.addRange(2, "c1", "c1-n1")
	w.addRange(3, "c2", "c2-n1")
	w.model.silent["c2-n3"] = true
	w.node("c2-n3", "c2", false)
	w.serve(w.mover())
	stuck := w.submit(toC2(0))
	w.reaches(stuck, move.Seeding)
	w.reaches(w.submit(move.Plan{Range: 2, From: "c1", To: "c2", Epoch: 1, Add: []move.Member{{Node: "c2-n2"}}, Drop: []move.Member{{ID: 1, Node: "c1-n1"}}}), move.Done)
	w.expect(2, "c2@2 [c2-n2] [] holds [c2-n2]")
	// It is given up, with its replica never made.
	w.reaches(stuck, move.Cancelled)
	w.expect(1, atHome)
}

// Calls that fail, and calls that are done although their answer is lost, are
// made again.
func TestCallsThatFail(t *testing.T) {
	w := newWorld(t)
	seen := map[string]int{}
	var mu sync.Mutex
	fail := func(at int) func(context.Context, string) error {
		return func(_ context.Context, call string) error {
			mu.Lock()
			defer mu.Unlock()
			if seen[fmt.Sprint(at, call)]++; seen[fmt.Sprint(at, call)] == 1 {
				return proto.Errorf(proto.CodeUnavailable, "planted")
			}
			return nil
		}
	}
	w.model.before, w.model.after = fail(1), fail(2)
	w.serve(w.mover())
	w.reaches(w.submit(toC2(0)), move.Done)
	w.expect(1, moved)
}

// What is over stays listed for a while, and not for ever.
func TestOldMovesAreForgotten(t *testing.T) {
	w := newWorld(t)
	v := &controlclient.View{Moves: map[string]*controlpb.MoveRecord{}}
	for i := range finishedKept + 3 {
		id := moveName(uint64(i + 1))
		v.Moves[id] = &controlpb.MoveRecord{Move: id, State: string(move.Done)}
	}
	v.Moves["m2"].State = string(move.Standby)
	for _, id := range []string{"m1", "m2", "m3", "m4"} {
		w.put(controlclient.MoveKey(id), v.Moves[id])
	}
	w.eventually("the moves", func(v *controlclient.View) bool { return len(v.Moves) == 4 })
	c := &care{Mover: w.mover(), seat: w.take()}
	if err := c.forget(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	w.eventually("two are forgotten", func(v *controlclient.View) bool {
		return len(v.Moves) == 2 && v.Moves["m2"] != nil && v.Moves["m4"] != nil
	})
}
