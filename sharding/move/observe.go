package move

import (
	"fmt"
	"slices"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// LagEntriesMax is how far a learner may be behind to become a voter:
	// what a busy range writes in a few milliseconds.
	LagEntriesMax = 64
	// HeardMax is how long ago a learner may have answered last: the
	// heartbeats of a quiet group come every 100 ms, and half of that again
	// for the way and the wait.
	HeardMax = 150 * time.Millisecond
	// VoterHeardMax is how long ago an old voter may have answered to count
	// as alive: five heartbeats missed wake its group.
	VoterHeardMax = 500 * time.Millisecond
	// GateTime is how long the gate must have held.
	GateTime = time.Second
)

// Observation is what the mover has seen of a range and its nodes.
type Observation struct {
	// Descriptor is the newest that any node has applied; nil: none answered.
	Descriptor *cellpb.Descriptor
	// Leader is the replica that leads at that descriptor; 0: none is known.
	Leader   proto.ReplicaID
	Progress map[proto.ReplicaID]Progress // of the others, as the leader says
	Holds    map[proto.NodeID]proto.ReplicaID
	// Gone are nodes whose lease has ended and that do not answer, Lost those
	// that are given up.
	Gone, Lost map[proto.NodeID]bool
	Route      Route // as the route table has it
	// CopySlot and SwitchSlot: no other move stands in the way of copying, or
	// of changing owner.
	CopySlot, SwitchSlot bool
	Pause                time.Duration // as an old replica measured it; 0: not known
}

// Progress is what a leader knows of another replica.
type Progress struct {
	Lag      uint64 // entries
	Heard    time.Duration
	Snapshot bool // it is being sent one
}

// Route is a range's row of the route table.
type Route struct {
	Cell   proto.CellID
	Epoch  proto.Epoch
	Voters []Member // by id
}

// Effect is one thing to be done.
type Effect struct {
	Kind   EffectKind
	Member Member                 // CreateReplica, RemoveReplica
	Change *cellpb.ChangeReplicas // ChangeRange
	Route  Route                  // Publish
	Plan   Plan                   // MoveBack, without a name
}

// RouteOf is the row that a descriptor stands for.
func RouteOf(d *cellpb.Descriptor) Route {
	r := Route{Cell: proto.CellID(d.GetCell()), Epoch: proto.Epoch(d.GetEpoch())}
	for _, rep := range d.GetReplicas() {
		if !rep.Learner && !rep.Incoming {
			r.Voters = append(r.Voters, Member{proto.ReplicaID(rep.Id), proto.NodeID(rep.Node)})
		}
	}
	slices.SortFunc(r.Voters, func(a, b Member) int { return int(a.ID) - int(b.ID) })
	return r
}

func (r Route) equal(o Route) bool {
	return r.Cell == o.Cell && r.Epoch == o.Epoch && slices.Equal(r.Voters, o.Voters)
}

// InJoint tells whether the range is in the joint configuration.
func InJoint(d *cellpb.Descriptor) bool {
	return slices.ContainsFunc(d.GetReplicas(), func(r *cellpb.Replica) bool { return r.Incoming || r.Outgoing })
}

func replica(d *cellpb.Descriptor, id proto.ReplicaID) *cellpb.Replica {
	for _, r := range d.GetReplicas() {
		if proto.ReplicaID(r.Id) == id {
			return r
		}
	}
	return nil
}

// arrived tells whether the range is as the plan wants it: replicas added vote,
// those dropped do not, and the owner is the new one.
func (s State) arrived(d *cellpb.Descriptor) bool {
	if InJoint(d) || s.From != s.To && (proto.CellID(d.Cell) != s.To || proto.Epoch(d.Epoch) <= s.Epoch) {
		return false
	}
	for _, m := range s.Add {
		if r := replica(d, m.ID); r == nil || r.Learner {
			return false
		}
	}
	for _, m := range s.Drop {
		if r := replica(d, m.ID); r != nil && !r.Learner {
			return false
		}
	}
	return true
}

// gate tells whether the owner may change now, and if not, why not.
func (s State) gate(o Observation) (wait string) {
	if o.Leader == 0 {
		return s.noLeader()
	}
	for _, m := range s.Add {
		p, known := o.Progress[m.ID]
		switch {
		case !known:
			return fmt.Sprintf("the leader has not heard of replica %d on %s yet", m.ID, m.Node)
		case p.Snapshot:
			return fmt.Sprintf("replica %d on %s is being sent a snapshot", m.ID, m.Node)
		case p.Lag > LagEntriesMax:
			return fmt.Sprintf("replica %d on %s is %d entries behind", m.ID, m.Node, p.Lag)
		case p.Heard > HeardMax:
			return fmt.Sprintf("replica %d on %s last answered %s ago", m.ID, m.Node, p.Heard)
		}
	}
	voters, alive := 0, 0
	for _, r := range o.Descriptor.Replicas {
		if r.Learner {
			continue
		}
		voters++
		p, known := o.Progress[proto.ReplicaID(r.Id)]
		if proto.ReplicaID(r.Id) == o.Leader || known && p.Heard <= VoterHeardMax {
			alive++
		}
	}
	if alive <= voters/2 {
		return fmt.Sprintf("only %d of the range's %d voters answer its leader", alive, voters)
	}
	return ""
}

func (s State) noLeader() string { return fmt.Sprintf("range %d has no leader just now", s.Range) }
