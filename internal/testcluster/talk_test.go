package testcluster

import (
	"fmt"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
)

// Two people in two cells talk, one on QUIC and one on TCP.
func TestTwoPeopleInTwoCellsTalk(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.QUIC, nil)
	b := c.Connect(bob, client.TCP, nil)
	ctx := c.Context()
	const n = 50
	for i := range n {
		from, text := a, fmt.Sprintf("message %d", i)
		if i%2 == 1 {
			from = b
		}
		sent, err := from.Send(ctx, thread, text)
		if err != nil {
			t.Fatal(err)
		}
		if sent.Seq != proto.Seq(i+1) {
			t.Fatalf("message %d got seq %d", i, sent.Seq)
		}
	}
	for _, d := range []*Device{a, b} {
		for i, text := range c.WaitTexts(d, thread, n) {
			if want := fmt.Sprintf("message %d", i); text != want {
				t.Errorf("%s received %q as number %d, want %q", d.User.Name, text, i, want)
			}
		}
	}
}
