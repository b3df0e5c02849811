package move

import (
	"fmt"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// Phase is how far a move is. The words are those operators read.
type Phase string

// The phases, in their order; see the package comment.
const (
	Planned    Phase = "planned"
	Seeding    Phase = "seeding"
	CatchingUp Phase = "catching-up"
	Ready      Phase = "ready"
	Joint      Phase = "joint"
	Owned      Phase = "owned"
	Published  Phase = "published"
	Standby    Phase = "standby"
	Done       Phase = "done"
	Cancelling Phase = "cancelling"
	Cancelled  Phase = "cancelled"
)

// Over tells whether nothing more will happen.
func (p Phase) Over() bool { return p == Done || p == Cancelled }

// Copying tells whether the move takes one of its cells' copy slots.
func (p Phase) Copying() bool { return p == Seeding || p == CatchingUp || p == Ready }

// Switching tells whether the range is changing owner: of the ranges of a
// cell, only one may be.
func (p Phase) Switching() bool { return p == Joint || p == Owned }

// Settled tells whether a new move of the range may be planned.
func (p Phase) Settled() bool { return p == Standby || p.Over() }

// Member is one replica on one node.
type Member struct {
	ID   proto.ReplicaID // 0: not given yet
	Node proto.NodeID
}

// Plan says what a move is to do. Ids of replicas to add are given when it
// begins, and are those of learners that exist when it moves a range back.
type Plan struct {
	ID       string
	Range    proto.RangeID
	From, To proto.CellID // the same: only the replicas change
	Epoch    proto.Epoch  // of the range when planned
	Add      []Member
	Drop     []Member
	Standby  time.Duration // how long the dropped ones are kept
	Rate     uint64        // of copying one replica, in bytes per second; 0: the nodes' own limit
	Started  time.Time
	By       string
	Reason   string
}

// Validate checks p.
func (p Plan) Validate() error {
	nodes, ids := map[proto.NodeID]bool{}, map[proto.ReplicaID]bool{}
	for _, m := range append(append([]Member{}, p.Add...), p.Drop...) {
		if m.Node == "" || nodes[m.Node] || m.ID != 0 && ids[m.ID] {
			return fmt.Errorf("move: node %q or replica %d is named twice, or not at all", m.Node, m.ID)
		}
		nodes[m.Node], ids[m.ID] = true, true
	}
	for _, m := range p.Drop {
		if m.ID == 0 {
			return fmt.Errorf("move: the replica to drop on %s has no id", m.Node)
		}
	}
	switch {
	case p.ID == "" || p.Range == 0 || p.From == "" || p.To == "":
		return fmt.Errorf("move: a plan needs a name, a range and two cells: %+v", p)
	case len(nodes) == 0:
		return fmt.Errorf("move: nothing to add or to drop")
	case p.From != p.To && (len(p.Add) == 0 || len(p.Drop) == 0):
		return fmt.Errorf("move: a range that changes cell needs replicas to add and to drop")
	case p.From == p.To && p.Standby != 0:
		return fmt.Errorf("move: nothing is kept for going back inside a cell")
	case p.Standby < 0:
		return fmt.Errorf("move: standby of %s", p.Standby)
	}
	return nil
}

// State is a move at one moment. It is a value: [Step] never changes the one
// it is given.
type State struct {
	Plan
	Phase        Phase
	Since        time.Time         // in this phase
	Version      uint64            // of the descriptor on which the last change was planned, or that showed it made
	OwnedEpoch   proto.Epoch       // the epoch the range had after the change
	StandbyUntil time.Time         // when the old replicas are removed
	Cleared      []proto.ReplicaID // replicas whose nodes said that they are deleted
	Wait         string            // what it waits for; empty: it goes on
	Cause        string            // why it was cancelled, or ended early
	Pause        time.Duration     // how long the range took no writes; 0: not known
}

// Begin is the state of a move that was just planned.
func Begin(p Plan) State { return State{Plan: p, Phase: Planned, Since: p.Started} }

// EventKind says what happened.
type EventKind uint8

// The kinds of events.
const (
	Observed   EventKind = iota // the cluster was looked at
	Cancel                      // an operator wants the move ended
	Revert                      // an operator wants the range back
	EndStandby                  // the range is to be moved again
	Removed                     // a node has deleted its replica
)

// Event is what [Step] is told.
type Event struct {
	Kind    EventKind
	Now     time.Time
	Seen    Observation     // of Observed
	Replica proto.ReplicaID // of Removed
}

// EffectKind says what is to be done.
type EffectKind uint8

// The kinds of effects. Each may be repeated.
const (
	CreateReplica EffectKind = iota // make Member's empty replica
	ChangeRange                     // propose Change at the range's leader
	Publish                         // write the descriptor's owner and voters into the route table
	RemoveReplica                   // delete Member's replica on its node
	MoveBack                        // begin Plan
)

// String names the kind.
func (k EffectKind) String() string {
	return [...]string{"create", "change", "publish", "remove", "move-back"}[k]
}
