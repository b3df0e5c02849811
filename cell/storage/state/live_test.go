package state

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	liveOnState  = cellpb.LiveState_LIVE_STATE_ON
	liveBreak    = cellpb.LiveState_LIVE_STATE_INTERRUPTED
	liveEnded    = cellpb.LiveState_LIVE_STATE_ENDED
	liveWaiting  = cellpb.LiveState_LIVE_STATE_WAITING
	someKeyBytes = 32
)

func liveKey(fill byte) []byte {
	key := make([]byte, someKeyBytes)
	for i := range key {
		key[i] = fill
	}
	return key
}

func createLiveOf(user proto.EntityID, thread proto.ThreadID, id proto.ClientMsgID) *cellpb.CreateLive {
	return &cellpb.CreateLive{
		User: uint64(user), ClientId: id[:], Thread: thread.String(), Title: "my garden", KeyHash: liveKey(1), TicketKey: liveKey(2),
	}
}

func createLiveCommand(c *cellpb.CreateLive) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_CreateLive{CreateLive: c}}
}

func reportOf(user proto.EntityID, number uint64, state cellpb.LiveState, started int64) *cellpb.ReportLive {
	return &cellpb.ReportLive{User: uint64(user), Number: number, Node: "c1-n1", Cell: "c1", State: state, StartedMs: started, Video: "H.264"}
}

func reportCommand(c *cellpb.ReportLive) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_ReportLive{ReportLive: c}}
}

func removeLiveCommand(user proto.EntityID, number uint64) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_RemoveLive{RemoveLive: &cellpb.RemoveLive{User: uint64(user), Number: number}}}
}

func (b *rig) liveOf(user proto.EntityID, number uint64) *cellpb.StoredLive {
	b.t.Helper()
	q := &cellpb.ReadLive{User: uint64(user), Number: number}
	return b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Live{Live: q}}).Live.Live
}

// members is who takes part with a user, or why he does not.
func (b *rig) members(thread string, user proto.EntityID) (*cellpb.Members, error) {
	b.t.Helper()
	b.commit()
	q := &cellpb.ReadMembers{Thread: thread, User: uint64(user)}
	out, err := NewReader(b.db, b.rng).Read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Members{Members: q}})
	return out.GetMembers(), err
}

// liveEvents are the events about livestreams of a thread.
func (b *rig) liveEvents(thread proto.ThreadID, user proto.EntityID) []string {
	b.t.Helper()
	events := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Thread{Thread: &cellpb.ReadThread{Thread: thread.String(), User: uint64(user)}}}).Events
	var out []string
	for i, e := range events.Events {
		if l := e.GetLive(); l != nil {
			out = append(out, fmt.Sprintf("%d %s %s %s", events.Refs[i].Seq, l.Live, l.Action, l.Reason))
		}
	}
	return out
}

// befriend makes friends.
func (b *rig) befriend(one, two proto.EntityID) {
	b.t.Helper()
	b.must(b.entry(b.granted(changeCommand(change(one, two, ask, b.id(0))))))
	b.must(b.entry(b.granted(changeCommand(change(two, one, accept, b.id(0))))))
}

func announcement(thread proto.ThreadID, from proto.EntityID, id proto.ClientMsgID, number uint64) *cellpb.AppendMessage {
	return &cellpb.AppendMessage{Thread: thread.String(), From: uint64(from), ClientMsgId: id[:], Live: &clientpb.LiveMessage{
		Live: proto.LiveID{Owner: from, Number: number}.String(), Title: "my garden",
	}}
}

func TestALivestreamIsCreatedOnce(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	one, two := b.addUser(), b.addUser()
	thread := proto.DirectThread(one, two)
	id := b.id(0)
	first := b.do(createLiveCommand(createLiveOf(one, thread, id)))
	wantCode(t, first, proto.CodeOK)
	again := createLiveOf(one, thread, id)
	again.KeyHash = liveKey(9)
	second := b.do(createLiveCommand(again))
	if second.Code != 0 || !second.Repeated || second.Live.Number != first.Live.Number || first.Live.Number != 1 {
		t.Fatalf("%v, then %v", first, second)
	}
	// Whoever asked again has the key given last, and tickets stay good.
	if l := b.liveOf(one, 1); l.KeyHash[0] != 9 || l.TicketKey[0] != 2 {
		t.Fatalf("%v", l)
	}
	wantCode(t, b.do(reportCommand(reportOf(one, 1, liveOnState, 100))), proto.CodeOK)
	wantCode(t, b.do(createLiveCommand(again)), proto.CodeConflict)
	if l := b.liveOf(one, 2); l != nil {
		t.Fatalf("another came of it: %v", l)
	}
}

// Every field that cannot be is refused, and so is whoever is not a member.
func TestLivestreamsThatCannotBe(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	one, two, three := b.addUser(), b.addUser(), b.addUser()
	thread := proto.DirectThread(one, two)
	long := make([]byte, proto.LiveTitleBytesMax+1)
	for i := range long {
		long[i] = 'x'
	}
	for name, try := range map[string]struct {
		change func(*cellpb.CreateLive)
		want   proto.Code
	}{
		"a stranger":        {func(c *cellpb.CreateLive) { c.User = uint64(three) }, proto.CodeNotMember},
		"nobody":            {func(c *cellpb.CreateLive) { c.User = uint64(b.rng.Last()) }, proto.CodeUnknownUser},
		"another range":     {func(c *cellpb.CreateLive) { c.User = uint64(b.rng.Last() + 1) }, proto.CodeUnknownUser},
		"no thread":         {func(c *cellpb.CreateLive) { c.Thread = "d/1" }, proto.CodeBadRequest},
		"no id":             {func(c *cellpb.CreateLive) { c.ClientId = []byte("x") }, proto.CodeBadRequest},
		"a long title":      {func(c *cellpb.CreateLive) { c.Title = string(long) }, proto.CodeTooBig},
		"a title that acts": {func(c *cellpb.CreateLive) { c.Title = "a\x1b[2J" }, proto.CodeBadRequest},
		"a short key":       {func(c *cellpb.CreateLive) { c.KeyHash = []byte("x") }, proto.CodeBadRequest},
		"no ticket key":     {func(c *cellpb.CreateLive) { c.TicketKey = nil }, proto.CodeBadRequest},
	} {
		c := createLiveOf(one, thread, b.id(0))
		try.change(c)
		if r := b.do(createLiveCommand(c)); proto.Code(r.Code) != try.want {
			t.Errorf("%s: %v, want %s", name, r, try.want)
		}
	}
	for name, r := range map[string]*cellpb.Result{
		"unknown":         b.do(reportCommand(reportOf(one, 7, liveOnState, 1))),
		"of another":      b.do(reportCommand(reportOf(two, 1, liveOnState, 1))),
		"in another town": b.do(reportCommand(reportOf(b.rng.Last()+5, 1, liveOnState, 1))),
	} {
		if proto.Code(r.Code) != proto.CodeUnknownLive {
			t.Errorf("report, %s: %v", name, r)
		}
	}
	b.must(b.entry(b.granted(createLiveCommand(createLiveOf(one, thread, b.id(0))))))
	for name, r := range map[string]*cellpb.Result{
		"no node":  b.do(reportCommand(&cellpb.ReportLive{User: uint64(one), Number: 1, State: liveOnState, StartedMs: 5})),
		"no start": b.do(reportCommand(&cellpb.ReportLive{User: uint64(one), Number: 1, State: liveOnState, Node: "n"})),
		"text":     b.do(reportCommand(&cellpb.ReportLive{User: uint64(one), Number: 1, State: liveOnState, Node: "n", StartedMs: 5, Reason: "\x00"})),
	} {
		if proto.Code(r.Code) != proto.CodeBadRequest {
			t.Errorf("report, %s: %v", name, r)
		}
	}
}

// A message can announce nothing but a livestream of its sender.
func TestAnnouncementsAreOfTheSender(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	one, two := b.addUser(), b.addUser()
	thread := proto.DirectThread(one, two)
	wantCode(t, b.do(appendCommand(announcement(thread, one, b.id(0), 1))), proto.CodeOK)
	for name, change := range map[string]func(*cellpb.AppendMessage){
		"of another":  func(c *cellpb.AppendMessage) { c.Live.Live = proto.LiveID{Owner: two, Number: 1}.String() },
		"of nobody":   func(c *cellpb.AppendMessage) { c.Live.Live = "x" },
		"a start":     func(c *cellpb.AppendMessage) { c.Live.Action = clientpb.LiveAction_LIVE_ACTION_STARTED },
		"an end":      func(c *cellpb.AppendMessage) { c.Live.Action = clientpb.LiveAction_LIVE_ACTION_ENDED },
		"with a text": func(c *cellpb.AppendMessage) { c.Text = &cellpb.TextBody{Text: "hello"} },
		"with a name that acts": func(c *cellpb.AppendMessage) {
			c.Live.Title = "\x1b[2J"
		},
	} {
		c := announcement(thread, one, b.id(0), 1)
		change(c)
		if r := b.do(appendCommand(c)); r.Code == 0 {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestStartsAndEndsAreToldOnceAndReadNothing(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	one, two := b.addUser(), b.addUser()
	thread := proto.DirectThread(one, two)
	b.must(b.entry(b.granted(createLiveCommand(createLiveOf(one, thread, b.id(0))))))
	b.must(b.entry(b.granted(appendCommand(announcement(thread, one, b.id(0), 1)))))
	b.must(b.entry(b.granted(appendCommand(message(thread, two, b.id(0)))))) // which one has not read
	unread := func(user proto.EntityID) uint64 {
		j := b.threadRow(user, thread)
		return j.Messages - j.ReadMessages
	}
	before := [2]uint64{unread(one), unread(two)}
	readBefore := b.threadRow(two, thread).PeerRead
	report := func(state cellpb.LiveState, started int64) *cellpb.Result {
		b.nowMs += 1000
		r := reportOf(one, 1, state, started)
		r.Reason = map[bool]string{true: "over"}[state == liveEnded]
		return b.do(reportCommand(r))
	}
	for _, step := range []struct {
		state   cellpb.LiveState
		started int64
		want    proto.Code
	}{
		{liveEnded, 100, proto.CodeConflict}, // of a run nobody has heard of
		{liveWaiting, 100, proto.CodeConflict},
		{liveOnState, 100, proto.CodeOK},
		{liveOnState, 100, proto.CodeOK},
		{liveWaiting, 100, proto.CodeBadRequest},
		{liveBreak, 100, proto.CodeOK},
		{liveOnState, 100, proto.CodeOK}, // its publisher has come back
		{liveOnState, 99, proto.CodeConflict},
		{liveEnded, 99, proto.CodeConflict},
		{liveEnded, 100, proto.CodeOK},
		{liveEnded, 100, proto.CodeOK},
		{liveOnState, 100, proto.CodeOK}, // late: without effect
		{liveOnState, 200, proto.CodeOK},
		{liveEnded, 100, proto.CodeConflict}, // late
		{liveOnState, 300, proto.CodeOK},     // another node has taken over
	} {
		if r := report(step.state, step.started); proto.Code(r.Code) != step.want {
			t.Fatalf("%s of %d: %v, want %s", step.state, step.started, r, step.want)
		}
	}
	want := []string{
		"1 %s LIVE_ACTION_ANNOUNCED ", "3 %s LIVE_ACTION_STARTED ", "4 %s LIVE_ACTION_ENDED over", "5 %s LIVE_ACTION_STARTED ",
		"6 %s LIVE_ACTION_ENDED its node was lost", "7 %s LIVE_ACTION_STARTED ",
	}
	for i := range want {
		want[i] = fmt.Sprintf(want[i], proto.LiveID{Owner: one, Number: 1})
	}
	if got := b.liveEvents(thread, two); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("the thread has\n%q, want\n%q", got, want)
	}
	for _, user := range []proto.EntityID{one, two} {
		if n := len(b.updates(user)); n != 7 {
			t.Errorf("user %s has %d updates", user, n)
		}
	}
	if after := [2]uint64{unread(one), unread(two)}; after != before {
		t.Errorf("unread were %v, are %v", before, after)
	}
	if after := b.threadRow(two, thread).PeerRead; after != readBefore {
		t.Errorf("one has read up to %d by what happened by itself, before %d", after, readBefore)
	}
	if l := b.liveOf(one, 1); l.State != liveOnState || l.Run != 3 || l.StartedMs != 300 {
		t.Errorf("%v", l)
	}
	// Who wrote last has no bearing on who may: the thread goes on.
	wantCode(t, b.send(thread, two, b.id(0)), proto.CodeOK)
}

// The thread's owner is another range: what is told goes by channel, and is
// counted whatever its effect.
func TestStartsReachThreadsOfOtherRanges(t *testing.T) {
	live, other := forTest(t, newRig(t, 1)), forTest(t, newRig(t, 2))
	var one, two proto.EntityID
	for one, two = live.addUser(), other.addUser(); proto.DirectThread(one, two).OwnerRange() != 2; {
		two = other.addUser()
	}
	thread := proto.DirectThread(one, two)
	wantCode(t, other.do(appendCommand(announcement(thread, one, other.id(0), 1))), proto.CodeOK)
	live.must(live.entry(live.granted(createLiveCommand(createLiveOf(one, thread, live.id(0))))))
	wantCode(t, live.do(reportCommand(reportOf(one, 1, liveOnState, 100))), proto.CodeOK)
	rows := live.channelRows(2, 0, 10)
	if len(rows) != 1 || rows[0].GetLive().GetFromName() == "" {
		t.Fatalf("%v", rows)
	}
	for range 2 { // the second time they are counted already
		if r := other.do(takeRows(1, rows)); r.Code != 0 || r.Counted != 1 {
			t.Fatalf("%v", r)
		}
	}
	id := proto.LiveID{Owner: one, Number: 1}
	if got := other.liveEvents(thread, two); len(got) != 2 || got[1] != fmt.Sprintf("2 %s LIVE_ACTION_STARTED ", id) {
		t.Fatalf("%q", got)
	}
	if back := other.channelRows(1, 0, 10); len(back) != 2 || !back[1].GetMessage().GetByItself() {
		t.Fatalf("%v", back)
	}
	// A range cannot speak for people of others, nor into other threads.
	lie := func(change func(*cellpb.LiveEventRow)) *cellpb.ChannelRow {
		row := &cellpb.LiveEventRow{Thread: thread.String(), From: uint64(one), Run: 9, Live: &clientpb.LiveMessage{Live: id.String(), Action: clientpb.LiveAction_LIVE_ACTION_STARTED}}
		change(row)
		return &cellpb.ChannelRow{Dest: 2, Body: &cellpb.ChannelRow_Live{Live: row}}
	}
	lies := []*cellpb.ChannelRow{
		lie(func(r *cellpb.LiveEventRow) { r.From = uint64(two) }),
		lie(func(r *cellpb.LiveEventRow) { r.Live.Live = proto.LiveID{Owner: two, Number: 1}.String() }),
		lie(func(r *cellpb.LiveEventRow) { r.Live.Live = "x" }),
		lie(func(r *cellpb.LiveEventRow) { r.Thread = proto.DirectThread(two, two+1).String() }),
		lie(func(r *cellpb.LiveEventRow) { r.Thread = "x" }),
		lie(func(r *cellpb.LiveEventRow) { r.Live = nil }),
	}
	for i, row := range lies {
		row.Number = uint64(i + 2)
	}
	if r := other.do(takeRows(1, lies)); r.Counted != uint64(len(lies)+1) {
		t.Fatalf("%v", r)
	}
	if got := other.liveEvents(thread, two); len(got) != 2 {
		t.Fatalf("lies have an effect: %q", got)
	}
}

func TestWhoMayWatch(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	one, two, three := b.addUser(), b.addUser(), b.addUser()
	thread := proto.DirectThread(one, two)
	may := func(user proto.EntityID) proto.Code {
		m, err := b.members(thread.String(), user)
		if err == nil && fmt.Sprint(m.Users) != fmt.Sprint([]uint64{uint64(one), uint64(two)}) {
			t.Fatalf("members %v", m)
		}
		return proto.CodeOf(err)
	}
	want := func(when string, code proto.Code) {
		t.Helper()
		for _, user := range []proto.EntityID{one, two} {
			if got := may(user); got != code {
				t.Errorf("%s: user %s: %s, want %s", when, user, got, code)
			}
		}
		if got := may(three); got != proto.CodeNotMember {
			t.Errorf("%s: a stranger: %s", when, got)
		}
	}
	step := func(from, to proto.EntityID, action clientpb.ContactAction) {
		t.Helper()
		b.must(b.entry(b.granted(changeCommand(change(from, to, action, b.id(0))))))
	}
	want("before they have met", proto.CodeOK)
	b.must(b.entry(b.granted(createLiveCommand(createLiveOf(one, thread, b.id(0))))))
	b.must(b.entry(b.granted(appendCommand(announcement(thread, one, b.id(0), 1)))))
	b.befriend(one, two)
	want("friends", proto.CodeOK)
	wantCode(t, b.do(reportCommand(reportOf(one, 1, liveOnState, 100))), proto.CodeOK)
	step(two, one, remove)
	want("former friends", proto.CodeNotFriends)
	wantCode(t, b.do(reportCommand(reportOf(one, 1, liveEnded, 100))), proto.CodeOK)   // is told: it had begun
	wantCode(t, b.do(reportCommand(reportOf(one, 1, liveOnState, 200))), proto.CodeOK) // is not
	step(one, two, block)
	want("blocked", proto.CodeNotFriends)
	wantCode(t, b.do(reportCommand(reportOf(one, 1, liveEnded, 200))), proto.CodeOK) // is not
	if got := b.liveEvents(thread, two); len(got) != 3 {
		t.Errorf("%q", got)
	}
	step(one, two, unblock)
	b.befriend(one, two)
	want("friends again", proto.CodeOK)
	for _, name := range []string{"", "x", "g/7", proto.DirectThread(b.rng.Last()+1, b.rng.Last()+2).String()} {
		if _, err := b.members(name, one); err == nil {
			t.Errorf("%q has members", name)
		}
	}
}

func TestOldLivestreamsMakeWay(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	one, two := b.addUser(), b.addUser()
	thread := proto.DirectThread(one, two)
	create := func() *cellpb.Result { return b.do(createLiveCommand(createLiveOf(one, thread, b.id(0)))) }
	for range proto.LivesMax {
		wantCode(t, create(), proto.CodeOK)
	}
	wantCode(t, b.do(reportCommand(reportOf(one, 1, liveOnState, b.nowMs))), proto.CodeOK)
	if r := create(); r.Code != 0 || r.Live.Number != proto.LivesMax+1 {
		t.Fatalf("%v", r)
	}
	if b.liveOf(one, 1) == nil || b.liveOf(one, 2) != nil || b.liveOf(one, 3) == nil {
		t.Fatal("another than the oldest that is not on has made way")
	}
	for n := uint64(3); n <= proto.LivesMax+1; n++ {
		wantCode(t, b.do(reportCommand(reportOf(one, n, liveOnState, b.nowMs))), proto.CodeOK)
	}
	wantCode(t, create(), proto.CodeTooMany)
	wantCode(t, b.do(removeLiveCommand(one, 5)), proto.CodeConflict)
	wantCode(t, b.do(reportCommand(reportOf(one, 5, liveEnded, b.nowMs))), proto.CodeOK)
	wantCode(t, b.do(removeLiveCommand(one, 5)), proto.CodeOK)
	wantCode(t, b.do(removeLiveCommand(one, 5)), proto.CodeOK)
	last := create()
	wantCode(t, last, proto.CodeOK)
	wantCode(t, b.do(reportCommand(reportOf(one, last.Live.Number, liveOnState, b.nowMs))), proto.CodeOK)
	wantCode(t, create(), proto.CodeTooMany)
	// One whose node never came back does not fill the place for ever.
	b.nowMs += (liveHistory + time.Hour).Milliseconds()
	wantCode(t, create(), proto.CodeOK)
}

// Two replicas that are told the same, one of which crashes, have the same.
func TestLivestreamsAreTheSameOnEveryReplica(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, two := newRig(rt, 1), newRig(rt, 1)
		defer one.close()
		defer two.close()
		var users []proto.EntityID
		for range 3 {
			users = append(users, one.addUser())
			two.addUser()
		}
		pick := func(what string) proto.EntityID { return rapid.SampledFrom(users).Draw(rt, what) }
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			step := rapid.Int64Range(0, 5000).Draw(rt, "ms")
			one.nowMs, two.nowMs = one.nowMs+step, two.nowMs+step
			user, peer, number := pick("user"), pick("peer"), rapid.Uint64Range(1, 4).Draw(rt, "number")
			thread := proto.DirectThread(user, peer)
			var c *cellpb.Command
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				c = createLiveCommand(createLiveOf(user, thread, one.id(0)))
			case 1, 2:
				state := rapid.SampledFrom([]cellpb.LiveState{liveWaiting, liveOnState, liveBreak, liveEnded}).Draw(rt, "state")
				c = reportCommand(reportOf(user, number, state, rapid.Int64Range(0, 5).Draw(rt, "started")))
			case 3:
				c = removeLiveCommand(user, number)
			case 4:
				c = appendCommand(announcement(thread, user, one.id(0), number))
			case 5:
				action := rapid.SampledFrom([]clientpb.ContactAction{ask, accept, remove, block, unblock}).Draw(rt, "action")
				c = changeCommand(change(user, peer, action, one.id(0)))
			}
			two.ids = one.ids
			two.manual = rapid.Bool().Draw(rt, "batched")
			if a, b := one.do(c), two.do(c); a.String() != b.String() {
				rt.Fatalf("%v, and %v", a, b)
			}
			if rapid.IntRange(0, 9).Draw(rt, "crash") == 0 {
				two.restart(true)
			}
		}
		two.commit()
		if digest(rt, one.db, 1) != digest(rt, two.db, 1) || one.m.RunningHash() != two.m.RunningHash() {
			rt.Fatal("the two differ")
		}
	})
}

// The release before knows no livestreams: by its rules nothing comes of them.
func TestOldRulesKnowNoLivestreams(t *testing.T) {
	b := forTest(t, newRig(t, 1)).ofRules(proto.OldestRules)
	one, two := b.addUser(), b.addUser()
	thread := proto.DirectThread(one, two)
	wantCode(t, b.do(createLiveCommand(createLiveOf(one, thread, b.id(0)))), proto.CodeUnsupported)
	wantCode(t, b.do(appendCommand(announcement(thread, one, b.id(0), 1))), proto.CodeBadRequest)
	wantCode(t, b.do(reportCommand(reportOf(one, 1, liveOnState, 100))), proto.CodeUnsupported)
	row := &cellpb.LiveEventRow{Thread: thread.String(), From: uint64(one), Live: &clientpb.LiveMessage{Live: "4097-1", Action: clientpb.LiveAction_LIVE_ACTION_ENDED}}
	wantCode(t, b.send(thread, one, b.id(0)), proto.CodeOK)
	wantCode(t, b.do(takeRows(1, []*cellpb.ChannelRow{{Dest: 1, Number: 1, Body: &cellpb.ChannelRow_Live{Live: row}}})), proto.CodeOK)
	if got := b.liveEvents(thread, two); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
