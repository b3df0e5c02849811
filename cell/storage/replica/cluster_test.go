package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// cluster is several nodes stepped by the test over an in-memory network and
// crashable file systems: no time passes but ticks.
type cluster struct {
	t     *testing.T
	nodes []*testNode
	tune  func(*Config)

	mu  sync.Mutex // guards the fields below; snapshot streams are goroutines
	cut map[proto.NodeID]bool
	// mangle sees every snapshot chunk on its way.
	mangle func(*cellpb.SnapshotChunk) error
	// sent runs after each batch is delivered, in the middle of the sender's
	// round: before its disk write for what it may send early.
	sent func(from, to *testNode, b *cellpb.RaftBatch)
}

type testNode struct {
	c        *cluster
	id       proto.NodeID
	fs       *vfs.MemFS
	log      *pebble.DB
	state    *pebble.DB
	machines *listMachines
	node     *Node // nil: down
	failed   map[proto.RangeID]error
	leads    map[proto.RangeID]bool
	stepping bool // in the middle of a round
}

func newCluster(t *testing.T, size int, tune func(*Config)) *cluster {
	cryptotest.SetGlobalRandom(t, 1) // Raft's election jitter repeats
	c := &cluster{t: t, tune: tune, cut: map[proto.NodeID]bool{}}
	for i := range size {
		n := &testNode{c: c, id: proto.NodeID(fmt.Sprintf("n%d", i+1)), fs: vfs.NewCrashableMem()}
		c.nodes = append(c.nodes, n)
		n.start()
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
		}
	})
	return c
}

func openDB(t *testing.T, fs vfs.FS, dir string) *pebble.DB {
	db, err := pebble.Open(dir, &pebble.Options{
		FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quietPebble{t}, MemTableSize: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type quietPebble struct{ t *testing.T }

func (quietPebble) Infof(string, ...any)               {}
func (quietPebble) Errorf(string, ...any)              {}
func (q quietPebble) Fatalf(format string, arg ...any) { panic(fmt.Sprintf(format, arg...)) }

func quietLogger() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func (n *testNode) start() {
	n.log, n.state = openDB(n.c.t, n.fs, "log"), openDB(n.c.t, n.fs, "state")
	if n.machines == nil {
		n.machines = &listMachines{}
	}
	n.machines.db = n.state
	n.failed, n.leads = map[proto.RangeID]error{}, map[proto.RangeID]bool{}
	cfg := Config{
		Self: n.id, Log: n.log, State: n.state, Machines: n.machines, Observer: n, Transport: memTransport{n},
		FS: n.fs, SnapshotDir: "snapshots", Logger: quietLogger(), Inline: true,
	}
	if n.c.tune != nil {
		n.c.tune(&cfg)
	}
	node, err := New(cfg)
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.c.mu.Lock()
	n.node = node
	n.c.mu.Unlock()
}

// stop ends the node in order; the disk keeps what was written.
func (n *testNode) stop() {
	n.c.mu.Lock()
	node := n.node
	n.node = nil
	n.c.mu.Unlock()
	if node == nil {
		return
	}
	node.Close()
	if err := errors.Join(n.log.Close(), n.state.Close()); err != nil {
		n.c.t.Error(err)
	}
}

func (n *testNode) LeaderChanged(r proto.RangeID, _ uint64, _ proto.NodeID, leading bool) {
	n.leads[r] = leading
}

func (n *testNode) GrantApplied(proto.RangeID) {}

func (n *testNode) DescriptorChanged(r proto.RangeID, d *cellpb.Descriptor) {}

func (n *testNode) ReplicaFailed(r proto.RangeID, err error) { n.failed[r] = err }

// crashAll takes the power from all nodes at once: what was not synced is
// gone, but for what cfg lets by. Nothing is acknowledged afterwards.
func (c *cluster) crashAll(cfg vfs.CrashCloneCfg) { c.restartFrom(c.disks(cfg)) }

// disks is what a crash at this moment would leave.
func (c *cluster) disks(cfg vfs.CrashCloneCfg) (fs []*vfs.MemFS) {
	for _, n := range c.nodes {
		fs = append(fs, n.fs.CrashClone(cfg))
	}
	return fs
}

func (c *cluster) restartFrom(fs []*vfs.MemFS) {
	for i, n := range c.nodes {
		n.stop()
		n.fs = fs[i]
	}
	for _, n := range c.nodes {
		n.start()
	}
}

type memTransport struct{ from *testNode }

func (tr memTransport) Send(to proto.NodeID, b *cellpb.RaftBatch) bool {
	if peer := tr.from.c.reach(tr.from.id, to); peer != nil {
		if err := peer.Receive(tr.from.id, b); err != nil {
			tr.from.c.t.Error(err)
		}
		if sent := tr.from.c.sent; sent != nil {
			sent(tr.from, tr.from.c.byID(to), b)
		}
	}
	return true
}

func (c *cluster) byID(id proto.NodeID) *testNode {
	i := slices.IndexFunc(c.nodes, func(n *testNode) bool { return n.id == id })
	return c.nodes[i]
}

// step does one round of a node that is not in the middle of one.
func (n *testNode) step(tick bool) (more bool) {
	if n.node == nil || n.stepping {
		return false
	}
	n.stepping = true
	defer func() { n.stepping = false }()
	more, err := n.node.Step(tick)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return more
}

// reach is the node called to, unless it is down or cut off.
func (c *cluster) reach(from, to proto.NodeID) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.id == to && n.node != nil && !c.cut[from] && !c.cut[to] {
			return n.node
		}
	}
	return nil
}

func (c *cluster) setCut(id proto.NodeID, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[id] = cut
}

// memSnapshot joins the two ends of a snapshot stream.
type memSnapshot struct {
	ctx    context.Context
	chunks chan *cellpb.SnapshotChunk
	acks   chan *cellpb.SnapshotAck
	once   sync.Once
	mangle func(*cellpb.SnapshotChunk) error
}

func (tr memTransport) Snapshot(ctx context.Context, to proto.NodeID) (SnapshotStream, error) {
	peer := tr.from.c.reach(tr.from.id, to)
	if peer == nil {
		return nil, errors.New("not reachable")
	}
	s := &memSnapshot{ctx: ctx, chunks: make(chan *cellpb.SnapshotChunk), acks: make(chan *cellpb.SnapshotAck, 1), mangle: tr.from.c.mangle}
	peer.wg.Go(func() {
		_ = peer.HandleSnapshot(memSnapshotEnd{s})
		close(s.acks)
	})
	return s, nil
}

func (s *memSnapshot) Send(chunk *cellpb.SnapshotChunk) error {
	if s.mangle != nil {
		if err := s.mangle(chunk); err != nil {
			return err
		}
	}
	select {
	case s.chunks <- chunk:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	case a, ok := <-s.acks: // the receiver gave up
		if ok {
			s.acks <- a
		}
		return io.EOF
	}
}

func (s *memSnapshot) CloseSend() error {
	s.once.Do(func() { close(s.chunks) })
	return nil
}

func (s *memSnapshot) Recv() (*cellpb.SnapshotAck, error) {
	select {
	case a, ok := <-s.acks:
		if !ok {
			return nil, io.EOF
		}
		return a, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

type memSnapshotEnd struct{ *memSnapshot }

func (e memSnapshotEnd) Context() context.Context { return e.ctx }
func (e memSnapshotEnd) Send(a *cellpb.SnapshotAck) error {
	e.acks <- a
	return nil
}
func (e memSnapshotEnd) Recv() (*cellpb.SnapshotChunk, error) {
	select {
	case chunk, ok := <-e.chunks:
		if !ok {
			return nil, io.EOF
		}
		return chunk, nil
	case <-e.ctx.Done():
		return nil, e.ctx.Err()
	}
}

// settle steps all nodes until none has anything left to do.
func (c *cluster) settle() {
	c.t.Helper()
	for rounds := 0; ; rounds++ {
		more := false
		for _, n := range c.nodes {
			m := n.step(false)
			more = more || m
		}
		for _, n := range c.nodes { // what the later ones sent to the earlier
			more = more || n.node != nil && n.node.inbox.waiting()
		}
		if !more {
			return
		}
		if rounds > 100_000 {
			c.t.Fatal("the nodes never settle")
		}
	}
}

// tick lets one tick pass on every node.
func (c *cluster) tick() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.step(true)
	}
	c.settle()
}

// within lets up to ticks pass until cond holds, and returns how many did.
func (c *cluster) within(ticks int, what string, cond func() bool) int {
	c.t.Helper()
	for i := range ticks {
		if cond() {
			return i
		}
		c.tick()
	}
	if !cond() {
		c.t.Fatalf("not within %d ticks: %s", ticks, what)
	}
	return ticks
}

// eventually ticks until cond holds, for what needs goroutines besides.
func (c *cluster) eventually(what string, cond func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			c.t.Fatalf("never: %s", what)
		}
		c.tick()
		runtime.Gosched()
	}
}

// create makes range r on the given nodes, all of them if none is given.
func (c *cluster) create(r proto.RangeID, nodes ...*testNode) {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.nodes
	}
	d := &cellpb.Descriptor{Range: uint64(r), Cell: "c1", Epoch: 1, NextReplica: uint64(len(nodes) + 1), Version: 1}
	for i, n := range nodes {
		d.Replicas = append(d.Replicas, &cellpb.Replica{Id: uint64(i + 1), Node: string(n.id)})
	}
	for i, n := range nodes {
		req := &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: uint64(i + 1), Incarnation: []byte("one")}
		if err := n.node.Create(c.t.Context(), req); err != nil {
			c.t.Fatal(err)
		}
	}
	c.settle()
}

// leader is the node that leads r and has said so to its Observer.
func (c *cluster) leader(r proto.RangeID) *testNode {
	for _, n := range c.nodes {
		if n.node == nil {
			continue
		}
		if _, _, leading := n.node.Leader(r); leading && n.leads[r] && !c.cut[n.id] {
			return n
		}
	}
	return nil
}

func (c *cluster) elect(r proto.RangeID) *testNode {
	c.t.Helper()
	c.within(60, "a leader", func() bool { return c.leader(r) != nil })
	return c.leader(r)
}

// outcome is what became of a proposal.
type outcome struct {
	text    string
	calls   int
	applied *cellpb.Applied
	err     error
}

func (n *testNode) propose(r proto.RangeID, text string) *outcome {
	o := &outcome{text: text}
	n.node.Propose(r, textEntry(r, text), func(a *cellpb.Applied, err error) {
		o.calls++
		o.applied, o.err = a, err
	})
	return o
}

// must proposes and waits for success.
func (c *cluster) must(n *testNode, r proto.RangeID, text string) {
	c.t.Helper()
	o := n.propose(r, text)
	c.settle()
	if o.calls != 1 || o.err != nil || len(o.applied.GetResults()) != 1 {
		c.t.Fatalf("propose %q: %d calls, %v, %v", text, o.calls, o.applied, o.err)
	}
}

func (n *testNode) list(r proto.RangeID) []string {
	n.c.t.Helper()
	l, err := list(n.state, r)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return l
}

func (n *testNode) status(r proto.RangeID) Status {
	n.c.t.Helper()
	for _, s := range n.node.Status() {
		if s.Descriptor.GetRange() == uint64(r) {
			return s
		}
	}
	n.c.t.Fatalf("%s has no status of range %s", n.id, r)
	return Status{}
}

// equal waits until all running replicas of r hold the same, by list and by
// running hash at the same applied index.
func (c *cluster) equal(r proto.RangeID) {
	c.t.Helper()
	var ups []*testNode
	for _, n := range c.nodes {
		if n.node != nil {
			ups = append(ups, n)
		}
	}
	c.eventually("equal applied indexes", func() bool {
		for _, n := range ups[1:] {
			if n.status(r).Applied != ups[0].status(r).Applied {
				return false
			}
		}
		return true
	})
	for _, n := range ups[1:] {
		if n.status(r).RunningHash != ups[0].status(r).RunningHash {
			c.t.Errorf("running hashes of range %s differ: %s and %s", r, ups[0].id, n.id)
		}
		if !slices.Equal(n.list(r), ups[0].list(r)) {
			c.t.Errorf("range %s differs between %s and %s", r, ups[0].id, n.id)
		}
	}
}
