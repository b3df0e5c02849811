package testcluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// marks are the greatest marks of a member that a device was told of.
func (d *Device) marks(thread string, by proto.EntityID) (delivered, read proto.Seq) {
	for _, u := range d.Updates() {
		m := u.Mark
		if m.GetThread() != thread || m.GetUser() != uint64(by) {
			continue
		}
		delivered = max(delivered, proto.Seq(m.Seq))
		if m.Read {
			read = max(read, proto.Seq(m.Seq))
		}
	}
	return delivered, read
}

func (c *Cluster) waitMarks(d *Device, thread string, by User, delivered, read proto.Seq) {
	c.t.Helper()
	c.Until(fmt.Sprintf("%s is told that %s has %d and has read %d", d.User.Name, by.Name, delivered, read), func() error {
		if gotDelivered, gotRead := d.marks(thread, by.ID); gotDelivered != delivered || gotRead != read {
			return fmt.Errorf("told %d and %d", gotDelivered, gotRead)
		}
		return nil
	})
}

// threadOf is the device's row of a thread.
func (c *Cluster) threadOf(d *Device, thread string) *clientpb.Thread {
	c.t.Helper()
	var found *clientpb.Thread
	c.Until("thread "+thread+" is listed", func() error {
		page, _, err := d.Threads(c.Context(), 0, "")
		for _, th := range page {
			if th.Thread == thread {
				found = th
				return nil
			}
		}
		return fmt.Errorf("%d others (%v)", len(page), err)
	})
	return found
}

// A sender sees his message sent, delivered and read, on every device and
// transport, whichever cell the two are in and whichever owns the thread.
func TestSentDeliveredRead(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ctx := c.Context()
	for i, cells := range [][2]string{{"c1", "c2"}, {"c2", "c1"}, {"c1", "c1"}} {
		ann, bob := c.AddUser(fmt.Sprint("ann", i), cells[0]), c.AddUser(fmt.Sprint("bob", i), cells[1])
		thread := proto.DirectThread(ann.ID, bob.ID).String()
		senders := []*Device{c.Connect(ann, client.QUIC, nil), c.Connect(c.NewDevice(ann), client.TCP, nil)}
		sent, err := senders[0].Send(ctx, thread, "hello")
		if err != nil {
			t.Fatal(err)
		}
		th := c.threadOf(senders[0], thread)
		if s := client.StateOf(sent.Seq, proto.Seq(th.PeerDeliveredSeq), proto.Seq(th.PeerReadSeq)); s != client.MessageSent {
			t.Errorf("before bob has connected the message is %s", s)
		}
		b := c.Connect(bob, client.TCP, func(cfg *client.Config) { cfg.FromConfirmed = false })
		other := c.Connect(c.NewDevice(bob), client.QUIC, nil)
		for _, d := range senders {
			c.waitMarks(d, thread, bob, 1, 0)
		}
		if th = c.threadOf(senders[1], thread); th.PeerDeliveredSeq != 1 || th.PeerReadSeq != 0 {
			t.Errorf("once delivered, the thread is %v", th)
		}
		if at, err := b.MarkRead(ctx, thread, 1); err != nil || at != 1 {
			t.Fatalf("marked up to %d, %v", at, err)
		}
		for _, d := range senders {
			c.waitMarks(d, thread, bob, 1, 1)
		}
		c.waitMarks(other, thread, bob, 1, 1) // his own other device
		if th = c.threadOf(senders[0], thread); client.StateOf(1, proto.Seq(th.PeerDeliveredSeq), proto.Seq(th.PeerReadSeq)) != client.MessageRead {
			t.Errorf("once read, the thread is %v", th)
		}
		// Who answers has read: his message is the mark.
		if _, err := senders[1].Send(ctx, thread, "again"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Send(ctx, thread, "answer"); err != nil {
			t.Fatal(err)
		}
		c.WaitTexts(senders[0], thread, 3)
		if th = c.threadOf(senders[0], thread); th.PeerReadSeq != 3 || th.Unread != 1 {
			t.Errorf("once answered, the thread is %v", th)
		}
	}
}

// A stream of messages brings at most one mark of a kind in each second.
func TestMarksAreThrottled(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	ctx := c.Context()
	a := c.Connect(ann, client.TCP, nil)
	b := c.Connect(bob, client.TCP, nil)
	b2 := c.Connect(c.NewDevice(bob), client.TCP, nil)
	begun := time.Now()
	last := proto.Seq(0)
	reading := make(chan error, 1000)
	reads := 0
	for n := 1; time.Since(begun) < 3*time.Second; n++ {
		sent, err := a.Send(ctx, thread, fmt.Sprint(n))
		if err != nil {
			t.Fatal(err)
		}
		last = sent.Seq
		if n%10 == 0 && reads < cap(reading) {
			reads++
			seq := last - 5
			go func() { // all are awaited below
				_, err := b.MarkRead(ctx, thread, seq)
				reading <- err
			}()
		}
	}
	for range reads {
		if err := <-reading; err != nil {
			t.Fatal(err)
		}
	}
	c.WaitTexts(b2, thread, int(last))
	c.Until("everything is delivered", func() error {
		if got, _ := a.marks(thread, bob.ID); got != last {
			return fmt.Errorf("up to %d of %d", got, last)
		}
		return nil
	})
	most := int(time.Since(begun)/time.Second) + 2
	counts := map[bool]int{}
	for _, u := range a.Updates() {
		if u.Mark != nil {
			counts[u.Mark.Read]++
		}
	}
	t.Logf("%d messages, %d requests to mark as read: %d delivered, %d read marks in %v", last, reads, counts[false], counts[true], time.Since(begun))
	if counts[false] == 0 || counts[false] > most || counts[true] == 0 || counts[true] > most {
		t.Errorf("%d delivered and %d read marks, want 1 to %d of each", counts[false], counts[true], most)
	}
}

// A confirmation that died on its way is made up for by the next Hello, which
// names what the device has processed.
func TestLostConfirmationIsMadeUpFor(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a := c.Connect(ann, client.TCP, nil)
	r, w := c.Login(bob, func(h *clientpb.Hello) { h.Subscribe, h.FromConfirmed = true, true })
	if _, err := a.Send(c.Context(), thread, "hello"); err != nil {
		t.Fatal(err)
	}
	for r.Read().GetUpdates() == nil {
	}
	r.Close() // without a word: the confirmation is lost with the connection
	c.Login(bob, func(h *clientpb.Hello) { h.Subscribe, h.LastPts, h.Incarnation = true, 1, w.Incarnation })
	c.waitMarks(a, thread, bob, 1, 0)
}

// Places and cards are messages like any other: in order, counted as unread,
// and found by time. The name on a card is the server's.
func TestPlacesAndCards(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann, bob, eve := c.AddUser("ann", "c1"), c.AddUser("bob", "c2"), c.AddUser("eve", "c2")
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	a, b := c.Connect(ann, client.TCP, nil), c.Connect(bob, client.QUIC, nil)
	ctx := c.Context()
	post := func(m *clientpb.SendMessage) (client.Sent, error) {
		t.Helper()
		p, err := a.PostBody(m)
		if err != nil {
			t.Fatal(err)
		}
		return p.Result(ctx)
	}
	card := client.CardMessage(thread, eve.ID)
	card.Card.Name = "the pope"
	var sent []client.Sent
	for _, m := range []*clientpb.SendMessage{
		client.TextMessage(thread, "where?"),
		client.LocationMessage(thread, &clientpb.Location{Latitude: 52.52, Longitude: 13.405, Name: "here"}), card,
	} {
		s, err := post(m)
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, s)
	}
	for what, m := range map[string]*clientpb.SendMessage{
		"a card of nobody":        client.CardMessage(thread, eve.ID+4000),
		"a place off the map":     client.LocationMessage(thread, &clientpb.Location{Latitude: 91}),
		"a card without a person": {Thread: thread, Card: new(clientpb.SharedCard)},
	} {
		if s, err := post(m); err == nil {
			t.Errorf("%s was stored as %d", what, s.Seq)
		}
	}
	c.WaitTexts(b, thread, 3)
	events := b.Updates()
	if p := events[1].Event.GetLocation(); p.GetLatitude() != 52.52 || p.GetLongitude() != 13.405 || p.GetName() != "here" {
		t.Errorf("received %v", events[1].Event)
	}
	if got := events[2].Event.GetCard(); got.GetUser() != uint64(eve.ID) || got.GetName() != "eve" {
		t.Errorf("received %v", events[2].Event)
	}
	th := c.threadOf(b, thread)
	if th.Unread != 3 || th.Last.GetCard().GetName() != "eve" {
		t.Errorf("the thread is %v", th)
	}
	for i, s := range sent {
		rows, more, err := b.History(ctx, &clientpb.ReadHistory{Thread: thread, AtMs: s.Time.UnixMilli(), Limit: 1})
		if err != nil || len(rows) != 1 || more != (rows[0].Seq < 3) || rows[0].TimeMs != s.Time.UnixMilli() || rows[0].Seq > uint64(i+1) {
			t.Errorf("history from the time of message %d: %v (more: %v), %v", i+1, rows, more, err)
		}
	}
}
