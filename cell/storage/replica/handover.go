package replica

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/waggle-im/waggle/proto"
)

const (
	// handoversAtOnce bounds the leaderships given away at one check of the
	// disk; the rest goes at the next.
	handoversAtOnce = 256
	// handoverTicks is how long a range is left alone after it was given away
	// and came back: where every disk is full nothing is won by passing it
	// round.
	handoverTicks = 300
)

// handOver gives the leadership of ranges away while this node's disk has no
// room for writes: a follower with room takes them at once, and nobody waits
// for the disk here.
func (n *Node) handOver() {
	given := 0
	for _, g := range n.groupsInOrder() {
		if given >= handoversAtOnce {
			return
		}
		if g.failed || g.installing || g.desc.Joint() || g.handedOver != 0 && n.ticks-g.handedOver < handoverTicks {
			continue
		}
		to := successor(g, nil)
		if to == raft.None {
			continue
		}
		given++
		g.handedOver = n.ticks
		n.touch(g)
		err := g.guard(func() error {
			g.raft.TransferLeader(to)
			return nil
		})
		if err != nil {
			n.fail(g, err)
		}
	}
}

// successor is the voter that is furthest of those heard of lately and on a
// node that takes it (nil: all do); None if g does not lead, is alone or
// changes hands already.
func successor(g *group, takes func(proto.NodeID) bool) uint64 {
	st := g.raft.BasicStatus()
	if st.RaftState != raft.StateLeader || st.LeadTransferee != raft.None {
		return raft.None
	}
	best, furthest := uint64(raft.None), uint64(0)
	g.raft.WithProgress(func(id uint64, kind raft.ProgressType, pr tracker.Progress) {
		if id == g.id || kind != raft.ProgressTypePeer || g.nodes[id] == "" {
			return
		}
		// A group at rest hears of nobody; its followers have everything.
		if !pr.RecentActive && !g.quiet || takes != nil && !takes(g.nodes[id]) {
			return
		}
		if pr.Match > furthest || pr.Match == furthest && id < best {
			best, furthest = id, pr.Match
		}
	})
	return best
}
