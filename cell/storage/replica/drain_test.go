package replica

import (
	"context"
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
)

func anyNode(proto.NodeID) bool { return true }

// A node that is about to stop gives away what it leads, at rest or not, in
// less time than an election takes, and only to nodes that take it.
func TestDrainGivesLeadershipAway(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	first := c.elect(1)
	c.must(first, 1, "before")
	for _, rest := range []bool{false, true} {
		from := c.leader(1)
		if rest {
			c.within(200, "the range rests", func() bool { return from.node.Status()[0].Quiet })
		}
		var to proto.NodeID
		for _, n := range c.nodes {
			if n != from {
				to = n.id
			}
		}
		if left := from.node.giveAll(func(id proto.NodeID) bool { return id == to }); left != 1 {
			t.Fatalf("%d ranges are to be given away", left)
		}
		took := c.within(from.node.cfg.ElectionTicks-1, "another leads", func() bool { l := c.leader(1); return l != nil && l != from })
		if l := c.leader(1); l.id != to {
			t.Errorf("at rest %v: %s leads, only %s takes it", rest, l.id, to)
		}
		if left := from.node.giveAll(anyNode); left != 0 {
			t.Errorf("%d ranges left", left)
		}
		t.Logf("at rest %v: after %d ticks", rest, took)
		c.must(c.leader(1), 1, "after")
	}
	// Nobody takes it: nothing is left to wait for.
	if left := c.leader(1).node.giveAll(func(proto.NodeID) bool { return false }); left != 0 {
		t.Errorf("%d ranges wait for nobody", left)
	}
}

// Drain returns when all is given away, or when its time is over.
func TestDrainReturns(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	from := c.elect(1)
	left := make(chan int, 1)
	go func() { left <- from.node.Drain(context.Background(), anyNode) }()
	c.eventually("all is given away", func() bool { return len(left) == 1 })
	if n := <-left; n != 0 || c.leader(1) == from {
		t.Errorf("%d ranges left, led by %s", n, c.leader(1).id)
	}
	// With the others cut off a transfer never ends.
	from = c.elect(1)
	c.must(from, 1, "x")
	for _, n := range c.nodes {
		if n != from {
			c.setCut(n.id, true)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	go func() { left <- from.node.Drain(ctx, anyNode) }()
	deadline := time.Now().Add(time.Minute)
	for len(left) == 0 && time.Now().Before(deadline) {
		c.settle()
	}
	if n := <-left; n != 1 {
		t.Errorf("%d ranges left", n)
	}
}
