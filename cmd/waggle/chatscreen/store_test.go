package chatscreen

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	me   = proto.EntityID(17)
	peer = proto.EntityID(4242)
)

var direct = proto.DirectThread(me, peer).String()

func newStoreOf(user proto.EntityID) *store {
	s := newStore()
	s.me = user
	return s
}

func message(seq uint64, from proto.EntityID) *clientpb.Event {
	id := make([]byte, 16)
	id[15], id[14] = byte(seq), byte(seq>>8)
	return &clientpb.Event{
		Thread: direct, Seq: seq, From: uint64(from), FromName: "bob", TimeMs: int64(seq) * 1000, Messages: seq, ClientMsgId: id,
		Body: &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: fmt.Sprint("message ", seq)}},
	}
}

// serverThread is what a server would answer, at any moment.
type serverThread struct {
	events []*clientpb.Event
	read   uint64
}

func (s *serverThread) page(before uint64, limit int) ([]*clientpb.Event, bool) {
	end := len(s.events)
	if before > 0 {
		end = min(end, int(before)-1)
	}
	start := max(0, end-limit)
	return s.events[start:end], start > 0
}

func (s *serverThread) row() *clientpb.Thread {
	n := uint64(len(s.events))
	return &clientpb.Thread{
		Thread: direct, LastSeq: n, LastTimeMs: int64(n) * 1000, Messages: n, Unread: n - s.read, ReadSeq: s.read,
		Last: s.events[n-1], PeerName: "bob",
	}
}

// TestPagesAndUpdatesInAnyOrder delivers pages as of some moment, late, among
// the updates: in the end the store shows what the server has.
func TestPagesAndUpdatesInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, server := newStoreOf(me), &serverThread{}
		var updates []*clientpb.Event // on their way, in order
		var late []func()             // pages on their way, in order
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"write", "write", "update", "page", "threads", "older", "arrive"}).Draw(t, "step") {
			case "write":
				from := rapid.SampledFrom([]proto.EntityID{me, peer}).Draw(t, "from")
				e := message(uint64(len(server.events)+1), from)
				server.events = append(server.events, e)
				updates = append(updates, e)
				if from == me {
					server.read = e.Seq
				}
			case "update":
				if len(updates) > 0 {
					s.event(updates[0])
					updates = updates[1:]
				}
			case "page":
				events, more := server.page(0, 5)
				late = append(late, func() { s.newest(direct, events, more) })
			case "threads":
				if len(server.events) > 0 {
					row := server.row()
					late = append(late, func() { s.takeThread(row) })
				}
			case "older":
				if th := s.threads[direct]; th != nil && len(th.rows) > 0 {
					before := th.rows[0].seq
					events, more := server.page(before, 5)
					late = append(late, func() { s.olderPage(direct, before, events, more) })
				}
			case "arrive":
				if len(late) > 0 {
					late[0]()
					late = late[1:]
				}
			}
			checkRows(t, s)
		}
		if len(server.events) == 0 {
			return
		}
		for _, f := range late {
			f()
		}
		for _, e := range updates {
			s.event(e)
		}
		s.takeThread(server.row())
		th := s.threads[direct]
		for range 100 {
			if !th.loaded {
				events, more := server.page(0, 5)
				s.newest(direct, events, more)
			} else if th.older {
				before := th.rows[0].seq
				events, more := server.page(before, 5)
				s.olderPage(direct, before, events, more)
			}
		}
		checkRows(t, s)
		n := uint64(len(server.events))
		if uint64(len(th.rows)) != n || th.lastSeq != n || th.messages != n || th.unread != n-server.read {
			t.Fatalf("%d rows, last %d, %d messages, %d unread; the server has %d, %d unread", len(th.rows), th.lastSeq, th.messages, th.unread, n, n-server.read)
		}
		if want := fmt.Sprint("message ", n); th.preview != want {
			t.Fatalf("preview %q, want %q", th.preview, want)
		}
	})
}

// checkRows: what is shown has no gap and nothing twice.
func checkRows(t *rapid.T, s *store) {
	th := s.threads[direct]
	if th == nil {
		return
	}
	for i := 1; i < len(th.rows); i++ {
		if th.rows[i].seq != th.rows[i-1].seq+1 {
			t.Fatalf("row %d follows row %d", th.rows[i].seq, th.rows[i-1].seq)
		}
	}
}

func TestAPostedMessageIsShownOnce(t *testing.T) {
	for _, updateFirst := range []bool{true, false} {
		s := newStoreOf(me)
		s.newest(direct, nil, false)
		th := s.thread(direct)
		r := th.post("message 1", nil, time.UnixMilli(1000))
		if got := th.state(r); got != "…" {
			t.Errorf("before its acknowledgement it is %q", got)
		}
		e := message(1, me)
		where := client.Sent{Thread: direct, Seq: 1, Time: time.UnixMilli(1000)}
		copy(where.ClientMsgID[:], e.ClientMsgId)
		if updateFirst {
			s.event(e)
			s.sent(r, where)
		} else {
			s.sent(r, where)
			if len(th.outbox) != 1 || th.state(th.outbox[0]) != "✓" {
				t.Errorf("acknowledged and not there yet: %d in the outbox", len(th.outbox))
			}
			s.event(e)
		}
		if len(th.outbox) != 0 || len(th.rows) != 1 {
			t.Errorf("update first %v: %d in the outbox, %d rows", updateFirst, len(th.outbox), len(th.rows))
		}
	}
}

func TestMarksOnlyRise(t *testing.T) {
	s := newStoreOf(me)
	s.newest(direct, []*clientpb.Event{message(1, me), message(2, me), message(3, me)}, false)
	th := s.thread(direct)
	states := func() string { return th.state(th.rows[0]) + "|" + th.state(th.rows[1]) + "|" + th.state(th.rows[2]) }
	for _, step := range []struct {
		mark *clientpb.Mark
		want string
	}{
		{&clientpb.Mark{Thread: direct, Seq: 2, User: uint64(peer)}, "✓✓|✓✓|✓"},
		{&clientpb.Mark{Thread: direct, Seq: 1, User: uint64(peer), Read: true}, "✓✓ read|✓✓|✓"},
		{&clientpb.Mark{Thread: direct, Seq: 1, User: uint64(peer)}, "✓✓ read|✓✓|✓"},
		{&clientpb.Mark{Thread: direct, Seq: 3, User: uint64(peer), Read: true}, "✓✓ read|✓✓ read|✓✓ read"},
	} {
		s.mark(step.mark)
		if got := states(); got != step.want {
			t.Errorf("after %v: %s, want %s", step.mark, got, step.want)
		}
	}
}

// The server sends no mark for what a message of the other side implies.
func TestWhoeverWritesHasRead(t *testing.T) {
	for _, byPage := range []bool{false, true} {
		s := newStoreOf(me)
		s.newest(direct, []*clientpb.Event{message(1, me)}, false)
		th := s.thread(direct)
		if got := th.state(th.rows[0]); got != "✓" {
			t.Fatalf("before the answer it is %q", got)
		}
		if byPage {
			s.newest(direct, []*clientpb.Event{message(1, me), message(2, peer)}, false)
		} else {
			s.event(message(2, peer))
		}
		if got := th.state(th.rows[0]); got != "✓✓ read" {
			t.Errorf("after the answer, by a page: %v, it is %q", byPage, got)
		}
	}
}

func TestAnotherDeviceReads(t *testing.T) {
	s := newStoreOf(me)
	s.newest(direct, nil, false)
	for seq := uint64(1); seq <= 4; seq++ {
		s.event(message(seq, peer))
	}
	th := s.thread(direct)
	for _, step := range []struct{ seq, unread uint64 }{{1, 3}, {3, 1}, {2, 1}, {4, 0}} {
		s.mark(&clientpb.Mark{Thread: direct, Seq: step.seq, User: uint64(me), Read: true})
		if th.unread != step.unread {
			t.Errorf("read to %d: %d unread, want %d", step.seq, th.unread, step.unread)
		}
	}
}

func TestAFormerFriendHasNoPresence(t *testing.T) {
	s := newStoreOf(me)
	s.takeContact(&clientpb.Contact{User: uint64(peer), Relation: clientpb.Relation_RELATION_FRIEND, Name: "bob"})
	s.presence[peer] = &clientpb.FriendPresence{User: uint64(peer), Online: true}
	s.takeContact(&clientpb.Contact{User: uint64(peer), Relation: clientpb.Relation_RELATION_BLOCKED, Name: "bob"})
	if s.presence[peer] != nil {
		t.Error("a blocked person is shown as online")
	}
	s.takeContact(&clientpb.Contact{User: uint64(peer)})
	if len(s.contacts) != 0 {
		t.Error("who is no contact any more is still listed")
	}
}

func TestOfOthersThreadsNothingIsKept(t *testing.T) {
	s := newStoreOf(me)
	e := message(1, peer)
	e.Thread = proto.DirectThread(peer, peer+1).String()
	if s.event(e) || len(s.threads) != 0 {
		t.Error("an event of somebody else's thread was taken")
	}
}
