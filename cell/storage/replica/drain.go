package replica

import (
	"context"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/waggle-im/waggle/proto"
)

// drainPoll is how often a node that is about to stop looks what it still
// leads; a range changes hands within two messages.
const drainPoll = 10 * time.Millisecond

// Drain gives the leadership of every range to another voter, so that nobody
// has to wait for an election when this node stops. takes tells which nodes
// may get it. It returns when nothing is led any more that another could take,
// or when ctx ends, with what is left of that. Run must be running.
func (n *Node) Drain(ctx context.Context, takes func(proto.NodeID) bool) (left int) {
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for {
		counted := make(chan int, 1)
		if !n.inbox.call(func() { counted <- n.giveAll(takes) }) {
			return left
		}
		select {
		case left = <-counted:
		case <-ctx.Done():
			return left
		}
		if left == 0 {
			return 0
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return left
		}
	}
}

// giveAll begins to give away what is led here, some at a time, and tells how
// many ranges are still led that another could lead. The loop calls it.
func (n *Node) giveAll(takes func(proto.NodeID) bool) (left int) {
	given := 0
	for _, g := range n.groupsInOrder() {
		if g.failed || g.installing || g.desc.Joint() {
			continue
		}
		if st := g.raft.BasicStatus(); st.RaftState == raft.StateLeader && st.LeadTransferee != raft.None {
			left++
			continue
		}
		to := successor(g, takes)
		if to == raft.None {
			continue
		}
		left++
		if given++; given > handoversAtOnce {
			continue
		}
		n.touch(g)
		if err := g.guard(func() error { g.raft.TransferLeader(to); return nil }); err != nil {
			n.fail(g, err)
		}
	}
	return left
}
