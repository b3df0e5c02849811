package mover

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/planner"
	"github.com/waggle-im/waggle/controlplane/topology/seat"
	waggle "github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

const (
	// The pause between two rounds: while a range is about to change owner,
	// while one is copied, and while nothing is to be done.
	switchInterval = 50 * time.Millisecond
	copyInterval   = 250 * time.Millisecond
	idleInterval   = time.Second
	// lookWait is how long a round waits for answers; later ones count in the
	// next.
	lookWait = 150 * time.Millisecond
	// answerAge is how long an answer of a node is believed.
	answerAge = 2 * time.Second
	// retryMin and retryMax bound the pause after an effect that failed.
	retryMin = 100 * time.Millisecond
	retryMax = 2 * time.Second
	// waitInterval is how often what a move waits for is written anew, when
	// nothing else changes.
	waitInterval = time.Second
	// copiesPerCell is how many ranges of a cell are copied at a time.
	copiesPerCell = 2
	// callsAtOnce bounds the calls to nodes under way.
	callsAtOnce = 32
	// lookTimeout and effectTimeout bound one call.
	lookTimeout   = time.Second
	effectTimeout = 5 * time.Second
	// LostAfterDefault is how long a node must be silent to be given up.
	LostAfterDefault = 10 * time.Minute
)

// Cluster is what the mover needs of controlclient.Client.
type Cluster interface {
	View() *controlclient.View
	Changed() <-chan struct{}
	Etcd() *clientv3.Client
}

// Config is what a [Mover] works with.
type Config struct {
	Cluster Cluster
	Nodes   Nodes
	Logger  *slog.Logger
	// LostAfter is how long a node must be silent to be given up; default
	// LostAfterDefault.
	LostAfter time.Duration
	// CareInterval is the pause between two looks at what is to be drained or
	// repaired; default 5 s.
	CareInterval time.Duration
	// Now and Timer are the clock; default time.Now and time.NewTimer. How old
	// an answer of a node is goes by the clock on the wall.
	Now   func() time.Time
	Timer func(time.Duration) *time.Timer
}

// Mover carries out moves while its control plane is elected.
type Mover struct {
	Config
	log    *slog.Logger
	stored func(*controlpb.MoveRecord) // for tests: after a step is stored, before it is done
}

// New makes a mover. It starts nothing.
func New(c Config) *Mover {
	if c.LostAfter == 0 {
		c.LostAfter = LostAfterDefault
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Timer == nil {
		c.Timer = time.NewTimer
	}
	return &Mover{Config: c, log: c.Logger}
}

// term is the mover during one time of being elected.
type term struct {
	*Mover
	seat    *seat.Seat
	entries map[string]*entry
	asked   map[waggle.NodeID]*asked
	newest  map[waggle.RangeID]*cellpb.Descriptor
	silent  map[waggle.NodeID]time.Time // since when
	calls   *semaphore.Weighted
	answers chan answer
	results chan result
	wg      sync.WaitGroup // of the calls
}

// entry is one move as this mover has stored it.
type entry struct {
	rec      *controlpb.MoveRecord
	revision int64 // of etcd, at which rec was true
	doing    int   // effects under way
	failure  string
	removed  []waggle.ReplicaID // as their nodes said since rec was written
	retry    time.Duration      // the pause after the next failure
	notAgain time.Time          // when effects may be tried again
	written  time.Time          // when rec was written last
	looked   time.Time
}

// result is what became of an effect.
type result struct {
	move   string
	effect move.Effect
	err    error
}

// Serve carries out moves until ctx ends. It is for topology.Keeper.Beside.
func (m *Mover) Serve(ctx context.Context, st *seat.Seat) error {
	t := m.begin(st)
	ctx, cancel := context.WithCancel(ctx)
	defer t.wg.Wait()
	defer cancel()
	for ctx.Err() == nil {
		changed := m.Cluster.Changed()
		wait := t.Timer(t.round(ctx))
		select {
		case <-changed:
		case r := <-t.results:
			t.finish(r)
		case a := <-t.answers:
			t.take(a)
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
	return nil
}

// begin makes a term.
func (m *Mover) begin(st *seat.Seat) *term {
	return &term{
		Mover: m, seat: st, entries: map[string]*entry{}, asked: map[waggle.NodeID]*asked{}, newest: map[waggle.RangeID]*cellpb.Descriptor{},
		silent: map[waggle.NodeID]time.Time{}, calls: semaphore.NewWeighted(callsAtOnce),
		answers: make(chan answer), results: make(chan result),
	}
}

// round looks at every move that is due and takes it one step on. It returns
// when to come again at the latest.
func (t *term) round(ctx context.Context) (next time.Duration) {
	t.merge()
	if t.Cluster.View().Freeze() != "" {
		return idleInterval
	}
	due := t.due()
	t.look(ctx, due)
	next = idleInterval
	for _, e := range due {
		if e.doing == 0 {
			t.step(ctx, e)
		}
		switch p := move.Phase(e.rec.State); {
		case p == move.Ready || p.Switching():
			next = min(next, switchInterval)
		case !p.Settled():
			next = min(next, copyInterval)
		}
	}
	return next
}

// merge takes in the view, where it is newer than what this mover wrote.
func (t *term) merge() {
	v := t.Cluster.View()
	for id, rec := range v.Moves {
		e := t.entries[id]
		if e == nil {
			e = &entry{retry: retryMin}
			t.entries[id] = e
		}
		if v.Revision >= e.revision {
			e.rec, e.revision = rec, v.Revision
		}
	}
	for id, e := range t.entries {
		if v.Moves[id] == nil && v.Revision >= e.revision {
			delete(t.entries, id)
		}
	}
}

// due are the moves to look at now, oldest first. One that only stands by is
// looked at now and then.
func (t *term) due() []*entry {
	var out []*entry
	now := t.Now()
	for _, e := range t.entries {
		s := StateOf(e.rec)
		resting := s.Phase == move.Standby && now.Before(s.StandbyUntil) && !e.rec.Revert && !t.standbyEnds(s)
		if s.Phase.Over() || resting && now.Sub(e.looked) < 5*idleInterval {
			continue
		}
		e.looked = now
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *entry) int { return CompareNames(a.rec.Move, b.rec.Move) })
	return out
}

// CompareNames sorts m2 before m10.
func CompareNames(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// standbyEnds tells whether the old replicas of s are to go early: its range is
// to be moved again, or they are where everything is moved away from.
func (t *term) standbyEnds(s move.State) bool {
	cell := t.Cluster.View().Cells[s.From]
	if cell.GetState() == planner.Draining || slices.ContainsFunc(cell.GetNodeDrains(), func(d *controlpb.NodeDrain) bool {
		return slices.ContainsFunc(s.Drop, func(m move.Member) bool { return string(m.Node) == d.Node })
	}) {
		return true
	}
	for _, e := range t.entries {
		if waggle.RangeID(e.rec.Range) == s.Range && e.rec.Move != s.ID && move.Phase(e.rec.State) == move.Planned {
			return true
		}
	}
	return false
}

// step takes one move one step on: decide, store, do.
func (t *term) step(ctx context.Context, e *entry) {
	now := t.Now()
	rec := e.rec
	s := StateOf(rec)
	var effects []move.Effect
	next := s
	var err error
	switch {
	case rec.Cancel && s.Phase != move.Cancelling:
		next, _, err = move.Step(s, move.Event{Kind: move.Cancel, Now: now})
	case rec.Revert:
		next, effects, err = move.Step(s, move.Event{Kind: move.Revert, Now: now})
	case s.Phase == move.Standby && t.standbyEnds(s):
		next, _, err = move.Step(s, move.Event{Kind: move.EndStandby, Now: now})
	}
	refused := err != nil // it came too late, and goes on as if not asked
	for _, id := range e.removed {
		next, _, _ = move.Step(next, move.Event{Kind: move.Removed, Replica: id})
	}
	if len(effects) == 0 {
		next, effects, _ = move.Step(next, move.Event{Now: now, Seen: t.observe(s, now)})
	}
	out := recordOf(next)
	out.Cancel, out.Revert, out.RevertedBy = rec.Cancel && !refused, rec.Revert && !refused && !next.Phase.Over(), rec.RevertedBy
	switch {
	case e.failure == "":
	case out.Wait != "":
		out.Wait += ": " + e.failure
	case len(effects) > 0:
		out.Wait = e.failure
	}
	if !t.store(ctx, e, out, effects) {
		return
	}
	if len(effects) > 0 && effects[0].Kind != move.MoveBack && !now.Before(e.notAgain) {
		for _, f := range effects {
			t.start(ctx, e, f)
		}
	}
}

// store writes a move's new record, if it differs, in a transaction that fails
// unless this seat stands and nobody else wrote the record. It tells whether
// the effects may be done.
func (t *term) store(ctx context.Context, e *entry, rec *controlpb.MoveRecord, effects []move.Effect) bool {
	if proto.Equal(rec, e.rec) {
		return true
	}
	onlyWait := proto.CloneOf(rec)
	onlyWait.Wait = e.rec.Wait
	if proto.Equal(onlyWait, e.rec) && t.Now().Sub(e.written) < waitInterval {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	conds := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(controlclient.MoveKey(rec.Move)), "<", e.revision+1)}
	var ops []clientv3.Op
	if len(effects) == 1 && effects[0].Kind == move.MoveBack {
		back, unchanged, err := t.moveBack(ctx, effects[0].Plan, rec)
		if err != nil {
			t.log.Warn("a move is not reverted", "move", rec.Move, "err", err)
			return false
		}
		ops, conds = back, append(conds, unchanged)
	}
	put, err := putMove(rec)
	if err == nil {
		var revision int64
		if revision, err = t.seat.Commit(ctx, append(ops, put), conds...); err == nil {
			if rec.State != e.rec.State {
				t.log.Info("move", "move", rec.Move, "range", rec.Range, "from", rec.From, "to", rec.To, "state", rec.State, "cause", rec.Cause)
			}
			e.rec, e.revision, e.written, e.removed = rec, revision, t.Now(), nil
			if t.stored != nil {
				t.stored(rec)
			}
			return true
		}
	}
	t.log.Debug("a move's step is not stored", "move", rec.Move, "err", err)
	return false
}

// moveBack are the writes that begin the move back of rec, and the condition
// that no other move has been planned meanwhile.
func (t *term) moveBack(ctx context.Context, p move.Plan, rec *controlpb.MoveRecord) ([]clientv3.Op, clientv3.Cmp, error) {
	number, modified, err := nextNumber(ctx, t.Cluster.Etcd())
	if err != nil {
		return nil, clientv3.Cmp{}, err
	}
	p.ID, p.By = moveName(number), rec.By
	rec.RevertedBy = p.ID
	ops, err := newMove(recordOf(move.Begin(p)), number)
	return ops, clientv3.Compare(clientv3.ModRevision(controlclient.NextMoveKey), "=", modified), err
}

// finish takes in what became of an effect.
func (t *term) finish(r result) {
	e := t.entries[r.move]
	if e == nil {
		return
	}
	e.doing--
	if r.err != nil {
		e.failure = r.err.Error()
		e.notAgain = t.Now().Add(e.retry)
		e.retry = min(2*e.retry, retryMax)
		t.log.Debug("a move's step is to be done again", "move", r.move, "effect", r.effect.Kind.String(), "err", r.err)
		return
	}
	e.failure, e.retry = "", retryMin
	if r.effect.Kind == move.RemoveReplica {
		e.removed = append(e.removed, r.effect.Member.ID)
	}
}
