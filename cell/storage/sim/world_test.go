package sim

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/xxh3"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/cell/storage/replica"
	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// The scale of time. A moment is one step of one node.
const (
	momentsPerTick = 12    // of each node
	electionTicks  = 10    // replica.Config's default
	settleTicks    = 6_000 // after the faults: five minutes at 50 ms a tick (I12)
	startMs        = 1_700_000_000_000
	firstEpoch     = 3 // so that there are earlier ones to be stale
)

// options is what a run is besides its seed.
type options struct {
	seed          uint64
	nodes, ranges int
	ticks         int // under faults
	fault         fault
	keepTrace     bool
	fair          bool // nothing goes wrong
	moves         bool // ranges move between two cells of cellNodes nodes
	replicas      int  // of a range that moves
	// rules is the newest rules version of a node that starts now; nil: this
	// release's.
	rules func(n *node) uint32
	// settled looks at the world when it has come to rest.
	settled func(w *world)
}

// world is one run.
type world struct {
	t      *testing.T
	opt    options
	rng    *rand.Rand
	nodes  []*node
	ranges []proto.RangeID
	net    network
	hosts  map[proto.RangeID][]*host // the newest last; the older ones are stale
	late   []lateEntry
	people []*device
	rec    *history.Recorder
	judge  *judge
	moment int
	calm   bool // no faults any more
	healed int  // moment
	weather
	trace trace
	ids   uint64
	mover *mover // nil: nothing moves

	mu        sync.Mutex // guards the fields below; Raft's callbacks and streams
	completed []completion
}

// completion is an answer of Raft to the asking of that number.
type completion struct {
	number uint64
	f      func()
}

// weather is what goes wrong just now.
type weather struct {
	loss, dup, slow int // percent of messages
}

// node is a machine: its disks outlive its process.
type node struct {
	w      *world
	index  int
	id     proto.NodeID
	cell   proto.CellID
	fs     *vfs.MemFS
	log    *pebble.DB
	state  *pebble.DB
	rep    *replica.Node // nil: down
	life   int           // of its process
	rules  uint32        // the newest that its program applies by
	grants []pendingGrant
	skewMs int64
	// granting is the term in which it has granted the ranges that it leads.
	granting map[proto.RangeID]uint64

	nextTick, stalledUntil, downUntil int // moments

	foreseen map[proto.RangeID][]*cellpb.Entry // proposed and open; only for the fault ackBeforeCommit

	cutAt   int        // sends until the power goes in the middle of a round; 0: not planned
	cutDisk *vfs.MemFS // what was on disk at that moment
	streams sync.WaitGroup
}

// pendingGrant has a leader make a host; term 0: if it leads, its cell owns
// the range and there is none yet.
type pendingGrant struct {
	rng  proto.RangeID
	term uint64
}

type quietPebble struct{}

func (quietPebble) Infof(string, ...any)             {}
func (quietPebble) Errorf(string, ...any)            {}
func (quietPebble) Fatalf(format string, arg ...any) { panic(fmt.Sprintf(format, arg...)) }

// simulate runs one seed and returns what is wrong with it.
func simulate(t *testing.T, opt options) (bad []string, tr trace) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, opt.seed) // Raft's election jitter repeats
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, opt)
		defer w.close()
		w.run()
		bad, tr = w.judge.found, w.trace
	})
	return bad, tr
}

func newWorld(t *testing.T, opt options) *world {
	w := &world{
		t: t, opt: opt, rng: rand.New(rand.NewPCG(opt.seed, 7)), hosts: map[proto.RangeID][]*host{},
		rec: history.NewRecorder(), judge: newJudge(), calm: true,
	}
	w.trace.keep = opt.keepTrace
	w.judge.rec = w.rec
	for i := range opt.nodes {
		cell := proto.CellID("c1")
		if opt.moves && i >= cellNodes {
			cell = "c2"
		}
		w.nodes = append(w.nodes, &node{w: w, index: i, id: proto.NodeID(fmt.Sprintf("n%d", i+1)), cell: cell, fs: vfs.NewCrashableMem()})
	}
	if opt.moves {
		w.mover = newMover(w)
	}
	for _, n := range w.nodes {
		n.start()
	}
	for i := range opt.ranges {
		w.create(proto.RangeID(i + 1))
	}
	if opt.fault.noSync {
		// What is created is synced; what follows is not.
		for _, n := range w.nodes {
			n.stop()
			n.start()
		}
	}
	return w
}

func (w *world) close() {
	for _, n := range w.nodes {
		n.stop()
	}
}

// create makes a range on the nodes of its home.
func (w *world) create(r proto.RangeID) {
	w.ranges = append(w.ranges, r)
	on := w.home(r)
	d := &cellpb.Descriptor{Range: uint64(r), Cell: string(on[0].cell), Epoch: firstEpoch, NextReplica: uint64(len(on) + 1), Version: 1}
	for i, n := range on {
		d.Replicas = append(d.Replicas, &cellpb.Replica{Id: uint64(i + 1), Node: string(n.id)})
	}
	w.judge.begin(d)
	for i, n := range on {
		req := &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: uint64(i + 1), Incarnation: fmt.Appendf(nil, "incarnation-%04d", r)}
		if err := n.rep.Create(w.t.Context(), req); err != nil {
			w.t.Fatal(err)
		}
	}
}

// home is where a range is created: on three nodes, or where it may move, on
// some of one cell.
func (w *world) home(r proto.RangeID) []*node {
	first, among, count := 0, len(w.nodes), 3
	if w.opt.moves {
		first, among, count = int(r)%2*cellNodes, cellNodes, w.opt.replicas
	}
	var out []*node
	for i := range count {
		out = append(out, w.nodes[first+(int(r)+i)%among])
	}
	return out
}

// holders are the nodes of a range by its newest descriptor.
func (w *world) holders(r proto.RangeID) []*node {
	var out []*node
	for _, have := range w.judge.owns[r].newest.GetReplicas() {
		out = append(out, w.byID(proto.NodeID(have.Node)))
	}
	return out
}

func openDB(w *world, fs vfs.FS, dir string) *pebble.DB {
	// Flushes and compactions run when the simulation says so.
	db, err := pebble.Open(dir, &pebble.Options{
		FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: quietPebble{}, MemTableSize: 64 << 20,
		DisableAutomaticCompactions: true, MemTableStopWritesThreshold: 8, L0StopWritesThreshold: 1000,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return db
}

func (n *node) start() {
	n.log, n.state = openDB(n.w, n.fs, "log"), openDB(n.w, n.fs, "state")
	n.life++
	n.rules = proto.RulesVersion
	if n.w.opt.rules != nil {
		n.rules = n.w.opt.rules(n)
	}
	cfg := replica.Config{
		Self: n.id, Log: n.log, State: n.state, Machines: machines{n}, Observer: observer{n, n.life}, Transport: transport{n, n.life},
		FS: n.fs, SnapshotDir: "snapshots", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Inline: true, Rules: n.rules,
		TruncateTicks: 5, LogKeepBytes: 4 << 10, SnapshotBytesSec: 1 << 30,
	}
	if n.w.opt.fault.noSync && n.life > 1 {
		cfg.SyncWrites = pebble.NoSync
	}
	rep, err := replica.New(cfg)
	if err != nil {
		n.w.t.Fatalf("seed %d: node %s cannot start: %v", n.w.opt.seed, n.id, err)
	}
	n.rep, n.nextTick, n.cutDisk, n.cutAt, n.foreseen = rep, n.w.moment, nil, 0, nil
	n.granting = map[proto.RangeID]uint64{}
}

// stop ends the process in order; the disk keeps what was written.
func (n *node) stop() {
	if n.rep == nil {
		return
	}
	rep := n.rep
	n.rep, n.grants = nil, nil
	n.life++ // nothing it still says counts
	rep.Close()
	n.streams.Wait()
	if err := errors.Join(n.log.Close(), n.state.Close()); err != nil {
		n.w.t.Error(err)
	}
}

// crash takes the power (disk is what was synced) or kills the process.
func (n *node) crash(disk *vfs.MemFS, ticks int) {
	if n.rep == nil {
		return
	}
	n.stop()
	n.fs = disk
	n.downUntil = n.w.moment + ticks*momentsPerTick*len(n.w.nodes)
}

func (n *node) synced() *vfs.MemFS { return n.fs.CrashClone(vfs.CrashCloneCfg{}) }

// step does one round, in the middle of which the power may go.
func (n *node) step(tick bool) {
	if _, err := n.rep.Step(tick); err != nil {
		n.w.t.Fatal(err)
	}
	if n.cutDisk != nil {
		n.w.note("power", n.index)
		n.crash(n.cutDisk, n.w.rng.IntN(40))
		return
	}
	grants := n.grants
	n.grants = nil
	for _, g := range grants {
		if g.term == 0 {
			_, term, leading := n.rep.Leader(g.rng)
			if !leading || n.granting[g.rng] == term {
				continue
			}
			g.term = term
		}
		n.w.grant(n, g.rng, g.term, 1)
	}
	if n.w.opt.fault.readyEarly {
		n.forgeReady()
	}
	if n.w.opt.fault.raiseAnyway {
		n.raiseAnyway()
	}
}

// next lets one moment pass.
func (w *world) next() {
	w.moment++
	w.net.deliver(w)
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch {
	case n.rep == nil && w.moment >= n.downUntil:
		w.note("start", n.index)
		n.start()
	case n.rep == nil || w.moment < n.stalledUntil:
	default:
		tick := w.moment >= n.nextTick
		if tick {
			n.nextTick += momentsPerTick * len(w.nodes)
			if n.nextTick < w.moment {
				n.nextTick = w.moment
			}
		}
		n.step(tick)
	}
	w.rest() // whoever waits for what the step did has heard of it
	w.takeStreams()
	w.complete()
}

// rest lets every goroutine go on until it waits, in the bubble's time.
func (w *world) rest() { time.Sleep(time.Millisecond) }

// complete runs what callbacks left, in the order of asking.
func (w *world) complete() {
	for {
		w.mu.Lock()
		todo := w.completed
		w.completed = nil
		w.mu.Unlock()
		if len(todo) == 0 {
			return
		}
		// Raft gives up many at once in any order.
		slices.SortStableFunc(todo, func(a, b completion) int { return cmp.Compare(a.number, b.number) })
		for _, c := range todo {
			c.f()
		}
		w.rest() // all that follows from it is there before it is sorted
	}
}

// later runs f on the simulation's goroutine. For callbacks.
func (w *world) later(number uint64, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.completed = append(w.completed, completion{number, f})
}

func (w *world) nowMs() int64 { return startMs + int64(w.moment)*50/int64(momentsPerTick*len(w.nodes)) }

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) run() {
	w.populate()
	w.calm = false
	end := w.moment + w.opt.ticks*momentsPerTick*len(w.nodes)
	for w.moment < end && len(w.judge.found) == 0 {
		if !w.opt.fair {
			w.disturb()
		}
		w.live()
		w.mover.tend()
		w.next()
	}
	w.heal()
	w.settle()
	if w.opt.settled != nil && len(w.judge.found) == 0 {
		w.opt.settled(w)
	}
	if len(w.judge.found) == 0 {
		w.inspect()
	}
}

// observer is told what becomes of a node's replicas, in the middle of a step.
type observer struct {
	n    *node
	life int
}

func (o observer) LeaderChanged(r proto.RangeID, term uint64, _ proto.NodeID, leading bool) {
	if !leading || o.life != o.n.life {
		return
	}
	o.n.w.judge.leads(r, term, o.n)
	o.n.grants = append(o.n.grants, pendingGrant{r, term})
}

func (o observer) GrantApplied(proto.RangeID) {}

func (o observer) DescriptorChanged(r proto.RangeID, d *cellpb.Descriptor) {
	if o.life != o.n.life {
		return
	}
	o.n.grants = append(o.n.grants, pendingGrant{rng: r})
	o.n.w.rec.Owner(history.Owner{
		Observer: fmt.Sprintf("%s.%d", o.n.id, o.life), Range: r, Epoch: proto.Epoch(d.GetEpoch()), Cell: proto.CellID(d.GetCell()),
	})
}

func (o observer) ReplicaFailed(r proto.RangeID, err error) {
	o.n.w.judge.violate("replica of range %s on %s has stopped itself: %v", r, o.n.id, err)
}

// machines are the real ones, watched, with the planted fault between.
type machines struct{ n *node }

func (m machines) wrap(r proto.RangeID, inner *state.Machine, err error) (replica.Machine, error) {
	if err != nil {
		return nil, err
	}
	var planted replica.Machine = inner
	if plant := m.n.w.opt.fault.machine; plant != nil {
		planted = plant(m.n, r, inner)
	}
	m.n.w.judge.reached(m.n, r, inner.Descriptor())
	return &watched{Machine: planted, n: m.n, rng: r, rules: inner.State().GetRules()}, nil
}

func (m machines) Open(r proto.RangeID) (replica.Machine, error) {
	if before := m.n.w.opt.fault.beforeOpen; before != nil {
		before(m.n, r)
	}
	inner, err := state.UpTo(m.n.rules).Open(m.n.state, r)
	return m.wrap(r, inner, err)
}

func (m machines) Create(d *cellpb.Descriptor, incarnation []byte, rules uint32) (replica.Machine, error) {
	inner, err := state.UpTo(m.n.rules).Create(m.n.state, d, incarnation, rules)
	return m.wrap(proto.RangeID(d.GetRange()), inner, err)
}

func (m machines) Ranges() ([]proto.RangeID, error) { return state.Ranges(m.n.state) }

// leader is the node that leads r as far as it knows itself.
func (w *world) leader(r proto.RangeID) *node {
	var best *node
	var bestTerm uint64
	for _, n := range w.nodes {
		if n.rep == nil {
			continue
		}
		if _, term, leading := n.rep.Leader(r); leading && term > bestTerm {
			best, bestTerm = n, term
		}
	}
	return best
}

// status is what a node says of its replica: an empty one if it has none.
func (n *node) status(r proto.RangeID) replica.Status {
	for _, s := range n.rep.Status() {
		if s.Descriptor.GetRange() == uint64(r) {
			return s
		}
	}
	return replica.Status{Empty: true}
}

// digest is the hash of every key and value of a range.
func (n *node) digest(r proto.RangeID) uint64 {
	h := xxh3.New()
	for _, span := range engine.Spans(r) {
		eachRow(n.w.t, n.state, span, func(k, v []byte) {
			fmt.Fprintf(h, "%d.%d.", len(k), len(v))
			_, _ = h.Write(k)
			_, _ = h.Write(v)
		})
	}
	return h.Sum64()
}

func eachRow(t *testing.T, db *pebble.DB, span engine.Span, visit func(k, v []byte)) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		visit(it.Key(), it.Value())
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		t.Fatal(err)
	}
}

// trace is what a run did, as one hash, and as one per event if kept.
type trace struct {
	hash        uint64
	events      int
	keep        bool
	settleTicks int // from the last fault to everything settled
	each        []string
	counts      map[string]int // by kind: a run in which nothing happens proves nothing
}

func (w *world) note(what string, args ...any) {
	text := fmt.Sprint(w.moment, what, args)
	w.trace.hash = xxh3.HashStringSeed(text, w.trace.hash)
	w.trace.events++
	w.count(what)
	if w.trace.keep {
		w.trace.each = append(w.trace.each, text)
	}
}

func (w *world) count(what string) {
	if w.trace.counts == nil {
		w.trace.counts = map[string]int{}
	}
	w.trace.counts[what]++
}

func pick[T any](w *world, from []T) T { return from[w.rng.IntN(len(from))] }
