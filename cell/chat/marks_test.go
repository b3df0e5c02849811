package chat

import (
	"context"
	"testing"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/internal/outqueue"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// askedLeader keeps what a host asks of its leader.
type askedLeader struct{ requests []*cellpb.LeadRequest }

func (l *askedLeader) Request(r *cellpb.LeadRequest) { l.requests = append(l.requests, r) }

// take is what was asked since the last call.
func (l *askedLeader) take(h *host) []*cellpb.LeadRequest {
	h.flush()
	out := l.requests
	l.requests = nil
	return out
}

func testHost(t *testing.T) (*host, *askedLeader) {
	t.Helper()
	leader := new(askedLeader)
	s := New(Config{Self: "n1"})
	h := newHost(s, s.shards[1], leader, &cellpb.Granted{Range: 1, Descriptor_: &cellpb.Descriptor{Range: 1, Epoch: 1}})
	return h, leader
}

// testSession is a session of user and what its edge was sent.
func testSession(h *host, user proto.EntityID) (*session, func() []*clientpb.ServerFrame) {
	q := outqueue.New[*cellpb.HostFrame](outqueue.Limits{Size: 1 << 20, BatchItems: 100, BatchSize: 1 << 20})
	edge := &edgeConn{name: "e1", fail: func(error) {}, sessions: map[uint64]*session{}, queue: q}
	u := h.users[user]
	if u == nil {
		u = &hostedUser{id: user}
		h.users[user] = u
	}
	ses := &session{edge: edge, id: 1, host: h, user: u, device: "phone", subscribe: true, attached: true, sent: 1000}
	u.sessions = append(u.sessions, ses)
	return ses, func() []*clientpb.ServerFrame {
		var out []*clientpb.ServerFrame
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = q.Drain(ended, func(frames []*cellpb.HostFrame) error {
			for _, f := range frames {
				frame := new(clientpb.ServerFrame)
				if err := pb.Unmarshal(f.GetResponse(), frame); err != nil {
					return err
				}
				out = append(out, frame)
			}
			return nil
		})
		return out
	}
}

func confirmed(requests []*cellpb.LeadRequest) map[uint64]uint64 {
	out := map[uint64]uint64{}
	for _, r := range requests {
		for _, c := range r.GetPropose().GetCommands() {
			for _, m := range c.GetConfirmUpdates().GetMarks() {
				out[m.User] = m.Pts
			}
		}
	}
	return out
}

// Confirmations of a user go out once a second, the first at once; another
// user's do not wait for them; what failed goes out again.
func TestConfirmationsAreHeldBack(t *testing.T) {
	h, leader := testHost(t)
	first, second := proto.RangeID(1).First(), proto.RangeID(1).First()+1
	a, _ := testSession(h, first)
	b, _ := testSession(h, second)
	now := time.Now()
	at := func(d time.Duration) map[uint64]uint64 {
		h.flushConfirms(now.Add(d))
		requests := leader.take(h)
		for _, r := range requests {
			h.replied(&cellpb.LeadReply{Id: r.Id, Body: &cellpb.LeadReply_Applied{Applied: &cellpb.Applied{Results: []*cellpb.Result{{}}}}})
		}
		return confirmed(requests)
	}
	a.confirm(3)
	h.flushConfirms(now)
	requests := leader.take(h)
	if got := confirmed(requests); got[uint64(first)] != 3 {
		t.Fatalf("the first confirmation: %v", got)
	}
	a.confirm(5)
	a.confirm(4)
	b.confirm(7)
	if got := at(proto.MarkInterval / 2); len(got) != 1 || got[uint64(second)] != 7 {
		t.Errorf("within the interval: %v", got)
	}
	if got := at(proto.MarkInterval); len(got) != 1 || got[uint64(first)] != 5 {
		t.Errorf("at its end: %v", got)
	}
	h.replied(&cellpb.LeadReply{Id: requests[0].Id, Range: 1, Body: &cellpb.LeadReply_Refused{
		Refused: &cellpb.Refused{Code: uint32(proto.CodeUnavailable)},
	}})
	if got := at(2 * proto.MarkInterval); got[uint64(first)] != 3 {
		t.Errorf("what failed is proposed again: %v", got)
	}
	if got := at(3 * proto.MarkInterval); len(got) != 0 || len(h.marks.confirms) != 0 {
		t.Errorf("with nothing to say: %v", got)
	}
	h.flushConfirms(now.Add(4 * proto.MarkInterval))
	if len(h.marks.flushed) != 0 {
		t.Errorf("%d users are still remembered", len(h.marks.flushed))
	}
}

// The first request to mark a thread as read goes at once; those within the
// second after it are joined, and all are answered with the mark as it stands.
func TestReadMarksAreJoined(t *testing.T) {
	h, leader := testHost(t)
	user := proto.RangeID(1).First()
	ses, answers := testSession(h, user)
	thread := proto.DirectThread(user, user+1).String()
	// serve answers the question for the count, and returns the mark proposed.
	serve := func() *cellpb.MarkThread {
		t.Helper()
		requests := leader.take(h)
		if len(requests) == 0 {
			return nil
		}
		h.replied(&cellpb.LeadReply{Id: requests[0].Id, Body: &cellpb.LeadReply_Read{Read: &cellpb.ReadResult{Events: &cellpb.Events{}}}})
		requests = leader.take(h)
		if len(requests) != 1 || len(requests[0].GetPropose().GetCommands()) != 1 {
			t.Fatalf("proposed %v", requests)
		}
		mark := requests[0].GetPropose().Commands[0].GetMarkThread()
		h.replied(&cellpb.LeadReply{Id: requests[0].Id, Body: &cellpb.LeadReply_Applied{
			Applied: &cellpb.Applied{Results: []*cellpb.Result{{Seq: mark.ReadSeq}}},
		}})
		return mark
	}
	ses.markRead(1, &clientpb.MarkRead{Thread: thread, Seq: 2})
	if m := serve(); m.GetReadSeq() != 2 || m.GetUser() != uint64(user) {
		t.Fatalf("the first request proposes %v", m)
	}
	if got := answers(); len(got) != 1 || got[0].Id != 1 || got[0].GetReadMarked().GetSeq() != 2 {
		t.Fatalf("answered %v", got)
	}
	last := h.marks.reads[readKey{user, thread}].last
	for id, seq := range []uint64{9, 4} {
		ses.markRead(uint64(id+2), &clientpb.MarkRead{Thread: thread, Seq: seq})
	}
	h.flushReads(last.Add(proto.MarkInterval - time.Millisecond))
	if m := serve(); m != nil {
		t.Fatalf("within the interval: %v", m)
	}
	h.flushReads(last.Add(proto.MarkInterval))
	if m := serve(); m.GetReadSeq() != 9 {
		t.Errorf("at its end: %v", m)
	}
	got := answers()
	if len(got) != 2 || got[0].GetReadMarked().GetSeq() != 9 || got[1].GetReadMarked().GetSeq() != 9 {
		t.Errorf("answered %v", got)
	}
	h.flushReads(last.Add(3 * proto.MarkInterval))
	if len(h.marks.reads) != 0 {
		t.Error("the thread is remembered for ever")
	}
	for id := range uint64(readersWaiting + 1) { // the first goes at once
		ses.markRead(100+id, &clientpb.MarkRead{Thread: thread, Seq: 1})
	}
	answers()
	ses.markRead(5000, &clientpb.MarkRead{Thread: thread, Seq: 1})
	if got := answers(); len(got) != 1 || proto.Code(got[0].GetError().GetCode()) != proto.CodeOverloaded {
		t.Errorf("one too many is answered %v", got)
	}
}

// Signals have an effect only where they come from a friend, and presence only
// where it is news; a friend who is not heard of is taken for gone.
func TestSignalsOfFriendsOnly(t *testing.T) {
	h, _ := testHost(t)
	user := proto.RangeID(1).First()
	friendID, stranger := proto.RangeID(2).First(), proto.RangeID(2).First()+1
	ses, told := testSession(h, user)
	p := &presentUser{friends: map[proto.EntityID]friend{friendID: {}}, known: true, typed: map[string]time.Time{}}
	h.presence.people[user] = p
	say := func(from proto.EntityID, online bool) []*clientpb.ServerFrame {
		h.takeSignals(&cellpb.Signals{Signals: []*cellpb.Signal{{From: uint64(from), To: []uint64{uint64(user)}, Body: &cellpb.Signal_Presence{
			Presence: &clientpb.FriendPresence{User: uint64(from), Online: online},
		}}}})
		return told()
	}
	typing := func(from proto.EntityID) []*clientpb.ServerFrame {
		h.takeSignals(&cellpb.Signals{Signals: []*cellpb.Signal{{From: uint64(from), To: []uint64{uint64(user)}, Body: &cellpb.Signal_Typing{
			Typing: &clientpb.TypingNow{Thread: proto.DirectThread(from, user).String(), User: uint64(from)},
		}}}})
		return told()
	}
	if got := append(say(stranger, true), typing(stranger)...); len(got) != 0 {
		t.Errorf("a stranger's signals reach the user: %v", got)
	}
	if got := say(friendID, true); len(got) != 1 || !got[0].GetPresence().GetFriends()[0].Online {
		t.Errorf("a friend comes: %v", got)
	}
	if got := say(friendID, true); len(got) != 0 {
		t.Errorf("a friend is still here: %v", got)
	}
	if got := typing(friendID); len(got) != 1 || got[0].GetTypingNow().GetUser() != uint64(friendID) {
		t.Errorf("a friend types: %v", got)
	}
	heard := p.friends[friendID].heard
	h.expireFriends(heard.Add(h.s.lifetime() - time.Millisecond))
	if got := told(); len(got) != 0 {
		t.Errorf("too early: %v", got)
	}
	h.expireFriends(heard.Add(h.s.lifetime()))
	if got := told(); len(got) != 1 || got[0].GetPresence().GetFriends()[0].Online {
		t.Errorf("a friend who is not heard of: %v", got)
	}
	if h.s.lifetime() != proto.PresenceLifetime {
		t.Errorf("believed for %s, want %s", h.s.lifetime(), proto.PresenceLifetime)
	}
	// What the user sends: to friends, not too often, not when he hides.
	sent := func(thread proto.ThreadID) int {
		h.presence.out = map[proto.RangeID]*signalQueue{thread.Peer(user).Range(): {busy: true}}
		ses.typing(&clientpb.Typing{Thread: thread.String()})
		return len(h.presence.out[thread.Peer(user).Range()].waiting)
	}
	with := proto.DirectThread(user, friendID)
	if n := sent(proto.DirectThread(user, stranger)); n != 0 {
		t.Error("typing is told to a stranger")
	}
	if n := sent(with); n != 1 {
		t.Errorf("typing is told %d times", n)
	}
	if n := sent(with); n != 0 {
		t.Error("typing is told again at once")
	}
	clear(p.typed)
	p.hidden = true
	if n := sent(with); n != 0 {
		t.Error("one who hides is told of")
	}
}

// Whoever comes back within the grace has never been away; whoever does not is
// forgotten, and not before.
func TestLeavingAndComingBack(t *testing.T) {
	h, _ := testHost(t)
	user := proto.RangeID(1).First()
	ses, _ := testSession(h, user)
	p := &presentUser{known: true}
	h.presence.people[user] = p
	leave := func() {
		ses.user.sessions = nil
		h.departed(ses)
	}
	here := func(after time.Duration) bool {
		h.tendPresence(p.left.Add(after))
		return h.presence.people[user] == p
	}
	leave()
	if !here(h.s.grace() - time.Millisecond) {
		t.Error("forgotten too early")
	}
	ses.user.sessions = []*session{ses}
	h.arrived(ses)
	h.tendPresence(time.Now().Add(time.Hour))
	if h.presence.people[user] != p {
		t.Error("one who has come back is forgotten")
	}
	leave()
	if here(h.s.grace()) || len(h.presence.leaving) != 0 {
		t.Error("one who has left is not forgotten")
	}
}

// Whoever was asked for and did not answer is asked for again with every
// refresh, until something is heard of him.
func TestSilentFriendsAreAskedForAgain(t *testing.T) {
	h, _ := testHost(t)
	user, friendID := proto.RangeID(1).First(), proto.RangeID(2).First()
	testSession(h, user)
	h.presence.people[user] = &presentUser{friends: map[proto.EntityID]friend{friendID: {}}, known: true, typed: map[string]time.Time{}}
	now := time.Now()
	probes := func() int {
		h.presence.out = map[proto.RangeID]*signalQueue{friendID.Range(): {busy: true}}
		now = now.Add(h.s.cfg.PresenceRefresh + time.Millisecond)
		h.tendPresence(now)
		n := 0
		for _, s := range h.presence.out[friendID.Range()].waiting {
			if s.GetProbe() != nil {
				n++
			}
		}
		return n
	}
	for range 2 {
		if n := probes(); n != 1 {
			t.Fatalf("a friend of whom nothing was heard is asked for %d times in a refresh", n)
		}
	}
	h.takeSignals(&cellpb.Signals{Signals: []*cellpb.Signal{{From: uint64(friendID), To: []uint64{uint64(user)}, Body: &cellpb.Signal_Presence{
		Presence: &clientpb.FriendPresence{User: uint64(friendID)},
	}}}})
	if n := probes(); n != 0 {
		t.Errorf("a friend who is known to be away is asked for %d times", n)
	}
}
