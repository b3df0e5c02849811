package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// mover does by hand what the control plane does.
type mover struct {
	c   *cluster
	rng proto.RangeID
}

// descriptor is the newest that anybody has applied.
func (m mover) descriptor() *cellpb.Descriptor {
	d := new(cellpb.Descriptor)
	for _, n := range m.c.nodes {
		if n.node == nil {
			continue
		}
		if have, ok := n.node.Descriptor(m.rng); ok && have.GetVersion() > d.GetVersion() {
			d = have
		}
	}
	return d
}

// change proposes a change at whoever leads until it is taken.
func (m mover) change(change func(d *cellpb.Descriptor) *cellpb.ChangeReplicas) {
	m.c.t.Helper()
	var last error
	for range 200 {
		if leader := m.c.leader(m.rng); leader != nil {
			req := change(m.descriptor())
			if req == nil {
				return
			}
			answered := false
			leader.node.ProposeChange(m.rng, req, func(_ *cellpb.Applied, err error) { answered, last = true, err })
			m.c.settle()
			if answered && last == nil {
				return
			}
		}
		m.c.tick()
	}
	m.c.t.Fatalf("the change was not taken: %v", last)
}

func (m mover) addLearner(n *testNode) {
	m.c.t.Helper()
	d := m.descriptor()
	id := d.GetNextReplica()
	req := &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: id, Incarnation: []byte("one"), Empty: true}
	if err := n.node.Create(m.c.t.Context(), req); err != nil {
		m.c.t.Fatal(err)
	}
	m.change(func(d *cellpb.Descriptor) *cellpb.ChangeReplicas {
		if d.ReplicaOf(id) != nil {
			return nil
		}
		return &cellpb.ChangeReplicas{Version: d.GetVersion(), Move: "m1", Change: &cellpb.ChangeReplicas_AddLearner{
			AddLearner: &cellpb.Replica{Id: id, Node: string(n.id)},
		}}
	})
}

// joint makes the learners voters and the voters learners.
func (m mover) joint(nextCell string) {
	m.c.t.Helper()
	m.change(func(d *cellpb.Descriptor) *cellpb.ChangeReplicas {
		if d.Joint() || d.GetCell() == nextCell {
			return nil
		}
		enter := &cellpb.EnterJoint{NextCell: nextCell}
		for _, r := range d.GetReplicas() {
			if r.GetLearner() {
				enter.Promote = append(enter.Promote, r.GetId())
			} else {
				enter.Demote = append(enter.Demote, r.GetId())
			}
		}
		return &cellpb.ChangeReplicas{Version: d.GetVersion(), Move: "m1", Change: &cellpb.ChangeReplicas_EnterJoint{EnterJoint: enter}}
	})
}

func (m mover) caughtUp() bool {
	leader := m.c.leader(m.rng)
	if leader == nil {
		return false
	}
	g, _ := leader.node.group(m.rng)
	progress := leader.node.progress(g)
	return len(progress) > 0 && !slices.ContainsFunc(progress, func(p *cellpb.ReplicaProgress) bool {
		return p.GetSnapshot() || p.GetLagEntries() > 0
	})
}

func (m mover) settled(cell string) bool {
	d := m.descriptor()
	return d.GetCell() == cell && !d.Joint()
}

// dropLearners removes the learners from the range and from their nodes.
func (m mover) dropLearners() {
	m.c.t.Helper()
	var gone []string
	m.change(func(d *cellpb.Descriptor) *cellpb.ChangeReplicas {
		for _, r := range d.GetReplicas() {
			if r.GetLearner() {
				gone = append(gone, r.GetNode())
				return &cellpb.ChangeReplicas{Version: d.GetVersion(), Change: &cellpb.ChangeReplicas_RemoveLearner{RemoveLearner: r.GetId()}}
			}
		}
		return nil
	})
	for slices.ContainsFunc(m.descriptor().GetReplicas(), (*cellpb.Replica).GetLearner) {
		m.dropLearners()
	}
	for _, node := range gone {
		m.remove(m.c.byID(proto.NodeID(node)))
	}
}

// remove deletes n's replica, stepping while it waits.
func (m mover) remove(n *testNode) {
	m.c.t.Helper()
	d, done := m.descriptor(), make(chan error, 1)
	go func() { done <- n.node.Remove(m.c.t.Context(), d, 0) }()
	var err error
	m.c.eventually("the replica is removed", func() bool {
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	if err != nil {
		m.c.t.Fatal(err)
	}
}

// readyToMove makes range 1 on the first half of a cluster, with learners that
// are caught up on the second.
func readyToMove(t *testing.T, replicas int) (*cluster, mover) {
	t.Helper()
	c := newCluster(t, 2*replicas, nil)
	c.create(1, c.nodes[:replicas]...)
	m := mover{c, 1}
	leader := c.elect(1)
	for i := range 50 {
		c.must(leader, 1, fmt.Sprint("before ", i))
	}
	for _, n := range c.nodes[replicas:] {
		m.addLearner(n)
	}
	c.eventually("learners caught up", m.caughtUp)
	return c, m
}

// moved moves range 1 from the first half of a cluster to the second.
func moved(t *testing.T, replicas int) (*cluster, mover) {
	t.Helper()
	c, m := readyToMove(t, replicas)
	m.joint("c2")
	c.within(100, "the new cell owns the range", func() bool { return m.settled("c2") })
	return c, m
}

func TestARangeMovesByMembershipChanges(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			c, m := moved(t, replicas)
			leader := c.elect(1)
			if !slices.Contains(c.nodes[replicas:], leader) {
				t.Fatalf("%s of the old cell leads", leader.id)
			}
			d := m.descriptor()
			if d.GetEpoch() != 2 || d.GetNextCell() != "" {
				t.Fatalf("descriptor after the move: %v", d)
			}
			c.must(leader, 1, "after")
			c.eventually("the old replicas follow", m.caughtUp)
			c.equal(1)
			m.dropLearners()
			for _, n := range c.nodes[:replicas] {
				if left := n.leftovers(1); len(left) > 0 {
					t.Errorf("%s still holds %q of the range", n.id, left)
				}
				if where, ok := n.node.Tombstone(1); !ok || where.GetCell() != "c2" || where.GetEpoch() != 2 {
					t.Errorf("%s does not know where the range went: %v", n.id, where)
				}
			}
			c.must(leader, 1, "alone")
			if got := leader.list(1); len(got) != 52 || got[51] != "alone" {
				t.Errorf("the list after the move: %d, %q", len(got), got[len(got)-1])
			}
		})
	}
}

// Who writes waits for no commit more than needed: a new leader sends the end
// of the joint configuration before its first entry is committed.
func TestTheJointConfigurationEndsAtOnce(t *testing.T) {
	c, m := readyToMove(t, 3)
	seen := 0
	c.sent = func(from, _ *testNode, b *cellpb.RaftBatch) {
		for _, raw := range b.GetMessages() {
			msg, leave := new(raftpb.Message), new(raftpb.ConfChangeV2)
			if err := pb.Unmarshal(raw.GetMessage(), msg); err != nil {
				t.Fatal(err)
			}
			for _, e := range msg.GetEntries() {
				if e.GetType() != raftpb.EntryConfChangeV2 || pb.Unmarshal(e.GetData(), leave) != nil || len(leave.GetChanges()) > 0 {
					continue
				}
				if seen++; seen == 1 && msg.GetCommit() >= e.GetIndex()-1 {
					t.Errorf("%s sends the end, entry %d, when %d is committed", from.id, e.GetIndex(), msg.GetCommit())
				}
			}
		}
	}
	m.joint("c2")
	c.within(100, "the new cell owns the range", func() bool { return m.settled("c2") })
	if seen == 0 {
		t.Error("the end was not seen")
	}
}

// leftovers are the keys of a range in both stores, but for its tombstone.
func (n *testNode) leftovers(r proto.RangeID) (out []string) {
	for _, span := range engine.Spans(r) {
		for _, k := range keysIn(n.c.t, n.state, span.Start, span.End) {
			out = append(out, "state "+k)
		}
	}
	for _, k := range keysIn(n.c.t, n.log, logKey(r, 0), logKey(r, 0xff)) {
		if k != string(logKey(r, tagIdentity)) && k != string(logKey(r, tagTombstone)) {
			out = append(out, "log "+k)
		}
	}
	return out
}

// A range comes back to nodes that held it, and finds nothing of its former
// self there: neither its log nor replica ids that were given before.
func TestARangeComesBack(t *testing.T) {
	c, m := moved(t, 3)
	m.dropLearners()
	old := c.nodes[0]
	err := old.node.Create(t.Context(), &cellpb.CreateReplicaRequest{Descriptor_: m.descriptor(), Replica: 1, Incarnation: []byte("one"), Empty: true})
	if proto.AsError(err).Code != proto.CodeForbidden {
		t.Errorf("replica 1 came back: %v", err)
	}
	c.must(c.elect(1), 1, "in c2")
	for _, n := range c.nodes[:3] {
		m.addLearner(n)
	}
	c.eventually("learners caught up", m.caughtUp)
	m.joint("c1")
	c.within(100, "the first cell owns the range again", func() bool { return m.settled("c1") })
	leader := c.elect(1)
	c.must(leader, 1, "home")
	if d := m.descriptor(); d.GetEpoch() != 3 {
		t.Errorf("epoch %d after two moves", d.GetEpoch())
	}
	c.eventually("everybody follows", m.caughtUp)
	c.equal(1)
}

// Whatever one moment of a move leaves after a crash of all nodes goes on to
// the end by itself once the joint configuration was entered, and never
// without; nothing acknowledged is lost.
func TestAMoveSurvivesACrashOfAllNodes(t *testing.T) {
	for _, at := range []string{"learners", "joint"} {
		t.Run(at, func(t *testing.T) {
			c := newCluster(t, 6, nil)
			c.create(1, c.nodes[:3]...)
			m := mover{c, 1}
			c.must(c.elect(1), 1, "first")
			for _, n := range c.nodes[3:] {
				m.addLearner(n)
			}
			if at == "joint" {
				c.eventually("learners caught up", m.caughtUp)
				m.joint("c2")
			}
			c.crashAll(vfs.CrashCloneCfg{})
			if at == "joint" {
				c.within(300, "the new cell owns the range", func() bool { return m.settled("c2") })
			} else {
				c.eventually("learners caught up", m.caughtUp)
				m.joint("c2")
				c.within(300, "the new cell owns the range", func() bool { return m.settled("c2") })
			}
			c.must(c.elect(1), 1, "second")
			if got := c.elect(1).list(1); !slices.Equal(got, []string{"first", "second"}) {
				t.Errorf("the list is %q", got)
			}
		})
	}
}

// An empty replica outlives a restart and still waits for its snapshot.
func TestAnEmptyReplicaOutlivesARestart(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.create(1, c.nodes[0])
	m := mover{c, 1}
	c.must(c.elect(1), 1, "one")
	n := c.nodes[1]
	req := &cellpb.CreateReplicaRequest{Descriptor_: m.descriptor(), Replica: 2, Incarnation: []byte("one"), Empty: true}
	if err := n.node.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start()
	if st := n.status(1); !st.Empty || st.Err != nil {
		t.Fatalf("after a restart: %+v", st)
	}
	m.addLearner(n) // creating it again changes nothing
	c.eventually("caught up", m.caughtUp)
	n.stop()
	n.start()
	c.eventually("caught up", m.caughtUp)
	if got := n.list(1); !slices.Equal(got, []string{"one"}) || n.status(1).Empty {
		t.Errorf("after its snapshot and a restart it holds %q, %+v", got, n.status(1))
	}
}

func TestAReplicaOfTheRangeIsNotRemoved(t *testing.T) {
	c, m := moved(t, 1)
	n := c.nodes[1]
	d := m.descriptor()
	for name, shown := range map[string]*cellpb.Descriptor{
		"the range's own descriptor": d,
		"an older descriptor":        {Range: 1, Version: d.GetVersion() - 1, NextReplica: d.GetNextReplica(), Cell: "c1", Epoch: 1},
		"one that gives its id next": {Range: 1, Version: d.GetVersion(), NextReplica: 2, Cell: "c1", Epoch: 1},
	} {
		if err := n.node.Remove(t.Context(), shown, 0); proto.AsError(err).Code != proto.CodeForbidden {
			t.Errorf("shown %s: %v", name, err)
		}
	}
	c.must(c.elect(1), 1, "still here")
}

// A removal goes on when whoever asked for it waits no longer, and the next
// replica finds its place free.
func TestARemovalOutlivesWhoAskedForIt(t *testing.T) {
	c, m := moved(t, 1)
	n := c.nodes[0]
	c.eventually("the old replica follows", m.caughtUp)
	m.change(func(d *cellpb.Descriptor) *cellpb.ChangeReplicas {
		if d.ReplicaOf(1) == nil {
			return nil
		}
		return &cellpb.ChangeReplicas{Version: d.GetVersion(), Change: &cellpb.ChangeReplicas_RemoveLearner{RemoveLearner: 1}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.node.Remove(ctx, m.descriptor(), 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("removed while nothing ran: %v", err)
	}
	c.settle()
	if _, err := n.node.group(1); proto.AsError(err).Code != proto.CodeNotLeader || len(n.leftovers(1)) > 0 {
		t.Fatalf("the replica is still there: %v, %q", err, n.leftovers(1))
	}
	m.addLearner(n)
	c.eventually("it has come back", m.caughtUp)
	c.equal(1)
}

// A removal that a crash broke off is done at the next start.
func TestABrokenRemovalIsFinished(t *testing.T) {
	c, m := moved(t, 1)
	n := c.nodes[0]
	id, _, err := readIdentity(n.log, 1)
	if err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.log, n.state = openDB(t, n.fs, "log"), openDB(t, n.fs, "state")
	id.stage, id.tombstone = stageRemoving, 3
	if err := n.log.Set(logKey(1, tagIdentity), id.encode(), nil); err != nil {
		t.Fatal(err)
	}
	_, _ = n.log.Close(), n.state.Close()
	n.start()
	if left := n.leftovers(1); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := n.node.group(1); err == nil {
		t.Error("the replica runs")
	}
	_ = m
}

// Two changes planned on one version: the second is refused, whoever planned
// it.
func TestAChangeOfAnotherVersionIsRefused(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.create(1, c.nodes[0])
	m := mover{c, 1}
	leader := c.elect(1)
	version := m.descriptor().GetVersion()
	m.addLearner(c.nodes[1])
	var got error
	leader.node.ProposeChange(1, &cellpb.ChangeReplicas{Version: version, Change: &cellpb.ChangeReplicas_RemoveLearner{RemoveLearner: 2}},
		func(_ *cellpb.Applied, err error) { got = err })
	c.settle()
	if proto.AsError(got).Code != proto.CodeStaleVersion {
		t.Errorf("a change planned on an older version: %v", got)
	}
	if m.descriptor().ReplicaOf(2) == nil {
		t.Error("it took effect")
	}
}

// A learner that is not caught up is not made a voter.
func TestOnlyCaughtUpLearnersBecomeVoters(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.create(1, c.nodes[0])
	m := mover{c, 1}
	leader := c.elect(1)
	c.setCut("n2", true)
	d := m.descriptor()
	if err := c.nodes[1].node.Create(t.Context(), &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: 2, Incarnation: []byte("one"), Empty: true}); err != nil {
		t.Fatal(err)
	}
	m.change(func(d *cellpb.Descriptor) *cellpb.ChangeReplicas {
		return &cellpb.ChangeReplicas{Version: d.GetVersion(), Change: &cellpb.ChangeReplicas_AddLearner{AddLearner: &cellpb.Replica{Id: 2, Node: "n2"}}}
	})
	var got error
	leader.node.ProposeChange(1, &cellpb.ChangeReplicas{Version: m.descriptor().GetVersion(), Change: &cellpb.ChangeReplicas_EnterJoint{
		EnterJoint: &cellpb.EnterJoint{Promote: []uint64{2}, Demote: []uint64{1}},
	}}, func(_ *cellpb.Applied, err error) { got = err })
	c.settle()
	if proto.AsError(got).Code != proto.CodeNotReady || m.descriptor().Joint() {
		t.Errorf("a learner without anything was promoted: %v", got)
	}
}

// run calls what waits for the loop from another goroutine, and steps.
func (c *cluster) run(what string, f func() error) error {
	c.t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	var err error
	c.eventually(what, func() bool {
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	return err
}

// Two of three replicas are lost for ever. The third goes on alone with all it
// ever acknowledged, its log's unapplied tail included, and the lost ones are
// refused when they come back all the same.
func TestARangeIsRecoveredFromOneReplica(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Cell = "c1" })
	c.create(1)
	m := mover{c, 1}
	leader := c.elect(1)
	c.must(leader, 1, "one")
	version := m.descriptor().GetVersion()
	if _, err := leader.node.Recover(t.Context(), 1, version); proto.AsError(err).Code != proto.CodeForbidden {
		t.Errorf("a range with a leader was recovered: %v", err)
	}
	c.equal(1)
	var lost []*testNode
	for _, n := range c.nodes {
		if n != leader {
			c.setCut(n.id, true)
			lost = append(lost, n)
		}
	}
	tail := leader.propose(1, "two") // in the log, not committed
	c.settle()
	c.within(200, "the leader has stepped down", func() bool { return leader.status(1).Leader == "" })
	if _, err := leader.node.Recover(t.Context(), 1, version+1); proto.AsError(err).Code != proto.CodeStaleVersion {
		t.Errorf("recovered for another version: %v", err)
	}
	if err := c.run("recovered", func() error { _, err := leader.node.Recover(t.Context(), 1, version); return err }); err != nil {
		t.Fatal(err)
	}
	if tail.calls != 1 {
		t.Errorf("the proposal in flight was answered %d times", tail.calls)
	}
	d, _ := leader.node.Descriptor(1)
	if len(d.Replicas) != 1 || d.Replicas[0].Id <= 3 || d.GetEpoch() != 3 || d.GetVersion() <= version {
		t.Fatalf("descriptor after the recovery: %v", d)
	}
	c.within(60, "it leads", func() bool { return c.leader(1) == leader })
	c.must(leader, 1, "three")
	if got := leader.list(1); !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("the list is %q", got)
	}
	for _, n := range lost {
		c.setCut(n.id, false)
	}
	for range 60 {
		c.tick()
	}
	if got := leader.list(1); len(got) != 3 || leader.status(1).Err != nil {
		t.Errorf("the lost ones came back and changed it: %q, %v", got, leader.status(1).Err)
	}
	leader.stop()
	leader.start()
	c.within(200, "it leads again", func() bool { return leader.leads[1] })
	c.must(leader, 1, "four")
	for _, n := range lost {
		m.remove(n)
		m.addLearner(n)
	}
	c.eventually("the others follow again", m.caughtUp)
}

// Digests of one index are equal on all replicas, and differ when one stores
// anything else.
func TestDigestsOfOneIndex(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	leader := c.elect(1)
	for i := range 20 {
		c.must(leader, 1, fmt.Sprint(i))
	}
	ask := func() (out []*cellpb.DigestRangeReply, err error) {
		index := leader.status(1).Applied + 10
		out = make([]*cellpb.DigestRangeReply, len(c.nodes))
		return out, c.run("digests", func() (err error) {
			errs := make(chan error)
			for i, n := range c.nodes {
				go func() {
					var err error
					out[i], err = n.node.Digest(t.Context(), 1, index)
					errs <- err
				}()
			}
			for range c.nodes {
				if e := <-errs; e != nil {
					err = e
				}
			}
			return err
		})
	}
	digests := func() (out []uint64) {
		replies, err := ask()
		for proto.CodeOf(err) == proto.CodeNotReady { // the leader was there before another had asked
			replies, err = ask()
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range replies {
			out = append(out, r.GetDigest())
		}
		return out
	}
	if got := digests(); got[0] != got[1] || got[1] != got[2] {
		t.Errorf("digests of equal replicas: %x", got)
	}
	if err := c.nodes[1].state.Set(listKey(1, 3), []byte("another"), nil); err != nil {
		t.Fatal(err)
	}
	if got := digests(); got[0] != got[2] || got[0] == got[1] {
		t.Errorf("digests when n2 differs: %x", got)
	}
	if _, err := leader.node.Digest(t.Context(), 1, 1); proto.AsError(err).Code != proto.CodeNotReady {
		t.Errorf("a digest of what is past: %v", err)
	}
}

// One of three replicas is dropped without another in its place, be it a
// follower or the leader itself, which gives the leadership away first.
func TestAReplicaIsDroppedWithoutAnother(t *testing.T) {
	for _, which := range []string{"follower", "leader"} {
		t.Run(which, func(t *testing.T) {
			c := newCluster(t, 3, nil)
			c.create(1)
			m := mover{c, 1}
			victim := c.elect(1)
			c.must(victim, 1, "one")
			if which == "follower" {
				for _, n := range c.nodes {
					if n != victim {
						victim = n
						break
					}
				}
			}
			m.change(func(d *cellpb.Descriptor) *cellpb.ChangeReplicas {
				return &cellpb.ChangeReplicas{Version: d.GetVersion(), Change: &cellpb.ChangeReplicas_EnterJoint{
					EnterJoint: &cellpb.EnterJoint{Demote: []uint64{d.ReplicaOn(string(victim.id)).GetId()}},
				}}
			})
			c.within(100, "the joint configuration is left", func() bool { return !m.descriptor().Joint() })
			m.dropLearners()
			d := m.descriptor()
			if d.GetEpoch() != 1 || d.ReplicaOn(string(victim.id)) != nil || len(d.Replicas) != 2 {
				t.Errorf("the descriptor is %v", d)
			}
			c.must(c.elect(1), 1, "two")
			if left := victim.leftovers(1); len(left) > 0 {
				t.Errorf("left on %s: %q", victim.id, left)
			}
		})
	}
}

// A range that nobody writes to moves too: a group at rest hears of its
// learners by their nodes, and the change that wakes it must not forget that.
func TestAnIdleRangeMoves(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.create(1, c.nodes[0])
	m := mover{c, 1}
	leader := c.elect(1)
	m.addLearner(c.nodes[1])
	c.eventually("the learner has caught up and the group rests", func() bool { return m.caughtUp() && leader.status(1).Quiet })
	for range 100 { // it rests for long
		c.tick()
	}
	d := m.descriptor()
	var got error
	leader.node.ProposeChange(1, &cellpb.ChangeReplicas{Version: d.GetVersion(), Change: &cellpb.ChangeReplicas_EnterJoint{
		EnterJoint: &cellpb.EnterJoint{Promote: []uint64{2}, Demote: []uint64{1}, NextCell: "c2"},
	}}, func(_ *cellpb.Applied, err error) { got = err })
	c.within(100, "the new cell owns the range", func() bool { return m.settled("c2") })
	if got != nil {
		t.Errorf("the change was refused: %v", got)
	}
}
