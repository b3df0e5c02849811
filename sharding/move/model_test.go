package move

import (
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	waggle "github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// world is a range with its nodes, and the one move of it.
type world struct {
	o     Observation
	s     State
	now   time.Time
	late  []Effect // calls that may still come to be done
	joint bool     // the joint change was made
	below map[waggle.NodeID]waggle.ReplicaID
}

func newWorld(t *rapid.T) *world {
	d := &cellpb.Descriptor{Range: 1, Cell: "c1", Epoch: 3, Version: 9, NextReplica: 4}
	w := &world{now: time.Unix(1_000_000, 0), below: map[waggle.NodeID]waggle.ReplicaID{}}
	w.o = Observation{Descriptor: d, Leader: 1, Progress: map[waggle.ReplicaID]Progress{}, Holds: map[waggle.NodeID]waggle.ReplicaID{},
		Gone: map[waggle.NodeID]bool{}, Lost: map[waggle.NodeID]bool{}, CopySlot: true, SwitchSlot: true}
	p := Plan{ID: "m1", Range: 1, From: "c1", To: "c1", Epoch: 3, Add: []Member{{Node: "n4"}}, Drop: []Member{{3, "n3"}}}
	if rapid.Bool().Draw(t, "other cell") {
		p.To = "c2"
		p.Add = []Member{{Node: "n4"}, {Node: "n5"}}
		p.Drop = []Member{{1, "n1"}, {2, "n2"}, {3, "n3"}}
		p.Standby = time.Duration(rapid.IntRange(0, 1).Draw(t, "standby")) * time.Hour
	}
	for i, n := range []string{"n1", "n2", "n3"} {
		id := waggle.ReplicaID(i + 1)
		d.Replicas = append(d.Replicas, &cellpb.Replica{Id: uint64(id), Node: n})
		w.o.Holds[waggle.NodeID(n)], w.o.Progress[id] = id, Progress{}
	}
	w.o.Route = RouteOf(d)
	w.s = Begin(p)
	return w
}

// do is what a range and its nodes do of an effect, however late.
func (w *world) do(f Effect) {
	d := w.o.Descriptor
	switch {
	case f.Kind == ChangeRange && f.Change.Version != d.Version,
		f.Kind == CreateReplica && (f.Member.ID < w.below[f.Member.Node] || w.o.Holds[f.Member.Node] != 0),
		f.Kind == Publish && f.Route.Epoch < w.o.Route.Epoch:
		return
	}
	applyEffect(&w.o, f)
	if f.Kind == RemoveReplica {
		w.below[f.Member.Node] = f.Member.ID + 1
		w.s, _, _ = Step(w.s, Event{Kind: Removed, Replica: f.Member.ID})
	}
	w.joint = w.joint || InJoint(d)
}

// step takes an event and checks the answer.
func (w *world) step(t *rapid.T, e Event) []Effect {
	e.Now, e.Seen = w.now, w.o
	before := w.s.Phase
	old := proto.CloneOf(w.o.Descriptor)
	next, effects, err := Step(w.s, e)
	changes := 0
	for _, f := range effects {
		switch f.Kind {
		case ChangeRange:
			changes++
			if f.Change.Version != w.o.Descriptor.Version || next.Version != f.Change.Version || f.Change.Move != "m1" {
				t.Fatalf("%s: the change %v is not of version %d", next.Phase, f.Change, w.o.Descriptor.Version)
			}
		case RemoveReplica:
			if replica(w.o.Descriptor, f.Member.ID) != nil {
				t.Fatalf("%s: removes replica %d, which the range names", next.Phase, f.Member.ID)
			}
		case CreateReplica:
			if next.Phase != Seeding {
				t.Fatalf("%s: creates replica %d", next.Phase, f.Member.ID)
			}
		}
	}
	if changes > 1 || changes == 1 && len(effects) > 1 {
		t.Fatalf("%s: effects that contradict: %v", next.Phase, effects)
	}
	if !proto.Equal(old, w.o.Descriptor) {
		t.Fatal("Step changed what it was shown")
	}
	if e.Kind == Cancel {
		cancelled := next.Phase == Cancelling || next.Phase == Cancelled
		if late := before.Switching() || before == Published || before == Standby || before == Done; late == (err == nil) || late && cancelled || !late && !cancelled {
			t.Fatalf("cancelled while %s: %s, %v", before, next.Phase, err)
		}
	}
	if e.Kind == Observed && w.joint && InJoint(w.o.Descriptor) && next.Phase != Joint {
		t.Fatalf("the range is in the joint configuration and the move %s", next.Phase)
	}
	if e.Kind == Observed && w.joint && (next.Phase == Cancelling || next.Phase == Cancelled) {
		t.Fatalf("the joint change was made, and the move is %s", next.Phase)
	}
	w.s = next
	return effects
}

// end lets everything go well until nothing more happens.
func (w *world) end(t *rapid.T) {
	w.o.Gone, w.o.Lost = map[waggle.NodeID]bool{}, map[waggle.NodeID]bool{}
	w.o.CopySlot, w.o.SwitchSlot = true, true
	for range 60 {
		for id := range w.o.Progress {
			w.o.Progress[id] = Progress{}
		}
		w.leader()
		if InJoint(w.o.Descriptor) {
			leaveJoint(&w.o)
		}
		for _, f := range w.step(t, Event{}) {
			w.do(f)
		}
		w.now = w.now.Add(10 * time.Minute)
	}
	d := w.o.Descriptor
	var voters []waggle.NodeID
	for _, r := range d.Replicas {
		if r.Learner || r.Incoming || r.Outgoing {
			t.Fatalf("%s with %v", w.s.Phase, d)
		}
		voters = append(voters, waggle.NodeID(r.Node))
		if w.o.Holds[waggle.NodeID(r.Node)] != waggle.ReplicaID(r.Id) {
			t.Fatalf("%s does not hold replica %d: %v", r.Node, r.Id, w.o.Holds)
		}
	}
	want := []waggle.NodeID{"n1", "n2", "n3"}
	switch w.s.Phase {
	case Done:
		want = []waggle.NodeID{"n1", "n2", "n4"}
		if w.s.To == "c2" {
			want = []waggle.NodeID{"n4", "n5"}
		}
		if d.Cell != string(w.s.To) || d.Epoch != 3+uint64(len(w.s.Drop)/2) || !w.o.Route.equal(RouteOf(d)) {
			t.Fatalf("done with %v and route %v", d, w.o.Route)
		}
	case Cancelled:
		if d.Cell != "c1" || d.Epoch != 3 {
			t.Fatalf("cancelled with %v", d)
		}
	default:
		t.Fatalf("it ends %s: %s", w.s.Phase, w.s.Wait)
	}
	slices.Sort(voters)
	if !slices.Equal(voters, want) {
		t.Fatalf("%s with voters %v, want %v", w.s.Phase, voters, want)
	}
	if holds := slices.Sorted(maps.Keys(w.o.Holds)); !slices.Equal(holds, want) {
		t.Fatalf("%s, and replicas are left on %v, want %v", w.s.Phase, holds, want)
	}
}

func (w *world) leader() {
	for _, r := range w.o.Descriptor.Replicas {
		if !r.Learner && !r.Incoming {
			w.o.Leader = waggle.ReplicaID(r.Id)
		}
	}
}

// Whatever happens in whatever order, no two effects contradict, a cancel
// before the joint change gives the range back as it was, and after it the move
// is made.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		var asked []Effect
		for range rapid.IntRange(0, 60).Draw(t, "length") {
			switch rapid.IntRange(0, 11).Draw(t, "what") {
			case 0, 1, 2:
				asked = w.step(t, Event{})
			case 3, 4, 5:
				for _, f := range asked {
					w.do(f)
				}
			case 6:
				w.late = append(w.late, asked...) // as if by one who sleeps
			case 7:
				if len(w.late) > 0 {
					i := rapid.IntRange(0, len(w.late)-1).Draw(t, "late")
					if w.late[i].Kind != RemoveReplica {
						w.do(w.late[i])
					}
				}
			case 8:
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond)
			case 9:
				if rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					asked = w.step(t, Event{Kind: Cancel})
				}
			case 10:
				if InJoint(w.o.Descriptor) {
					leaveJoint(&w.o)
				}
			case 11:
				w.disturb(t)
			}
		}
		w.end(t)
	})
}

func (w *world) disturb(t *rapid.T) {
	switch rapid.IntRange(0, 3).Draw(t, "disturb") {
	case 0:
		w.o.Leader = 0
	case 1:
		w.leader()
	case 2:
		lag := rapid.Uint64Range(0, 200).Draw(t, "lag")
		for id := range w.o.Progress {
			w.o.Progress[id] = Progress{Lag: lag}
		}
	case 3:
		w.o.CopySlot, w.o.SwitchSlot = rapid.Bool().Draw(t, "copy"), rapid.Bool().Draw(t, "switch")
	}
}

// From every state every event gives an answer, and a state that is known.
func TestEveryEventInEveryState(t *testing.T) {
	phases := []Phase{Planned, Seeding, CatchingUp, Ready, Joint, Owned, Published, Standby, Done, Cancelling, Cancelled}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for i := range w.s.Add {
			w.s.Add[i].ID = waggle.ReplicaID(rapid.IntRange(0, 6).Draw(t, "id"))
		}
		w.s.Phase = rapid.SampledFrom(phases).Draw(t, "phase")
		for _, r := range w.o.Descriptor.Replicas {
			r.Learner, r.Incoming, r.Outgoing = rapid.Bool().Draw(t, "learner"), rapid.Bool().Draw(t, "incoming"), rapid.Bool().Draw(t, "outgoing")
		}
		w.o.Descriptor.NextReplica = rapid.Uint64Range(0, 9).Draw(t, "next")
		w.o.Descriptor.Epoch = rapid.Uint64Range(2, 5).Draw(t, "epoch")
		w.o.Leader = waggle.ReplicaID(rapid.IntRange(0, 3).Draw(t, "leader"))
		if rapid.Bool().Draw(t, "silent") {
			w.o.Descriptor = nil
		}
		kind := rapid.SampledFrom([]EventKind{Observed, Cancel, Revert, EndStandby, Removed}).Draw(t, "event")
		next, _, _ := Step(w.s, Event{Kind: kind, Now: w.now, Seen: w.o, Replica: 4})
		if !slices.Contains(phases, next.Phase) {
			t.Fatalf("%s after %d: %q", w.s.Phase, kind, next.Phase)
		}
		if w.s.Phase.Over() && (next.Phase != w.s.Phase) {
			t.Fatalf("%s became %s", w.s.Phase, next.Phase)
		}
	})
}
