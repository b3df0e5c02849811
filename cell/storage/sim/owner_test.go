package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// ownership is the judge's own account of who owns a range: by the entries
// that were accepted, not by the descriptors that replicas hold.
type ownership struct {
	epoch, version uint64
	cell, next     string
	joint          bool

	newest *cellpb.Descriptor // that any replica has held, for where they live
	owners map[uint64]string  // by epoch, as replicas say
	at     map[int]uint64     // version that a node has once reached
}

// place is a replica's: a node holds one of a range.
type place struct {
	node int
	rng  proto.RangeID
}

// begin takes in a range's first descriptor.
func (j *judge) begin(d *cellpb.Descriptor) {
	j.owns[proto.RangeID(d.Range)] = &ownership{
		epoch: d.Epoch, version: d.Version, cell: d.Cell, newest: d, owners: map[uint64]string{}, at: map[int]uint64{},
	}
}

// reached notes a descriptor that a replica holds: one owner per epoch (I7).
func (j *judge) reached(n *node, r proto.RangeID, d *cellpb.Descriptor) {
	o := j.owns[r]
	if owner, known := o.owners[d.Epoch]; known && owner != d.Cell {
		j.violate("I7: range %s is owned at epoch %d by %s and, as %s says, by %s", r, d.Epoch, owner, n.id, d.Cell)
	}
	o.owners[d.Epoch] = d.Cell
	o.at[n.index] = max(o.at[n.index], d.Version)
	if d.Version > o.newest.Version {
		if d.Epoch < o.newest.Epoch || d.Epoch == o.newest.Epoch && d.Cell != o.newest.Cell {
			j.violate("I7: range %s goes from %s, epoch %d, to %s, epoch %d, on %s", r, o.newest.Cell, o.newest.Epoch, d.Cell, d.Epoch, n.id)
		}
		o.newest = d
	}
}

// committed holds a replica that is as far as any to the judge's account.
func (j *judge) committed(m *watched, index uint64) {
	d, o := m.Descriptor(), j.owns[m.rng]
	j.reached(m.n, m.rng, d)
	if index != uint64(len(j.logs[m.rng].entries)) {
		return
	}
	if d.Epoch != o.epoch || d.Cell != o.cell || d.Version != o.version || d.Joint() != o.joint {
		j.violate("I7: range %s after entry %d is at version %d, epoch %d of %s (joint: %t) on %s, by its entries at %d, %d of %s (%t)",
			m.rng, index, d.Version, d.Epoch, d.Cell, d.Joint(), m.n.id, o.version, o.epoch, o.cell, o.joint)
	}
}

// granted: only the owner's nodes are hosts.
func (j *judge) granted(m *watched, index uint64, g *cellpb.GrantHost) {
	o := j.owns[m.rng]
	if cell := m.n.w.byID(proto.NodeID(g.Node)).cell; string(cell) != o.cell {
		j.violate("I7: range %s entry %d grants it to %s of %s, and %s owns it at epoch %d", m.rng, index, g.Node, cell, o.cell, o.epoch)
	}
}

// changed follows a change of the replicas that was accepted.
func (j *judge) changed(m *watched, index uint64, c *cellpb.ChangeReplicas) {
	o, w := j.owns[m.rng], m.n.w
	if c.Version != o.version {
		j.violate("I7: range %s entry %d, a change planned on version %d, is accepted at version %d", m.rng, index, c.Version, o.version)
	}
	o.version++
	switch change := c.Change.(type) {
	case *cellpb.ChangeReplicas_EnterJoint:
		if o.joint {
			j.violate("I7: range %s entry %d enters a joint configuration inside another", m.rng, index)
		}
		o.joint = true
		if o.next = change.EnterJoint.NextCell; o.next == o.cell {
			o.next = ""
		}
		for _, id := range change.EnterJoint.Promote {
			j.promoted(m, index, id)
		}
		w.count("joint entered")
	case *cellpb.ChangeReplicas_LeaveJoint:
		if !o.joint {
			j.violate("I7: range %s entry %d leaves a joint configuration that nobody entered", m.rng, index)
		}
		o.joint = false
		if o.next != "" {
			o.epoch, o.cell, o.next = o.epoch+1, o.next, ""
			w.count("owner changed")
		}
		if change.LeaveJoint.Epoch != o.epoch {
			j.violate("I7: range %s entry %d leaves for epoch %d, and %d comes next", m.rng, index, change.LeaveJoint.Epoch, o.epoch)
		}
	}
}

// lagMax is how far behind a replica may be that has just become a voter:
// what the leader allows, and what it took in beside.
const lagMax = 64 + 64

// promoted: only who has nearly everything becomes a voter.
func (j *judge) promoted(m *watched, index, id uint64) {
	on := j.owns[m.rng].newest.ReplicaOf(id)
	if on == nil {
		return // whoever applies first need not have committed it
	}
	n := m.n.w.byID(proto.NodeID(on.Node))
	if n.rep == nil {
		return
	}
	if n.status(m.rng).Empty {
		j.violate("I12: range %s entry %d makes replica %d on %s a voter, which is empty", m.rng, index, id, n.id)
	} else if end := n.logEnd(m.rng); end+lagMax < index {
		j.violate("I12: range %s entry %d makes replica %d on %s a voter, whose log ends at %d", m.rng, index, id, n.id, end)
	}
}

// sent: leadership goes only to a replica that has once applied the joint
// configuration in which it is given away.
func (j *judge) sent(n, to *node, b *cellpb.RaftBatch) {
	if n.w.mover == nil {
		return
	}
	for _, m := range b.Messages {
		msg := new(raftpb.Message)
		if len(m.Message) > 64 || pb.Unmarshal(m.Message, msg) != nil || msg.GetType() != raftpb.MsgTimeoutNow {
			continue // the one looked for is small
		}
		r := proto.RangeID(m.Range)
		d, held := n.rep.Descriptor(r)
		if !held || !d.Joint() {
			continue
		}
		n.w.count("leadership given away")
		if at := j.owns[r].at[to.index]; at < d.Version {
			j.violate("I12: range %s is given to %s, which has applied version %d and not the joint configuration of version %d", r, to.id, at, d.Version)
		}
	}
}

// came judges a replica that a node has made.
func (j *judge) came(n *node, r proto.RangeID, id uint64) {
	if gone := j.removed[place{n.index, r}]; id <= gone {
		j.violate("I7: replica %d of range %s comes back on %s, where %d and all before were removed", id, r, n.id, gone)
	}
	if st := n.status(r); uint64(st.Replica) != id || st.Err != nil {
		j.violate("%s says that it has made replica %d of range %s, and holds %d (%v)", n.id, id, r, st.Replica, st.Err)
	}
}

// went judges a removal that a node says is done. had is the replica before;
// d is the descriptor that it was shown.
func (j *judge) went(n *node, had heldReplica, d *cellpb.Descriptor) {
	r := proto.RangeID(d.Range)
	j.removed[place{n.index, r}] = max(j.removed[place{n.index, r}], had.id, d.NextReplica-1)
	if had.id != 0 && !had.empty && had.version > d.Version {
		j.violate("I7: %s knew version %d of range %s and removed replica %d because of version %d", n.id, had.version, r, had.id, d.Version)
	}
	if had.id != 0 && j.owns[r].newest.ReplicaOf(had.id) != nil {
		j.violate("I1: %s has removed replica %d of range %s, which is one of the range's", n.id, had.id, r)
	}
	switch st := n.status(r); {
	case st.Replica != 0 && uint64(st.Replica) <= j.removed[place{n.index, r}]:
		j.violate("%s has removed its replica of range %s, and still has replica %d", n.id, r, st.Replica)
	case st.Replica == 0:
		for _, left := range n.leftovers(r) {
			j.violate("%s has removed its replica of range %s, and still holds %s", n.id, r, left)
		}
	}
}

// Keys of the log store that stay, and of an entry's number (identity.go).
const (
	logTombstone = 'd'
	logEntry     = 'e'
	logIdentity  = 'i'
)

func logPrefix(r proto.RangeID) []byte { return binary.BigEndian.AppendUint64(nil, uint64(r)) }

// leftovers are a range's keys in both stores, but for its tombstone.
func (n *node) leftovers(r proto.RangeID) (out []string) {
	for _, span := range engine.Spans(r) {
		eachRow(n.w.t, n.state, span, func(k, _ []byte) { out = append(out, fmt.Sprintf("key %x of its state", k)) })
	}
	span := engine.Span{Start: logPrefix(r), End: logPrefix(r + 1)}
	eachRow(n.w.t, n.log, span, func(k, _ []byte) {
		if tag := k[8]; tag != logIdentity && tag != logTombstone {
			out = append(out, fmt.Sprintf("key %x of its log", k))
		}
	})
	return out[:min(len(out), 2)]
}

// logEnd is the last entry in a node's log, or where the log begins.
func (n *node) logEnd(r proto.RangeID) (end uint64) {
	end = n.status(r).First - 1
	span := engine.Span{Start: append(logPrefix(r), logEntry), End: append(logPrefix(r), logEntry+1)}
	eachRow(n.w.t, n.log, span, func(k, _ []byte) { end = binary.BigEndian.Uint64(bytes.Clone(k[9:])) })
	return end
}
