package state

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// marksOf are the marks in a user's log.
func marksOf(b *rig, user proto.EntityID) []string {
	b.t.Helper()
	return slices.DeleteFunc(b.updates(user), func(name string) bool { return !strings.Contains(name, " ") })
}

// However many messages a batch brings and wherever it is cut, a confirmation
// tells the sender of the last one it covers, once.
func TestDeliveredMarkOfManyMessages(t *testing.T) {
	for _, c := range []struct {
		name      string
		committed int // messages before the first Commit
		more      int // in the batch that is being built when the confirmation comes
	}{
		{"all committed", 5 * tailMax, 0},
		{"none committed", 0, 5 * tailMax},
		{"cut in a long tail", 3 * tailMax, 2*tailMax + 3},
		{"a short tail", 3, 4},
	} {
		b, thread := pair(t)
		want := uint64(c.committed + c.more)
		for _, device := range []string{"phone", "tablet"} {
			wantCode(t, b.do(login(thread.Low, device, "n")), proto.CodeOK)
		}
		b.manual = true
		for i := range c.committed + c.more {
			if i == c.committed {
				b.commit()
			}
			wantCode(t, b.send(thread, thread.High, b.id(0)), proto.CodeOK)
		}
		if c.more == 0 {
			b.commit()
		}
		both := confirm(thread.Low, "phone", want-2)
		both.GetConfirmUpdates().Marks = append(both.GetConfirmUpdates().Marks, confirm(thread.Low, "tablet", want).GetConfirmUpdates().Marks...)
		wantCode(t, b.do(both), proto.CodeOK)
		b.commit()
		name := updateName(&cellpb.StoredUpdate{Thread: thread.String(), Seq: want, Body: &cellpb.StoredUpdate_Mark{Mark: &cellpb.MarkUpdate{User: uint64(thread.Low)}}})
		if got := marksOf(b, thread.High); !slices.Equal(got, []string{name}) {
			t.Errorf("%s: the sender was told %q, want %q", c.name, got, name)
		}
		if row := b.threadRow(thread.Low, thread); row.DeliveredSeq != want {
			t.Errorf("%s: delivered up to %d, want %d", c.name, row.DeliveredSeq, want)
		}
	}
}

// A read mark goes to the other member and to the user's own log, once, is
// cut to the thread's end and never goes back.
func TestReadMarks(t *testing.T) {
	b, thread := pair(t)
	for range 3 {
		b.send(thread, thread.High, b.id(0))
	}
	for _, c := range []struct{ seq, want uint64 }{{2, 2}, {1, 2}, {2, 2}, {99, 3}, {99, 3}} {
		if r := b.do(markRead(thread.Low, thread, c.seq)); r.Seq != c.want {
			t.Errorf("marked up to %d: stands at %d, want %d", c.seq, r.Seq, c.want)
		}
	}
	by := " by " + thread.Low.String()
	want := []string{"read " + thread.String() + "#2" + by, "read " + thread.String() + "#3" + by}
	for _, user := range []proto.EntityID{thread.Low, thread.High} {
		if got := marksOf(b, user); !slices.Equal(got, want) {
			t.Errorf("user %s was told %q, want %q", user, got, want)
		}
	}
	// What was read is delivered: confirming it tells nothing new.
	wantCode(t, b.do(login(thread.Low, "phone", "n")), proto.CodeOK)
	pts := len(b.updates(thread.Low))
	wantCode(t, b.do(confirm(thread.Low, "phone", uint64(pts))), proto.CodeOK)
	if got := marksOf(b, thread.High); !slices.Equal(got, want) {
		t.Errorf("after confirming: %q", got)
	}
	if row := b.threadRow(thread.Low, thread); row.Messages != row.ReadMessages {
		t.Errorf("all is read, but of %d messages only %d", row.Messages, row.ReadMessages)
	}
}

// Marks from a channel are cut to what the member has, and those that name
// somebody else's thread have no effect.
func TestMarkRowsAreChecked(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user, other := b.addUser(), b.addUser()
	peer := proto.RangeID(2).First()
	thread := proto.DirectThread(user, peer)
	number := uint64(0)
	take := func(row *cellpb.ChannelRow) {
		number++
		row.Dest, row.Number = 1, number
		if r := b.do(takeRows(2, []*cellpb.ChannelRow{row})); r.Counted != number {
			t.Fatalf("counted %d, want %d", r.Counted, number)
		}
	}
	mark := func(user, by proto.EntityID, delivered, read uint64) {
		take(&cellpb.ChannelRow{Body: &cellpb.ChannelRow_Mark{Mark: &cellpb.MarkRow{
			Thread: thread.String(), User: uint64(user), By: uint64(by), Delivered: delivered, Read: read,
		}}})
	}
	take(&cellpb.ChannelRow{Body: &cellpb.ChannelRow_Message{Message: &cellpb.MessageRow{
		Thread: thread.String(), Seq: 4, User: uint64(user), Messages: 4, Own: true,
	}}})
	mark(other, peer, 4, 4)
	mark(user, other, 4, 4)
	mark(user, user, 4, 4)
	if row := b.threadRow(user, thread); row.PeerDelivered != 0 || row.PeerRead != 0 || b.threadRow(other, thread) != nil {
		t.Errorf("marks of strangers had an effect: %v", row)
	}
	mark(user, peer, 100, 3)
	if row := b.threadRow(user, thread); row.PeerDelivered != 4 || row.PeerRead != 3 {
		t.Errorf("marks %d and %d, want 4 and 3", row.PeerDelivered, row.PeerRead)
	}
}

func TestSeenTimeIsKept(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	wantCode(t, b.do(login(user, "phone", "n")), proto.CodeOK)
	b.nowMs += 5000
	wantCode(t, b.do(confirm(user, "phone", 0)), proto.CodeOK)
	if seen := active(b, user)["phone"].SeenMs; seen != 0 {
		t.Errorf("seen at %d without having been there", seen)
	}
	c := confirm(user, "phone", 0)
	c.GetConfirmUpdates().Marks[0].Seen = true
	wantCode(t, b.do(c), proto.CodeOK)
	if seen := active(b, user)["phone"].SeenMs; seen != b.nowMs {
		t.Errorf("seen at %d, want %d", seen, b.nowMs)
	}
}

// A message is exactly one thing, within its limits.
func TestMessageBodies(t *testing.T) {
	b, thread := pair(t)
	place := func(lat, lon float64, name string) *clientpb.Location {
		return &clientpb.Location{Latitude: lat, Longitude: lon, Name: name}
	}
	text := &cellpb.TextBody{Text: "hello"}
	for _, c := range []struct {
		name string
		want proto.Code
		set  func(*cellpb.AppendMessage)
	}{
		{"nothing", proto.CodeBadRequest, func(*cellpb.AppendMessage) {}},
		{"an empty text", proto.CodeBadRequest, func(m *cellpb.AppendMessage) { m.Text = new(cellpb.TextBody) }},
		{"text and place", proto.CodeBadRequest, func(m *cellpb.AppendMessage) { m.Text, m.Location = text, place(1, 2, "") }},
		{"a place", proto.CodeOK, func(m *cellpb.AppendMessage) { m.Location = place(-90, 180, "far") }},
		{"too far north", proto.CodeBadRequest, func(m *cellpb.AppendMessage) { m.Location = place(90.001, 0, "") }},
		{"too far west", proto.CodeBadRequest, func(m *cellpb.AppendMessage) { m.Location = place(0, -180.001, "") }},
		{"not a number", proto.CodeBadRequest, func(m *cellpb.AppendMessage) { m.Location = place(math.NaN(), 0, "") }},
		{"infinite", proto.CodeBadRequest, func(m *cellpb.AppendMessage) { m.Location = place(0, math.Inf(1), "") }},
		{"a long name", proto.CodeTooBig, func(m *cellpb.AppendMessage) {
			m.Location = place(0, 0, strings.Repeat("x", proto.PlaceNameBytesMax+1))
		}},
		{"a card", proto.CodeOK, func(m *cellpb.AppendMessage) { m.Card = &clientpb.SharedCard{User: 7, Name: "eve"} }},
		{"nobody's card", proto.CodeBadRequest, func(m *cellpb.AppendMessage) { m.Card = new(clientpb.SharedCard) }},
	} {
		m := message(thread, thread.Low, b.id(0))
		m.Text = nil
		c.set(m)
		if r := b.do(appendCommand(m)); proto.Code(r.Code) != c.want {
			t.Errorf("%s: answered %s (%s), want %s", c.name, proto.Code(r.Code), r.Message, c.want)
		}
	}
	q := &cellpb.ReadThread{Thread: thread.String(), User: uint64(thread.Low)}
	events := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Thread{Thread: q}}).Events.Events
	if len(events) != 2 || events[0].GetLocation().GetName() != "far" || events[1].GetCard().GetUser() != 7 {
		t.Errorf("stored: %v", events)
	}
}

// History by time begins with the first row of that time, however the rows
// are spread, and stays within after and before.
func TestHistoryFromATime(t *testing.T) {
	b, thread := pair(t)
	var times []int64
	for i := range 40 {
		b.nowMs += []int64{0, 0, 1, 7, 60_000}[i%5]
		times = append(times, b.send(thread, thread.Low, b.id(0)).TimeMs)
	}
	ask := func(q *cellpb.ReadThread) (first, last uint64, more bool) {
		q.Thread, q.User = thread.String(), uint64(thread.Low)
		events := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Thread{Thread: q}}).Events
		if n := len(events.Refs); n > 0 {
			return events.Refs[0].Seq, events.Refs[n-1].Seq, events.More
		}
		return 0, 0, events.More
	}
	for _, at := range append(slices.Clone(times), 1, times[10]+1, times[39]+1) {
		want := uint64(0)
		if i := slices.IndexFunc(times, func(ms int64) bool { return ms >= at }); i >= 0 {
			want = uint64(i + 1)
		}
		first, last, more := ask(&cellpb.ReadThread{AtMs: at, Limit: 3})
		if first != want || want > 0 && last != min(want+2, 40) || more != (want > 0 && want < 38) {
			t.Errorf("from %d: rows %d to %d (more: %v), want from %d", at, first, last, more, want)
		}
	}
	if first, last, _ := ask(&cellpb.ReadThread{AtMs: times[0], After: 10, Before: 20}); first != 11 || last != 19 {
		t.Errorf("after 10 and before 20: rows %d to %d", first, last)
	}
}
