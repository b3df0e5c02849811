package replica

import (
	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// truncate cuts what every live follower holds off the logs, once the state
// is durable up to there. Called by the loop every TruncateTicks.
func (n *Node) truncate() {
	if n.truncating {
		return
	}
	cuts := map[*group]place{}
	groups := n.groupsInOrder()
	for _, g := range groups {
		if to, ok := n.cutPoint(g); ok {
			cuts[g] = to
		}
	}
	if len(cuts) == 0 {
		return
	}
	n.truncating = true
	finish := func(err error) {
		n.truncating = false
		if err != nil {
			n.cfg.Logger.Error("state store cannot be synced: logs are kept", "err", err)
			return
		}
		for _, g := range groups {
			if to, ok := cuts[g]; ok && !g.failed && !g.installing {
				g.cut = &to
				n.markDirty(g)
			}
		}
		n.metrics.truncations.Add(float64(len(cuts)))
	}
	// The state's own write-ahead log is written in order, so one sync makes
	// every batch up to here durable. Not on the loop: it waits for the disk.
	if n.cfg.Inline {
		finish(n.cfg.State.LogData(nil, pebble.Sync))
		return
	}
	n.wg.Go(func() {
		err := n.cfg.State.LogData(nil, pebble.Sync)
		n.inbox.call(func() { finish(err) })
	})
}

// cutEntriesMin is the least worth a cut while a group is busy, unless the log
// is large: each costs a range tombstone.
const cutEntriesMin = 64

// cutPoint is up to where g's log is not needed any more.
func (n *Node) cutPoint(g *group) (place, bool) {
	if g.failed || g.installing {
		return place{}, false
	}
	to := g.appliedPlace()
	switch {
	case g.quiet: // every replica has all of it in its own log or state
	case g.leading:
		to.index = min(to.index, n.heldByFollowers(g))
	case g.store.bytes > n.cfg.LogKeepBytes:
		// A follower does not know what the others hold; it keeps half, to
		// serve them from its log should it become their leader.
		to.index = min(to.index, g.store.truncated.index+(g.store.last.index-g.store.truncated.index)/2)
	default:
		return place{}, false
	}
	few := to.index-g.store.truncated.index < cutEntriesMin && g.store.bytes <= n.cfg.LogKeepBytes
	if to.index <= g.store.truncated.index || !g.quiet && few {
		return place{}, false
	}
	term, err := g.store.Term(to.index)
	if err != nil {
		return place{}, false
	}
	return place{index: to.index, term: term}, true
}

// heldByFollowers is the index up to which the leader's log may be cut: what
// all live followers hold. A silent one is waited for up to LogKeepBytes of
// log, a slow one up to LogBytesMax; then it gets a snapshot.
func (n *Node) heldByFollowers(g *group) uint64 {
	to := g.store.last.index
	if g.sending > 0 && g.store.bytes <= n.cfg.LogBytesMax {
		return 0 // the receiver will need what follows the snapshot
	}
	g.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		limit := n.cfg.LogKeepBytes
		if pr.RecentActive {
			limit = n.cfg.LogBytesMax
		}
		if id != g.id && g.store.bytes <= limit {
			to = min(to, pr.Match)
		}
	})
	return to
}
