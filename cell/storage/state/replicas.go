package state

import (
	"slices"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// changeReplicas changes the descriptor, in step with Raft, whose membership
// change it is the context of: it is refused here exactly when Raft is not
// told of it.
func (m *Machine) changeReplicas(c *cellpb.ChangeReplicas) *cellpb.Result {
	d, refusal := ChangedDescriptor(m.newDesc, c)
	if refusal != nil {
		return refuse(refusal)
	}
	m.newDesc = d
	m.put(engine.DescriptorKey(m.rng), d)
	return &cellpb.Result{}
}

// ChangedDescriptor is d with a change of its replicas; d itself stays. A
// change that was planned on another version is refused, so that whoever slept
// over a change cannot undo it.
//
// Errors: [proto.CodeStaleVersion], also when the change does not fit;
// [proto.CodeUnsupported].
func ChangedDescriptor(d *cellpb.Descriptor, c *cellpb.ChangeReplicas) (*cellpb.Descriptor, *proto.Error) {
	if c.GetVersion() != d.GetVersion() {
		return nil, unfit("the descriptor of range %d has version %d, the change was planned on %d", d.GetRange(), d.GetVersion(), c.GetVersion())
	}
	d = pb.CloneOf(d)
	var refusal *proto.Error
	switch change := c.Change.(type) {
	case *cellpb.ChangeReplicas_AddLearner:
		refusal = addLearner(d, change.AddLearner)
	case *cellpb.ChangeReplicas_RemoveLearner:
		refusal = removeLearner(d, change.RemoveLearner)
	case *cellpb.ChangeReplicas_EnterJoint:
		refusal = enterJoint(d, change.EnterJoint)
	case *cellpb.ChangeReplicas_LeaveJoint:
		refusal = leaveJoint(d, change.LeaveJoint)
	default:
		refusal = proto.Errorf(proto.CodeUnsupported, "range %d: a change of replicas these rules do not know", d.Range)
	}
	if refusal != nil {
		return nil, refusal
	}
	d.Version++
	d.Move = c.Move
	return d, nil
}

const (
	// recoverEpochs is above the epoch that a leave, which the recovering
	// replica never saw, can have made.
	recoverEpochs = 2
	// recoverVersions is above every version that the lost replicas can have
	// reached, or reach before they hear of the recovery.
	recoverVersions = 1000
)

// recoverRange leaves the range to one replica, under an epoch and a version
// above all that the lost ones can know: they are refused from then on.
func (m *Machine) recoverRange(c *cellpb.RecoverRange) *cellpb.Result {
	if c.GetReplica() < m.newDesc.NextReplica || c.GetNode() == "" || c.GetCell() == "" {
		return refusef(proto.CodeStaleVersion, "range %s has given replica %d before", m.rng, c.GetReplica())
	}
	d := pb.CloneOf(m.newDesc)
	d.Replicas = []*cellpb.Replica{{Id: c.Replica, Node: c.Node}}
	d.NextReplica = c.Replica + 1
	d.Cell, d.NextCell, d.Move = c.Cell, "", ""
	d.Epoch += recoverEpochs
	d.Version += recoverVersions
	m.newDesc = d
	m.put(engine.DescriptorKey(m.rng), d)
	return &cellpb.Result{}
}

func unfit(format string, args ...any) *proto.Error {
	return proto.Errorf(proto.CodeStaleVersion, format, args...)
}

func addLearner(d *cellpb.Descriptor, r *cellpb.Replica) *proto.Error {
	switch {
	case d.Joint():
		return unfit("range %d is in its joint configuration", d.Range)
	case r.GetId() != d.NextReplica || r.GetNode() == "":
		return unfit("the next replica of range %d is %d, not %d", d.Range, d.NextReplica, r.GetId())
	}
	for _, have := range d.Replicas {
		if have.Node == r.Node {
			return unfit("node %s holds replica %d of range %d already", r.Node, have.Id, d.Range)
		}
	}
	d.NextReplica++
	d.Replicas = append(d.Replicas, &cellpb.Replica{Id: r.Id, Node: r.Node, Learner: true, CopyBytesPerS: r.CopyBytesPerS})
	return nil
}

func removeLearner(d *cellpb.Descriptor, id uint64) *proto.Error {
	i := indexOf(d, id)
	switch {
	case d.Joint():
		return unfit("range %d is in its joint configuration", d.Range)
	case i < 0 || !d.Replicas[i].Learner:
		return unfit("range %d has no learner %d", d.Range, id)
	}
	d.Replicas = slices.Delete(d.Replicas, i, i+1)
	return nil
}

func enterJoint(d *cellpb.Descriptor, c *cellpb.EnterJoint) *proto.Error {
	switch {
	case d.Joint():
		return unfit("range %d is in its joint configuration", d.Range)
	case len(c.Promote)+len(c.Demote) == 0:
		return unfit("range %d: nothing is to change", d.Range)
	}
	for _, id := range c.Promote {
		i := indexOf(d, id)
		if i < 0 || !d.Replicas[i].Learner {
			return unfit("range %d has no learner %d to become a voter", d.Range, id)
		}
		d.Replicas[i].Learner, d.Replicas[i].Incoming = false, true
	}
	for _, id := range c.Demote {
		i := indexOf(d, id)
		if i < 0 || d.Replicas[i].Learner || d.Replicas[i].Incoming {
			return unfit("range %d has no voter %d to become a learner", d.Range, id)
		}
		d.Replicas[i].Outgoing = true
	}
	if !slices.ContainsFunc(d.Replicas, func(r *cellpb.Replica) bool { return r.Voter() && !r.Outgoing }) {
		return unfit("range %d: nobody would be left to vote", d.Range)
	}
	if d.NextCell = c.NextCell; d.NextCell == d.Cell {
		d.NextCell = ""
	}
	return nil
}

// leaveJoint ends the old configuration and, in the same entry, its cell's
// ownership: there is no moment with two owners, and none without.
func leaveJoint(d *cellpb.Descriptor, c *cellpb.LeaveJoint) *proto.Error {
	epoch := d.Epoch
	if d.NextCell != "" {
		epoch++
	}
	switch {
	case !d.Joint():
		return unfit("range %d is not in a joint configuration", d.Range)
	case c.Epoch != epoch:
		return unfit("range %d will be at epoch %d, not %d", d.Range, epoch, c.Epoch)
	}
	for _, r := range d.Replicas {
		if r.Outgoing {
			r.Learner = true
		}
		r.Incoming, r.Outgoing = false, false
	}
	if d.NextCell != "" {
		d.Cell, d.Epoch, d.NextCell = d.NextCell, epoch, ""
	}
	return nil
}

func indexOf(d *cellpb.Descriptor, id uint64) int {
	return slices.IndexFunc(d.Replicas, func(r *cellpb.Replica) bool { return r.Id == id })
}
