package replica

import (
	"fmt"
	"testing"

	"github.com/waggle-im/waggle/proto"
)

func (c *cluster) allQuiet(groups int) bool {
	for _, n := range c.nodes {
		if n.node != nil && (len(n.node.active) != 0 || n.node.quietCount() != groups) {
			return false
		}
	}
	return true
}

func (c *cluster) groupTicks() float64 {
	sum := 0.0
	for _, n := range c.nodes {
		if n.node != nil {
			sum += value(c.t, n.node.metrics.ticks)
		}
	}
	return sum
}

func TestQuietGroupsDoNotTickAndWake(t *testing.T) {
	c := newCluster(t, 3, nil)
	const groups = 5
	for r := range proto.RangeID(groups) {
		c.create(r)
		c.must(c.elect(r), r, "a")
	}
	c.within(120, "all quiet", func() bool { return c.allQuiet(groups) })
	before, sent := c.groupTicks(), value(t, c.nodes[0].node.metrics.sent)
	terms := c.nodes[0].status(2).Term
	for range 300 {
		c.tick()
	}
	if got := c.groupTicks(); got != before {
		t.Fatalf("quiet groups ticked %v times", got-before)
	}
	if got := value(t, c.nodes[0].node.metrics.sent); got != sent {
		t.Errorf("quiet groups sent %v messages", got-sent)
	}
	for _, n := range c.nodes {
		if s := n.status(2); !s.Quiet || s.Term != terms {
			t.Errorf("%s: %+v", n.id, s)
		}
	}
	// A proposal wakes its group, and only that one, on all nodes.
	leader := c.leader(2)
	c.must(leader, 2, "b")
	c.equal(2)
	for _, n := range c.nodes {
		if len(n.node.active) > 1 {
			t.Errorf("%s has %d groups awake", n.id, len(n.node.active))
		}
	}
	if s := leader.status(2); s.Quiet || s.Term != terms {
		t.Errorf("after the proposal: %+v", s)
	}
	// So does a read.
	c.within(120, "all quiet again", func() bool { return c.allQuiet(groups) })
	reads := 0
	leader.node.Read(2, func(err error) {
		if err == nil {
			reads++
		}
	})
	c.settle()
	if reads != 1 {
		t.Error("no answer to a read of a quiet group")
	}
}

func TestIdleGroupsFailOverAsFastAsBusyOnes(t *testing.T) {
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprintf("stream broken %v", broken), func(t *testing.T) {
			c := newCluster(t, 3, nil)
			const groups = 6
			for r := range proto.RangeID(groups) {
				c.create(r)
				c.must(c.elect(r), r, "a")
			}
			c.within(120, "all quiet", func() bool { return c.allQuiet(groups) })
			dead := c.leader(0)
			var lost []proto.RangeID
			for r := range proto.RangeID(groups) {
				if c.leader(r) == dead {
					lost = append(lost, r)
				}
			}
			dead.stop()
			if broken {
				for _, n := range c.nodes {
					if n.node != nil {
						n.node.inbox.call(func() { n.node.peerLost(dead.id) })
					}
				}
			}
			// Silence 10 ticks, then an election of 10 to 20. Votes split
			// now and then, and cost one more election.
			took := c.within(70, "new leaders", func() bool {
				for _, r := range lost {
					if c.leader(r) == nil {
						return false
					}
				}
				return true
			})
			t.Logf("%d idle ranges had new leaders after %d ticks", len(lost), took)
			for _, r := range lost {
				c.must(c.leader(r), r, "b")
			}
		})
	}
}

// A leader that cannot reach its quorum must not rest on its old answers.
func TestQuietLeaderThatIsCutOffStepsDown(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	leader := c.elect(1)
	c.must(leader, 1, "a")
	c.within(120, "quiet", func() bool { return c.allQuiet(1) })
	c.setCut(leader.id, true)
	c.within(60, "stepping down", func() bool {
		_, _, leading := leader.node.Leader(1)
		return !leading
	})
	next := c.elect(1)
	c.must(next, 1, "b")
	c.setCut(leader.id, false)
	c.equal(1)
}

// A woken leader has not heard of anyone for long; it must not step down for
// that before they could answer.
func TestWakingDoesNotCostTheLeadership(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	leader := c.elect(1)
	term := leader.status(1).Term
	for i := range 30 {
		c.within(120, "quiet", func() bool { return c.allQuiet(1) })
		for range i {
			c.tick()
		}
		c.must(leader, 1, fmt.Sprint(i))
		for range 25 {
			c.tick()
		}
	}
	if s := leader.status(1); s.Term != term || !s.Leading {
		t.Errorf("went from term %d to %+v", term, s)
	}
}

func TestAFollowerThatLagsKeepsTheGroupAwake(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	leader := c.elect(1)
	var lagging *testNode
	for _, n := range c.nodes {
		if n != leader {
			lagging = n
		}
	}
	c.setCut(lagging.id, true)
	c.must(leader, 1, "a")
	for range 100 {
		c.tick()
	}
	if leader.status(1).Quiet {
		t.Fatal("the leader rests though a follower lacks an entry")
	}
	c.setCut(lagging.id, false)
	c.within(150, "quiet", func() bool { return c.allQuiet(1) })
	c.equal(1)
}
