package replica

import (
	"strings"
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// twoReleases is a cluster whose last node is of the release before.
func twoReleases(t *testing.T) *cluster {
	return newCluster(t, 4, func(cfg *Config) {
		cfg.Rules = proto.RulesVersion
		if cfg.Self == "n4" {
			cfg.Rules = proto.OldestRules
		}
	})
}

// upgrade starts the node again as the newer release.
func (n *testNode) upgrade() {
	n.c.tune = nil
	n.stop()
	n.start()
}

func (c *cluster) rulesOf(r proto.RangeID, on []*testNode) (least uint32) {
	least = proto.RulesVersion + 1
	for _, n := range on {
		least = min(least, n.status(r).Rules)
	}
	return least
}

func TestRulesRiseWhenAllNodesOfARangeKnowThem(t *testing.T) {
	c := twoReleases(t)
	c.create(1, c.nodes[:3]...) // new nodes only
	c.create(2, c.nodes[1:]...) // and an old one
	c.create(3, c.nodes[3])
	for _, r := range []proto.RangeID{1, 2, 3} {
		c.must(c.elect(r), r, "first")
	}
	c.within(10*raiseTicks, "range 1 is raised", func() bool { return c.rulesOf(1, c.nodes[:3]) == proto.RulesVersion })
	// Quiet ranges are raised too, later.
	c.within(20*raiseTicks, "the ranges rest", func() bool { return c.elect(2).status(2).Quiet && c.nodes[3].status(3).Leading })
	if c.rulesOf(2, c.nodes[1:3]) != proto.OldestRules || c.rulesOf(3, c.nodes[3:]) != proto.OldestRules {
		t.Error("rules were raised that a node does not know")
	}
	c.nodes[3].upgrade()
	c.within(20*raiseTicks, "range 2 is raised", func() bool { return c.rulesOf(2, c.nodes[1:]) == proto.RulesVersion })
	c.within(20*raiseTicks, "range 3 is raised", func() bool { return c.rulesOf(3, c.nodes[3:]) == proto.RulesVersion })
}

// A learner counts as the voters do.
func TestALearnerOfTheReleaseBeforeKeepsTheRules(t *testing.T) {
	c := twoReleases(t)
	c.create(1, c.nodes[0])
	leader := c.elect(1)
	old := c.nodes[3]
	d, _ := leader.node.Descriptor(1)
	add := func() error {
		return old.node.Create(t.Context(), &cellpb.CreateReplicaRequest{
			Descriptor_: d, Replica: 2, Incarnation: []byte("one"), Empty: true, Rules: leader.status(1).Rules,
		})
	}
	if err := add(); err != nil {
		t.Fatal(err)
	}
	var result error
	done := false
	leader.node.ProposeChange(1, &cellpb.ChangeReplicas{Version: d.Version, Change: &cellpb.ChangeReplicas_AddLearner{
		AddLearner: &cellpb.Replica{Id: 2, Node: "n4", Learner: true},
	}}, func(_ *cellpb.Applied, err error) { done, result = true, err })
	c.settle()
	if !done || result != nil {
		t.Fatalf("the learner is not added: %v %v", done, result)
	}
	c.eventually("the learner has caught up", func() bool { return !old.status(1).Empty })
	for range 5 * raiseTicks {
		c.tick()
	}
	if rules := leader.status(1).Rules; rules != proto.OldestRules {
		t.Errorf("rules %d beside a learner that does not know them", rules)
	}
	old.upgrade()
	c.eventually("the range is raised", func() bool { return c.rulesOf(1, []*testNode{leader, old}) == proto.RulesVersion })
}

func TestAnOldNodeIsRefusedAReplicaOfNewerRules(t *testing.T) {
	c := twoReleases(t)
	c.create(1, c.nodes[0])
	leader := c.elect(1)
	c.within(10*raiseTicks, "the range is raised", func() bool { return leader.status(1).Rules == proto.RulesVersion })
	d, _ := leader.node.Descriptor(1)
	err := c.nodes[3].node.Create(t.Context(), &cellpb.CreateReplicaRequest{
		Descriptor_: d, Replica: 2, Incarnation: []byte("one"), Empty: true, Rules: proto.RulesVersion,
	})
	if proto.CodeOf(err) != proto.CodeUnsupported || !strings.Contains(err.Error(), "run the newer release there first") {
		t.Errorf("taken, or refused without the way out: %v", err)
	}
}
