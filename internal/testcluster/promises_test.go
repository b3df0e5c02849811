package testcluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// The tests of this file are named after the promises of ARCHITECTURE.md.
// Promise 1 needs processes that can be killed: see procs_test.go.

// Resending a client_msg_id gives the same message back: on the same
// connection, on another, after the leader has changed and after a restart.
func TestPromise2Once(t *testing.T) {
	c := Start(t, devcluster.Options{Replicas: 3, NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	r, _ := c.Login(ann, nil)
	id := proto.NewClientMsgID(time.Now())
	first := r.SendUntilDone(thread, id, "once")
	check := func(when string, r *Raw) {
		t.Helper()
		again := r.SendUntilDone(thread, id, "once")
		if again.Seq != first.Seq || again.TimeMs != first.TimeMs {
			t.Errorf("%s: seq %d at %d, the first time %d at %d", when, again.Seq, again.TimeMs, first.Seq, first.TimeMs)
		}
	}
	check("on the same connection", r)
	r, _ = c.Login(ann, nil)
	check("on another connection", r)
	owner := c.Range(proto.DirectThread(ann.ID, bob.ID).OwnerRange())
	c.StopNode(owner.Leader)
	check("with another leader", r)
	c.StartNode(owner.Leader)
	c.Restart()
	r, _ = c.Login(ann, nil)
	check("after a restart", r)
	old := proto.NewClientMsgID(time.Now().Add(-proto.ClientMsgIDPast - time.Hour))
	if f := r.Send(thread, old, nil, "late"); proto.Code(f.GetError().GetCode()) != proto.CodeMessageTooOld {
		t.Errorf("an id of eight days ago is answered %v", f)
	}
	history := c.History(c.Connect(bob, client.TCP, nil), thread)
	if len(history) != 1 {
		t.Errorf("the thread has %d messages, want 1", len(history))
	}
}

// In a thread every member and device sees one order, and one device's sends
// keep theirs, also while leaders change.
func TestPromise3Ordered(t *testing.T) {
	c := Start(t, devcluster.Options{Replicas: 3, NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID)
	devices := []*Device{
		c.Connect(ann, client.QUIC, nil), c.Connect(bob, client.TCP, nil),
		c.Connect(c.NewDevice(ann), client.TCP, nil), c.Connect(c.NewDevice(bob), client.QUIC, nil),
	}
	const perDevice = 150
	ctx := c.Context()
	var wg sync.WaitGroup
	for i, d := range devices {
		wg.Go(func() {
			var pending []*client.Pending
			for n := range perDevice {
				p, err := d.Post(thread.String(), fmt.Sprintf("%d/%d", i, n))
				if err != nil {
					t.Error(err)
					return
				}
				pending = append(pending, p)
			}
			for _, p := range pending {
				if _, err := p.Result(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	c.StopNode(c.Range(thread.OwnerRange()).Leader)
	wg.Wait()
	want := c.WaitTexts(devices[0], thread.String(), len(devices)*perDevice)
	next := make([]int, len(devices))
	for _, text := range want {
		var device, n int
		if _, err := fmt.Sscanf(text, "%d/%d", &device, &n); err != nil {
			t.Fatal(err)
		}
		if n != next[device] {
			t.Fatalf("device %d: %d where %d is due", device, n, next[device])
		}
		next[device]++
	}
	for _, d := range devices[1:] {
		got := c.WaitTexts(d, thread.String(), len(want))
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("number %d is %q on one device and %q on another", i, want[i], got[i])
			}
		}
	}
	for i, e := range c.History(devices[1], thread.String()) {
		if e.Seq != uint64(i+1) || e.GetText().GetText() != want[i] {
			t.Fatalf("history has %q as seq %d, want %q as %d", e.GetText().GetText(), e.Seq, want[i], i+1)
		}
	}
}

// A device that resumes receives exactly what it lacks; one whose place is
// not in the log is told to resynchronise.
func TestPromise4NothingMissed(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.TCP, nil)
	ctx := c.Context()
	send := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			if _, err := a.Send(ctx, thread, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, w := c.Login(bob, func(h *clientpb.Hello) { h.Subscribe, h.FromConfirmed = true, true })
	send(0, 3)
	receive := func(r *Raw, from, to int) {
		t.Helper()
		for next := from; next < to; {
			for _, u := range r.Read().GetUpdates().GetUpdates() {
				if got := u.GetEvent().GetText().GetText(); got != fmt.Sprint(next) || u.Pts != uint64(next+1) {
					t.Fatalf("received %q as pts %d, want %d as %d", got, u.Pts, next, next+1)
				}
				next++
			}
		}
	}
	receive(r, 0, 3)
	r.Close()
	send(3, 300) // more than a page, while the device is away
	resume := func(pts uint64, incarnation []byte) (*Raw, *clientpb.Welcome) {
		t.Helper()
		return c.Login(bob, func(h *clientpb.Hello) { h.Subscribe, h.LastPts, h.Incarnation = true, pts, incarnation })
	}
	r, _ = resume(3, w.Incarnation)
	receive(r, 3, 300)
	r, _ = resume(0, w.Incarnation) // from the very start
	receive(r, 0, 300)
	for i, from := range []struct {
		name        string
		pts         uint64
		incarnation []byte
	}{
		{"beyond the end", 1000, w.Incarnation},
		{"another incarnation", 3, make([]byte, 16)},
	} {
		end := uint64(300 + i)
		r, _ := resume(from.pts, from.incarnation)
		f := r.Read()
		if f.GetResync() == nil || f.GetResync().Pts != end || string(f.GetResync().Incarnation) != string(w.Incarnation) {
			t.Errorf("resuming from %s is answered %v", from.name, f)
		}
		send(int(end), int(end)+1)
		if u := r.Read().GetUpdates().GetUpdates(); len(u) == 0 || u[0].Pts != end+1 {
			t.Errorf("after resynchronising from %s: %v", from.name, u)
		}
	}
}

// With etcd and the control plane down people go on chatting, a lost leader
// is replaced, and devices with a token connect.
func TestPromise7StaticallyStable(t *testing.T) {
	c := Start(t, devcluster.Options{Replicas: 3, NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID)
	a := c.Connect(ann, client.QUIC, nil)
	b := c.Connect(bob, client.TCP, nil)
	ctx := c.Context()
	sent := 0
	send := func(when string) {
		t.Helper()
		if _, err := a.Send(ctx, thread.String(), when); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		sent++
		c.WaitTexts(b, thread.String(), sent)
	}
	send("before")
	leader := c.Range(thread.OwnerRange()).Leader
	c.StopNode("cp1")
	c.StopNode("etcd")
	send("without etcd and control plane")
	c.StopNode(leader)
	send("with a lost leader")
	late := c.Connect(bob, client.QUIC, func(cfg *client.Config) { cfg.FromConfirmed = false })
	sent++
	if _, err := late.Send(ctx, thread.String(), "from a device that has just connected"); err != nil {
		t.Fatal(err)
	}
	c.WaitTexts(a, thread.String(), sent)
	c.StartNode(leader)
	send("with the node back, which knows the cluster from its disk")
	if n := a.Disconnects() + b.Disconnects(); n != 0 {
		t.Errorf("%d disconnects", n)
	}
	c.StartNode("etcd")
	c.StartNode("cp1")
	c.Until("people can be added again", func() error {
		_, err := c.TryAddUser("cid", "")
		return err
	})
}

// A cell node's loss does not disconnect anyone (the part of promise 5 that
// needs no moves).
func TestPromise5NodeLossIsNotNoticed(t *testing.T) {
	c := Start(t, devcluster.Options{Replicas: 3, NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.TCP, nil)
	b := c.Connect(bob, client.QUIC, nil)
	ctx := c.Context()
	n := 0
	for _, node := range []string{"c1-n1", "c1-n2", "c1-n3", "c2-n1", "c2-n2", "c2-n3"} {
		c.StopNode(node)
		for range 5 {
			if _, err := a.Send(ctx, thread, fmt.Sprint(n)); err != nil {
				t.Fatalf("with %s down: %v", node, err)
			}
			n++
		}
		c.StartNode(node)
		c.UntilSettled()
	}
	for _, d := range []*Device{a, b} {
		for i, text := range c.WaitTexts(d, thread, n) {
			if text != fmt.Sprint(i) {
				t.Fatalf("%s has %q as number %d", d.User.Name, text, i)
			}
		}
		if d.Disconnects() != 0 {
			t.Errorf("%s was disconnected %d times", d.User.Name, d.Disconnects())
		}
	}
}

// A dead cell stops only its own people: others go on, and sends to it wait
// in the outbox.
func TestPromise6Contained(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, eve, bob := c.AddUser("ann", "c1"), c.AddUser("eve", "c1"), c.AddUser("bob", "c2")
	a := c.Connect(ann, client.TCP, nil)
	e := c.Connect(eve, client.TCP, nil)
	b := c.Connect(bob, client.TCP, nil)
	ctx := c.Context()
	among := proto.DirectThread(ann.ID, eve.ID).String()
	across := proto.DirectThread(ann.ID, bob.ID).String()
	if _, err := a.Send(ctx, across, "before"); err != nil {
		t.Fatal(err)
	}
	c.StopNode("c2-n1")
	waiting, err := a.Post(across, "while the cell is away")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := a.Send(ctx, among, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitTexts(e, among, 20)
	c.StartNode("c2-n1")
	if _, err := waiting.Result(ctx); err != nil {
		t.Fatal(err)
	}
	c.WaitTexts(b, across, 2)
}

// Every limit is answered clearly, and what exceeds it disturbs nobody.
func TestPromise8Bounded(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.TCP, nil)
	b := c.Connect(bob, client.TCP, nil)
	ctx := c.Context()
	big := make([]byte, proto.TextBytesMax+1)
	for i := range big {
		big[i] = 'x'
	}
	if _, err := a.Send(ctx, thread, string(big)); proto.CodeOf(err) != proto.CodeTooBig {
		t.Errorf("a text above the limit: %v", err)
	}
	if _, err := a.Send(ctx, thread, string(big[1:])); err != nil {
		t.Errorf("a text of the limit: %v", err)
	}
	if n := len([]rune(c.WaitTexts(b, thread, 1)[0])); n != proto.TextBytesMax {
		t.Errorf("received %d characters", n)
	}
	// A device that does not read costs bounded memory and misses nothing.
	slow, _ := c.Login(c.NewDevice(bob), func(h *clientpb.Hello) { h.Subscribe, h.FromConfirmed = true, true })
	const n = 200
	for range n {
		if _, err := a.Send(ctx, thread, string(big[1:])); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitTexts(b, thread, n+1)
	for got, pts := 0, uint64(0); got < n; {
		for _, u := range slow.Read().GetUpdates().GetUpdates() {
			if pts != 0 && u.Pts != pts+1 {
				t.Fatalf("update %d follows %d", u.Pts, pts)
			}
			pts = u.Pts
			got++
		}
	}
	// More than a user may send is answered with a time to wait.
	r, _ := c.Login(ann, nil)
	limited := 0
	for range 3000 {
		id := proto.NewClientMsgID(time.Now())
		r.Write(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_SendMessage{SendMessage: &clientpb.SendMessage{
			Thread: thread, ClientMsgId: id[:], Text: &clientpb.TextMessage{Text: "flood"},
		}}})
	}
	for range 3000 {
		if e := r.Read().GetError(); e != nil {
			if code := proto.Code(e.Code); code.Class() != proto.ClassRetryLater || e.RetryMs == 0 {
				t.Fatalf("the flood is answered %v", e)
			}
			limited++
		}
	}
	if limited == 0 {
		t.Error("nothing of the flood was limited")
	}
	sendCtx, cancel := context.WithTimeout(ctx, Wait)
	defer cancel()
	if _, err := b.Send(sendCtx, thread, "undisturbed"); err != nil {
		t.Error(err)
	}
}
