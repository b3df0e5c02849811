package replica

import (
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// commitNews is what a leader has yet to tell its followers: that entries they
// hold are committed. Raft tells it at once, in a message of its own, which
// each follower answers; at low rates these are half of all messages between
// replicas. Nobody waits for a follower to apply, so the news rides with the
// next entries, or goes out with the next tick. While replicas come and go, or
// the leadership is being handed over, it is not held: somebody waits then.
type commitNews map[uint64]*raftpb.Message // the newest, by replica

// holds tells whether m, a MsgApp of this Ready, may wait, and keeps it then.
// If not, it carries what was kept for the same replica.
func (g *group) holds(m *raftpb.Message, rd *raft.Ready) bool {
	if len(m.GetEntries()) > 0 || !g.leading || !g.settled(rd) || !g.flowing(m.GetTo()) {
		delete(g.news, m.GetTo())
		return false
	}
	if g.news == nil {
		g.news = commitNews{}
	}
	g.news[m.GetTo()] = m
	return true
}

// settled tells whether the replicas are the ones that stay, and no change of
// them has just been committed.
func (g *group) settled(rd *raft.Ready) bool {
	if g.desc.Joint() || g.recovering != nil || g.raft.BasicStatus().LeadTransferee != raft.None {
		return false
	}
	for _, r := range g.desc.GetReplicas() {
		if !r.Voter() {
			return false
		}
	}
	for _, e := range rd.CommittedEntries {
		if e.GetType() != raftpb.EntryNormal {
			return false
		}
	}
	return true
}

// flowing tells whether entries go to the replica as they come: then an empty
// MsgApp brings nothing but a commit index. Else it may be a question.
func (g *group) flowing(replica uint64) (ok bool) {
	g.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == replica {
			ok = pr.State == tracker.StateReplicate && !pr.MsgAppFlowPaused
		}
	})
	return ok
}

func (c commitNews) clear() { clear(c) }

// tellCommits sends what was held. With every tick.
func (n *Node) tellCommits(g *group) {
	if len(g.news) == 0 {
		return
	}
	var o outbox
	for _, id := range slices.Sorted(maps.Keys(g.news)) {
		n.send(g, g.news[id], &o)
	}
	g.news.clear()
	n.flush(&o)
}
