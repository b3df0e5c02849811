package replica

import (
	"context"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Damaged stops a replica of which somebody has read damaged data: err says
// what. It must not go on answering with the rest, nor send it to others.
func (n *Node) Damaged(r proto.RangeID, err error) {
	n.inbox.call(func() {
		if g, groupErr := n.group(r); groupErr == nil {
			n.fail(g, err)
		}
	})
}

// Descriptor is the descriptor of a replica held here, as far as applied. It
// is not to be changed.
func (n *Node) Descriptor(r proto.RangeID) (*cellpb.Descriptor, bool) {
	g, err := n.group(r)
	if err != nil {
		return nil, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pub.desc, g.pub.desc != nil
}

// Tombstone is the newest descriptor known here of a range that was removed
// from this node: it tells where to go. It is not to be changed.
func (n *Node) Tombstone(r proto.RangeID) (*cellpb.Descriptor, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	d := n.tombs[r]
	return d, d != nil
}

// Progress is what the leader knows of the other replicas of a range; nil when
// this node does not lead it.
func (n *Node) Progress(ctx context.Context, r proto.RangeID) ([]*cellpb.ReplicaProgress, error) {
	g, err := n.group(r)
	if err != nil {
		return nil, nil //nolint:nilerr // what is not here is not led here
	}
	answer := make(chan []*cellpb.ReplicaProgress, 1)
	if !n.inbox.call(func() { answer <- n.progress(g) }) {
		return nil, stopped()
	}
	select {
	case p := <-answer:
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.ctx.Done():
		return nil, stopped()
	}
}

func (n *Node) progress(g *group) (out []*cellpb.ReplicaProgress) {
	if g.failed || !g.leading {
		return nil
	}
	last := g.store.last.index
	g.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == g.id {
			return
		}
		p := &cellpb.ReplicaProgress{
			Replica: id, LagEntries: last - min(last, pr.Match), Snapshot: pr.State == tracker.StateSnapshot,
			HeardMs: int64(n.silentTicks(g, id)) * int64(n.cfg.Tick/time.Millisecond), Joint: g.joint.ready[id],
		}
		if sent := g.copied[id]; sent != nil {
			p.SnapshotBytes = uint64(sent.Load())
		}
		out = append(out, p)
	})
	return out
}
