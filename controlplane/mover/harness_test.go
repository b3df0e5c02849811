package mover

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/topology/seat"
	"github.com/waggle-im/waggle/internal/embedetcd"
	"github.com/waggle-im/waggle/internal/testservers"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

func TestMain(m *testing.M) {
	if code := m.Run(); code != 0 {
		os.Exit(code)
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// model is a small model of storage nodes: descriptors, replicas, learners
// that catch up, and joint configurations that are left by themselves.
type model struct {
	mu       sync.Mutex // guards the fields below
	ranges   map[uint64]*modelRange
	silent   map[proto.NodeID]bool // do not answer
	frozen   bool                  // joint configurations are not left
	slow     bool                  // learners do not catch up
	problem  map[string]uint64     // node → replica that has stopped itself
	rules    uint32                // of all ranges; 0: nobody speaks of them
	knows    map[proto.NodeID]uint32
	applied  []string // what was done, in order
	breaches []string
	// before and after are called around every call that changes something;
	// an error of before prevents it, one of after loses the answer.
	before, after func(ctx context.Context, call string) error
}

type modelRange struct {
	d      *cellpb.Descriptor
	leader uint64
	term   uint64
	holds  map[string]uint64 // node → replica id
	below  map[string]uint64 // node → lowest id still allowed
	lag    map[uint64]uint64
}

func newModel() *model {
	return &model{ranges: map[uint64]*modelRange{}, silent: map[proto.NodeID]bool{}, problem: map[string]uint64{}}
}

func (m *model) addRange(id uint64, cell string, nodes ...string) {
	d := &cellpb.Descriptor{Range: id, Cell: cell, Epoch: 1, Version: 1, NextReplica: uint64(len(nodes)) + 1}
	r := &modelRange{d: d, leader: 1, term: 1, holds: map[string]uint64{}, below: map[string]uint64{}, lag: map[uint64]uint64{}}
	for i, n := range nodes {
		d.Replicas = append(d.Replicas, &cellpb.Replica{Id: uint64(i + 1), Node: n})
		r.holds[n] = uint64(i + 1)
	}
	m.ranges[id] = r
}

func (r *modelRange) replica(id uint64) *cellpb.Replica {
	for _, rep := range r.d.Replicas {
		if rep.Id == id {
			return rep
		}
	}
	return nil
}

// leave is what the replicas do by themselves once they are in the joint
// configuration.
func (r *modelRange) leave() {
	for _, rep := range r.d.Replicas {
		if rep.Incoming {
			r.leader, rep.Incoming = rep.Id, false
			r.term++
		}
		if rep.Outgoing {
			rep.Outgoing, rep.Learner = false, true
		}
	}
	if r.d.NextCell != "" {
		r.d.Cell, r.d.NextCell = r.d.NextCell, ""
		r.d.Epoch++
	}
	r.d.Version++
}

func (m *model) Ranges(_ context.Context, node proto.NodeID, ranges []uint64) ([]*cellpb.ReplicaStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silent[node] {
		return nil, proto.Errorf(proto.CodeUnavailable, "%s is silent", node)
	}
	var out []*cellpb.ReplicaStatus
	for id, r := range m.ranges {
		held := r.holds[string(node)]
		if held == 0 || len(ranges) > 0 && !slices.Contains(ranges, id) {
			continue
		}
		if m.problem[string(node)] == held {
			out = append(out, &cellpb.ReplicaStatus{Descriptor_: pb.CloneOf(r.d), Replica: held, Problem: "bad checksum"})
			continue
		}
		st := &cellpb.ReplicaStatus{Descriptor_: pb.CloneOf(r.d), Replica: held, Term: r.term, Bytes: 100, Rules: m.rules, NodeRules: m.knows[node]}
		if held == r.leader {
			st.Leading, st.Leader = true, string(node)
			for _, rep := range r.d.Replicas {
				if rep.Id == held {
					continue
				}
				heard := int64(0)
				if m.silent[proto.NodeID(rep.Node)] || r.holds[rep.Node] != rep.Id {
					heard = 60_000
				} else if !m.slow {
					r.lag[rep.Id] /= 2
				}
				st.Progress = append(st.Progress, &cellpb.ReplicaProgress{Replica: rep.Id, LagEntries: r.lag[rep.Id], HeardMs: heard})
			}
			if move.InJoint(r.d) && !m.frozen {
				r.leave()
			}
		} else {
			st.PauseUs = 7000
		}
		out = append(out, st)
	}
	return out, nil
}

// around is one call that changes something.
func (m *model) around(ctx context.Context, node proto.NodeID, call string, do func() error) error {
	m.mu.Lock()
	before, after := m.before, m.after
	m.mu.Unlock()
	if before != nil {
		if err := before(ctx, call); err != nil {
			return err
		}
	}
	m.mu.Lock()
	err := error(proto.Errorf(proto.CodeUnavailable, "%s is silent", node))
	if !m.silent[node] {
		if err = do(); err == nil {
			m.applied = append(m.applied, call)
		}
	}
	m.mu.Unlock()
	if err == nil && after != nil {
		err = after(ctx, call)
	}
	return err
}

func (m *model) CreateReplica(ctx context.Context, node proto.NodeID, req *cellpb.CreateReplicaRequest) error {
	return m.around(ctx, node, fmt.Sprintf("create %d on %s", req.Replica, node), func() error {
		r := m.ranges[req.Descriptor_.Range]
		if !req.Empty {
			m.breaches = append(m.breaches, "a replica of a range that exists was made with state")
		}
		switch held := r.holds[string(node)]; {
		case req.Rules > m.knows[node]:
			return proto.Errorf(proto.CodeUnsupported, "node %s does not know rules %d", node, req.Rules)
		case held == req.Replica:
			return nil
		case req.Replica < r.below[string(node)]:
			return proto.Errorf(proto.CodeForbidden, "replica %d is below %d", req.Replica, r.below[string(node)])
		case held != 0:
			return proto.Errorf(proto.CodeNotReady, "replica %d is here", held)
		}
		r.holds[string(node)] = req.Replica
		r.lag[req.Replica] = 1000
		return nil
	})
}

func (m *model) RemoveReplica(ctx context.Context, node proto.NodeID, req *cellpb.RemoveReplicaRequest) error {
	return m.around(ctx, node, fmt.Sprintf("remove below %d on %s", req.Below, node), func() error {
		r := m.ranges[req.Range]
		held := r.holds[string(node)]
		if held != 0 && held < req.Below {
			if r.replica(held) != nil {
				m.breaches = append(m.breaches, fmt.Sprintf("replica %d on %s was removed while the range names it", held, node))
			}
			delete(r.holds, string(node))
		}
		r.below[string(node)] = max(r.below[string(node)], req.Below)
		return nil
	})
}

func (m *model) ChangeRange(ctx context.Context, node proto.NodeID, req *cellpb.ChangeRangeRequest) error {
	return m.around(ctx, node, fmt.Sprintf("%T", req.Change.Change), func() error {
		r := m.ranges[req.Range]
		if rep := r.replica(r.leader); rep == nil || rep.Node != string(node) {
			return proto.Errorf(proto.CodeNotLeader, "not led here")
		}
		if req.Change.Version != r.d.Version {
			return proto.Errorf(proto.CodeStaleVersion, "the descriptor has version %d, not %d", r.d.Version, req.Change.Version)
		}
		if err := m.change(r, req.Change); err != nil {
			return err
		}
		r.d.Version++
		r.d.Move = req.Change.Move
		return nil
	})
}

func (m *model) change(r *modelRange, c *cellpb.ChangeReplicas) error {
	if move.InJoint(r.d) {
		return proto.Errorf(proto.CodeConflict, "in the joint configuration")
	}
	switch c := c.Change.(type) {
	case *cellpb.ChangeReplicas_AddLearner:
		if c.AddLearner.Id != r.d.NextReplica {
			return proto.Errorf(proto.CodeConflict, "the next replica is %d", r.d.NextReplica)
		}
		r.d.NextReplica++
		r.d.Replicas = append(r.d.Replicas, c.AddLearner)
	case *cellpb.ChangeReplicas_EnterJoint:
		for _, id := range c.EnterJoint.Promote {
			rep := r.replica(id)
			if rep == nil || r.lag[id] > move.LagEntriesMax || r.holds[rep.Node] != id {
				return proto.Errorf(proto.CodeNotReady, "replica %d is behind", id)
			}
			rep.Learner, rep.Incoming = false, true
		}
		for _, id := range c.EnterJoint.Demote {
			r.replica(id).Outgoing = true
		}
		r.d.NextCell = c.EnterJoint.NextCell
	case *cellpb.ChangeReplicas_RemoveLearner:
		rep := r.replica(c.RemoveLearner)
		if rep == nil || !rep.Learner {
			return proto.Errorf(proto.CodeConflict, "no learner %d", c.RemoveLearner)
		}
		r.d.Replicas = slices.DeleteFunc(r.d.Replicas, func(x *cellpb.Replica) bool { return x == rep })
	}
	return nil
}

// shape is all that moves may change, for comparing.
func (m *model) shape() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := ""
	for _, id := range slices.Sorted(maps.Keys(m.ranges)) {
		r := m.ranges[id]
		out += fmt.Sprintf("%d: %s@%d version %d next %d leader %d holds %v below %v", id, r.d.Cell, r.d.Epoch, r.d.Version, r.d.NextReplica, r.leader, r.holds, r.below)
		for _, rep := range r.d.Replicas {
			out += fmt.Sprintf(" %d on %s %t %t %t", rep.Id, rep.Node, rep.Learner, rep.Incoming, rep.Outgoing)
		}
		out += "\n"
	}
	return out
}

// describe is a range in short: cell, epoch, voters and learners.
func (m *model) describe(id uint64) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.ranges[id]
	var voters, learners, holds []string
	for _, rep := range r.d.Replicas {
		if rep.Learner {
			learners = append(learners, rep.Node)
		} else {
			voters = append(voters, rep.Node)
		}
	}
	for n := range r.holds {
		holds = append(holds, n)
	}
	slices.Sort(voters)
	slices.Sort(learners)
	slices.Sort(holds)
	return fmt.Sprintf("%s@%d %v %v holds %v", r.d.Cell, r.d.Epoch, voters, learners, holds)
}

// world is an etcd with nodes and ranges, and movers on it.
type world struct {
	t      *testing.T
	client *controlclient.Client
	model  *model
	start  time.Time
	speed  time.Duration // how much faster than the clock on the wall
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := embedetcd.Start(t.Context(), embedetcd.Config{Dir: t.TempDir(), ClientAddr: testservers.FreeAddr(t), PeerAddr: testservers.FreeAddr(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	client, err := controlclient.New(controlclient.Config{Endpoints: []string{s.Endpoint()}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	background(t, client.Run)
	if err := client.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, client: client, model: newModel(), start: time.Now(), speed: 20}
	for _, n := range []string{"c1-n1", "c1-n2", "c1-n3", "c1-n4", "c2-n1", "c2-n2", "c2-n3"} {
		w.node(n, n[:2], true)
	}
	for _, c := range []string{"c1", "c2"} {
		w.put(controlclient.CellKey(proto.CellID(c)), &controlpb.CellRecord{Cell: c, Replicas: 3})
	}
	w.addRange(1, "c1", "c1-n1", "c1-n2", "c1-n3")
	return w
}

func (w *world) put(key string, m pb.Message) {
	w.t.Helper()
	value, err := pb.Marshal(m)
	if err == nil {
		_, err = w.client.Etcd().Put(w.t.Context(), key, string(value))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) node(name, cell string, alive bool) {
	w.t.Helper()
	rec := &controlpb.NodeRecord{Node: name, Cell: cell, Addr: "127.0.0.1:1", Roles: []string{"chat", "storage"}}
	w.put(controlclient.NodeKey(proto.NodeID(name)), rec)
	if alive {
		w.put(controlclient.AliveKey(proto.NodeID(name)), rec)
	} else if _, err := w.client.Etcd().Delete(w.t.Context(), controlclient.AliveKey(proto.NodeID(name))); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) addRange(id uint64, cell string, nodes ...string) {
	w.t.Helper()
	w.model.mu.Lock()
	w.model.addRange(id, cell, nodes...)
	rec := &controlpb.RangeRecord{Range: id, Cell: cell, Epoch: 1, Open: true, Created: true, Incarnation: []byte("incarnation")}
	for _, r := range w.model.ranges[id].d.Replicas {
		rec.Replicas = append(rec.Replicas, &controlpb.RangeReplica{Id: r.Id, Node: r.Node})
	}
	w.model.mu.Unlock()
	w.put(controlclient.RangeKey(proto.RangeID(id)), rec)
	w.eventually("the range", func(v *controlclient.View) bool { return v.Ranges[proto.RangeID(id)] != nil })
}

func (w *world) now() time.Time { return w.start.Add(time.Since(w.start) * w.speed) }

func (w *world) timer(d time.Duration) *time.Timer { return time.NewTimer(d / w.speed) }

// background runs f until the test ends or stop is called.
func background(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = f(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func (w *world) mover() *Mover {
	return New(Config{Cluster: w.client, Nodes: w.model, Logger: slog.New(slog.DiscardHandler), Now: w.now, Timer: w.timer, LostAfter: 20 * time.Second, CareInterval: 50 * time.Millisecond})
}

// care elects a mover and runs it with the repairing.
func (w *world) care(m *Mover) (stop func()) {
	w.t.Helper()
	return background(w.t, func(ctx context.Context) error {
		st, err := seat.Campaign(ctx, w.client.Etcd(), "cp")
		if err != nil {
			return err
		}
		defer st.Leave()
		var wg sync.WaitGroup
		wg.Go(func() { _ = m.Serve(ctx, st) })
		wg.Go(func() { _ = m.Care(ctx, st) })
		wg.Wait()
		return nil
	})
}

// serve elects a mover and runs it.
func (w *world) serve(m *Mover) (stop func()) {
	w.t.Helper()
	return background(w.t, func(ctx context.Context) error {
		st, err := seat.Campaign(ctx, w.client.Etcd(), "cp")
		if err != nil {
			return err
		}
		defer st.Leave()
		return m.Serve(ctx, st)
	})
}

func (w *world) submit(p move.Plan) string {
	w.t.Helper()
	p.Started, p.By = w.now(), "ann"
	rec, err := NewBook(w.client.Etcd()).Submit(w.t.Context(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec.Move
}

// toC2 is the move of range 1 from c1 to c2.
func toC2(standby time.Duration) move.Plan {
	return move.Plan{
		Range: 1, From: "c1", To: "c2", Epoch: 1, Standby: standby,
		Add:  []move.Member{{Node: "c2-n1"}, {Node: "c2-n2"}, {Node: "c2-n3"}},
		Drop: []move.Member{{ID: 1, Node: "c1-n1"}, {ID: 2, Node: "c1-n2"}, {ID: 3, Node: "c1-n3"}},
	}
}

func (w *world) eventually(what string, ok func(*controlclient.View) bool) {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		changed := w.client.Changed()
		if ok(w.client.View()) {
			return
		}
		again := time.NewTimer(100 * time.Millisecond) // not all that is waited for shows in the view
		select {
		case <-changed:
		case <-again.C:
		case <-deadline:
			w.t.Fatalf("not in time: %s\n%s", what, w.model.shape())
		}
		again.Stop()
	}
}

// reaches waits until a move is in a phase.
func (w *world) reaches(id string, p move.Phase) *controlpb.MoveRecord {
	w.t.Helper()
	var rec *controlpb.MoveRecord
	w.eventually(fmt.Sprintf("%s is %s", id, p), func(v *controlclient.View) bool {
		rec = v.Moves[id]
		return rec.GetState() == string(p)
	})
	return rec
}

func (w *world) expect(rangeID uint64, want string) {
	w.t.Helper()
	if have := w.model.describe(rangeID); have != want {
		w.t.Errorf("range %d is %s, want %s", rangeID, have, want)
	}
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	for _, b := range w.model.breaches {
		w.t.Error(b)
	}
}

// unseat takes the seat away from whoever has it.
func (w *world) unseat() {
	w.t.Helper()
	if _, err := w.client.Etcd().Delete(w.t.Context(), controlclient.ElectionPrefix, clientv3.WithPrefix()); err != nil {
		w.t.Fatal(err)
	}
}

// take gets the seat for the test itself.
func (w *world) take() *seat.Seat {
	w.t.Helper()
	st, err := seat.Campaign(w.t.Context(), w.client.Etcd(), "test")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(st.Leave)
	return st
}
