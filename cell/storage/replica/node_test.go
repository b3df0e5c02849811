package replica

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		t.Fatal(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}

func wantCode(t *testing.T, o *outcome, code proto.Code) {
	t.Helper()
	if o.calls != 1 || proto.CodeOf(o.err) != code {
		t.Errorf("proposal %q: %d calls, error %v; want one with %s", o.text, o.calls, o.err, code)
	}
}

func TestSingleReplicaProposesAppliesAndRestarts(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	c.create(7)
	if _, _, leading := n.node.Leader(7); !leading {
		t.Fatal("a single voter did not lead at once")
	}
	for i := range 20 {
		c.must(n, 7, fmt.Sprint(i))
	}
	before := n.status(7)
	n.stop()
	n.start()
	c.settle() // no tick passes: the start is fast
	if _, _, leading := n.node.Leader(7); !leading {
		t.Fatal("a single voter did not lead at once after its restart")
	}
	c.must(n, 7, "20")
	got := n.list(7)
	for i := range 21 {
		if len(got) != 21 || got[i] != fmt.Sprint(i) {
			t.Fatalf("list is %v", got)
		}
	}
	if s := n.status(7); s.Term <= before.Term || s.Applied <= before.Applied || s.Err != nil {
		t.Errorf("status went from %+v to %+v", before, s)
	}
}

func TestManyGroupsShareOneSync(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	const groups = 50
	for r := range proto.RangeID(groups) {
		c.create(r)
	}
	before := value(t, n.node.metrics.syncs)
	var out []*outcome
	for r := range proto.RangeID(groups) {
		for i := range 4 {
			out = append(out, n.propose(r, fmt.Sprint(i)))
		}
	}
	c.settle()
	for _, o := range out {
		wantCode(t, o, proto.CodeOK)
	}
	if syncs := value(t, n.node.metrics.syncs) - before; syncs != 1 {
		t.Errorf("%d proposals of %d groups took %v syncs, want 1", len(out), groups, syncs)
	}
}

func TestThreeReplicasSurviveTheirLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	old := c.elect(1)
	for i := range 10 {
		c.must(old, 1, fmt.Sprint(i))
	}
	c.equal(1)
	old.stop()
	// 20 ticks at most of election timeout, once more if votes were split.
	c.within(45, "another leader", func() bool { return c.leader(1) != nil })
	next := c.leader(1)
	c.must(next, 1, "10")
	old.start()
	c.equal(1)
	if got := old.list(1); len(got) != 11 {
		t.Errorf("the old leader came back to %d texts, want 11", len(got))
	}
}

func TestOthersAreRefused(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	leader := c.elect(1)
	c.must(leader, 1, "a")
	for _, n := range c.nodes {
		if n == leader {
			continue
		}
		o := n.propose(1, "b")
		c.settle()
		wantCode(t, o, proto.CodeNotLeader)
		if want := fmt.Sprintf("range 1 is led by node %s: go there", leader.id); o.err.Error() != want {
			t.Errorf("refusal says %q, want %q", o.err, want)
		}
		var read error
		n.node.Read(1, func(err error) { read = err })
		c.settle()
		if proto.CodeOf(read) != proto.CodeNotLeader {
			t.Errorf("read at a follower: %v", read)
		}
	}
	o := leader.propose(99, "x")
	wantCode(t, o, proto.CodeNotLeader)
	c.equal(1)
	if got := leader.list(1); len(got) != 1 {
		t.Errorf("list is %v", got)
	}
}

func TestLimitsOfPendingProposals(t *testing.T) {
	c := newCluster(t, 1, func(cfg *Config) { cfg.ProposalsMax, cfg.EntryBytesMax = 3, 1000 })
	n := c.nodes[0]
	c.create(1)
	var out []*outcome
	for i := range 5 {
		out = append(out, n.propose(1, fmt.Sprint(i)))
	}
	out = append(out, n.propose(1, string(make([]byte, 2000))))
	c.settle()
	for i, code := range []proto.Code{0, 0, 0, proto.CodeOverloaded, proto.CodeOverloaded, proto.CodeTooBig} {
		wantCode(t, out[i], code)
	}
	c.must(n, 1, "again") // the places were given back
}

func TestLostLeadershipReportsAnUnknownOutcome(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	old := c.elect(1)
	c.must(old, 1, "a")
	c.setCut(old.id, true)
	o := old.propose(1, "lost")
	var read error
	reads := 0
	old.node.Read(1, func(err error) { reads++; read = err })
	c.settle()
	if o.calls != 0 || reads != 0 {
		t.Fatal("answered without a quorum")
	}
	c.within(80, "an answer", func() bool { return o.calls > 0 && reads > 0 })
	wantCode(t, o, proto.CodeUnavailable)
	if proto.CodeOf(read) != proto.CodeNotLeader {
		t.Errorf("read without a quorum: %v", read)
	}
	next := c.elect(1)
	c.must(next, 1, "b")
	c.setCut(old.id, false)
	c.equal(1)
	if o.calls != 1 {
		t.Errorf("done was called %d times", o.calls)
	}
}

func TestProposalOfAFormerLeaderThatIsCommittedSucceeds(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	old := c.elect(1)
	c.must(old, 1, "a")
	// The entry reaches the followers; no answer reaches the leader.
	o := old.propose(1, "b")
	if _, err := old.node.Step(false); err != nil {
		t.Fatal(err)
	}
	c.setCut(old.id, true)
	c.elect(1)
	c.setCut(old.id, false)
	c.within(60, "an answer", func() bool { return o.calls > 0 })
	wantCode(t, o, proto.CodeOK)
	c.equal(1)
}

func TestReadsSeeWhatWasAcknowledged(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	leader := c.elect(1)
	acked, seen := 0, -1
	for i := range 5 {
		leader.node.Propose(1, textEntry(1, fmt.Sprint(i)), func(_ *cellpb.Applied, err error) {
			if err == nil {
				acked++
			}
		})
	}
	c.settle()
	for range 3 {
		leader.node.Read(1, func(err error) {
			if err != nil {
				t.Error(err)
			}
			l, err := list(leader.state, 1)
			if err != nil {
				t.Error(err)
			}
			seen = len(l)
		})
	}
	c.settle()
	if acked != 5 || seen != 5 {
		t.Errorf("%d acknowledged, a read saw %d, want 5 and 5", acked, seen)
	}
}

// A single voter's commit index is not synced with the last entries; a read
// right after its restart must still see them.
func TestReadOfARestartedSingleVoterWaitsForItsOwnTerm(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	c.create(1)
	for i := range 8 {
		c.must(n, 1, fmt.Sprint(i))
	}
	c.crashAll(vfs.CrashCloneCfg{})
	read, saw := 0, 0
	step := func() {
		if _, err := n.node.Step(false); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; read == 0 && i < 100; i++ {
		n.node.Read(1, func(err error) {
			if err == nil && read == 0 {
				read++
				l, _ := list(n.state, 1)
				saw = len(l)
			}
		})
		step()
	}
	if read == 0 || saw != 8 {
		t.Errorf("after the crash the first read (%d) saw %d texts, want 8", read, saw)
	}
}

func TestCreateIsIdempotentAndRefusesOthers(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	c.create(3)
	c.must(n, 3, "kept")
	request := func(replica uint64, incarnation, node string) *cellpb.CreateReplicaRequest {
		return &cellpb.CreateReplicaRequest{
			Descriptor_: &cellpb.Descriptor{Range: 3, Epoch: 1, Replicas: []*cellpb.Replica{{Id: replica, Node: node}}},
			Replica:     replica, Incarnation: []byte(incarnation),
		}
	}
	for _, tc := range []struct {
		name string
		req  *cellpb.CreateReplicaRequest
		code proto.Code
	}{
		{"the same again", request(1, "one", "n1"), proto.CodeOK},
		{"another incarnation", request(1, "two", "n1"), proto.CodeForbidden},
		{"a higher replica id", request(2, "one", "n1"), proto.CodeNotReady},
		{"replica id 0", request(0, "one", "n1"), proto.CodeBadRequest},
		{"another node's replica", request(1, "one", "n2"), proto.CodeBadRequest},
	} {
		if err := n.node.Create(t.Context(), tc.req); proto.CodeOf(err) != tc.code {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
		}
	}
	if err := (identity{tombstone: 5}).allows(3, request(4, "one", "n1")); proto.CodeOf(err) != proto.CodeForbidden {
		t.Errorf("below the tombstone: %v", err)
	}
	if err := (identity{replica: 4, incarnation: []byte("one")}).allows(3, request(3, "one", "n1")); proto.CodeOf(err) != proto.CodeForbidden {
		t.Errorf("below the held replica: %v", err)
	}
	if got := n.list(3); len(got) != 1 {
		t.Errorf("list is %v", got)
	}
}

// A replica that forgot its votes or its state must not come back.
func TestALostHalfIsNotOpened(t *testing.T) {
	for _, half := range []string{"log", "state"} {
		t.Run(half, func(t *testing.T) {
			c := newCluster(t, 1, nil)
			n := c.nodes[0]
			c.create(3)
			c.must(n, 3, "a")
			n.stop()
			if err := n.fs.RemoveAll(half); err != nil {
				t.Fatal(err)
			}
			n.start()
			c.settle()
			if n.failed[3] == nil {
				t.Fatal("the replica was opened")
			}
			o := n.propose(3, "b")
			if o.calls != 1 || o.err == nil {
				t.Errorf("proposal to it: %v", o.err)
			}
			err := n.node.Create(t.Context(), &cellpb.CreateReplicaRequest{
				Descriptor_: &cellpb.Descriptor{Range: 3, Replicas: []*cellpb.Replica{{Id: 1, Node: "n1"}}},
				Replica:     1, Incarnation: []byte("one"),
			})
			if err == nil {
				t.Error("it was created again under the same id")
			}
		})
	}
}

func TestAFailedMachineStopsItsReplicaOnly(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	broken := false
	n.machines.failing = func(r proto.RangeID) error {
		if broken && r == 1 {
			return fmt.Errorf("block 7: %w", pebble.ErrCorruption)
		}
		return nil
	}
	c.create(1)
	c.create(2)
	c.must(n, 2, "a")
	broken = true
	n.stop()
	n.start() // machines take the hook when opened
	c.settle()
	if !errors.Is(n.failed[1], pebble.ErrCorruption) {
		t.Fatalf("the observer was told %v", n.failed[1])
	}
	wantCode(t, n.propose(1, "x"), proto.CodeCorrupt)
	if s := n.status(1); s.Err == nil || s.Leading {
		t.Errorf("status of the failed replica: %+v", s)
	}
	c.must(n, 2, "b")
}

func TestADamagedLogStopsItsReplicaOnly(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	c.create(1)
	c.create(2)
	for i := range 5 {
		c.must(n, 1, fmt.Sprint(i))
	}
	n.stop()
	db := openDB(t, n.fs, "log")
	if err := errors.Join(db.Delete(entryKey(1, 2), pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	sdb := openDB(t, n.fs, "state") // as if the state had lost its tail
	m, err := (&listMachines{db: sdb}).Open(1)
	if err != nil {
		t.Fatal(err)
	}
	lm := m.(*listMachine)
	lm.next, lm.batch = &cellpb.RangeState{AppliedIndex: 1, AppliedTerm: 1}, sdb.NewBatch()
	if err := errors.Join(lm.Commit(), sdb.Close()); err != nil {
		t.Fatal(err)
	}
	n.start()
	c.settle()
	if !errors.Is(n.failed[1], pebble.ErrCorruption) {
		t.Fatalf("the observer was told %v", n.failed[1])
	}
	c.must(n, 2, "b")
}

func TestFullDiskRefusesProposals(t *testing.T) {
	var full error
	c := newCluster(t, 1, func(cfg *Config) { cfg.Space = func() error { return full } })
	n := c.nodes[0]
	c.create(1)
	c.must(n, 1, "a")
	full = proto.Errorf(proto.CodeDiskFull, "the disk is full")
	c.within(30, "refusal", func() bool { return n.node.hasSpace() != nil })
	wantCode(t, n.propose(1, "b"), proto.CodeDiskFull)
	full = nil
	c.within(30, "space again", func() bool { return n.node.hasSpace() == nil })
	c.must(n, 1, "c")
}

// A leader whose disk is full gives its ranges to those who have room, those
// at rest too, and does not get them back.
func TestFullDiskHandsLeadershipOver(t *testing.T) {
	full := map[proto.NodeID]bool{}
	c := newCluster(t, 3, func(cfg *Config) {
		self := cfg.Self
		cfg.Space = func() error {
			if full[self] {
				return proto.Errorf(proto.CodeDiskFull, "the disk is full")
			}
			return nil
		}
	})
	led := map[*testNode][]proto.RangeID{}
	for r := proto.RangeID(1); r <= 5; r++ {
		c.create(r)
		leader := c.elect(r)
		c.must(leader, r, "a")
		led[leader] = append(led[leader], r)
	}
	busiest := c.nodes[0]
	for n, ranges := range led {
		if len(ranges) > len(led[busiest]) {
			busiest = n
		}
	}
	c.within(300, "rest", func() bool { return busiest.node.quietCount() == 5 })
	full[busiest.id] = true
	for _, r := range led[busiest] {
		var next *testNode
		c.within(60, "another leads", func() bool {
			next = c.leader(r)
			return next != nil && next != busiest
		})
		c.must(next, r, "b")
	}
}

func TestMetricsRegister(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := newCluster(t, 1, func(cfg *Config) { cfg.Registerer = reg })
	c.create(1)
	c.must(c.nodes[0], 1, "a")
	if got := value(t, c.nodes[0].node.metrics.proposals); got != 1 {
		t.Errorf("proposals counted: %v", got)
	}
	families, err := reg.Gather()
	if err != nil || len(families) < 15 {
		t.Errorf("%d families, %v", len(families), err)
	}
}

// A leader that stops itself while its followers rest must not leave them
// resting: its node lives on, so nothing else would wake them.
func TestALeaderThatFailsWakesItsFollowers(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	old := c.elect(1)
	c.must(old, 1, "a")
	c.within(120, "quiet", func() bool { return c.allQuiet(1) })
	old.node.inbox.call(func() { old.node.fail(old.node.groups[1], errors.New("planted")) })
	c.within(60, "another leader", func() bool { l := c.leader(1); return l != nil && l != old })
	c.must(c.leader(1), 1, "b")
}

func TestIdleReplicasAreSmall(t *testing.T) {
	const groups = 1000
	c := newCluster(t, 1, nil)
	measure := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	c.create(groups + 1)
	before := measure()
	for r := range proto.RangeID(groups) {
		c.create(r)
	}
	c.within(60, "quiet", func() bool { return c.allQuiet(groups + 1) })
	if per := (int64(measure()) - int64(before)) / groups; per > 20<<10 {
		t.Errorf("an idle replica takes %d bytes, want at most 20 KiB", per)
	} else {
		t.Logf("an idle replica takes %d bytes", per)
	}
}

func BenchmarkTickOfIdleReplicas(b *testing.B) {
	fs := vfs.NewMem()
	open := func(dir string) *pebble.DB {
		db, err := pebble.Open(dir, &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quietPebble{}})
		if err != nil {
			b.Fatal(err)
		}
		return db
	}
	log, state := open("log"), open("state")
	defer log.Close()
	defer state.Close()
	node, err := New(Config{
		Self: "n1", Log: log, State: state, Machines: &listMachines{db: state}, Transport: nowhere{},
		Logger: quietLogger(), Inline: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer node.Close()
	const groups = 1000
	for r := range uint64(groups) {
		d := &cellpb.Descriptor{Range: r, Replicas: []*cellpb.Replica{{Id: 1, Node: "n1"}}}
		if err := node.Create(b.Context(), &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: 1}); err != nil {
			b.Fatal(err)
		}
	}
	for node.quietCount() < groups {
		if _, err := node.Step(true); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for range b.N {
		if _, err := node.Step(true); err != nil {
			b.Fatal(err)
		}
	}
}

// A lone voter on a real disk with 512 proposals in flight of 4 ranges.
func BenchmarkPropose(b *testing.B) {
	open := func(dir string) *pebble.DB {
		db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: quietPebble{}})
		if err != nil {
			b.Fatal(err)
		}
		return db
	}
	log, state := open(b.TempDir()), open(b.TempDir())
	defer log.Close()
	defer state.Close()
	node, err := New(Config{
		Self: "n1", Log: log, State: state, Machines: &listMachines{db: state}, Transport: nowhere{}, Logger: quietLogger(),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for r := range uint64(4) {
		d := &cellpb.Descriptor{Range: r, Replicas: []*cellpb.Replica{{Id: 1, Node: "n1"}}}
		if err := node.Create(ctx, &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: 1}); err != nil {
			b.Fatal(err)
		}
	}
	for _, _, leading := node.Leader(3); !leading; _, _, leading = node.Leader(3) {
		runtime.Gosched()
	}
	text := string(make([]byte, 300))
	slots := make(chan struct{}, 512)
	b.ResetTimer()
	for i := range b.N {
		slots <- struct{}{}
		r := proto.RangeID(i % 4)
		node.Propose(r, textEntry(r, text), func(_ *cellpb.Applied, err error) {
			if err != nil {
				b.Error(err)
			}
			<-slots
		})
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
}
