package move

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// rewrite writes what happens into the scenario files: after a change that was
// meant, and read before it is committed.
var rewrite = flag.Bool("rewrite", false, "write what happens into testdata/*.txt")

// Each file is a script, "----", and what came of it: one line per command with
// the states and the effects.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d scenarios (%v)", len(files), err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		script, want, ok := strings.Cut(string(raw), "----\n")
		if !ok {
			t.Fatalf("%s has no ----", file)
		}
		have := play(t, file, script)
		if *rewrite {
			if err := os.WriteFile(file, []byte(script+"----\n"+have), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if have != want {
			t.Errorf("%s: happened\n%s\nwant\n%s", file, have, want)
		}
	}
}

// scene is a range and its move.
type scene struct {
	state State
	now   time.Time
	o     Observation
	late  []Effect // asked for and not done yet
	joint []Effect // a joint change that may still be on its way
}

func play(t *testing.T, file, script string) string {
	t.Helper()
	s := &scene{now: time.Unix(1_000_000, 0).UTC()}
	s.o = Observation{
		Descriptor: &cellpb.Descriptor{Range: 1, Cell: "c1", Epoch: 7, Version: 20, NextReplica: 4, Replicas: []*cellpb.Replica{
			{Id: 1, Node: "n1"}, {Id: 2, Node: "n2"}, {Id: 3, Node: "n3"},
		}},
		Leader: 1, Progress: map[proto.ReplicaID]Progress{1: {}, 2: {}, 3: {}}, Holds: map[proto.NodeID]proto.ReplicaID{"n1": 1, "n2": 2, "n3": 3},
		Gone: map[proto.NodeID]bool{}, Lost: map[proto.NodeID]bool{}, CopySlot: true, SwitchSlot: true,
	}
	s.o.Route = RouteOf(s.o.Descriptor)
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		before := s.state.Phase
		effects, err := s.command(strings.Fields(line))
		if err != nil && proto.CodeOf(err) == proto.CodeUnavailable {
			t.Fatalf("%s: %s: %v", file, line, err)
		}
		fmt.Fprintf(&out, "%s: %s → %s", line, before, s.state.Phase)
		for _, f := range effects {
			fmt.Fprintf(&out, "  [%s]", f.text())
		}
		switch {
		case err != nil:
			fmt.Fprintf(&out, "  refused: %v", err)
		case s.state.Wait != "":
			fmt.Fprintf(&out, "  wait: %s", s.state.Wait)
		case s.state.Phase == Cancelled || s.state.Phase == Cancelling:
			fmt.Fprintf(&out, "  cause: %s", s.state.Cause)
		}
		out.WriteString("\n")
	}
	return out.String()
}

func (f Effect) text() string {
	switch f.Kind {
	case ChangeRange:
		switch c := f.Change.Change.(type) {
		case *cellpb.ChangeReplicas_AddLearner:
			return fmt.Sprintf("add learner %d on %s, at version %d", c.AddLearner.Id, c.AddLearner.Node, f.Change.Version)
		case *cellpb.ChangeReplicas_EnterJoint:
			return fmt.Sprintf("joint: promote %v demote %v next cell %q, at version %d", c.EnterJoint.Promote, c.EnterJoint.Demote, c.EnterJoint.NextCell, f.Change.Version)
		case *cellpb.ChangeReplicas_RemoveLearner:
			return fmt.Sprintf("remove learner %d, at version %d", c.RemoveLearner, f.Change.Version)
		}
	case Publish:
		return fmt.Sprintf("publish %s@%d %v", f.Route.Cell, f.Route.Epoch, f.Route.Voters)
	case MoveBack:
		return fmt.Sprintf("move back to %s: add %v drop %v", f.Plan.To, f.Plan.Add, f.Plan.Drop)
	}
	return fmt.Sprintf("%s %d on %s", f.Kind, f.Member.ID, f.Member.Node)
}

// command is one line of a script.
func (s *scene) command(words []string) (effects []Effect, err error) {
	arg := ""
	if len(words) > 1 {
		arg = words[1]
	}
	switch words[0] {
	case "plan":
		p, err := parsePlan(words[1:])
		if err != nil {
			return nil, err
		}
		s.state = Begin(p)
		return nil, p.Validate()
	case "see": // look, without doing anything
		return s.step(Event{})
	case "cancel":
		return s.step(Event{Kind: Cancel})
	case "revert":
		return s.step(Event{Kind: Revert})
	case "end-standby":
		return s.step(Event{Kind: EndStandby})
	case "do": // do what was asked for, and look
		s.do()
		return s.step(Event{})
	case "joint-made": // the joint change that was on its way is made after all
		s.late = s.joint
		s.do()
		return s.step(Event{})
	case "joint-over": // it is made and left before anybody looks
		s.late = s.joint
		s.do()
		s.leave()
		return s.step(Event{})
	case "stranger": // a learner of an earlier move
		s.o.Descriptor.Replicas = append(s.o.Descriptor.Replicas, &cellpb.Replica{Id: 90, Node: arg, Learner: true})
		return s.step(Event{})
	case "no-stranger":
		s.o.Descriptor.Replicas = slices.DeleteFunc(s.o.Descriptor.Replicas, func(r *cellpb.Replica) bool { return r.Id == 90 })
		return s.step(Event{})
	case "next": // the range has given ids up to here
		n, err := strconv.ParseUint(arg, 10, 64)
		s.o.Descriptor.NextReplica = n
		s.o.Descriptor.Version++
		return nil, err
	case "route": // the route table is at this epoch
		n, err := strconv.ParseUint(arg, 10, 64)
		s.o.Route.Epoch = proto.Epoch(n)
		return nil, err
	case "pass":
		d, err := time.ParseDuration(arg)
		s.now = s.now.Add(d)
		effects, _ := s.step(Event{})
		return effects, err
	case "leader":
		n, err := strconv.ParseUint(arg, 10, 64)
		s.o.Leader = proto.ReplicaID(n)
		return nil, err
	case "lag": // of all learners
		n, err := strconv.ParseUint(arg, 10, 64)
		for id, p := range s.o.Progress {
			if r := replica(s.o.Descriptor, id); r != nil && r.Learner {
				p.Lag = n
				s.o.Progress[id] = p
			}
		}
		return nil, err
	case "heard": // of a replica, so long ago
		id, err := strconv.ParseUint(arg, 10, 64)
		if err != nil {
			return nil, err
		}
		p := s.o.Progress[proto.ReplicaID(id)]
		p.Heard, err = time.ParseDuration(words[2])
		s.o.Progress[proto.ReplicaID(id)] = p
		if err != nil {
			return nil, err
		}
		return s.step(Event{})
	case "snapshot": // replica 4 is being sent one, or not
		p := s.o.Progress[4]
		p.Snapshot = arg == "begins"
		s.o.Progress[4] = p
		return s.step(Event{})
	case "leave":
		s.leave()
		return s.step(Event{})
	case "lost":
		s.o.Lost[proto.NodeID(arg)] = true
		return s.step(Event{})
	case "gone":
		s.o.Gone[proto.NodeID(arg)] = true
		return s.step(Event{})
	case "epoch": // something else has changed the owner
		n, err := strconv.ParseUint(arg, 10, 64)
		s.o.Descriptor.Epoch = n
		s.o.Descriptor.Version++
		return nil, err
	case "recovered": // the range was recovered on a node
		s.o.Descriptor.Replicas = []*cellpb.Replica{{Id: 1004, Node: arg}}
		s.o.Descriptor.Epoch += 2
		s.o.Descriptor.Version += 1000
		s.o.Descriptor.NextReplica = 1005
		s.o.Leader = 1004
		return s.step(Event{})
	case "slots":
		s.o.CopySlot, s.o.SwitchSlot = strings.Contains(arg, "copy"), strings.Contains(arg, "switch")
		return s.step(Event{})
	}
	return nil, fmt.Errorf("there is no command %q", words[0])
}

func (s *scene) step(e Event) (effects []Effect, err error) {
	e.Now, e.Seen = s.now, s.o
	s.state, effects, err = Step(s.state, e)
	if err == nil {
		s.late = effects
	}
	if len(effects) == 1 && effects[0].Change.GetEnterJoint() != nil {
		s.joint = effects
	}
	return effects, err
}

// do makes the effects asked for last happen.
func (s *scene) do() {
	for _, f := range s.late {
		if f.Kind == ChangeRange && f.Change.Version != s.o.Descriptor.Version {
			continue // as the range's leader refuses it
		}
		applyEffect(&s.o, f)
		if f.Kind == RemoveReplica {
			s.state, _, _ = Step(s.state, Event{Kind: Removed, Replica: f.Member.ID})
		}
	}
	s.late = nil
}

// applyEffect is what a range and its nodes do.
func applyEffect(o *Observation, f Effect) {
	d := o.Descriptor
	switch f.Kind {
	case CreateReplica:
		o.Holds[f.Member.Node] = f.Member.ID
	case RemoveReplica:
		delete(o.Holds, f.Member.Node)
	case Publish:
		o.Route = f.Route
	case ChangeRange:
		switch c := f.Change.Change.(type) {
		case *cellpb.ChangeReplicas_AddLearner:
			d.Replicas = append(d.Replicas, c.AddLearner)
			d.NextReplica++
			o.Progress[proto.ReplicaID(c.AddLearner.Id)] = Progress{}
		case *cellpb.ChangeReplicas_EnterJoint:
			for _, id := range c.EnterJoint.Promote {
				r := replica(d, proto.ReplicaID(id))
				r.Learner, r.Incoming = false, true
			}
			for _, id := range c.EnterJoint.Demote {
				replica(d, proto.ReplicaID(id)).Outgoing = true
			}
			d.NextCell = c.EnterJoint.NextCell
		case *cellpb.ChangeReplicas_RemoveLearner:
			var kept []*cellpb.Replica
			for _, r := range d.Replicas {
				if r.Id != c.RemoveLearner {
					kept = append(kept, r)
				}
			}
			d.Replicas = kept
		}
		d.Version++
	}
}

// leave is what the replicas do by themselves in the joint configuration.
func (s *scene) leave() { leaveJoint(&s.o) }

func leaveJoint(o *Observation) {
	d := o.Descriptor
	for _, r := range d.Replicas {
		if r.Incoming {
			o.Leader, r.Incoming = proto.ReplicaID(r.Id), false
		}
		if r.Outgoing {
			r.Outgoing, r.Learner = false, true
		}
	}
	if d.NextCell != "" {
		d.Cell, d.NextCell = d.NextCell, ""
		d.Epoch++
	}
	d.Version++
}

// parsePlan reads: FROM TO add NODE … drop ID/NODE … standby DURATION.
func parsePlan(words []string) (Plan, error) {
	p := Plan{ID: "m1", Range: 1, From: proto.CellID(words[0]), To: proto.CellID(words[1]), Epoch: 7}
	list := ""
	for _, w := range words[2:] {
		switch w {
		case "add", "drop", "standby":
			list = w
			continue
		}
		id, node, ok := strings.Cut(w, "/")
		if !ok {
			id, node = "0", w
		}
		switch list {
		case "standby":
			d, err := time.ParseDuration(w)
			if err != nil {
				return p, err
			}
			p.Standby = d
			continue
		}
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return p, err
		}
		m := Member{proto.ReplicaID(n), proto.NodeID(node)}
		if list == "add" {
			p.Add = append(p.Add, m)
		} else {
			p.Drop = append(p.Drop, m)
		}
	}
	return p, nil
}

// A mover that starts anew in the middle of a standby may at first hear only of
// a replica that lags. By its descriptor the old voters still vote: that must
// not end the move with them left behind.
func TestAnOldDescriptorEndsNothing(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	d := &cellpb.Descriptor{Range: 1, Cell: "c1", Epoch: 7, Version: 20, NextReplica: 5, Replicas: []*cellpb.Replica{
		{Id: 1, Node: "n1"}, {Id: 4, Node: "n4", Learner: true},
	}}
	for _, to := range []proto.CellID{"c2", "c1"} { // inside a cell the epoch stays
		s := State{Plan: Plan{ID: "m1", Range: 1, From: "c1", To: to, Epoch: 7, Add: []Member{{4, "n4"}}, Drop: []Member{{1, "n1"}}}, Phase: Joint, Since: now}
		o, joint := Observation{Descriptor: pb.CloneOf(d)}, &cellpb.EnterJoint{Promote: []uint64{4}, Demote: []uint64{1}}
		if to != s.From {
			joint.NextCell = string(to)
		}
		applyEffect(&o, Effect{Kind: ChangeRange, Change: &cellpb.ChangeReplicas{Change: &cellpb.ChangeReplicas_EnterJoint{EnterJoint: joint}}})
		old := []*cellpb.Descriptor{d, pb.CloneOf(o.Descriptor)}
		leaveJoint(&o)
		o.Route = RouteOf(o.Descriptor)
		s, _, err := Step(s, Event{Now: now, Seen: o})
		if err != nil || s.Phase != Standby {
			t.Fatalf("after the joint configuration: %s, %v", s.Phase, err)
		}
		for _, view := range old {
			next, effects, err := Step(s, Event{Now: now.Add(time.Second), Seen: Observation{Descriptor: view}})
			if err != nil || next.Phase != Standby || len(effects) > 0 || next.Wait == "" {
				t.Errorf("to %s, after the descriptor of version %d: %s, %v, wait %q, %v", to, view.Version, next.Phase, effects, next.Wait, err)
			}
		}
	}
}
