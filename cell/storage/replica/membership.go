package replica

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// A change of a range's replicas is one Raft membership change whose context
// is an entry with the same change of the descriptor. Both are applied
// together, or neither: the machine judges, and Raft is told only of what it
// took. So the descriptor and Raft's configuration are the same at every
// index, which is checked.

// caughtUpEntries is how far behind a learner may be that is to become a
// voter: less than what is written while the change is committed.
const caughtUpEntries = 64

// ProposeChange proposes one change of the replicas of a range led here. done
// is called exactly once, as by [Node.Propose], and needs the same care.
//
// Errors: those of Propose; [proto.CodeNotReady] while another change is under
// way, or a learner to be promoted is not caught up; [proto.CodeStaleVersion]
// when the change was planned on another version of the descriptor or does not
// fit it.
func (n *Node) ProposeChange(r proto.RangeID, c *cellpb.ChangeReplicas, done func(*cellpb.Applied, error)) {
	g, err := n.group(r)
	if err != nil {
		done(nil, err)
		return
	}
	if c.GetLeaveJoint() != nil {
		done(nil, proto.Errorf(proto.CodeBadRequest, "range %s leaves its joint configuration by itself", r))
		return
	}
	p, err := n.changeProposal(g, c, done)
	if err == nil {
		err = g.admit(len(p.data), &n.cfg)
	}
	if err != nil {
		done(nil, err)
		return
	}
	if !n.inbox.propose(p) {
		p.finish(nil, stopped())
	}
}

// changeProposal makes a proposal of a change.
func (n *Node) changeProposal(g *group, c *cellpb.ChangeReplicas, done func(*cellpb.Applied, error)) (*proposal, error) {
	g.mu.Lock()
	epoch := g.pub.desc.GetEpoch()
	g.mu.Unlock()
	context, err := pb.Marshal(&cellpb.Entry{
		Range: uint64(g.rng), Epoch: epoch, Proposal: n.proposals.Add(1),
		Commands: []*cellpb.Command{{Body: &cellpb.Command_ChangeReplicas{ChangeReplicas: c}}},
	})
	if err != nil {
		return nil, proto.Errorf(proto.CodeBadRequest, "change of range %s: %v", g.rng, err)
	}
	data, err := pb.Marshal(confChange(c, context))
	if err != nil {
		return nil, proto.Errorf(proto.CodeBadRequest, "change of range %s: %v", g.rng, err)
	}
	return &proposal{g: g, data: data, own: true, change: c, done: func(a *cellpb.Applied, err error) {
		switch {
		case err != nil:
		case len(a.GetResults()) != 1:
			err = proto.Errorf(proto.CodeUnavailable, "the change of range %s gave no result", g.rng)
		case a.Results[0].GetCode() != 0:
			err = proto.FromWire(a.Results[0].GetCode(), a.Results[0].GetMessage(), a.Results[0].GetRetryMs())
		}
		done(a, err)
	}}, nil
}

// confChange is Raft's half of a change.
func confChange(c *cellpb.ChangeReplicas, context []byte) *raftpb.ConfChangeV2 {
	cc := &raftpb.ConfChangeV2{Context: context}
	add := func(t raftpb.ConfChangeType, ids ...uint64) {
		for _, id := range ids {
			cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(id)})
		}
	}
	switch change := c.GetChange().(type) {
	case *cellpb.ChangeReplicas_AddLearner:
		add(raftpb.ConfChangeAddLearnerNode, change.AddLearner.GetId())
	case *cellpb.ChangeReplicas_RemoveLearner:
		add(raftpb.ConfChangeRemoveNode, change.RemoveLearner)
	case *cellpb.ChangeReplicas_EnterJoint:
		add(raftpb.ConfChangeAddNode, change.EnterJoint.GetPromote()...)
		add(raftpb.ConfChangeAddLearnerNode, change.EnterJoint.GetDemote()...)
		cc.Transition = raftpb.ConfChangeTransitionJointExplicit.Enum()
	}
	return cc // without changes: leaves the joint configuration
}

// confState is the Raft configuration a descriptor stands for.
func confState(d *cellpb.Descriptor) *raftpb.ConfState {
	cs := &raftpb.ConfState{AutoLeave: new(false)}
	joint := d.Joint()
	for _, r := range d.GetReplicas() {
		switch {
		case r.GetLearner():
			cs.Learners = append(cs.Learners, r.GetId())
		case r.GetOutgoing():
			cs.VotersOutgoing = append(cs.VotersOutgoing, r.GetId())
			cs.LearnersNext = append(cs.LearnersNext, r.GetId())
		default:
			cs.Voters = append(cs.Voters, r.GetId())
			if joint && !r.GetIncoming() {
				cs.VotersOutgoing = append(cs.VotersOutgoing, r.GetId())
			}
		}
	}
	return cs
}

// applyChanges tells Raft of the changes that the machine took, and checks
// that both mean the same. It runs before Raft hears that the entries are
// applied.
func (n *Node) applyChanges(g *group, changes []*raftpb.ConfChangeV2) error {
	for _, cc := range changes {
		err := g.guard(func() error {
			g.store.conf = g.raft.ApplyConfChange(cc)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkConf compares Raft's configuration with the descriptor's. They differ
// only if a change came into the log by another way than ProposeChange.
func (g *group) checkConf() error {
	if err := confState(g.desc).Equivalent(g.store.conf); err != nil {
		return fmt.Errorf("replica: range %s: the descriptor and raft's configuration differ: %w", g.rng, err)
	}
	return nil
}

// checkChange tells whether the leader may propose a change now. changing is
// set while the log may hold another that Raft has not heard to be applied.
//
// That there is one change at a time does not rest on this: the machine takes
// only what was planned on the descriptor's version at that very entry. So the
// end of a joint configuration needs not wait, and the others are asked to,
// because they would be refused most likely.
func (n *Node) checkChange(g *group, c *cellpb.ChangeReplicas, changing bool) error {
	if changing && c.GetLeaveJoint() == nil {
		return proto.Errorf(proto.CodeNotReady, "another change of range %s is under way: ask again", g.rng)
	}
	for _, id := range c.GetEnterJoint().GetPromote() {
		if !n.caughtUp(g, id) {
			return proto.Errorf(proto.CodeNotReady, "replica %d of range %s is not caught up: ask again", id, g.rng)
		}
	}
	return nil
}

// caughtUp tells whether a follower has nearly all the leader has and was
// heard within a heartbeat or so.
func (n *Node) caughtUp(g *group, id uint64) bool {
	ok := false
	g.raft.WithProgress(func(i uint64, _ raft.ProgressType, pr tracker.Progress) {
		if i == id {
			ok = pr.State == tracker.StateReplicate && pr.Match+caughtUpEntries >= g.store.last.index
		}
	})
	return ok && n.silentTicks(g, id) <= uint64(n.cfg.GroupHeartbeatTicks+1)
}

// silentTicks is how long nothing was heard of another replica. A group at
// rest hears of none of its own; its nodes answer for it.
func (n *Node) silentTicks(g *group, id uint64) uint64 {
	heard := g.heard[id]
	if g.quiet {
		heard = n.heardAtRest(g, id)
	}
	return n.ticks - min(n.ticks, heard)
}

// heardAtRest is the tick at which a replica of a group at rest was heard of.
func (n *Node) heardAtRest(g *group, id uint64) uint64 {
	if p := n.peers[g.nodes[id]]; p != nil {
		return max(g.heard[id], p.heard)
	}
	return g.heard[id]
}
