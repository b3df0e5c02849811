package testcluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
)

func TestThreeReplicas(t *testing.T) {
	start := time.Now()
	c := Start(t, devcluster.Options{Replicas: 3})
	t.Logf("ready after %v", time.Since(start))
	ann, bob := c.AddUser("anne", "c1"), c.AddUser("bobb", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.QUIC, nil)
	b := c.Connect(bob, client.TCP, nil)
	ctx := c.Context()
	for i := range 20 {
		s := time.Now()
		if _, err := a.Send(ctx, thread, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		t.Log(time.Since(s))
	}
	c.WaitTexts(b, thread, 20)
	c.WaitTexts(a, thread, 20)
	start = time.Now()
	c.Restart()
	t.Logf("restarted after %v", time.Since(start))
	if _, err := a.Send(ctx, thread, "after"); err != nil {
		t.Fatal(err)
	}
	c.WaitTexts(b, thread, 21)
}

func TestSplitRoles(t *testing.T) {
	c := Start(t, devcluster.Options{SplitRoles: true, Replicas: 3, Edges: 2})
	ann, bob := c.AddUser("anne", "c1"), c.AddUser("bobb", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.Plain, nil)
	b := c.Connect(bob, client.TCP, nil)
	ctx := c.Context()
	for i := range 20 {
		s := time.Now()
		if _, err := a.Send(ctx, thread, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		t.Log(time.Since(s))
	}
	c.WaitTexts(b, thread, 20)
}
