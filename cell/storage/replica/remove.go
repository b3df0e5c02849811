package replica

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// errRemoved stops a replica that is being removed.
var errRemoved = errors.New("the replica was removed from this node")

// Remove deletes this node's replica of a range, durable when it returns nil.
// d is the range's descriptor as last known, which must not name the replica
// any more; below, if not 0, says that every replica here with a lower id was
// never part of the range. What stays is a tombstone: no replica of an id that
// was given before may come back, and whoever asks is told where the range is.
// Doing it again changes nothing.
//
// Errors: [proto.CodeForbidden] when the descriptor names the replica, or is
// older than what this replica knows; [proto.CodeNotReady] while one is being
// created.
func (n *Node) Remove(ctx context.Context, d *cellpb.Descriptor, below uint64) error {
	r := proto.RangeID(d.GetRange())
	n.mu.Lock()
	if n.creating[r] {
		n.mu.Unlock()
		return proto.Errorf(proto.CodeNotReady, "range %s is being created or removed on node %s: ask again", r, n.cfg.Self)
	}
	n.creating[r] = true
	g := n.groups[r]
	n.mu.Unlock()
	begun := false
	defer func() {
		if !begun {
			n.mu.Lock()
			delete(n.creating, r)
			n.mu.Unlock()
		}
	}()
	id, found, err := readIdentity(n.cfg.Log, r)
	if err != nil {
		return proto.Errorf(proto.CodeCorrupt, "range %s: %v", r, err)
	}
	if !found || id.replica == 0 {
		if d.ReplicaOn(string(n.cfg.Self)) != nil {
			return proto.Errorf(proto.CodeForbidden, "range %s has a replica on node %s: remove it from the range first", r, n.cfg.Self)
		}
		return n.raiseTombstone(r, id, d)
	}
	if err := mayRemove(n.cfg.Self, id, g, d, below); err != nil {
		return err
	}
	id.tombstone = max(id.tombstone, id.replica+1, d.GetNextReplica())
	begun = true // whoever does it says when it is over
	if g == nil {
		err = n.deleteNoted(r, id, d)
		n.removed(r, d, err)
	} else {
		err = n.removeGroup(ctx, g, id, d)
	}
	if err != nil {
		return fmt.Errorf("replica: remove range %s: %w", r, err)
	}
	return nil
}

// removed ends a removal, also when whoever asked for it waits no longer: a
// replica that is deleted must not stand in the way of the next.
func (n *Node) removed(r proto.RangeID, d *cellpb.Descriptor, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.creating, r)
	if err != nil {
		return
	}
	if n.groups[r] != nil {
		n.metrics.replicas.Dec()
	}
	delete(n.groups, r)
	delete(n.broken, r)
	n.tombs[r] = d
}

// mayRemove tells whether the descriptor proves that the replica can go.
func mayRemove(self proto.NodeID, id identity, g *group, d *cellpb.Descriptor, below uint64) error {
	if named := d.ReplicaOf(id.replica); named != nil {
		return proto.Errorf(proto.CodeForbidden, "replica %d of range %d is one of the range's: remove it from the range first", id.replica, d.GetRange())
	}
	if g != nil {
		g.mu.Lock()
		known, empty := g.pub.desc, g.pub.empty
		g.mu.Unlock()
		if !empty && known.GetVersion() > d.GetVersion() {
			return proto.Errorf(proto.CodeForbidden, "node %s knows version %d of the descriptor of range %d, and was shown %d", self, known.GetVersion(), d.GetRange(), d.GetVersion())
		}
	}
	if id.replica >= d.GetNextReplica() && id.replica >= below {
		return proto.Errorf(proto.CodeForbidden, "replica %d of range %d may still be added: the descriptor shown gives %d next", id.replica, d.GetRange(), d.GetNextReplica())
	}
	return nil
}

// removeGroup stops a running replica and deletes it.
func (n *Node) removeGroup(ctx context.Context, g *group, id identity, d *cellpb.Descriptor) error {
	return n.stopGroup(ctx, g, func() error {
		err := n.deleteNoted(g.rng, id, d)
		n.removed(g.rng, d, err)
		return err
	})
}

// stopGroup takes a replica out of the loop and does something with what is on
// disk on its worker, behind everything it was given to apply: also when
// whoever asked for it waits no longer.
func (n *Node) stopGroup(ctx context.Context, g *group, then func() error) error {
	done := make(chan error, 1)
	stop := func() {
		if !g.failed {
			n.retire(g)
		}
		g.installs.Add(1) // a copy of it that is being sent is void
		n.workers.submit(g, func() {
			if c, ok := g.machine.(io.Closer); ok {
				_ = c.Close()
			}
			done <- then()
		})
	}
	if !n.inbox.call(stop) {
		return stopped()
	}
	select {
	case err := <-done:
		return err
	case <-n.ctx.Done():
		return stopped()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retire takes a replica out of the loop without calling it broken.
func (n *Node) retire(g *group) {
	g.failed = true
	delete(n.active, g.rng)
	wasLeading := g.leading
	g.leading, g.lead = false, 0
	g.mu.Lock()
	g.pub.failed, g.pub.leading, g.pub.leader, g.pub.quiet = errRemoved, false, "", false
	g.mu.Unlock()
	n.discardUnused(g)
	g.abandon(outcomeUnknown(g.rng))
	if wasLeading {
		n.cfg.Observer.LeaderChanged(g.rng, g.term, "", false)
	}
}

// deleteNoted notes the removal, so that a crash cannot leave half of it, and
// deletes.
func (n *Node) deleteNoted(r proto.RangeID, id identity, d *cellpb.Descriptor) error {
	tomb, err := pb.Marshal(d)
	if err != nil {
		return err
	}
	id.stage = stageRemoving
	b := n.cfg.Log.NewBatch()
	defer b.Close()
	err = errors.Join(b.Set(logKey(r, tagIdentity), id.encode(), nil), b.Set(logKey(r, tagTombstone), tomb, nil))
	if err == nil {
		err = b.Commit(n.cfg.SyncWrites)
	}
	if err != nil {
		return err
	}
	return n.deleteReplica(r, id)
}

// deleteReplica deletes state, then log, of a replica whose removal is noted.
func (n *Node) deleteReplica(r proto.RangeID, id identity) error {
	for _, span := range engine.Spans(r) {
		if err := n.cfg.State.Excise(context.Background(), pebble.KeyRange{Start: span.Start, End: span.End}); err != nil {
			return fmt.Errorf("replica: delete the state of range %s: %w", r, err)
		}
	}
	id.stage, id.replica, id.incarnation = stageCreating, 0, nil
	b := n.cfg.Log.NewBatch()
	defer b.Close()
	err := errors.Join(
		b.DeleteRange(logKey(r, tagTombstone+1), logKey(r, 0xff), nil),
		b.Set(logKey(r, tagIdentity), id.encode(), nil),
	)
	if err == nil {
		err = b.Commit(n.cfg.SyncWrites)
	}
	if err != nil {
		return fmt.Errorf("replica: delete the log of range %s: %w", r, err)
	}
	return nil
}

// raiseTombstone notes a newer descriptor of a range that is not here.
func (n *Node) raiseTombstone(r proto.RangeID, id identity, d *cellpb.Descriptor) error {
	n.mu.RLock()
	known := n.tombs[r]
	n.mu.RUnlock()
	if known != nil && known.GetVersion() >= d.GetVersion() && id.tombstone >= d.GetNextReplica() {
		return nil
	}
	id.tombstone = max(id.tombstone, d.GetNextReplica())
	tomb, err := pb.Marshal(d)
	if err != nil {
		return err
	}
	b := n.cfg.Log.NewBatch()
	defer b.Close()
	err = errors.Join(b.Set(logKey(r, tagIdentity), id.encode(), nil), b.Set(logKey(r, tagTombstone), tomb, nil))
	if err == nil {
		err = b.Commit(n.cfg.SyncWrites)
	}
	if err != nil {
		return fmt.Errorf("replica: note where range %s is: %w", r, err)
	}
	n.mu.Lock()
	n.tombs[r] = d
	n.mu.Unlock()
	return nil
}

// openTombstone reads where a range went that was here.
func (n *Node) openTombstone(r proto.RangeID, id identity) error {
	if id.tombstone == 0 {
		return nil
	}
	d := new(cellpb.Descriptor)
	raw, found, err := get(n.cfg.Log, logKey(r, tagTombstone))
	if err != nil || !found {
		return err
	}
	if err := pb.Unmarshal(raw, d); err != nil {
		return fmt.Errorf("replica: the tombstone of range %s is damaged: %w", r, pebble.ErrCorruption)
	}
	n.tombs[r] = d
	return nil
}
