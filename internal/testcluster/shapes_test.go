package testcluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
)

// A cluster keeps all data over a restart, and its people go on where they
// were.
func TestRestartResumesWithAllData(t *testing.T) {
	c := Start(t, devcluster.Options{Replicas: 3, NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.QUIC, nil)
	b := c.Connect(bob, client.TCP, nil)
	ctx := c.Context()
	const n = 20
	for i := range n {
		if _, err := a.Send(ctx, thread, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	c.Restart()
	if _, err := a.Send(ctx, thread, fmt.Sprint(n)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*Device{a, b} {
		for i, text := range c.WaitTexts(d, thread, n+1) {
			if text != fmt.Sprint(i) {
				t.Errorf("%s has %q as number %d", d.User.Name, text, i)
			}
		}
	}
}

// Chat nodes may be apart from storage, and there may be several edges.
func TestSplitRolesAndTwoEdges(t *testing.T) {
	c := Start(t, devcluster.Options{SplitRoles: true, Replicas: 3, Edges: 2, NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.Plain, nil)
	b := c.Connect(bob, client.TCP, func(cfg *client.Config) { cfg.Server = c.EdgeAddr("e2") })
	ctx := c.Context()
	const n = 20
	for i := range n {
		if _, err := a.Send(ctx, thread, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitTexts(b, thread, n)
	c.WaitTexts(a, thread, n)
}

// A cell added while the cluster runs takes new people, who chat with those
// who were there before; it comes back by itself.
func TestCellAddedWhileRunning(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann := c.AddUser("ann", "c1")
	a := c.Connect(ann, client.TCP, nil)
	c.AddCell("c3")
	cid := c.AddUser("cid", "c3")
	d := c.Connect(cid, client.QUIC, nil)
	ctx := c.Context()
	thread := proto.DirectThread(ann.ID, cid.ID).String()
	if _, err := d.Send(ctx, thread, "from the new cell"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Send(ctx, thread, "to the new cell"); err != nil {
		t.Fatal(err)
	}
	c.WaitTexts(a, thread, 2)
	c.WaitTexts(d, thread, 2)
	c.Restart()
	if _, err := a.Send(ctx, thread, "after the restart"); err != nil {
		t.Fatal(err)
	}
	c.WaitTexts(d, thread, 3)
}

// A follower that was away for longer than the log reaches back gets a
// snapshot, and is then as good as any: with another node away it is half of
// the quorum.
func TestFollowerBehindTheLogCatchesUp(t *testing.T) {
	c := Start(t, devcluster.Options{Replicas: 3, NoDemo: true})
	ann, eve := c.AddUser("ann", "c1"), c.AddUser("eve", "c1")
	thread := proto.DirectThread(ann.ID, eve.ID)
	a := c.Connect(ann, client.TCP, nil)
	ctx := c.Context()
	voters := c.Range(thread.OwnerRange())
	var follower, other string
	for _, v := range voters.Voters {
		if v != voters.Leader && follower == "" {
			follower = v
		} else if v != voters.Leader {
			other = v
		}
	}
	lacks := uint64(0)
	for _, r := range c.Replicas(follower) {
		if r.Descriptor_.GetRange() == voters.Range {
			lacks = r.Applied + 1
		}
	}
	c.StopNode(follower)
	text := strings.Repeat("x", proto.TextBytesMax)
	const n = 200 // 3 MiB, and the log is kept for 1 MiB
	var pending []*client.Pending
	for range n {
		p, err := a.Post(thread.String(), text)
		if err != nil {
			t.Fatal(err)
		}
		pending = append(pending, p)
	}
	for _, p := range pending {
		if _, err := p.Result(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c.Until("the leader has cut what the follower lacks", func() error {
		for _, r := range c.Replicas(voters.Leader) {
			if r.Descriptor_.GetRange() == voters.Range && r.FirstIndex > lacks {
				return nil
			}
		}
		return errors.New("it has not")
	})
	c.StartNode(follower)
	c.StopNode(other)
	if _, err := a.Send(ctx, thread.String(), "with the snapshot"); err != nil {
		t.Fatal(err)
	}
	if c.Metric("waggle_replica_snapshots_installed_total", follower) == 0 {
		t.Error("the follower has caught up without a snapshot: this test tests nothing")
	}
	c.StartNode(other)
	hashes := map[proto.RangeID]uint64{}
	for _, h := range c.ReplicaHashes() {
		if before, ok := hashes[h.Range]; ok && before != h.Hash {
			t.Errorf("range %s: replica %d differs at %d", h.Range, h.Replica, h.Index)
		}
		hashes[h.Range] = h.Hash
	}
	if got := len(c.History(a, thread.String())); got != n+1 {
		t.Errorf("the thread has %d messages, want %d", got, n+1)
	}
}
