package mover

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/topology/seat"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// small adds a range of one replica and plans its move to c2.
func (w *world) small(id uint64) move.Plan {
	w.addRange(id, "c1", "c1-n1")
	return move.Plan{
		Range: proto.RangeID(id), From: "c1", To: "c2", Epoch: 1,
		Add: []move.Member{{Node: "c2-n1"}}, Drop: []move.Member{{ID: 1, Node: "c1-n1"}},
	}
}

const (
	smallAtHome = "c1@1 [c1-n1] [] holds [c1-n1]"
	smallMoved  = "c2@2 [c2-n1] [] holds [c2-n1]"
)

// changes counts what was done to the model since the last call.
func (m *model) changes() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int{}
	for _, call := range m.applied {
		out[call]++
	}
	m.applied = nil
	return out
}

// killAt says when a mover dies: at the nth of the kind's moments.
type killAt struct {
	kind string // stored, before or after a call
	n    int32
}

// dies runs a mover until it is killed, or until the move is over.
func (w *world) dies(id string, at killAt, stored func(*controlpb.MoveRecord)) (killed bool) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	var seen atomic.Int32
	var dead atomic.Bool
	moment := func(kind string) error {
		if kind == at.kind && seen.Add(1) == at.n {
			dead.Store(true)
			cancel()
		}
		if dead.Load() { // a process that is dead does nothing more
			return context.Canceled
		}
		return nil
	}
	m := w.mover()
	m.stored = func(rec *controlpb.MoveRecord) {
		if stored != nil {
			stored(rec)
		}
		_ = moment("stored")
	}
	w.model.mu.Lock()
	w.model.before = func(context.Context, string) error { return moment("before") }
	w.model.after = func(context.Context, string) error { return moment("after") }
	w.model.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		st, err := seat.Campaign(ctx, w.client.Etcd(), "a")
		if err != nil {
			return
		}
		defer st.Leave()
		_ = m.Serve(ctx, st)
	}()
	w.eventually("dead or done", func(v *controlclient.View) bool {
		return dead.Load() || move.Phase(v.Moves[id].GetState()).Over()
	})
	cancel()
	<-done
	w.model.mu.Lock()
	w.model.before, w.model.after = nil, nil
	w.model.mu.Unlock()
	return dead.Load()
}

// Whenever the mover dies, another makes the move, and no change of the range
// is made twice.
func TestAnotherGoesOnWhereverTheMoverDied(t *testing.T) {
	w := newWorld(t)
	next := uint64(100)
	for _, kind := range []string{"stored", "before", "after"} {
		n := int32(1)
		for ; ; n++ {
			next++
			id := w.submit(w.small(next))
			w.model.changes()
			if !w.dies(id, killAt{kind, n}, nil) {
				break
			}
			stop := w.serve(w.mover())
			w.reaches(id, move.Done)
			stop()
			w.expect(next, smallMoved)
			for call, times := range w.model.changes() {
				if times != 1 && call[0] == '*' {
					t.Errorf("killed %s %d: %s was done %d times", kind, n, call, times)
				}
			}
			if rec := w.client.View().Ranges[proto.RangeID(next)]; rec.Cell != "c2" || rec.Epoch != 2 {
				t.Errorf("killed %s %d: the route table has %v", kind, n, rec)
			}
		}
		if n < 5 {
			t.Errorf("only %d moments of %q were walked", n-1, kind)
		}
	}
}

// The same for a move that is cancelled while it copies.
func TestAnotherGoesOnWithACancelledMove(t *testing.T) {
	w := newWorld(t)
	w.model.slow = true
	next := uint64(100)
	for _, kind := range []string{"stored", "before", "after"} {
		for n := int32(1); ; n++ {
			next++
			id := w.submit(w.small(next))
			asked := false
			killed := w.dies(id, killAt{kind, n}, func(rec *controlpb.MoveRecord) {
				if rec.State == string(move.CatchingUp) && !asked {
					asked = true
					if _, err := NewBook(w.client.Etcd()).Cancel(t.Context(), id, false); err != nil {
						t.Error(err)
					}
				}
			})
			if killed {
				if _, err := NewBook(w.client.Etcd()).Cancel(t.Context(), id, false); err != nil {
					t.Error(err)
				}
				stop := w.serve(w.mover())
				w.reaches(id, move.Cancelled)
				stop()
			}
			w.expect(next, smallAtHome)
			if !killed {
				break
			}
		}
	}
}

// recorder tells when a mover that was woken has looked at nodes for a while:
// its rounds are at least lookWait apart or have all answers.
type recorder struct {
	*model
	awake  atomic.Bool
	looks  atomic.Int32
	looked chan struct{} // closed after some looks while awake
}

func (r *recorder) Ranges(ctx context.Context, node proto.NodeID, ranges []uint64) ([]*cellpb.ReplicaStatus, error) {
	if r.awake.Load() && r.looks.Add(1) == 8 {
		close(r.looked)
	}
	return r.model.Ranges(ctx, node, ranges)
}

// thereAndBack moves a range so many times.
func (w *world) thereAndBack(id uint64, times int) {
	w.t.Helper()
	for i := range times {
		w.model.mu.Lock()
		d := pb.CloneOf(w.model.ranges[id].d)
		w.model.mu.Unlock()
		p := move.Plan{Range: proto.RangeID(id), From: proto.CellID(d.Cell), To: "c2", Epoch: proto.Epoch(d.Epoch)}
		target := "c2-n1"
		if p.From == "c2" {
			p.To, target = "c1", "c1-n1"
		}
		p.Add = []move.Member{{Node: proto.NodeID(target)}}
		p.Drop = []move.Member{{ID: proto.ReplicaID(d.Replicas[0].Id), Node: proto.NodeID(d.Replicas[0].Node)}}
		w.reaches(w.submit(p), move.Done)
		if i == times-1 && w.client.View().Ranges[proto.RangeID(id)].Epoch != d.Epoch+1 {
			w.t.Errorf("the route table is behind: %v", w.client.View().Ranges[proto.RangeID(id)])
		}
	}
}

// A mover that falls asleep between storing and doing, at any step, and wakes
// after several moves, can do nothing.
func TestAMoverThatSleptDoesNothing(t *testing.T) {
	w := newWorld(t)
	for n := int32(1); n <= 20; n++ {
		rangeID := uint64(200 + n)
		id := w.submit(w.small(rangeID))
		wake := make(chan struct{})
		var stores, late atomic.Int32
		var slept, over atomic.Bool
		nodes := &recorder{model: w.model, looked: make(chan struct{})}
		sleeper := w.mover()
		sleeper.Nodes = nodes
		sleeper.stored = func(rec *controlpb.MoveRecord) {
			if slept.Load() {
				late.Add(1)
			}
			over.Store(move.Phase(rec.State).Over())
			if stores.Add(1) == n {
				slept.Store(true)
				<-wake
			}
		}
		stop := w.serve(sleeper)
		w.eventually("asleep or done", func(v *controlclient.View) bool {
			return slept.Load() || move.Phase(v.Moves[id].GetState()).Over()
		})
		if over.Load() {
			close(wake)
			stop()
			if n < 6 {
				t.Errorf("only %d steps were walked", n-1)
			}
			return
		}
		w.unseat()
		stopOther := w.serve(w.mover())
		w.reaches(id, move.Done)
		times := 2
		if n == 2 {
			times = 10
		}
		w.thereAndBack(rangeID, times)
		stopOther()
		extra := w.submit(w.small(rangeID + 1000)) // what it looks at once it is awake
		before, route := w.model.shape(), fmt.Sprint(w.client.View().Ranges[proto.RangeID(rangeID)])
		nodes.awake.Store(true)
		close(wake)
		<-nodes.looked
		stop()
		if after := w.model.shape(); after != before {
			t.Errorf("woken at step %d it changed\n%sto\n%s", n, before, after)
		}
		if now := fmt.Sprint(w.client.View().Ranges[proto.RangeID(rangeID)]); now != route {
			t.Errorf("woken at step %d it changed the route %s to %s", n, route, now)
		}
		if late.Load() > 0 {
			t.Errorf("woken at step %d it stored %d steps without a seat", n, late.Load())
		}
		stopOther = w.serve(w.mover())
		w.reaches(extra, move.Done)
		stopOther()
	}
}
