package testcluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Threads are listed newest first, with the last message, the other side's
// name and what is unread, whichever cell owns them; reading marks them.
func TestThreadsUnreadAndReadMarks(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann := c.AddUser("ann", "c1")
	a := c.Connect(ann, client.TCP, nil)
	ctx := c.Context()
	const peers = 7
	names := map[string]string{}
	for i := range peers {
		peer := c.AddUser(fmt.Sprintf("peer%d", i), []string{"c1", "c2"}[i%2])
		p := c.Connect(peer, client.TCP, nil)
		thread := proto.DirectThread(ann.ID, peer.ID).String()
		names[thread] = peer.Name
		for n := range i + 1 {
			if _, err := p.Send(ctx, thread, fmt.Sprintf("%s says %d", peer.Name, n)); err != nil {
				t.Fatal(err)
			}
		}
		c.WaitTexts(a, thread, i+1)
	}
	var all []*clientpb.Thread
	for cursor := ""; ; {
		page, next, err := a.Threads(ctx, 3, cursor)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if cursor = next; cursor == "" {
			break
		}
	}
	if len(all) != peers {
		t.Fatalf("%d threads, want %d", len(all), peers)
	}
	for i, th := range all {
		n := peers - i // the newest peer has written most
		want := fmt.Sprintf("peer%d says %d", n-1, n-1)
		if th.Unread != uint64(n) || th.LastSeq != uint64(n) || th.PeerName != names[th.Thread] || th.Last.GetText().GetText() != want {
			t.Errorf("place %d is %v, want the last message %q, %d unread", i, th, want, n)
		}
	}
	unread := func(thread string) uint64 {
		t.Helper()
		page, _, err := a.Threads(ctx, 0, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, th := range page {
			if th.Thread == thread {
				return th.Unread
			}
		}
		t.Fatalf("thread %s is not listed", thread)
		return 0
	}
	for _, th := range all[:2] { // one owned in each cell, or both in one
		if at, err := a.MarkRead(ctx, th.Thread, 2); err != nil || at != 2 {
			t.Fatalf("marked up to %d, %v", at, err)
		}
		if got := unread(th.Thread); got != th.Messages-2 {
			t.Errorf("%d unread after reading 2 of %d", got, th.Messages)
		}
		if _, err := a.MarkRead(ctx, th.Thread, 1); err != nil {
			t.Fatal(err)
		}
		if got := unread(th.Thread); got != th.Messages-2 {
			t.Errorf("the mark went back: %d unread", got)
		}
		if at, err := a.MarkRead(ctx, th.Thread, 1000); err != nil || at != proto.Seq(th.LastSeq) {
			t.Errorf("marked up to %d, %v", at, err)
		}
		if got := unread(th.Thread); got != 0 {
			t.Errorf("%d unread after reading all", got)
		}
	}
	if _, name, err := a.FindUser(ctx, "PEER3"); err != nil || name != "peer3" {
		t.Errorf("found %q, %v", name, err)
	}
	if name, err := a.ShowUser(ctx, ann.ID); err != nil || name != "ann" {
		t.Errorf("showed %q, %v", name, err)
	}
}

// Whoever logs in again on the same device ends its earlier session, which is
// told why; the older token cannot come back.
func TestNewerLoginDisplacesTheOlder(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann := c.AddUser("ann", "c1")
	older, _ := c.Login(ann, nil)
	newer := c.LoginAgain(ann)
	f, err := older.ReadErr()
	for err == nil && f.GetClosing() == nil {
		f, err = older.ReadErr()
	}
	if proto.Code(f.GetClosing().GetCode()) != proto.CodeDisplaced || f.GetClosing().Message == "" {
		t.Errorf("the older session is told %v (%v)", f, err)
	}
	r := c.Dial()
	r.Write(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
		ProtocolVersion: proto.ClientProtocolVersion, Token: ann.Token, Device: ann.Device,
	}}})
	f, err = r.ReadErr()
	if code := max(f.GetClosing().GetCode(), f.GetError().GetCode()); proto.Code(code) != proto.CodeDisplaced {
		t.Errorf("the older token is answered %v (%v)", f, err)
	}
	c.Login(newer, nil)
}

// A device that does not read for long misses nothing: what does not fit its
// queue is read from the log when it goes on.
func TestSlowReaderFallsBackToTheLog(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.TCP, nil)
	slow, _ := c.Login(bob, func(h *clientpb.Hello) { h.Subscribe, h.FromConfirmed = true, true })
	text := strings.Repeat("x", proto.TextBytesMax)
	const n = 450 // 7 MB: more than the sockets hold; less than a burst
	var pending []*client.Pending
	for range n {
		p, err := a.Post(thread, text)
		if err != nil {
			t.Fatal(err)
		}
		pending = append(pending, p)
	}
	for _, p := range pending {
		if _, err := p.Result(c.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if c.Metric("waggle_edge_pushes_dropped_total", "") == 0 {
		c.Until("the edge drops pushes", func() error {
			if c.Metric("waggle_edge_pushes_dropped_total", "") == 0 {
				return errors.New("none dropped")
			}
			return nil
		})
	}
	for pts := uint64(0); pts < n; {
		for _, u := range slow.Read().GetUpdates().GetUpdates() {
			if u.Pts != pts+1 || len(u.GetEvent().GetText().GetText()) != len(text) {
				t.Fatalf("update %d follows %d", u.Pts, pts)
			}
			pts = u.Pts
		}
	}
}

// What was written in threads of a dead cell does not hold up the rest: the
// device hears of it without the text, which follows when the cell is back.
func TestCatchingUpPastADeadCell(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, eve, bob := c.AddUser("ann", "c1"), c.AddUser("eve", "c1"), c.AddUser("bob", "c2")
	for i := 0; proto.DirectThread(ann.ID, bob.ID).Owner() != bob.ID; i++ {
		bob = c.AddUser(fmt.Sprintf("bob%d", i), "c2") // a thread that the other cell owns
	}
	b := c.Connect(bob, client.TCP, nil)
	e := c.Connect(eve, client.TCP, nil)
	ctx := c.Context()
	a := c.Connect(ann, client.TCP, nil)
	across := proto.DirectThread(ann.ID, bob.ID).String()
	among := proto.DirectThread(ann.ID, eve.ID).String()
	if _, err := b.Send(ctx, across, "from the cell that will die"); err != nil {
		t.Fatal(err)
	}
	c.WaitTexts(a, across, 1)
	if _, err := e.Send(ctx, among, "from the living"); err != nil {
		t.Fatal(err)
	}
	c.WaitTexts(a, among, 1)
	c.StopNode("c2-n1")
	bodies := make(chan client.Update, 10)
	late := c.Connect(c.NewDevice(ann), client.TCP, func(cfg *client.Config) {
		cfg.FromConfirmed = false // everything from the start
		cfg.OnBody = func(u client.Update) { bodies <- u }
	})
	c.WaitTexts(late, among, 1)
	if u := late.Updates()[0]; u.Event.Thread != across || !u.Event.BodyMissing {
		t.Errorf("the first update is %v, want one of %s without body", u.Event, across)
	}
	c.StartNode("c2-n1")
	select {
	case u := <-bodies:
		if u.Event.GetText().GetText() != "from the cell that will die" {
			t.Errorf("the body is %v", u.Event)
		}
	case <-ctx.Done():
		t.Error("the body did not come")
	}
}
