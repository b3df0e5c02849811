package move

import (
	"fmt"
	"slices"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Step is the next state after e, and what is to be done once that is stored.
// An observation that changes nothing gives the same effects again, as long as
// they have not shown.
//
// Errors: [proto.CodeConflict] when a verb comes in a state that does not allow
// it; the state is the same then.
func Step(s State, e Event) (State, []Effect, error) {
	switch e.Kind {
	case Cancel:
		return s.cancel(e.Now)
	case Revert:
		return s.revert(e.Now)
	case EndStandby:
		if s.Phase == Standby && s.StandbyUntil.After(e.Now) {
			s.StandbyUntil = e.Now
		}
		return s, nil, nil
	case Removed:
		if !slices.Contains(s.Cleared, e.Replica) {
			s.Cleared = append(slices.Clone(s.Cleared), e.Replica)
		}
		return s, nil, nil
	}
	if s.Phase.Over() {
		return s, nil, nil
	}
	s.Wait = ""
	if e.Seen.Descriptor == nil {
		s.Wait = fmt.Sprintf("no node answers for range %d", s.Range)
		return s, nil, nil
	}
	if s.Wait = s.behind(e.Seen.Descriptor); s.Wait != "" {
		return s, nil, nil
	}
	s = s.follow(e)
	for {
		next, effects := s.observe(e)
		if next.Phase == s.Phase || len(effects) > 0 {
			for _, f := range effects {
				if f.Kind == ChangeRange {
					next.Version = f.Change.Version
				}
			}
			return next, effects, nil
		}
		s = next
	}
}

// behind says what the newest descriptor that was seen lacks. Whoever goes on
// with a move may have heard only of a replica that lags: by its word the range
// is another's, old voters still vote, and learners are not there yet.
func (s State) behind(d *cellpb.Descriptor) string {
	switch known := max(s.Epoch, s.OwnedEpoch); {
	case proto.Epoch(d.Epoch) < known:
		return fmt.Sprintf("nobody has been heard of that knows epoch %d of the range", known)
	case d.Version < s.Version:
		return fmt.Sprintf("nobody has been heard of that knows version %d of the range's descriptor", s.Version)
	}
	return ""
}

func (s State) cancel(now time.Time) (State, []Effect, error) {
	const asked = "cancelled by an operator"
	switch s.Phase {
	case Planned:
		return s.unbegun(now).because(asked), nil, nil
	case Seeding, CatchingUp, Ready:
		return s.to(Cancelling, now).because(asked), nil, nil
	case Cancelling, Cancelled:
		return s, nil, nil
	case Standby, Done:
		return s, nil, proto.Errorf(proto.CodeConflict, "move %s is made: `waggle moves revert %s` moves the range back while that is kept", s.ID, s.ID)
	}
	return s, nil, proto.Errorf(proto.CodeConflict, "move %s is %s: the range is changing owner and cannot stay", s.ID, s.Phase)
}

// unbegun ends a move that has done nothing yet. One that was to move a range
// back has learners nevertheless, from the standby of the move before, and they
// stand in the way of every other: they are removed.
func (s State) unbegun(now time.Time) State {
	if slices.ContainsFunc(s.Add, func(m Member) bool { return m.ID != 0 }) {
		return s.to(Cancelling, now)
	}
	return s.to(Cancelled, now)
}

func (s State) revert(now time.Time) (State, []Effect, error) {
	switch {
	case s.Phase == Done || s.Phase == Standby && !now.Before(s.StandbyUntil):
		return s, nil, proto.Errorf(proto.CodeConflict, "move %s keeps nothing to go back to: move range %d to %s anew", s.ID, s.Range, s.From)
	case s.Phase != Standby:
		return s, nil, proto.Errorf(proto.CodeConflict, "move %s is %s: it can be reverted once the range has moved, or cancelled before", s.ID, s.Phase)
	}
	back := Plan{
		Range: s.Range, From: s.To, To: s.From, Epoch: s.OwnedEpoch, Add: slices.Clone(s.Drop), Drop: slices.Clone(s.Add),
		Standby: s.Standby, Rate: s.Rate, Started: now, Reason: "moves " + s.ID + " back",
	}
	return s.to(Done, now).because("reverted"), []Effect{{Kind: MoveBack, Plan: back}}, nil
}

func (s State) to(p Phase, now time.Time) State {
	s.Phase, s.Since, s.Wait = p, now, ""
	return s
}

func (s State) because(cause string) State {
	s.Cause = cause
	return s
}

// follow lets the descriptor decide how far the move is.
func (s State) follow(e Event) State {
	d := e.Seen.Descriptor
	switch s.Phase {
	case Seeding, CatchingUp, Ready, Joint, Cancelling:
	default:
		return s
	}
	switch {
	case s.arrived(d):
		s = s.to(Owned, e.Now)
		s.OwnedEpoch, s.Version = proto.Epoch(d.Epoch), d.Version
	case InJoint(d) && s.mine(d) && s.Phase != Joint:
		s = s.to(Joint, e.Now)
	case proto.Epoch(d.Epoch) != s.Epoch && s.Phase != Cancelling:
		s = s.to(Cancelling, e.Now).because(fmt.Sprintf("the range was given epoch %d by something else", d.Epoch))
	}
	return s
}

// mine tells whether a joint configuration is this move's.
func (s State) mine(d *cellpb.Descriptor) bool {
	for _, m := range s.Add {
		if r := replica(d, m.ID); r == nil || !r.Incoming {
			return false
		}
	}
	for _, m := range s.Drop {
		if r := replica(d, m.ID); r == nil || !r.Outgoing {
			return false
		}
	}
	return true
}

// observe is one transition, or what is to be done in this phase.
func (s State) observe(e Event) (State, []Effect) {
	switch s.Phase {
	case Planned:
		return s.plan(e), nil
	case Seeding:
		return s.seed(e)
	case CatchingUp, Ready:
		return s.catchUp(e)
	case Joint:
		return s.join(e)
	case Owned, Published:
		return s.publish(e)
	case Standby:
		return s.stand(e)
	case Cancelling:
		return s.undo(e)
	}
	return s, nil
}

func (s State) plan(e Event) State {
	o, d := e.Seen, e.Seen.Descriptor
	if proto.Epoch(d.Epoch) != s.Epoch || proto.CellID(d.Cell) != s.From {
		return s.unbegun(e.Now).because(fmt.Sprintf("range %d is owned by %s at epoch %d, and was to be moved from %s at epoch %d",
			s.Range, d.Cell, d.Epoch, s.From, s.Epoch))
	}
	for _, m := range s.Drop {
		if r := replica(d, m.ID); r == nil || r.Learner {
			return s.unbegun(e.Now).because(fmt.Sprintf("replica %d on %s is no voter of range %d any more", m.ID, m.Node, s.Range))
		}
	}
	stranger := slices.IndexFunc(d.Replicas, func(r *cellpb.Replica) bool {
		return r.Learner && !slices.ContainsFunc(s.Add, func(m Member) bool { return uint64(m.ID) == r.Id })
	})
	switch {
	case InJoint(d):
		s.Wait = fmt.Sprintf("another change of range %d's replicas is under way", s.Range)
	case stranger >= 0:
		s.Wait = fmt.Sprintf("replica %d of an earlier move is being removed from %s", d.Replicas[stranger].Id, d.Replicas[stranger].Node)
	case o.Leader == 0:
		s.Wait = s.noLeader()
	case !o.CopySlot:
		s.Wait = "two other ranges of these cells are being copied"
	default:
		s.Add = slices.Clone(s.Add)
		next := proto.ReplicaID(d.NextReplica)
		for i := range s.Add {
			if s.Add[i].ID == 0 {
				s.Add[i].ID = next
				next++
			}
		}
		return s.to(Seeding, e.Now)
	}
	return s
}

func (s State) seed(e Event) (State, []Effect) {
	o, d := e.Seen, e.Seen.Descriptor
	if s.lost(o) != "" {
		return s.to(Cancelling, e.Now).because(s.lost(o)), nil
	}
	for _, m := range s.Add {
		if replica(d, m.ID) != nil {
			continue
		}
		switch {
		case uint64(m.ID) < d.NextReplica:
			return s.to(Cancelling, e.Now).because(fmt.Sprintf("replica %d was given to another", m.ID)), nil
		case o.Holds[m.Node] != m.ID:
			s.Wait = fmt.Sprintf("%s is to make replica %d", m.Node, m.ID)
			return s, []Effect{{Kind: CreateReplica, Member: m}}
		case o.Leader == 0:
			s.Wait = s.noLeader()
			return s, nil
		}
		return s, []Effect{s.addLearner(d, m)}
	}
	return s.to(CatchingUp, e.Now), nil
}

func (s State) lost(o Observation) string {
	for _, m := range s.Add {
		if o.Lost[m.Node] {
			return fmt.Sprintf("node %s, which was to get a replica, is lost", m.Node)
		}
	}
	return ""
}

func (s State) catchUp(e Event) (State, []Effect) {
	o, d := e.Seen, e.Seen.Descriptor
	if s.lost(o) != "" {
		return s.to(Cancelling, e.Now).because(s.lost(o)), nil
	}
	for _, m := range s.Add {
		if replica(d, m.ID) == nil {
			return s.to(Cancelling, e.Now).because(fmt.Sprintf("somebody removed replica %d from %s", m.ID, m.Node)), nil
		}
	}
	wait := s.gate(o)
	switch {
	case s.Phase == CatchingUp && wait == "":
		return s.to(Ready, e.Now), nil
	case s.Phase == CatchingUp:
		s.Wait = wait
		return s, nil
	case wait != "":
		return s.to(CatchingUp, e.Now), nil
	case e.Now.Sub(s.Since) < GateTime:
		s.Wait = fmt.Sprintf("the new replicas are to keep up for %s", GateTime)
		return s, nil
	case !o.SwitchSlot:
		s.Wait = "another range of these cells is changing owner"
		return s, nil
	}
	return s.to(Joint, e.Now), nil
}

func (s State) join(e Event) (State, []Effect) {
	o, d := e.Seen, e.Seen.Descriptor
	if InJoint(d) {
		s.Wait = "a majority of the old and of the new replicas is to agree"
		return s, nil
	}
	if s.gate(o) != "" {
		// Not made, and now it may not be. One that is on its way is refused
		// at another version or shows in the descriptor.
		return s.to(CatchingUp, e.Now), nil
	}
	joint := &cellpb.EnterJoint{}
	for _, m := range s.Add {
		joint.Promote = append(joint.Promote, uint64(m.ID))
	}
	for _, m := range s.Drop {
		joint.Demote = append(joint.Demote, uint64(m.ID))
	}
	if s.From != s.To {
		joint.NextCell = string(s.To)
	}
	return s, []Effect{s.change(d, &cellpb.ChangeReplicas{Change: &cellpb.ChangeReplicas_EnterJoint{EnterJoint: joint}})}
}

func (s State) publish(e Event) (State, []Effect) {
	o, d := e.Seen, e.Seen.Descriptor
	if s.Pause == 0 {
		s.Pause = o.Pause
	}
	if s.Phase == Published {
		s = s.to(Standby, e.Now)
		s.StandbyUntil = e.Now.Add(s.Standby)
		return s, nil
	}
	route := RouteOf(d)
	if o.Route.Epoch > route.Epoch || o.Route.equal(route) {
		return s.to(Published, e.Now), nil
	}
	s.Wait = "the route table is to be told"
	return s, []Effect{{Kind: Publish, Route: route}}
}

func (s State) stand(e Event) (State, []Effect) {
	o, d := e.Seen, e.Seen.Descriptor
	if s.Pause == 0 {
		s.Pause = o.Pause
	}
	if e.Now.Before(s.StandbyUntil) {
		for _, m := range s.Drop {
			if o.Gone[m.Node] {
				s.Wait = fmt.Sprintf("node %s is gone: less is left to go back to", m.Node)
			}
		}
		return s, nil
	}
	left, effects := s.remove(s.Drop, o, d)
	if left == "" {
		return s.to(Done, e.Now), nil
	}
	s.Wait = left
	return s, effects
}

// remove takes replicas out of the range and off their nodes, and says what is
// left to be done. One that votes is not this move's any more.
func (s State) remove(members []Member, o Observation, d *cellpb.Descriptor) (left string, effects []Effect) {
	var off []Effect
	for _, m := range members {
		r := replica(d, m.ID)
		switch {
		case r != nil && !r.Learner, r == nil && slices.Contains(s.Cleared, m.ID):
		case r == nil && succeeded(d, m): // a node holds one replica of a range
		case r != nil && o.Leader == 0:
			return s.noLeader(), nil
		case r != nil:
			return fmt.Sprintf("replica %d is to be removed", m.ID), []Effect{s.change(d, &cellpb.ChangeReplicas{
				Change: &cellpb.ChangeReplicas_RemoveLearner{RemoveLearner: uint64(m.ID)},
			})}
		case o.Gone[m.Node]: // it is told when it comes back
		default:
			off = append(off, Effect{Kind: RemoveReplica, Member: m})
			left = fmt.Sprintf("%s is to delete replica %d", m.Node, m.ID)
		}
	}
	return left, off
}

// succeeded tells whether the range has a later replica on m's node, as after
// its recovery.
func succeeded(d *cellpb.Descriptor, m Member) bool {
	return slices.ContainsFunc(d.Replicas, func(r *cellpb.Replica) bool { return r.Node == string(m.Node) && r.Id > uint64(m.ID) })
}

// undo makes the range as it was. An id of the plan that was not given yet is
// given and taken back: a node that has deleted a replica refuses its id for
// ever, and so would refuse the next move's.
func (s State) undo(e Event) (State, []Effect) {
	o, d := e.Seen, e.Seen.Descriptor
	if InJoint(d) {
		s.Wait = fmt.Sprintf("another change of range %d's replicas is under way", s.Range)
		return s, nil
	}
	for _, m := range s.Add {
		switch {
		case uint64(m.ID) < d.NextReplica:
		case o.Leader == 0:
			s.Wait = s.noLeader()
			return s, nil
		default:
			return s, []Effect{s.addLearner(d, m)}
		}
	}
	left, effects := s.remove(s.Add, o, d)
	if left == "" {
		return s.to(Cancelled, e.Now), nil
	}
	s.Wait = left
	return s, effects
}

func (s State) addLearner(d *cellpb.Descriptor, m Member) Effect {
	return s.change(d, &cellpb.ChangeReplicas{Change: &cellpb.ChangeReplicas_AddLearner{AddLearner: &cellpb.Replica{
		Id: uint64(m.ID), Node: string(m.Node), Learner: true, CopyBytesPerS: s.Rate,
	}}})
}

func (s State) change(d *cellpb.Descriptor, c *cellpb.ChangeReplicas) Effect {
	c.Version, c.Move = d.Version, s.ID
	return Effect{Kind: ChangeRange, Change: c}
}
