package sim

import (
	"context"
	"fmt"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/replica"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding/move"
)

// cellNodes is the nodes of each cell, in worlds where ranges move.
const cellNodes = 3

// mover is what moves ranges: the real state machine of a move, with a store
// that loses nothing. It is killed between storing and doing; what it was
// about to do is then done later by one who slept, on a descriptor of that
// day.
type mover struct {
	w      *world
	moves  map[proto.RangeID]move.State // the store
	routes map[proto.RangeID]move.Route // the store
	made   int
	late   []effect
	joints []effect // late as well: those that enter a joint configuration

	// Known to this life of the mover.
	newest    map[proto.RangeID]*cellpb.Descriptor
	progress  map[proto.RangeID]progress
	downUntil int // moment
}

// effect is something to be done at a node; nil: at whoever leads.
type effect struct {
	rng proto.RangeID
	at  *node
	do  func(n *node)
}

// progress is what a leader has said of the other replicas.
type progress struct {
	moment int
	leader proto.ReplicaID
	of     []*cellpb.ReplicaProgress
}

// heldReplica is a node's replica as the node itself knew it.
type heldReplica struct {
	id, version uint64
	empty       bool
}

const effectsKept = 200

func newMover(w *world) *mover {
	m := &mover{w: w, moves: map[proto.RangeID]move.State{}, routes: map[proto.RangeID]move.Route{}}
	m.restart()
	return m
}

func (m *mover) restart() {
	m.newest, m.progress = map[proto.RangeID]*cellpb.Descriptor{}, map[proto.RangeID]progress{}
}

// die kills the mover: another begins later, with what is stored.
func (m *mover) die() {
	m.w.note("mover dies")
	m.restart()
	m.downUntil = m.w.moment + m.w.rng.IntN(20*m.tick())
}

func (m *mover) heal() {
	if m != nil {
		m.late, m.joints, m.downUntil = nil, nil, 0
	}
}

func (m *mover) tick() int { return momentsPerTick * len(m.w.nodes) }

func (m *mover) now() time.Time { return time.UnixMilli(m.w.nowMs()) }

// tend looks at one range, now and then.
func (m *mover) tend() {
	if m == nil {
		return
	}
	w := m.w
	if !w.calm && !w.opt.fair {
		if w.rng.IntN(100*m.tick()) == 0 {
			m.die()
		}
		if w.rng.IntN(m.tick()) == 0 {
			m.wakeLate()
		}
	}
	if w.moment < m.downUntil || !w.chance(15) {
		return
	}
	r := pick(w, w.ranges)
	s, known := m.moves[r]
	switch {
	case known && !s.Phase.Over():
		m.operate(r, s)
		m.step(r, move.Event{Kind: move.Observed, Seen: m.observe(m.moves[r])})
	case !w.calm && w.chance(20):
		m.plan(r)
	}
}

// operate is an operator, who changes his mind.
func (m *mover) operate(r proto.RangeID, s move.State) {
	switch w := m.w; {
	case w.calm:
	case s.Phase == move.Standby && w.chance(10):
		m.step(r, move.Event{Kind: move.Revert})
	case s.Phase == move.Standby && w.chance(2):
		m.step(r, move.Event{Kind: move.EndStandby})
	case w.rng.IntN(600) == 0:
		m.step(r, move.Event{Kind: move.Cancel})
	}
}

// plan begins a move, mostly to the other cell.
func (m *mover) plan(r proto.RangeID) {
	w := m.w
	m.look(r)
	d := m.newest[r]
	if d == nil || d.Joint() {
		return
	}
	p := move.Plan{Range: r, From: proto.CellID(d.Cell), To: "c1", Epoch: proto.Epoch(d.Epoch), Started: m.now(), By: "sim"}
	if p.From == "c1" {
		p.To = "c2"
	}
	if w.opt.replicas == 1 && w.chance(30) {
		p.To = p.From
	} else {
		p.Standby = pick(w, []time.Duration{0, 4 * time.Second, 4 * time.Second})
	}
	for _, have := range d.Replicas {
		if have.Learner {
			return
		}
		p.Drop = append(p.Drop, move.Member{ID: proto.ReplicaID(have.Id), Node: proto.NodeID(have.Node)})
	}
	for i, from := 0, w.rng.IntN(len(w.nodes)); i < len(w.nodes) && len(p.Add) < w.opt.replicas; i++ {
		n := w.nodes[(from+i)%len(w.nodes)]
		if n.cell == p.To && d.ReplicaOn(string(n.id)) == nil {
			p.Add = append(p.Add, move.Member{Node: n.id})
		}
	}
	m.begin(p)
}

func (m *mover) begin(p move.Plan) {
	m.made++
	p.ID = fmt.Sprintf("m%d", m.made)
	if err := p.Validate(); err != nil {
		m.w.t.Fatal(err)
	}
	m.moves[p.Range] = move.Begin(p)
}

// step stores the next state, then does what it asks for, unless the mover
// dies in between.
func (m *mover) step(r proto.RangeID, e move.Event) {
	w, s := m.w, m.moves[r]
	e.Now = m.now()
	next, effects, err := move.Step(s, e)
	if err != nil {
		return // too late for this verb
	}
	m.moves[r] = next
	if next.Phase != s.Phase {
		w.note("move", next.ID, next.Phase)
		w.count("move " + string(next.Phase))
	}
	died := !w.calm && !w.opt.fair && w.rng.IntN(300) == 0
	for _, f := range effects {
		m.perform(next, f, died)
	}
	if died {
		m.die()
	}
}

// perform does an effect, or leaves it to a mover that has slept.
func (m *mover) perform(s move.State, f move.Effect, died bool) {
	w := m.w
	var e effect
	switch f.Kind {
	case move.Publish:
		if f.Route.Epoch < m.routes[s.Range].Epoch {
			w.judge.violate("I7: the route of range %s goes back from epoch %d to %d", s.Range, m.routes[s.Range].Epoch, f.Route.Epoch)
		}
		m.routes[s.Range] = f.Route
		return
	case move.MoveBack:
		w.count("moved back")
		m.begin(f.Plan) // stored with the end of the move before, in one transaction
		return
	case move.CreateReplica:
		e = m.create(s, f.Member)
	case move.RemoveReplica:
		e = m.remove(s.Range, f.Member.Node, m.newest[s.Range], uint64(f.Member.ID)+1)
	case move.ChangeRange:
		e = m.change(s.Range, f.Change)
	}
	if f.Change.GetEnterJoint() != nil {
		m.joints = append(m.joints, e)
	}
	if !w.calm && (died || w.chance(20)) {
		m.late = append(m.late, e)
		m.late = m.late[max(0, len(m.late)-effectsKept):]
	}
	if !died {
		m.send(e)
	}
}

// send puts an effect on its way to its node.
func (m *mover) send(e effect) {
	n := e.at
	if n == nil {
		n = m.w.leader(e.rng)
	}
	if n == nil {
		return
	}
	m.w.send(outside, n.index, func() {
		if n.rep != nil {
			e.do(n)
		}
	})
}

// wakeLate does an effect of long ago.
func (m *mover) wakeLate() {
	late := m.late
	if len(m.joints) > 0 && m.w.chance(30) {
		late = m.joints
	}
	if len(late) > 0 {
		m.w.count("late effect")
		m.send(pick(m.w, late))
	}
}

func (m *mover) create(s move.State, to move.Member) effect {
	w, d := m.w, m.newest[s.Range]
	req := &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: uint64(to.ID), Incarnation: incarnation(s.Range), Empty: true}
	if !w.calm {
		// A mover of today would take it back with a descriptor in which it
		// was given. This one thinks that it never was.
		undo := m.remove(s.Range, to.Node, d, uint64(to.ID)+1)
		do := undo.do
		undo.do = func(n *node) {
			if !n.status(s.Range).Empty {
				do(n)
			}
		}
		m.late = append(m.late, undo)
	}
	return effect{rng: s.Range, at: w.byID(to.Node), do: func(n *node) {
		err := n.rep.Create(w.t.Context(), req)
		w.note("create", s.Range, n.index, to.ID, err == nil)
		switch {
		case err == nil:
			w.judge.came(n, s.Range, req.Replica)
		case proto.AsError(err).Code == proto.CodeForbidden:
			w.count("late create refused")
		case proto.AsError(err).Code != proto.CodeNotReady:
			w.judge.violate("replica %d of range %s cannot be created on %s: %v", to.ID, s.Range, n.id, err)
		}
	}}
}

// remove deletes the replica of a node, as the descriptor says.
func (m *mover) remove(r proto.RangeID, on proto.NodeID, d *cellpb.Descriptor, below uint64) effect {
	w := m.w
	return effect{rng: r, at: w.byID(on), do: func(n *node) {
		st := n.status(r)
		had := heldReplica{id: uint64(st.Replica), version: st.Descriptor.GetVersion(), empty: st.Empty}
		shown := d
		if plant := w.opt.fault.beforeRemoval; plant != nil {
			shown = plant(n, d)
		}
		ctx, cancel := context.WithCancel(w.t.Context())
		if !w.calm && w.chance(30) {
			w.after(1+w.rng.IntN(m.tick()), func() { // who asked waits no longer
				cancel()
				w.rest() // before it can be answered too
			})
		}
		rep, life := n.rep, n.life
		w.ids++
		number := w.ids
		n.streams.Go(func() {
			err := rep.Remove(ctx, shown, below)
			w.later(number, func() {
				cancel()
				if n.life == life {
					m.answered(n, had, d, err)
				}
			})
		})
		w.rest() // nothing else runs beside it
	}}
}

// answered takes in what a node says of a removal.
func (m *mover) answered(n *node, had heldReplica, d *cellpb.Descriptor, err error) {
	w, r := m.w, proto.RangeID(d.Range)
	w.note("remove", r, n.index, had.id, err == nil)
	if err != nil {
		if proto.AsError(err).Code == proto.CodeForbidden {
			w.count("late remove refused")
		}
		return
	}
	if plant := w.opt.fault.afterRemoval; plant != nil {
		plant(n, r)
	}
	w.count("removed")
	w.judge.went(n, had, d)
	w.send(n.index, outside, func() {
		s, known := m.moves[r]
		if !known || w.moment < m.downUntil {
			return
		}
		for _, member := range append(append([]move.Member{}, s.Add...), s.Drop...) {
			if member.Node == n.id && uint64(member.ID) < d.NextReplica && d.ReplicaOf(uint64(member.ID)) == nil {
				m.step(r, move.Event{Kind: move.Removed, Replica: member.ID})
			}
		}
	})
}

// change proposes a change of the replicas at the leader.
func (m *mover) change(r proto.RangeID, c *cellpb.ChangeReplicas) effect {
	w := m.w
	return effect{rng: r, do: func(n *node) {
		w.ids++
		number := w.ids
		asked := pb.CloneOf(c)
		n.rep.ProposeChange(r, asked, func(_ *cellpb.Applied, err error) {
			w.later(number, func() {
				if err != nil && proto.AsError(err).Code == proto.CodeStaleVersion {
					w.count("late change refused")
				}
			})
		})
		if joint := asked.GetEnterJoint(); joint != nil && w.opt.fault.noGate {
			joint.Promote = nil // encoded is what was asked; what is checked is this
		}
	}}
}

// after runs f some moments later.
func (w *world) after(moments int, f func()) {
	w.net.number++
	w.net.flying = append(w.net.flying, &packet{due: w.moment + moments, number: w.net.number, from: outside, to: outside, deliver: f})
}

// look asks the nodes for a range. Some do not answer.
func (m *mover) look(r proto.RangeID) map[*node]replica.Status {
	w, out := m.w, map[*node]replica.Status{}
	for _, n := range w.nodes {
		if n.rep == nil || !w.calm && !w.opt.fair && w.rng.IntN(200) == 0 {
			continue
		}
		st := n.status(r)
		if st.Replica == 0 {
			continue
		}
		out[n] = st
		d, have := st.Descriptor, m.newest[r]
		if d.GetEpoch() > have.GetEpoch() || d.GetEpoch() == have.GetEpoch() && d.GetVersion() > have.GetVersion() {
			m.newest[r] = d
		}
	}
	return out
}

// observe is what the mover knows of a move's range, and asks its leader for
// more.
func (m *mover) observe(s move.State) move.Observation {
	w, r := m.w, s.Range
	o := move.Observation{
		Progress: map[proto.ReplicaID]move.Progress{}, Holds: map[proto.NodeID]proto.ReplicaID{}, Route: m.routes[r],
		CopySlot: true, SwitchSlot: true,
	}
	answers := m.look(r)
	o.Descriptor = m.newest[r]
	if len(answers) == 0 {
		o.Descriptor = nil
	}
	var leader *node
	for _, n := range w.nodes {
		st, answered := answers[n]
		if !answered {
			continue
		}
		o.Holds[n.id] = st.Replica
		if st.Leading && st.Descriptor.GetVersion() == o.Descriptor.GetVersion() && (leader == nil || st.Term > answers[leader].Term) {
			leader, o.Leader = n, st.Replica
		}
	}
	if leader != nil {
		m.ask(leader, r, o.Leader)
	}
	if p := m.progress[r]; p.leader == o.Leader && w.moment-p.moment <= 4*m.tick() {
		for _, of := range p.of {
			o.Progress[proto.ReplicaID(of.Replica)] = move.Progress{
				Lag: of.LagEntries, Heard: time.Duration(of.HeardMs) * time.Millisecond / 4, Snapshot: of.Snapshot, // so patient that most moves are made
			}
		}
	}
	if w.opt.fault.noGate {
		for _, added := range s.Add {
			o.Progress[added.ID] = move.Progress{}
		}
	}
	return o
}

// ask has a leader say how far the others are.
func (m *mover) ask(n *node, r proto.RangeID, leader proto.ReplicaID) {
	w, rep, life := m.w, n.rep, n.life
	w.ids++
	number := w.ids
	n.streams.Go(func() {
		of, err := rep.Progress(w.t.Context(), r)
		w.later(number, func() {
			if err == nil && n.life == life && of != nil {
				m.progress[r] = progress{w.moment, leader, of}
			}
		})
	})
	w.rest() // asked before the node's next step, not beside it
}

// unsettled says what a mover has still to do.
func (m *mover) unsettled() string {
	if m == nil {
		return ""
	}
	for _, r := range m.w.ranges {
		if s, known := m.moves[r]; known && !s.Phase.Over() {
			return fmt.Sprintf("move %s of range %s is %s: %s", s.ID, r, s.Phase, s.Wait)
		}
	}
	return ""
}

// inspect holds the nodes to the descriptors, when all moves are over.
func (m *mover) inspect() {
	if m == nil {
		return
	}
	w := m.w
	for _, r := range w.ranges {
		d := w.judge.owns[r].newest
		for _, have := range d.Replicas {
			if have.Learner {
				w.judge.violate("I12: range %s has still the learner %d on %s", r, have.Id, have.Node)
			}
		}
		for _, n := range w.nodes {
			if d.ReplicaOn(string(n.id)) != nil {
				continue
			}
			if st := n.status(r); st.Replica != 0 {
				w.judge.violate("%s still holds replica %d of range %s", n.id, st.Replica, r)
			}
			for _, left := range n.leftovers(r) {
				w.judge.violate("%s is none of range %s's any more, and still holds %s", n.id, r, left)
			}
		}
	}
}
