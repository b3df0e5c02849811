package testcluster

import (
	"fmt"
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
