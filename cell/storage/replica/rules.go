package replica

import (
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Nodes tell each other with their heartbeats which rules they apply entries
// by. A leader raises its range's rules when the nodes of all its replicas,
// learners too, support newer ones. The raise names the version of the
// descriptor it was decided on: a replica that came meanwhile makes it void
// where it is applied. A node that goes back to an older release although its
// ranges have been raised is refused its replicas when it opens them.

// raiseTicks is how often ranges that could be raised are looked for: once a
// second. Most of the time there are none, and each is one comparison.
const raiseTicks = 20

// supports refuses a range whose rules this node does not apply by.
func (n *Node) supports(r proto.RangeID, rules uint32) error {
	if rules > n.cfg.Rules {
		return proto.Errorf(proto.CodeUnsupported, "range %s is applied by rules %d, node %s knows up to %d: run the newer release there first",
			r, rules, n.cfg.Self, n.cfg.Rules)
	}
	return nil
}

func (n *Node) heardRules(node proto.NodeID, rules uint32) {
	if p := n.peers[node]; p != nil {
		p.rules = rules
	}
}

// raiseRules raises the rules of ranges led here as far as all their nodes
// support them.
func (n *Node) raiseRules() {
	for _, g := range n.groupsInOrder() {
		if !g.leading || g.failed || g.installing || g.raising || g.recovering != nil || g.desc.Joint() {
			continue
		}
		g.mu.Lock()
		now := g.pub.rules
		g.mu.Unlock()
		if now >= n.cfg.Rules { // nearly always
			continue
		}
		if rules := n.supportedByAll(g); rules > now {
			n.raise(g, rules)
		}
	}
}

// supportedByAll is the newest rules version that the nodes of all replicas
// are known to support just now.
func (n *Node) supportedByAll(g *group) uint32 {
	rules := n.cfg.Rules
	for _, r := range g.desc.GetReplicas() {
		if r.GetId() == g.id {
			continue
		}
		p := n.peers[proto.NodeID(r.GetNode())]
		if p == nil || p.silent {
			return 0
		}
		rules = min(rules, p.rules)
	}
	return rules
}

func (n *Node) raise(g *group, rules uint32) {
	p, err := n.ownProposal(g, &cellpb.Entry{
		Epoch: g.desc.GetEpoch(),
		Commands: []*cellpb.Command{{Body: &cellpb.Command_SetRules{
			SetRules: &cellpb.SetRules{Version: rules, DescriptorVersion: g.desc.GetVersion()},
		}}},
	}, func(_ *cellpb.Applied, err error) {
		n.inbox.call(func() { g.raising = false }) // if nothing came of it, the next look proposes it again
		if err != nil {
			n.cfg.Logger.Debug("the rules are not raised yet", "range", g.rng, "err", err)
		}
	})
	if err != nil {
		n.fail(g, err)
		return
	}
	n.cfg.Logger.Info("the nodes of all replicas support newer rules: raising them", "range", g.rng, "rules", rules)
	g.raising = true
	n.proposeOwn(g, p)
}
