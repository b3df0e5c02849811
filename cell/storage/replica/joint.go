package replica

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// While a range is in its joint configuration, whoever leads it brings it out
// again, without anybody's help: whoever asked for the change may be dead.
//
//	outgoing leads ──transfer──► one that stays leads ──leave, own──► settled
//	      ▲   │ not taken in time
//	      └───┘ another one
//
// Only a replica that has applied the joint configuration can be elected; one
// that has not would answer "unpromotable" while its leader refuses proposals.
// So each tells the leader when it has, until it hears of the end.

const (
	// transferTicks is how long a transfer may take: one tick, and what is
	// left of the one in which it began.
	transferTicks = 2
	// transferPauseTicks is the pause after every candidate was tried in vain.
	transferPauseTicks = 10
)

// jointState is what a replica knows of the joint configuration it is in.
type jointState struct {
	ready     map[uint64]bool // replicas that have applied it
	tried     []uint64        // transfers that were not taken
	began     uint64          // tick of the transfer under way
	waitUntil uint64          // tick
	leaving   bool            // the end is proposed
}

// tendJoint brings a joint configuration to its end. The loop calls it when
// something changed, and every tick.
func (n *Node) tendJoint(g *group) {
	if g.recovering != nil {
		n.tendRecovery(g)
		return
	}
	if g.failed || g.installing || !g.desc.Joint() {
		return
	}
	me := g.desc.ReplicaOf(g.id)
	switch {
	case !g.leading:
		if stays(me) {
			n.noteJoint(g)
		}
	case me.GetOutgoing():
		n.giveAway(g)
	default:
		n.leaveJoint(g)
	}
}

// stays tells whether a replica votes after the joint configuration too.
func stays(r *cellpb.Replica) bool { return r.Voter() && !r.GetOutgoing() }

// noteJoint tells the leader that this replica could take over.
func (n *Node) noteJoint(g *group) {
	if node := g.nodes[g.lead]; node != "" && node != n.cfg.Self {
		n.transport.Send(node, &cellpb.RaftBatch{Joint: []*cellpb.JointNote{{
			Range: uint64(g.rng), Version: g.desc.GetVersion(), FromReplica: g.id, ToReplica: g.lead,
		}}})
	}
}

// jointNoted takes such a note.
func (n *Node) jointNoted(g *group, note *cellpb.JointNote) {
	if note.GetVersion() != g.desc.GetVersion() || !g.desc.Joint() || g.joint.ready[note.GetFromReplica()] {
		return
	}
	if g.joint.ready == nil {
		g.joint.ready = map[uint64]bool{}
	}
	g.joint.ready[note.GetFromReplica()] = true
	n.tendJoint(g)
}

// giveAway transfers the leadership to a replica that stays, one after the
// other until it is taken.
func (n *Node) giveAway(g *group) {
	j := &g.joint
	transferee := g.raft.BasicStatus().LeadTransferee
	switch {
	case transferee != raft.None && n.ticks-j.began < transferTicks:
		return
	case transferee != raft.None:
		j.tried = append(j.tried, transferee)
		n.transfer(g, g.id) // ends the one under way: proposals are taken again
	case n.ticks < j.waitUntil:
		return
	}
	to := n.chooseTransferee(g)
	if to == raft.None {
		if len(j.tried) > 0 {
			j.tried, j.waitUntil = nil, n.ticks+transferPauseTicks
		}
		return
	}
	j.began = n.ticks
	g.gaveAway = time.Now()
	n.transfer(g, to)
}

// chooseTransferee is the furthest of the replicas that could take over now.
func (n *Node) chooseTransferee(g *group) uint64 {
	best, furthest := uint64(raft.None), uint64(0)
	g.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		r := g.desc.ReplicaOf(id)
		if !stays(r) || !g.joint.ready[id] || pr.State != tracker.StateReplicate || slices.Contains(g.joint.tried, id) {
			return
		}
		if pr.Match > furthest || pr.Match == furthest && id < best {
			best, furthest = id, pr.Match
		}
	})
	return best
}

func (n *Node) transfer(g *group, to uint64) {
	n.touch(g)
	err := g.guard(func() error {
		g.raft.TransferLeader(to)
		return nil
	})
	if err != nil {
		n.fail(g, err)
	}
}

// leaveJoint proposes the end. It does not wait until this leader has applied
// its first entry, which would cost those who write one commit more: should a
// leader before it have proposed the end too, the machine takes the first of
// them and refuses the other, which was made for an earlier version.
func (n *Node) leaveJoint(g *group) {
	if g.joint.leaving {
		return
	}
	leave := &cellpb.LeaveJoint{Epoch: g.desc.GetEpoch()}
	if g.desc.GetNextCell() != "" {
		leave.Epoch++
	}
	p, err := n.changeProposal(g, &cellpb.ChangeReplicas{
		Version: g.desc.GetVersion(), Move: g.desc.GetMove(), Change: &cellpb.ChangeReplicas_LeaveJoint{LeaveJoint: leave},
	}, func(_ *cellpb.Applied, err error) {
		n.inbox.call(func() { g.joint.leaving = false }) // if it was refused, the next tick proposes it again
		if err != nil {
			n.cfg.Logger.Debug("the joint configuration is not left yet", "range", g.rng, "err", err)
		}
	})
	if err != nil {
		n.fail(g, err)
		return
	}
	g.joint.leaving = true
	n.proposeOwn(g, p)
}

// leaveFirst has a leader that has just been elected propose the end right
// behind its first entry.
func (n *Node) leaveFirst(g *group) {
	if g.recovering == nil && g.desc.Joint() && stays(g.desc.ReplicaOf(g.id)) && g.raft.BasicStatus().RaftState == raft.StateLeader {
		n.leaveJoint(g)
	}
}

// ownProposal makes a proposal of the leader's own.
func (n *Node) ownProposal(g *group, e *cellpb.Entry, done func(*cellpb.Applied, error)) (*proposal, error) {
	e.Range, e.Proposal = uint64(g.rng), n.proposals.Add(1)
	data, err := pb.Marshal(e)
	return &proposal{g: g, data: data, own: true, done: done}, err
}

// proposeOwn proposes on the loop, beyond the limits: the leader's own are one
// at a time.
func (n *Node) proposeOwn(g *group, p *proposal) {
	g.mu.Lock()
	g.admitted++
	g.admittedBytes += len(p.data)
	g.mu.Unlock()
	g.proposals = append(g.proposals, p)
	n.touch(g)
}

// descriptorChanged follows a change of the descriptor, on the loop.
func (n *Node) descriptorChanged(g *group, old *cellpb.Descriptor) {
	if old.GetVersion() != g.desc.GetVersion() {
		g.joint = jointState{}
	}
	if old.GetEpoch() != 0 && old.GetEpoch() < g.desc.GetEpoch() && !g.gaveAway.IsZero() {
		g.mu.Lock()
		g.pub.pause = time.Since(g.gaveAway)
		g.mu.Unlock()
	}
	if !g.desc.Joint() {
		clear(g.heard)
	}
	n.cfg.Observer.DescriptorChanged(g.rng, g.desc)
	n.tendJoint(g)
}

// receiveJoint takes in the notes of a batch.
func receiveJoint(from proto.NodeID, notes []*cellpb.JointNote) []received {
	out := make([]received, len(notes))
	for i, note := range notes {
		out[i] = received{from: from, rng: proto.RangeID(note.GetRange()), to: note.GetToReplica(), joint: note}
	}
	return out
}
