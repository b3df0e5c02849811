package replica

import (
	"fmt"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	pb "google.golang.org/protobuf/proto"

	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// A run of entries is applied with one Commit.
const (
	runEntriesMax = 256
	runBytesMax   = 1 << 20
)

// workers apply committed entries beside the loop's disk writes. A group
// always goes to the same worker, so its entries stay in order. The queues
// are bounded by Raft: at most MaxCommittedSizePerReady bytes per group wait.
type workers struct {
	queues []*workQueue
	wg     sync.WaitGroup
}

type workQueue struct {
	mu     sync.Mutex // guards the fields below
	cond   *sync.Cond
	tasks  []func()
	closed bool
}

func newWorkers(count int) *workers {
	w := &workers{}
	for range max(1, count) {
		q := &workQueue{}
		q.cond = sync.NewCond(&q.mu)
		w.queues = append(w.queues, q)
	}
	return w
}

func (w *workers) start() {
	for _, q := range w.queues {
		w.wg.Go(q.run)
	}
}

func (q *workQueue) run() {
	for {
		q.mu.Lock()
		for len(q.tasks) == 0 && !q.closed {
			q.cond.Wait()
		}
		tasks := q.tasks
		q.tasks = nil
		q.mu.Unlock()
		if len(tasks) == 0 {
			return
		}
		for _, task := range tasks {
			task()
		}
	}
}

// submit queues a task of the group. It does not wait.
func (w *workers) submit(g *group, task func()) {
	q := w.queues[g.worker]
	q.mu.Lock()
	q.tasks = append(q.tasks, task)
	q.mu.Unlock()
	q.cond.Signal()
}

// runInline runs everything queued on the caller.
func (w *workers) runInline() {
	for _, q := range w.queues {
		q.mu.Lock()
		tasks := q.tasks
		q.tasks = nil
		q.mu.Unlock()
		for _, task := range tasks {
			task()
		}
	}
}

// close finishes what is queued and waits.
func (w *workers) close() {
	for _, q := range w.queues {
		q.mu.Lock()
		q.closed = true
		q.mu.Unlock()
		q.cond.Broadcast()
	}
	w.wg.Wait()
}

// dispatch hands committed entries to the group's worker. Raft hears of it
// when they are applied, and hands out no more than a bounded number before.
func (n *Node) dispatch(g *group, m *raftpb.Message) {
	n.workers.submit(g, func() {
		changes, desc, err := n.apply(g, m.GetEntries())
		n.inbox.call(func() {
			if err != nil {
				n.fail(g, err)
				return
			}
			if g.failed {
				return
			}
			if err := n.learnDescriptor(g, changes, desc); err != nil {
				n.fail(g, err)
				return
			}
			for _, r := range m.GetResponses() {
				if err := g.guard(func() error { _ = g.raft.Step(r); return nil }); err != nil {
					n.fail(g, err)
					return
				}
			}
			n.markDirty(g)
			n.tendJoint(g)
		})
	})
}

// learnDescriptor takes over what applying changed: Raft's configuration, and
// the descriptor as of the same entry.
func (n *Node) learnDescriptor(g *group, changes []*raftpb.ConfChangeV2, d *cellpb.Descriptor) error {
	if g.recovering != nil {
		return n.learnRecovered(g, d)
	}
	if err := n.applyChanges(g, changes); err != nil {
		return err
	}
	if d == g.desc {
		return nil
	}
	old := g.desc
	g.desc = d
	g.setNodes(d)
	n.learnPeers(g)
	if err := g.checkConf(); err != nil {
		return err
	}
	n.descriptorChanged(g, old)
	return nil
}

// apply applies entries in runs and completes who waits for them. It returns
// the membership changes that took effect, and the descriptor after the last
// entry. On the group's worker.
func (n *Node) apply(g *group, entries []*raftpb.Entry) (changes []*raftpb.ConfChangeV2, d *cellpb.Descriptor, err error) {
	if g.machine == nil {
		return nil, nil, fmt.Errorf("replica: range %s has entries to apply and no state", g.rng)
	}
	for len(entries) > 0 {
		size, bytes := 0, 0
		results := make([]*cellpb.Applied, 0, min(len(entries), runEntriesMax))
		for size < len(entries) && size < runEntriesMax && bytes < runBytesMax {
			e := entries[size]
			result, change, err := g.applyOne(e)
			if err != nil {
				return nil, nil, err
			}
			if change != nil {
				changes = append(changes, change)
			}
			results = append(results, result)
			bytes += len(e.GetData())
			size++
			if g.digestsAt(e.GetIndex()) {
				break // what is digested is the state right after this entry
			}
		}
		if err := g.machine.Commit(); err != nil {
			return nil, nil, err
		}
		n.metrics.applied.Add(float64(size))
		n.takeDigest(g, entries[size-1].GetIndex())
		if g.completed(entries[:size], results) {
			n.cfg.Observer.GrantApplied(g.rng)
		}
		entries = entries[size:]
	}
	return changes, g.machine.Descriptor(), nil
}

// applyOne applies one entry. A membership change is judged by the machine;
// one that it refuses is none.
func (g *group) applyOne(e *raftpb.Entry) (*cellpb.Applied, *raftpb.ConfChangeV2, error) {
	switch e.GetType() {
	case raftpb.EntryNormal:
		return g.machine.Apply(e.GetIndex(), e.GetTerm(), e.GetData()), nil, nil
	case raftpb.EntryConfChangeV2:
		cc := new(raftpb.ConfChangeV2)
		if err := pb.Unmarshal(e.GetData(), cc); err != nil {
			return nil, nil, fmt.Errorf("replica: range %s: the membership change at %d cannot be read: %w", g.rng, e.GetIndex(), err)
		}
		result := g.machine.Apply(e.GetIndex(), e.GetTerm(), cc.GetContext())
		if len(result.GetResults()) != 1 || result.Results[0].GetCode() != 0 {
			return result, nil, nil
		}
		return result, cc, nil
	}
	return nil, nil, fmt.Errorf("replica: the log of range %s holds a membership change of a kind this release never writes: run a newer one", g.rng)
}

// completed publishes how far the group is, finishes proposals and reads, and
// tells whether a host was granted.
func (g *group) completed(entries []*raftpb.Entry, results []*cellpb.Applied) (granted bool) {
	last := entries[len(entries)-1]
	desc, st := g.machine.Descriptor(), g.machine.State()
	props := make([]*proposal, len(entries))
	var reads []func(error)
	g.mu.Lock()
	g.pub.applied, g.pub.appTerm = last.GetIndex(), last.GetTerm()
	g.pub.desc, g.pub.hash, g.pub.rules = desc, st.GetRunningHash(), st.GetRules()
	granted = g.grantTerm != st.GetGrantTerm() || g.grantNumber != st.GetGrantNumber()
	g.grantTerm, g.grantNumber = st.GetGrantTerm(), st.GetGrantNumber()
	if len(g.pending) > 0 {
		for i, e := range entries {
			props[i] = g.pending[e.GetIndex()]
			delete(g.pending, e.GetIndex())
		}
	}
	if len(g.readWaits) > 0 {
		kept := g.readWaits[:0]
		for _, w := range g.readWaits {
			if w.index <= last.GetIndex() {
				reads = append(reads, w.done)
			} else {
				kept = append(kept, w)
			}
		}
		clear(g.readWaits[len(kept):])
		g.readWaits = kept
	}
	g.mu.Unlock()
	for i, p := range props {
		switch {
		case p == nil:
		case p.term == entries[i].GetTerm():
			p.finish(results[i], nil)
		default:
			p.finish(nil, overwritten(g.rng))
		}
	}
	for _, done := range reads {
		done(nil)
	}
	return granted
}
