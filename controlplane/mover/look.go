package mover

import (
	"context"
	"slices"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding/move"
)

// asked is what a node was asked and has answered last.
type asked struct {
	under    bool // a question is under way
	at       time.Time
	replicas map[proto.RangeID]*cellpb.ReplicaStatus
}

// answer is one node's, with the time it was asked at: what it says was true
// then or later.
type answer struct {
	node     proto.NodeID
	at       time.Time
	replicas []*cellpb.ReplicaStatus
	err      error
}

// places are the nodes that may hold a replica of a move's range.
func (t *term) places(s move.State) []proto.NodeID {
	var out []proto.NodeID
	for _, m := range append(slices.Clone(s.Add), s.Drop...) {
		out = append(out, m.Node)
	}
	for _, r := range t.Cluster.View().Ranges[s.Range].GetReplicas() {
		out = append(out, proto.NodeID(r.Node))
	}
	for _, r := range t.newest[s.Range].GetReplicas() {
		out = append(out, proto.NodeID(r.Node))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// look asks the nodes of these moves, each node once, and waits a while for
// their answers.
func (t *term) look(ctx context.Context, due []*entry) {
	questions := map[proto.NodeID][]uint64{}
	for _, e := range due {
		for _, n := range t.places(StateOf(e.rec)) {
			questions[n] = append(questions[n], e.rec.Range)
		}
	}
	for node := range t.asked {
		if questions[node] == nil && !t.asked[node].under {
			delete(t.asked, node)
		}
	}
	waiting := map[proto.NodeID]bool{}
	for node, ranges := range questions {
		a := t.asked[node]
		if a == nil {
			a = &asked{}
			t.asked[node] = a
		}
		if !a.under {
			a.under, waiting[node] = true, true
			t.ask(ctx, node, ranges)
		}
	}
	enough := t.Timer(lookWait)
	defer enough.Stop()
	for len(waiting) > 0 {
		select {
		case a := <-t.answers:
			t.take(a)
			delete(waiting, a.node)
		case r := <-t.results:
			t.finish(r)
		case <-enough.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (t *term) ask(ctx context.Context, node proto.NodeID, ranges []uint64) {
	t.wg.Go(func() {
		at := time.Now()
		callCtx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		replicas, err := t.Nodes.Ranges(callCtx, node, ranges)
		select {
		case t.answers <- answer{node, at, replicas, err}:
		case <-ctx.Done():
		}
	})
}

// take takes in a node's answer.
func (t *term) take(a answer) {
	known := t.asked[a.node]
	if known == nil {
		known = &asked{}
		t.asked[a.node] = known
	}
	known.under = false
	if a.err != nil {
		return
	}
	known.at, known.replicas = a.at, map[proto.RangeID]*cellpb.ReplicaStatus{}
	for _, st := range a.replicas {
		d := st.GetDescriptor_()
		if d == nil {
			continue
		}
		r := proto.RangeID(d.Range)
		known.replicas[r] = st
		if d.NewerThan(t.newest[r]) {
			t.newest[r] = d
		}
	}
}

// answered tells whether what a node said last is still believed.
func (t *term) answered(node proto.NodeID) bool {
	a := t.asked[node]
	return a != nil && !a.at.IsZero() && time.Since(a.at) < answerAge
}

// observe puts together what is known of a move's range.
func (t *term) observe(s move.State, now time.Time) move.Observation {
	v := t.Cluster.View()
	o := move.Observation{
		Descriptor: t.newest[s.Range], Progress: map[proto.ReplicaID]move.Progress{}, Holds: map[proto.NodeID]proto.ReplicaID{},
		Gone: map[proto.NodeID]bool{}, Lost: map[proto.NodeID]bool{},
	}
	if rec := v.Ranges[s.Range]; rec != nil {
		o.Route = move.RouteOf(&cellpb.Descriptor{Cell: rec.Cell, Epoch: rec.Epoch, Replicas: voters(members(rec.Replicas))})
	}
	heardOf := false
	for _, node := range t.places(s) {
		if !t.answered(node) {
			if !v.Nodes[node].Alive {
				o.Gone[node] = true
				if t.silent[node].IsZero() {
					t.silent[node] = now
				}
				o.Lost[node] = now.Sub(t.silent[node]) >= t.LostAfter
			}
			continue
		}
		delete(t.silent, node)
		if st := t.asked[node].replicas[s.Range]; st != nil {
			heardOf = true
			o.Holds[node] = proto.ReplicaID(st.Replica)
			if slices.ContainsFunc(s.Drop, func(m move.Member) bool { return m.Node == node }) {
				o.Pause = max(o.Pause, time.Duration(st.PauseUs)*time.Microsecond)
			}
		}
	}
	if !heardOf {
		o.Descriptor = nil
	}
	if node, leader := t.leader(s.Range); leader != nil {
		o.Leader = proto.ReplicaID(leader.Replica)
		// An answer of this round counts as it was given: the leader looks
		// once more before it does anything.
		age := max(0, time.Since(t.asked[node].at)-2*lookWait)
		for _, p := range leader.Progress {
			o.Progress[proto.ReplicaID(p.Replica)] = move.Progress{
				Lag: p.LagEntries, Heard: time.Duration(p.HeardMs)*time.Millisecond + age, Snapshot: p.Snapshot,
			}
		}
	}
	o.CopySlot, o.SwitchSlot = t.slots(s)
	return o
}

// leader is the node that leads a range at its newest descriptor, and what it
// says.
func (t *term) leader(r proto.RangeID) (node proto.NodeID, status *cellpb.ReplicaStatus) {
	for n, a := range t.asked {
		st := a.replicas[r]
		if st == nil || !st.Leading || !t.answered(n) || st.Descriptor_.Version != t.newest[r].GetVersion() {
			continue
		}
		if status == nil || st.Term > status.Term {
			node, status = n, st
		}
	}
	return node, status
}

// slots tells whether no other move stands in the way of s.
func (t *term) slots(s move.State) (copying, switching bool) {
	copies, free := map[string]int{}, true
	for _, e := range t.entries {
		if e.rec.Move == s.ID {
			continue
		}
		p := move.Phase(e.rec.State)
		cells := []string{e.rec.From}
		if e.rec.To != e.rec.From {
			cells = append(cells, e.rec.To)
		}
		for _, cell := range cells {
			if p.Copying() {
				copies[cell]++
			}
			if p.Switching() && (cell == string(s.From) || cell == string(s.To)) {
				free = false
			}
		}
	}
	return copies[string(s.From)] < copiesPerCell && copies[string(s.To)] < copiesPerCell, free
}

func voters(in []move.Member) []*cellpb.Replica {
	var out []*cellpb.Replica
	for _, m := range in {
		out = append(out, &cellpb.Replica{Id: uint64(m.ID), Node: string(m.Node)})
	}
	return out
}
