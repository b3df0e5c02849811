package replica

import (
	"errors"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

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
		err := n.apply(g, m.GetEntries())
		n.inbox.call(func() {
			if err != nil {
				n.fail(g, err)
				return
			}
			if g.failed {
				return
			}
			n.learnDescriptor(g)
			for _, r := range m.GetResponses() {
				if err := g.guard(func() error { _ = g.raft.Step(r); return nil }); err != nil {
					n.fail(g, err)
					return
				}
			}
			n.markDirty(g)
		})
	})
}

// learnDescriptor takes over what applying changed. The loop's half of a
// descriptor change; membership itself is Raft's.
func (n *Node) learnDescriptor(g *group) {
	g.mu.Lock()
	d := g.pub.desc
	g.mu.Unlock()
	if d != g.desc {
		g.desc = d
		g.setNodes(d)
		n.learnPeers(g)
	}
}

// apply applies entries in runs and completes who waits for them. On the
// group's worker.
func (n *Node) apply(g *group, entries []*raftpb.Entry) error {
	for len(entries) > 0 {
		size, bytes := 0, 0
		results := make([]*cellpb.Applied, 0, min(len(entries), runEntriesMax))
		for size < len(entries) && size < runEntriesMax && bytes < runBytesMax {
			e := entries[size]
			if e.GetType() != raftpb.EntryNormal {
				return errors.New("replica: the log holds a membership change, which this release cannot apply: run a newer one")
			}
			results = append(results, g.machine.Apply(e.GetIndex(), e.GetTerm(), e.GetData()))
			bytes += len(e.GetData())
			size++
		}
		if err := g.machine.Commit(); err != nil {
			return err
		}
		n.metrics.applied.Add(float64(size))
		g.completed(entries[:size], results)
		entries = entries[size:]
	}
	return nil
}

// completed publishes how far the group is and finishes proposals and reads.
func (g *group) completed(entries []*raftpb.Entry, results []*cellpb.Applied) {
	last := entries[len(entries)-1]
	desc, hash := g.machine.Descriptor(), g.machine.RunningHash()
	props := make([]*proposal, len(entries))
	var reads []func(error)
	g.mu.Lock()
	g.pub.applied, g.pub.appTerm = last.GetIndex(), last.GetTerm()
	g.pub.desc, g.pub.hash = desc, hash
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
}
