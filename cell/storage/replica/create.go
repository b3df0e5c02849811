package replica

import (
	"bytes"
	"context"
	"fmt"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Create makes this node's replica of a range, durable when it returns nil.
// Doing it again with the same request changes nothing. An empty one waits to
// be made a learner and sent a snapshot.
//
// Errors: [proto.CodeBadRequest] when the descriptor of one that is not empty
// does not name this node under that replica id; [proto.CodeForbidden] when this node holds the range
// with another incarnation, or held or holds it under a higher replica id;
// [proto.CodeNotReady] while an earlier replica or another Create is in the
// way; [proto.CodeCorrupt] when only half of an earlier one is left;
// [proto.CodeUnsupported] when this node does not apply by the range's rules.
func (n *Node) Create(ctx context.Context, req *cellpb.CreateReplicaRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d := req.GetDescriptor_()
	r := proto.RangeID(d.GetRange())
	if err := n.supports(r, req.GetRules()); err != nil {
		return err
	}
	if !names(d, req.GetReplica(), n.cfg.Self) && (!req.GetEmpty() || req.GetReplica() == 0) {
		return proto.Errorf(proto.CodeBadRequest, "the descriptor of range %s has no replica %d on node %s", r, req.GetReplica(), n.cfg.Self)
	}
	if err := n.hasSpace(); err != nil {
		return err
	}
	n.mu.Lock()
	running, busy, broken := n.groups[r] != nil, n.creating[r], n.broken[r]
	if !busy {
		n.creating[r] = true
	}
	n.mu.Unlock()
	if busy {
		return proto.Errorf(proto.CodeNotReady, "range %s is being created on node %s: ask again", r, n.cfg.Self)
	}
	defer func() {
		n.mu.Lock()
		delete(n.creating, r)
		n.mu.Unlock()
	}()
	if broken != nil {
		return failedError(r, broken)
	}
	id, found, err := readIdentity(n.cfg.Log, r)
	if err != nil {
		return proto.Errorf(proto.CodeCorrupt, "range %s: %v", r, err)
	}
	if found {
		if err := id.allows(r, req); err != nil {
			return err
		}
	}
	if running {
		return nil
	}
	create := n.createGroup
	if req.GetEmpty() {
		create = n.createEmpty
	}
	g, err := create(id, req)
	if err != nil {
		return fmt.Errorf("replica: create range %s: %w", r, err)
	}
	n.mu.Lock()
	n.groups[r] = g
	n.mu.Unlock()
	if !n.inbox.call(func() { n.adopt(g) }) {
		return stopped()
	}
	return nil
}

func names(d *cellpb.Descriptor, replica uint64, node proto.NodeID) bool {
	r := d.ReplicaOf(replica)
	return r.GetId() != 0 && r.GetNode() == string(node)
}

// allows tells whether req may meet what this node holds or has held.
func (i identity) allows(r proto.RangeID, req *cellpb.CreateReplicaRequest) error {
	switch {
	case req.GetReplica() < i.tombstone:
		return proto.Errorf(proto.CodeForbidden, "replica %d of range %s was removed from this node: take an id of at least %d", req.GetReplica(), r, i.tombstone)
	case i.stage == stageRemoving:
		return proto.Errorf(proto.CodeNotReady, "replica %d of range %s is being removed from this node: ask again", i.replica, r)
	case i.replica == 0:
		return nil
	case !bytes.Equal(i.incarnation, req.GetIncarnation()):
		return proto.Errorf(proto.CodeForbidden, "this node holds range %s with another incarnation: remove that one first", r)
	case req.GetReplica() < i.replica:
		return proto.Errorf(proto.CodeForbidden, "this node holds replica %d of range %s: replica %d is older", i.replica, r, req.GetReplica())
	case req.GetReplica() > i.replica:
		return proto.Errorf(proto.CodeNotReady, "this node still holds replica %d of range %s: ask again when it is removed", i.replica, r)
	}
	return nil
}

// createGroup writes the identity, then the state, then completes the
// identity: whichever half a crash leaves is recognised.
func (n *Node) createGroup(id identity, req *cellpb.CreateReplicaRequest) (*group, error) {
	r := proto.RangeID(req.GetDescriptor_().GetRange())
	id.replica, id.incarnation, id.stage = req.GetReplica(), req.GetIncarnation(), stageCreating
	if err := n.cfg.Log.Set(logKey(r, tagIdentity), id.encode(), n.cfg.SyncWrites); err != nil {
		return nil, err
	}
	m, err := n.cfg.Machines.Create(req.GetDescriptor_(), req.GetIncarnation(), max(req.GetRules(), proto.FirstRules))
	if err != nil {
		return nil, err
	}
	store := &logStore{rng: r, db: n.cfg.Log, cacheMax: n.cfg.CacheBytes}
	index, term := m.Applied()
	id.stage = stageCreated
	b := n.cfg.Log.NewBatch()
	defer b.Close()
	store.reset(b, place{index: index, term: term})
	store.set(b, tagIdentity, id.encode())
	if store.err != nil {
		return nil, store.err
	}
	if err := b.Commit(n.cfg.SyncWrites); err != nil {
		return nil, err
	}
	return n.newGroup(store, m, id.replica)
}

// createEmpty makes a replica without state. Its log begins before every
// other's, so that whatever leads finds that it needs a snapshot.
func (n *Node) createEmpty(id identity, req *cellpb.CreateReplicaRequest) (*group, error) {
	r := proto.RangeID(req.GetDescriptor_().GetRange())
	id.replica, id.incarnation, id.stage = req.GetReplica(), req.GetIncarnation(), stageEmpty
	store := &logStore{rng: r, db: n.cfg.Log, cacheMax: n.cfg.CacheBytes}
	b := n.cfg.Log.NewBatch()
	defer b.Close()
	store.reset(b, place{})
	store.set(b, tagIdentity, id.encode())
	if store.err != nil {
		return nil, store.err
	}
	if err := b.Commit(n.cfg.SyncWrites); err != nil {
		return nil, err
	}
	return n.newGroup(store, nil, id.replica)
}
