package replica

import (
	"cmp"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// peer is another node that shares ranges with this one. All groups rest on
// its heartbeat, so that a resting group need not have one of its own.
type peer struct {
	heard  uint64 // tick of its last sign of life
	silent bool   // its quiet groups were woken
	rules  uint32 // the newest it applies by, as it said since it was last lost; 0: not known
	quiet  []*cellpb.QuietGroup
}

// tick advances every group that is not quiet, and the node's own heartbeat.
func (n *Node) tick() {
	n.ticks++
	n.sealLog()
	n.acceptQuiet()
	for _, g := range n.activeInOrder() {
		n.tickGroup(g)
	}
	n.tickPeers()
	if n.ticks%uint64(n.cfg.TruncateTicks) == 0 {
		n.truncate()
	}
	if n.ticks%spaceTicks == 1 {
		n.checkSpace()
	}
	if n.ticks%raiseTicks == 0 {
		n.raiseRules()
	}
	n.metrics.quiet.Set(float64(n.quietCount()))
}

// activeInOrder is the ticking groups by range, so that a simulation repeats.
func (n *Node) activeInOrder() []*group {
	out := make([]*group, 0, len(n.active))
	for _, g := range n.active {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *group) int {
		if a.rng < b.rng {
			return -1
		}
		return 1
	})
	return out
}

// groupsInOrder is all groups by range, so that a simulation repeats.
func (n *Node) groupsInOrder() []*group {
	n.mu.RLock()
	out := make([]*group, 0, len(n.groups))
	for _, g := range n.groups {
		out = append(out, g)
	}
	n.mu.RUnlock()
	slices.SortFunc(out, func(a, b *group) int { return cmp.Compare(a.rng, b.rng) })
	return out
}

func (n *Node) quietCount() int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return max(0, len(n.groups)-len(n.active))
}

func (n *Node) tickGroup(g *group) {
	if g.installing {
		return
	}
	n.metrics.ticks.Inc()
	g.idle++
	n.expireLost(g)
	if g.idle >= n.cfg.QuietTicks && n.canRest(g) {
		n.rest(g)
		return
	}
	if err := g.guard(func() error { g.raft.Tick(); return nil }); err != nil {
		n.fail(g, err)
		return
	}
	n.markDirty(g)
	n.tendJoint(g)
}

// canRest tells whether a leader has nothing to do and all its followers are
// known to have everything. All of them must have answered lately: a woken
// leader is judged by CheckQuorum on what was noted before it rested.
func (n *Node) canRest(g *group) bool {
	if !g.leading || g.desc.Joint() || len(g.proposals) > 0 || len(g.reads) > 0 || len(g.readIndex) > 0 || g.sending > 0 || g.hasPending() {
		return false
	}
	last := g.store.last.index
	if g.commit != last || g.appliedPlace().index != last || !g.committedInTerm() {
		return false
	}
	if g.raft.HasReady() || g.raft.BasicStatus().LeadTransferee != raft.None {
		return false
	}
	ok := true
	g.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == g.id {
			return
		}
		p := n.peers[g.nodes[id]]
		ok = ok && pr.Match == last && pr.State == tracker.StateReplicate && pr.RecentActive && p != nil && !p.silent
	})
	return ok
}

// rest stops the group's ticks and lets its followers do the same.
func (n *Node) rest(g *group) {
	g.quiet = true
	delete(n.active, g.rng)
	g.store.forgetCache()
	g.publish()
	if !g.leading {
		return
	}
	for id, node := range g.nodes {
		if p := n.peers[node]; p != nil && id != g.id {
			p.quiet = append(p.quiet, &cellpb.QuietGroup{
				Range: uint64(g.rng), Term: g.term, Index: g.store.last.index, FromReplica: g.id,
			})
		}
	}
}

// quietOffer is a leader's word that a group may rest.
type quietOffer struct {
	g *group
	q *cellpb.QuietGroup
}

// acceptQuiet lets followers rest that have all their leaders have. The
// others go on ticking, and their vote requests wake the leaders. It runs with
// the tick after the offers came, when what came before them is written.
func (n *Node) acceptQuiet() {
	for _, o := range n.offers {
		g, q := o.g, o.q
		if g.failed || g.quiet || g.leading || g.dirty || g.installing ||
			g.term != q.GetTerm() || g.lead != q.GetFromReplica() ||
			g.store.last.index != q.GetIndex() || g.commit != q.GetIndex() || g.hasPending() || g.raft.HasReady() {
			continue
		}
		n.rest(g)
	}
	n.offers = nil
}

// wake makes a quiet group tick again.
func (n *Node) wake(g *group) {
	if !g.quiet || g.failed {
		return
	}
	g.quiet, g.idle = false, 0
	for id := range g.nodes {
		g.heard[id] = n.heardAtRest(g, id) // while it rested their nodes spoke for them
	}
	n.active[g.rng] = g
	n.metrics.wakes.Inc()
	g.publish()
}

// learnPeers notes the nodes that share g with this one.
func (n *Node) learnPeers(g *group) {
	for _, node := range g.nodes {
		if node != n.cfg.Self && n.peers[node] == nil {
			n.peers[node] = &peer{heard: n.ticks}
		}
	}
}

func (n *Node) heard(node proto.NodeID) {
	if p := n.peers[node]; p != nil {
		p.heard, p.silent = n.ticks, false
	}
}

// tickPeers sends the node's heartbeat and judges the silence of others.
func (n *Node) tickPeers() {
	nodes := make([]proto.NodeID, 0, len(n.peers))
	for node := range n.peers {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	for _, node := range nodes {
		p := n.peers[node]
		if n.ticks%uint64(n.cfg.PeerHeartbeatTicks) == 0 {
			quiet := p.quiet
			p.quiet = nil
			if !n.transport.Send(node, &cellpb.RaftBatch{Alive: true, Rules: n.cfg.Rules, Quiet: quiet}) {
				n.wakeAround(node, quiet)
			}
		}
		if !p.silent && n.ticks-p.heard >= uint64(n.cfg.PeerSilentTicks) {
			p.silent = true
			n.peerLost(node)
		}
	}
}

// wakeAround wakes the groups whose rest could not be announced.
func (n *Node) wakeAround(node proto.NodeID, quiet []*cellpb.QuietGroup) {
	for _, q := range quiet {
		n.mu.RLock()
		g := n.groups[proto.RangeID(q.GetRange())]
		n.mu.RUnlock()
		if g != nil {
			n.wake(g)
		}
	}
}

// peerLost wakes every quiet group that rests on node: a follower forgets its
// leader there and stands for election in time; a leader finds out whether it
// still has its quorum.
func (n *Node) peerLost(node proto.NodeID) {
	if p := n.peers[node]; p != nil {
		p.rules = 0 // it may come back as another release
	}
	groups := n.groupsInOrder()
	for _, g := range groups {
		if !g.quiet || g.failed {
			continue
		}
		switch {
		case g.nodes[g.lead] == node:
			n.wake(g)
			if err := g.guard(func() error { return g.raft.ForgetLeader() }); err != nil {
				n.fail(g, err)
				continue
			}
			n.markDirty(g)
		case g.leading && g.on(node):
			n.wake(g)
		}
	}
}

func (g *group) on(node proto.NodeID) bool {
	for _, at := range g.nodes {
		if at == node {
			return true
		}
	}
	return false
}

// spaceTicks is how often the disk is asked for room: every second.
const spaceTicks = 10

// checkSpace asks whether the disk has room, and tells proposers.
func (n *Node) checkSpace() {
	if n.cfg.Inline {
		n.setSpace(n.cfg.Space())
		return
	}
	n.wg.Go(func() {
		err := n.cfg.Space()
		n.inbox.call(func() { n.setSpace(err) })
	})
}

func (n *Node) setSpace(err error) {
	if (err == nil) != (n.noSpace == nil) {
		n.cfg.Logger.Warn("disk space for proposals changed", "enough", err == nil, "err", err)
	}
	n.noSpace = err
	n.mu.Lock()
	n.space = err
	n.mu.Unlock()
	if err != nil {
		n.handOver()
	}
}
