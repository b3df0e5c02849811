package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/proto/codec"
)

// Node holds all replicas of one storage node.
type Node struct {
	cfg       Config
	inbox     *inbox
	transport Transport
	workers   *workers
	metrics   *metrics
	snapshots *snapshotSender
	receives  *receives
	proposals atomic.Uint64 // the last proposal id

	ctx    context.Context // ends the goroutines that are not the loop's
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once // stop

	// Owned by the loop.
	ticks      uint64
	active     map[proto.RangeID]*group // those that tick
	dirty      []*group
	peers      map[proto.NodeID]*peer
	offers     []quietOffer
	truncating bool
	unsealed   int           // how many empty records the end of the log still needs
	noSpace    error         // as of the last check
	held       []snapshotJob // Inline only: begun when the step ends

	mu       sync.RWMutex // guards the fields below
	groups   map[proto.RangeID]*group
	creating map[proto.RangeID]bool
	broken   map[proto.RangeID]error // replicas that could not be opened
	tombs    map[proto.RangeID]*cellpb.Descriptor
	space    error
}

// Status is one replica as this node knows it.
type Status struct {
	Descriptor  *cellpb.Descriptor // not to be changed
	Replica     proto.ReplicaID
	Leader      proto.NodeID // empty: not known
	Term        uint64
	Applied     uint64
	Committed   uint64
	First       uint64 // the oldest entry its log holds
	LastIndex   uint64 // of its log
	LastTerm    uint64
	RunningHash uint64 // at Applied
	Rules       uint32 // the version its entries are applied by; 0: Empty
	Quiet       bool
	Leading     bool
	Empty       bool          // it waits for its first snapshot
	Pause       time.Duration // how long writes stopped here when the range last changed owner; 0: never
	Err         error         // why the replica has stopped, nil if it runs
}

// New opens every replica on disk. A replica that cannot be opened is
// reported to the Observer and the others go on. Nothing runs before Run;
// a Node that is never run needs Close.
//
// Errors: a bad Config, or a log store that cannot be read.
func New(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	n := &Node{
		cfg:      cfg,
		inbox:    newInbox(cfg.InboxMessagesMax, cfg.InboxBytesMax),
		metrics:  newMetrics(),
		receives: newReceives(cfg.SnapshotReceivesMax),
		active:   map[proto.RangeID]*group{},
		peers:    map[proto.NodeID]*peer{},
		groups:   map[proto.RangeID]*group{},
		creating: map[proto.RangeID]bool{},
		broken:   map[proto.RangeID]error{},
		tombs:    map[proto.RangeID]*cellpb.Descriptor{},
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.workers = newWorkers(cfg.ApplyWorkers)
	if n.transport = cfg.Transport; n.transport == nil {
		n.transport = newStreams(n)
	}
	n.snapshots = newSnapshotSender(n)
	if err := n.openAll(); err != nil {
		n.cancel()
		return nil, err
	}
	if err := n.metrics.register(cfg.Registerer); err != nil {
		n.cancel()
		return nil, fmt.Errorf("replica: %w", err)
	}
	return n, nil
}

func (n *Node) openAll() error {
	ids, err := identities(n.cfg.Log)
	if err != nil {
		return wayOut(err)
	}
	onDisk, err := n.cfg.Machines.Ranges()
	if err != nil {
		return wayOut(err)
	}
	var ranges []proto.RangeID
	for _, r := range onDisk {
		if id, ok := ids[r]; !ok || id.replica == 0 {
			n.refuse(r, fmt.Errorf("replica: range %s has state and no log: the log store was lost: %s", r, engine.WayOut))
		}
	}
	for r, id := range ids {
		switch id.stage {
		case stageCreated, stageEmpty, stageRecovering:
			ranges = append(ranges, r)
		case stageRemoving:
			if err := n.deleteReplica(r, id); err != nil {
				return err
			}
		case stageCreating: // created again by whoever asked
		}
		if err := n.openTombstone(r, id); err != nil {
			return wayOut(err)
		}
	}
	slices.Sort(ranges)
	if err := n.cleanSnapshotDir(ranges); err != nil {
		return err
	}
	for _, r := range ranges {
		g, err := n.openGroup(r, ids[r])
		if err != nil {
			n.refuse(r, err)
			continue
		}
		n.groups[r] = g
		n.adopt(g)
	}
	return nil
}

// wayOut says what to do about a store that is damaged where it lists its
// replicas: without that list nothing can be told from nothing.
func wayOut(err error) error {
	if !pebble.IsCorruptionError(err) {
		return err
	}
	return fmt.Errorf("replica: a store of this node is damaged: %s: %w", engine.WayOut, err)
}

// refuse notes a replica that cannot be opened.
func (n *Node) refuse(r proto.RangeID, err error) {
	n.broken[r] = err
	n.metrics.failed.Inc()
	n.cfg.Logger.Error("replica cannot be opened: it stays stopped", "range", r, "err", err)
	n.cfg.Observer.ReplicaFailed(r, err)
}

// Run works until ctx ends or the log store fails, and returns after its last
// goroutine. What is pending then is told "outcome unknown". nil after ctx.
//
// When Config.Fatal fires, Run returns its error within a second or so and
// leaves a goroutine that hangs in the store behind: the process is to end.
func (n *Node) Run(ctx context.Context) error {
	if n.cfg.Inline {
		return errors.New("replica: an inline node is driven by Step")
	}
	done := make(chan error, 1)
	loopCtx, stopLoop := context.WithCancel(ctx)
	defer stopLoop()
	n.workers.start()
	go func() { done <- n.loop(loopCtx) }()
	select {
	case err := <-done:
		n.Close()
		return err
	case err := <-n.cfg.Fatal:
		stopLoop()
		n.afterFatal(done)
		return fmt.Errorf("replica: node %s can no longer write to its disk: %w", n.cfg.Self, err)
	}
}

// afterFatal ends what can be ended once a store is stuck. If the loop hangs
// in it, what the loop holds stays unanswered: nothing is known of it.
func (n *Node) afterFatal(loop <-chan error) {
	n.cancel()
	select {
	case <-loop:
		n.Close()
		return
	case <-time.After(time.Second):
	}
	n.once.Do(func() { // Close must not wait for what hangs
		w := n.inbox.close()
		for _, p := range w.props {
			p.finish(nil, stopped())
		}
		for _, r := range w.reads {
			r.done(stopped())
		}
		n.mu.RLock()
		groups := slices.Collect(maps.Values(n.groups))
		n.mu.RUnlock()
		for _, g := range groups {
			for _, p := range g.takePending(func(*proposal) bool { return true }) {
				p.finish(nil, stopped())
			}
		}
	})
}

func (n *Node) loop(ctx context.Context) error {
	ticker := time.NewTicker(n.cfg.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			n.tick()
		case <-n.inbox.wake:
		}
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = n.round(); err != nil {
				return err
			}
			select {
			case <-ticker.C: // rounds without a pause must not stop time
				n.tick()
			default:
			}
		}
	}
}

// Step does one round on the caller, after a tick if tick is set, and tells
// whether another round has something to do. Only for Config.Inline.
func (n *Node) Step(tick bool) (more bool, err error) {
	if tick {
		n.tick()
	}
	more, err = n.round()
	held := n.held
	n.held = nil
	for _, job := range held {
		n.startSnapshot(job)
	}
	return more, err
}

// Close ends what Run or New started and tells everyone who waits. Run calls
// it; calling it again does nothing.
func (n *Node) Close() {
	n.once.Do(func() {
		n.cancel()
		n.workers.close()
		if s, ok := n.transport.(*streams); ok {
			s.close()
		}
		n.wg.Wait()
		n.abandon(n.inbox.close())
	})
}

// abandon tells everyone who still waits that the node stops.
func (n *Node) abandon(w work) {
	for _, p := range w.props {
		p.finish(nil, stopped())
	}
	for _, r := range w.reads {
		r.done(stopped())
	}
	n.mu.RLock()
	groups := make([]*group, 0, len(n.groups))
	for _, g := range n.groups {
		groups = append(groups, g)
	}
	n.mu.RUnlock()
	for _, g := range groups {
		g.abandon(stopped())
	}
}

func (n *Node) group(r proto.RangeID) (*group, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if g := n.groups[r]; g != nil {
		return g, nil
	}
	if err := n.broken[r]; err != nil {
		return nil, failedError(r, err)
	}
	return nil, proto.Errorf(proto.CodeNotLeader, "node %s holds no replica of range %s: look the range up again", n.cfg.Self, r)
}

// Propose appends e to the range's log. done is called exactly once, on any
// goroutine, possibly before Propose returns; it must not block and must not
// be called under a lock the caller needs. e.Proposal is set; e is not kept.
//
// With a nil error the entry is synced on a quorum and applied here, and the
// answer is what applying gave. Errors: [proto.CodeNotLeader],
// [proto.CodeOverloaded], [proto.CodeTooBig], [proto.CodeDiskFull] and
// [proto.CodeCorrupt]: certainly not appended; [proto.CodeUnavailable]: the
// outcome is unknown.
func (n *Node) Propose(r proto.RangeID, e *cellpb.Entry, done func(*cellpb.Applied, error)) {
	g, err := n.group(r)
	if err == nil && e.Grant != nil {
		// The leader's own entries are few and small, and without a grant
		// nobody could even read.
		err = n.hasSpace()
	}
	if err != nil {
		done(nil, err)
		return
	}
	p := &proposal{g: g, own: e.Grant == nil, done: done}
	e.Proposal = n.proposals.Add(1)
	if p.data, err = codec.Marshal(e); err != nil {
		done(nil, proto.Errorf(proto.CodeBadRequest, "entry for range %s: %v", r, err))
		return
	}
	if len(p.data) > n.cfg.EntryBytesMax {
		done(nil, proto.Errorf(proto.CodeTooBig, "an entry of %d bytes for range %s is above %d: split it", len(p.data), r, n.cfg.EntryBytesMax))
		return
	}
	if err := g.admit(len(p.data), &n.cfg); err != nil {
		done(nil, err)
		return
	}
	if !n.inbox.propose(p) {
		p.finish(nil, stopped())
	}
}

func (n *Node) hasSpace() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.space
}

// Read calls done(nil) once this node's state of the range holds everything
// acknowledged before the call. done is called exactly once, on any
// goroutine; it must not block.
//
// Errors: [proto.CodeNotLeader] (ask the leader it names),
// [proto.CodeOverloaded], [proto.CodeUnavailable], [proto.CodeCorrupt].
func (n *Node) Read(r proto.RangeID, done func(error)) {
	g, err := n.group(r)
	if err == nil {
		err = g.admitRead(&n.cfg)
	}
	if err != nil {
		done(err)
		return
	}
	once := func(err error) {
		g.mu.Lock()
		g.admittedReads--
		g.mu.Unlock()
		done(err)
	}
	if !n.inbox.read(readRequest{g: g, done: once}) {
		once(stopped())
	}
}

func (g *group) admitRead(cfg *Config) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.pub.failed != nil:
		return failedError(g.rng, g.pub.failed)
	case !g.pub.leading:
		return notLeader(g.rng, g.pub.leader)
	case g.admittedReads >= cfg.ReadsMax:
		return proto.Errorf(proto.CodeOverloaded, "range %s has %d reads waiting: ask again later", g.rng, g.admittedReads)
	}
	g.admittedReads++
	return nil
}

// Leader tells who leads the range as this node knows it.
func (n *Node) Leader(r proto.RangeID) (leader proto.NodeID, term uint64, leading bool) {
	g, err := n.group(r)
	if err != nil {
		return "", 0, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pub.leader, g.pub.term, g.pub.leading
}

// Status reports every replica of this node, by range.
func (n *Node) Status() []Status {
	n.mu.RLock()
	groups := make([]*group, 0, len(n.groups))
	for _, g := range n.groups {
		groups = append(groups, g)
	}
	out := make([]Status, 0, len(groups)+len(n.broken))
	for r, err := range n.broken {
		out = append(out, Status{Descriptor: &cellpb.Descriptor{Range: uint64(r)}, Err: err})
	}
	n.mu.RUnlock()
	for _, g := range groups {
		g.mu.Lock()
		out = append(out, Status{
			Descriptor: g.pub.desc, Replica: proto.ReplicaID(g.id), Leader: g.pub.leader,
			Term: g.pub.term, Applied: g.pub.applied, Committed: max(g.pub.commit, g.pub.applied),
			First: g.pub.first, LastIndex: g.pub.last.index, LastTerm: g.pub.last.term, RunningHash: g.pub.hash, Rules: g.pub.rules, Quiet: g.pub.quiet, Leading: g.pub.leading,
			Empty: g.pub.empty, Pause: g.pub.pause, Err: g.pub.failed,
		})
		g.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Status) int {
		switch {
		case a.Descriptor.GetRange() < b.Descriptor.GetRange():
			return -1
		case a.Descriptor.GetRange() > b.Descriptor.GetRange():
			return 1
		}
		return 0
	})
	return out
}
