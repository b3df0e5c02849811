package replica

import (
	"context"
	"fmt"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// recoverIDs is how far the id of a recovering replica lies above the next
// one it knows: its log's tail may give some more.
const recoverIDs = 1000

// Recover makes this node's replica the only one of its range, owned by the
// node's cell, under an id, an epoch and a version above all that the others can know. It
// is for a range whose other replicas are lost for ever. The replica becomes
// the one voter of its log, which commits the log's tail, whoever proposed it,
// and then the change of the descriptor: what this replica has ever
// acknowledged is kept. What others committed and it never saw is gone.
//
// Errors: [proto.CodeStaleVersion] when the replica knows another version than
// the caller was shown; [proto.CodeNotReady] for a replica without state;
// [proto.CodeForbidden] while the range has a leader.
func (n *Node) Recover(ctx context.Context, r proto.RangeID, version uint64) (*cellpb.Descriptor, error) {
	g, err := n.group(r)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	pub := g.pub
	g.mu.Unlock()
	switch {
	case pub.empty:
		return nil, proto.Errorf(proto.CodeNotReady, "the replica of range %s on node %s has no state", r, n.cfg.Self)
	case pub.desc.GetVersion() != version:
		return nil, proto.Errorf(proto.CodeStaleVersion, "the replica knows version %d of the descriptor of range %s, not %d", pub.desc.GetVersion(), r, version)
	case pub.leader != "":
		return nil, proto.Errorf(proto.CodeForbidden, "range %s is led by node %s: it needs no recovery", r, pub.leader)
	}
	n.mu.Lock()
	busy := n.creating[r]
	n.creating[r] = true
	n.mu.Unlock()
	if busy {
		return nil, proto.Errorf(proto.CodeNotReady, "range %s is being created or removed on node %s: ask again", r, n.cfg.Self)
	}
	defer func() {
		n.mu.Lock()
		delete(n.creating, r)
		n.mu.Unlock()
	}()
	recovered, err := n.restartAlone(ctx, g, pub.desc)
	if err != nil {
		return nil, fmt.Errorf("replica: recover range %s: %w", r, err)
	}
	select {
	case <-recovered:
	case <-n.ctx.Done():
		return nil, stopped()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d, _ := n.Descriptor(r)
	n.cfg.Logger.Warn("range recovered from one replica", "range", r, "epoch", d.GetEpoch(), "cell", d.GetCell())
	return d, nil
}

// restartAlone opens a replica again as the one voter of its log. What it
// returns is closed when the descriptor says so too.
func (n *Node) restartAlone(ctx context.Context, g *group, d *cellpb.Descriptor) (recovered <-chan struct{}, err error) {
	var id identity
	err = n.stopGroup(ctx, g, func() (err error) {
		if id, _, err = readIdentity(n.cfg.Log, g.rng); err != nil {
			return err
		}
		if id.stage != stageRecovering {
			id.replica, id.stage = d.GetNextReplica()+recoverIDs, stageRecovering
		}
		return n.cfg.Log.Set(logKey(g.rng, tagIdentity), id.encode(), n.cfg.SyncWrites)
	})
	if err != nil {
		return nil, err
	}
	again, err := n.openGroup(g.rng, id)
	if err != nil {
		return nil, err
	}
	recovered = again.recovering
	n.metrics.replicas.Dec() // counted again when it is adopted
	n.mu.Lock()
	n.groups[g.rng] = again
	n.mu.Unlock()
	if !n.inbox.call(func() { n.adopt(again) }) {
		return nil, stopped()
	}
	return recovered, nil
}

// tendRecovery proposes the change of the descriptor, once the log's tail is
// applied: its entries were proposed under the old one.
func (n *Node) tendRecovery(g *group) {
	if g.failed || !g.leading || g.joint.leaving || g.appliedPlace().term != g.term {
		return
	}
	data, err := pb.Marshal(&cellpb.Entry{
		Range: uint64(g.rng), Epoch: g.desc.GetEpoch(), Proposal: n.proposals.Add(1),
		Commands: []*cellpb.Command{{Body: &cellpb.Command_RecoverRange{RecoverRange: &cellpb.RecoverRange{
			Replica: g.id, Node: string(n.cfg.Self), Cell: string(n.cfg.Cell),
		}}}},
	})
	if err != nil {
		n.fail(g, err)
		return
	}
	g.joint.leaving = true
	n.proposeOwn(g, &proposal{g: g, data: data, own: true, done: func(*cellpb.Applied, error) {
		n.inbox.call(func() { g.joint.leaving = false })
	}})
}

// learnRecovered takes over the descriptor of a recovering replica. Membership
// changes in its log's tail count for the descriptor alone: the replicas they
// speak of are lost.
func (n *Node) learnRecovered(g *group, d *cellpb.Descriptor) error {
	old := g.desc
	g.desc = d
	g.setNodes(d)
	if d.ReplicaOf(g.id) == nil {
		return nil
	}
	id, _, err := readIdentity(n.cfg.Log, g.rng)
	if err != nil {
		return err
	}
	id.stage = stageCreated
	if err := n.cfg.Log.Set(logKey(g.rng, tagIdentity), id.encode(), n.cfg.SyncWrites); err != nil {
		return fmt.Errorf("replica: range %s: %w", g.rng, err)
	}
	close(g.recovering)
	g.recovering = nil
	if err := g.checkConf(); err != nil {
		return err
	}
	n.descriptorChanged(g, old)
	return nil
}
