package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// pair is a range with two users and their thread.
func pair(t *testing.T) (*rig, proto.ThreadID) {
	t.Helper()
	b := forTest(t, newRig(t, 1))
	return b, proto.DirectThread(b.addUser(), b.addUser())
}

// crossing is a range with a user whose thread with a user of range 2 it owns.
func crossing(t *testing.T) (b *rig, thread proto.ThreadID, mine proto.EntityID) {
	t.Helper()
	b = forTest(t, newRig(t, 1))
	mine = b.addUser()
	for peer := proto.RangeID(2).First(); ; peer++ {
		if thread = proto.DirectThread(mine, peer); thread.Owner() == mine {
			return b, thread, mine
		}
	}
}

func wantCode(t *testing.T, r *cellpb.Result, code proto.Code) {
	t.Helper()
	if proto.Code(r.Code) != code {
		t.Errorf("answered %s (%s), want %s", proto.Code(r.Code), r.Message, code)
	}
}

// unchanged runs f and checks that nothing but the range's own record (the
// applied index, the clock) was written.
func unchanged(t *testing.T, b *rig, f func()) {
	t.Helper()
	before := tables(t, b)
	f()
	b.commit()
	if after := tables(t, b); after != before {
		t.Error("a refused command wrote something")
	}
}

func tables(t *testing.T, b *rig) string {
	t.Helper()
	out := ""
	it, err := b.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	state := string(engine.RangeStateKey(b.rng))
	for ok := it.First(); ok; ok = it.Next() {
		if string(it.Key()) != state {
			out += fmt.Sprintf("%x=%x\n", it.Key(), it.Value())
		}
	}
	return out
}

func TestStaleEpochIsRefused(t *testing.T) {
	b, thread := pair(t)
	for _, epoch := range []uint64{0, 2} {
		e := b.granted(appendCommand(message(thread, thread.Low, b.id(0))))
		e.Epoch = epoch
		unchanged(t, b, func() { wantCode(t, b.entry(e).Results[0], proto.CodeStaleEpoch) })
	}
	e := b.granted(appendCommand(message(thread, thread.Low, b.id(0))))
	e.Range = 2
	unchanged(t, b, func() { wantCode(t, b.entry(e).Results[0], proto.CodeBadRequest) })
}

func TestStaleGrantIsRefused(t *testing.T) {
	b, thread := pair(t)
	for _, change := range []func(e *cellpb.Entry){
		func(e *cellpb.Entry) { e.Grant.Number-- },
		func(e *cellpb.Entry) { e.Grant.Number++ },
		func(e *cellpb.Entry) { e.Grant.Term-- },
		func(e *cellpb.Entry) { e.Grant = nil }, // the leader sends no messages itself
	} {
		e := b.granted(appendCommand(message(thread, thread.Low, b.id(0))))
		change(e)
		unchanged(t, b, func() { wantCode(t, b.entry(e).Results[0], proto.CodeStaleGrant) })
	}
	// A new leader's term makes the old grant stale, though no new one is given.
	e := b.granted(appendCommand(message(thread, thread.Low, b.id(0))))
	b.term++
	unchanged(t, b, func() { wantCode(t, b.entry(e).Results[0], proto.CodeStaleGrant) })
}

func TestOnlyTheLeaderGrants(t *testing.T) {
	b, _ := pair(t)
	wantCode(t, b.do(&cellpb.Command{Body: &cellpb.Command_GrantHost{GrantHost: &cellpb.GrantHost{Number: 9, Node: "n9"}}}), proto.CodeForbidden)
	wantCode(t, b.do(&cellpb.Command{Body: &cellpb.Command_SetRules{SetRules: &cellpb.SetRules{Version: 1}}}), proto.CodeForbidden)
	wantCode(t, b.do(&cellpb.Command{}), proto.CodeUnsupported)
}

func TestSameClientMsgIDTwiceGivesTheSameMessage(t *testing.T) {
	b, thread := pair(t)
	c := message(thread, thread.Low, b.id(0))
	first := b.do(appendCommand(c))
	wantCode(t, first, proto.CodeOK)
	b.nowMs += 1000
	for i := range 4 {
		again := b.do(appendCommand(c))
		if again.Seq != first.Seq || again.TimeMs != first.TimeMs || !again.Repeated {
			t.Errorf("the second time: %v, the first: %v", again, first)
		}
		b.restart(i%2 == 0)
	}
	// Within one entry too.
	c = message(thread, thread.Low, b.id(0))
	out := b.entry(b.granted(appendCommand(c), appendCommand(c)))
	if out.Results[0].Seq != 2 || out.Results[1].Seq != 2 || !out.Results[1].Repeated {
		t.Errorf("twice in one entry: %v", out.Results)
	}
	if n := len(b.updates(thread.Low)); n != 2 {
		t.Errorf("the sender has %d updates, want 2", n)
	}
	// The same id of another person is another message.
	c.From = uint64(thread.High)
	if r := b.do(appendCommand(c)); r.Seq != 3 || r.Repeated {
		t.Errorf("the peer's message with that id: %v", r)
	}
}

func TestClientMsgIDOfAnotherThreadIsRefused(t *testing.T) {
	b, _ := pair(t)
	b.addUser()
	first := proto.RangeID(1).First()
	byOwner := map[[2]proto.EntityID]proto.ThreadID{}
	for low := first; low < first+3; low++ {
		for high := low + 1; high < first+3; high++ {
			thread := proto.DirectThread(low, high)
			for _, from := range []proto.EntityID{low, high} {
				key := [2]proto.EntityID{thread.Owner(), from}
				other, ok := byOwner[key]
				byOwner[key] = thread
				if !ok {
					continue
				}
				id := b.id(0)
				wantCode(t, b.send(other, from, id), proto.CodeOK)
				wantCode(t, b.send(thread, from, id), proto.CodeBadRequest)
				return
			}
		}
	}
	t.Fatal("no two threads of one owner")
}

func TestClientMsgIDTimeBounds(t *testing.T) {
	b, thread := pair(t)
	for _, c := range []struct {
		offset time.Duration
		code   proto.Code
	}{
		{-proto.ClientMsgIDPast, proto.CodeOK},
		{-proto.ClientMsgIDPast - time.Millisecond, proto.CodeMessageTooOld},
		{proto.ClientMsgIDFuture, proto.CodeOK},
		{proto.ClientMsgIDFuture + time.Millisecond, proto.CodeMessageTooOld},
	} {
		wantCode(t, b.send(thread, thread.Low, b.id(c.offset)), c.code)
	}
}

// Whether an id was forgotten before it comes again does not depend on where
// batches are cut. (The simulation found that it did.)
func TestForgettingDoesNotDependOnBatches(t *testing.T) {
	for _, cuts := range []string{"...", "|..", ".|.", "||."} { // a commit after the first or second entry
		b, thread := pair(t)
		b.manual = true
		c := message(thread, thread.Low, b.id(0))
		b.must(b.entry(b.granted(appendCommand(c))))
		if cuts[0] == '|' {
			b.commit()
		}
		b.nowMs += 9 * 24 * time.Hour.Milliseconds()
		b.must(b.entry(b.granted(appendCommand(message(thread, thread.High, b.id(0)))))) // makes the owner forget
		if cuts[1] == '|' {
			b.commit()
		}
		r := b.entry(b.granted(appendCommand(c))).Results[0]
		b.commit()
		if proto.Code(r.Code) != proto.CodeMessageTooOld {
			t.Errorf("batches cut as %s: %v", cuts, r)
		}
	}
}

// After 7 days ids are forgotten; by then the message is too old to be taken
// again. In between, whatever the moment, it is never stored twice.
func TestForgottenIDsDoNotDouble(t *testing.T) {
	b, thread := pair(t)
	c := message(thread, thread.Low, b.id(0))
	wantCode(t, b.do(appendCommand(c)), proto.CodeOK)
	sent := int64(1)
	forgotten := false
	for b.nowMs < startMs+9*24*time.Hour.Milliseconds() {
		b.nowMs += 7 * time.Hour.Milliseconds()
		wantCode(t, b.send(thread, thread.High, b.id(0)), proto.CodeOK) // makes the owner forget
		sent++
		b.commit()
		r := b.do(appendCommand(c))
		switch proto.Code(r.Code) {
		case proto.CodeOK:
			if !r.Repeated || forgotten {
				t.Fatalf("after %v: %v", time.Duration(b.nowMs-startMs)*time.Millisecond, r)
			}
		case proto.CodeMessageTooOld:
			forgotten = true
			if b.nowMs-startMs <= proto.ClientMsgIDPast.Milliseconds() {
				t.Fatalf("refused after %v", time.Duration(b.nowMs-startMs)*time.Millisecond)
			}
		default:
			t.Fatal(r)
		}
	}
	if !forgotten {
		t.Error("the id was never forgotten")
	}
	if row := b.threadRow(thread.Low, thread); row.LastSeq != uint64(sent) {
		t.Errorf("the thread has %d messages, %d were sent", row.LastSeq, sent)
	}
	key := engine.SentKey(thread.Owner(), proto.ClientMsgID(c.ClientMsgId), thread.Low)
	if found, err := read(b.db, key, new(cellpb.SentRow)); found || err != nil {
		t.Errorf("the row of the forgotten id: found %v, %v", found, err)
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	b, thread := pair(t)
	first := b.send(thread, thread.Low, b.id(0))
	b.nowMs -= 60_000
	if second := b.send(thread, thread.Low, b.id(0)); second.TimeMs != first.TimeMs {
		t.Errorf("time went from %d to %d", first.TimeMs, second.TimeMs)
	}
}

func TestAfterUnknownIsRefusedUntilKnown(t *testing.T) {
	b, thread := pair(t)
	first, second := message(thread, thread.Low, b.id(0)), message(thread, thread.Low, b.id(0))
	second.After = first.ClientMsgId
	unchanged(t, b, func() {
		r := b.do(appendCommand(second))
		wantCode(t, r, proto.CodeAfterUnknown)
		if r.RetryMs == 0 {
			t.Error("no time to retry after is named")
		}
	})
	// In one entry, in order, both are taken.
	out := b.entry(b.granted(appendCommand(first), appendCommand(second)))
	if out.Results[0].Seq != 1 || out.Results[1].Seq != 2 {
		t.Errorf("in one entry: %v", out.Results)
	}
	bad := message(thread, thread.Low, b.id(0))
	bad.After = []byte("short")
	wantCode(t, b.do(appendCommand(bad)), proto.CodeBadRequest)
	// What is too old to be remembered holds nobody up.
	old := b.id(-proto.ClientMsgIDPast - time.Hour)
	third := message(thread, thread.Low, b.id(0))
	third.After = old[:]
	wantCode(t, b.do(appendCommand(third)), proto.CodeOK)
}

func TestWhoMaySend(t *testing.T) {
	b, thread := pair(t)
	stranger := b.addUser()
	nobody := proto.RangeID(1).First() + 100
	toNobody := proto.DirectThread(thread.Low, nobody)
	for nobody++; toNobody.OwnerRange() != 1; nobody++ {
		toNobody = proto.DirectThread(thread.Low, nobody)
	}
	elsewhere := proto.DirectThread(proto.RangeID(2).First(), proto.RangeID(2).First()+1)
	unchanged(t, b, func() {
		wantCode(t, b.send(thread, stranger, b.id(0)), proto.CodeNotMember)
		wantCode(t, b.send(toNobody, thread.Low, b.id(0)), proto.CodeUnknownUser)
		r := b.send(elsewhere, elsewhere.Low, b.id(0))
		if r.Code == 0 {
			t.Error("a message of a thread owned elsewhere was stored")
		}
		empty := message(thread, thread.Low, b.id(0))
		empty.Text.Text = ""
		wantCode(t, b.do(appendCommand(empty)), proto.CodeBadRequest)
		empty.Text = nil
		wantCode(t, b.do(appendCommand(empty)), proto.CodeBadRequest)
		big := message(thread, thread.Low, b.id(0))
		big.Text.Text = string(make([]byte, proto.TextBytesMax+1))
		wantCode(t, b.do(appendCommand(big)), proto.CodeTooBig)
		noID := message(thread, thread.Low, b.id(0))
		noID.ClientMsgId = noID.ClientMsgId[:15]
		wantCode(t, b.do(appendCommand(noID)), proto.CodeBadRequest)
		noThread := message(thread, thread.Low, b.id(0))
		noThread.Thread = "d/2/1"
		wantCode(t, b.do(appendCommand(noThread)), proto.CodeBadRequest)
	})
}

func TestReadMarksAndUnread(t *testing.T) {
	b, thread := pair(t)
	for range 5 {
		wantCode(t, b.send(thread, thread.Low, b.id(0)), proto.CodeOK)
	}
	unread := func(user proto.EntityID) uint64 {
		row := b.threadRow(user, thread)
		return row.Messages - row.ReadMessages
	}
	mark := func(user proto.EntityID, name string, seq, messages uint64) *cellpb.Result {
		return b.do(&cellpb.Command{Body: &cellpb.Command_MarkThread{MarkThread: &cellpb.MarkThread{
			User: uint64(user), Thread: name, ReadSeq: seq, ReadMessages: messages,
		}}})
	}
	if own, peer := unread(thread.Low), unread(thread.High); own != 0 || peer != 5 {
		t.Errorf("unread %d for the sender and %d for the peer, want 0 and 5", own, peer)
	}
	if r := mark(thread.High, thread.String(), 3, 3); r.Seq != 3 || unread(thread.High) != 2 {
		t.Errorf("read up to 3: mark %d, unread %d", r.Seq, unread(thread.High))
	}
	if r := mark(thread.High, thread.String(), 2, 2); r.Seq != 3 || unread(thread.High) != 2 {
		t.Errorf("a mark went back: %d, unread %d", r.Seq, unread(thread.High))
	}
	if r := mark(thread.High, thread.String(), 99, 99); r.Seq != 5 || unread(thread.High) != 0 {
		t.Errorf("read beyond the end: mark %d, unread %d", r.Seq, unread(thread.High))
	}
	b.restart(false)
	if n := unread(thread.High); n != 0 {
		t.Errorf("after a restart %d are unread", n)
	}
	// Whoever writes has read.
	wantCode(t, b.send(thread, thread.Low, b.id(0)), proto.CodeOK)
	wantCode(t, b.send(thread, thread.High, b.id(0)), proto.CodeOK)
	if n := unread(thread.High); n != 0 {
		t.Errorf("after an answer %d are unread", n)
	}
	stranger := b.addUser()
	wantCode(t, mark(stranger, thread.String(), 1, 1), proto.CodeNotMember)
	wantCode(t, mark(stranger, "x", 1, 1), proto.CodeBadRequest)
	wantCode(t, mark(stranger, proto.DirectThread(stranger, thread.Low).String(), 1, 1), proto.CodeUnknownThread)
}
