package state

import (
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// row tells user of seq in a thread that source owns.
func channelRow(number uint64, thread proto.ThreadID, user proto.EntityID) *cellpb.ChannelRow {
	return &cellpb.ChannelRow{Number: number, Body: &cellpb.ChannelRow_Message{Message: &cellpb.MessageRow{
		Thread: thread.String(), Seq: number, User: uint64(user), Messages: number, TimeMs: startMs,
	}}}
}

// receiving is a range whose user has a thread that range 2 owns.
func receiving(t *testing.T) (*rig, proto.ThreadID, proto.EntityID) {
	t.Helper()
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	for peer := proto.RangeID(2).First(); ; peer++ {
		if thread := proto.DirectThread(user, peer); thread.Owner() == peer {
			return b, thread, user
		}
	}
}

func wantCounted(t *testing.T, r *cellpb.Result, counted uint64) {
	t.Helper()
	if r.Code != 0 || r.Counted != counted {
		t.Errorf("counted %d (%s %s), want %d", r.Counted, proto.Code(r.Code), r.Message, counted)
	}
}

func TestChannelRowIsCountedOnce(t *testing.T) {
	b, thread, user := receiving(t)
	rows := []*cellpb.ChannelRow{channelRow(1, thread, user), channelRow(2, thread, user), channelRow(3, thread, user)}
	wantCounted(t, b.do(takeRows(2, rows[:2])), 2)
	wantCounted(t, b.do(takeRows(2, rows[:2])), 2)
	b.restart(true)
	wantCounted(t, b.do(takeRows(2, rows)), 3) // overlapping
	wantCounted(t, b.do(takeRows(2, rows[1:])), 3)
	wantCounted(t, b.do(takeRows(2, nil)), 3)
	if n := len(b.updates(user)); n != 3 {
		t.Errorf("%d updates, want 3", n)
	}
	// Each source has its own count.
	wantCounted(t, b.do(takeRows(3, []*cellpb.ChannelRow{channelRow(1, thread, user)})), 1)
}

func TestChannelRowsAfterAGapAreNotTaken(t *testing.T) {
	b, thread, user := receiving(t)
	wantCounted(t, b.do(takeRows(2, []*cellpb.ChannelRow{channelRow(1, thread, user), channelRow(3, thread, user)})), 1)
	wantCounted(t, b.do(takeRows(2, []*cellpb.ChannelRow{channelRow(4, thread, user)})), 1)
	if n := len(b.updates(user)); n != 1 {
		t.Errorf("%d updates, want 1", n)
	}
}

// A new host of the source may offer a row that was just applied before it has
// found the older ones: they must not be skipped, not even by a destination
// that has never heard of the source.
func TestFirstRowsOfAChannelAreNotSkipped(t *testing.T) {
	b, thread, user := receiving(t)
	wantCounted(t, b.do(takeRows(2, []*cellpb.ChannelRow{channelRow(5, thread, user)})), 0)
	wantCounted(t, b.do(takeRows(2, []*cellpb.ChannelRow{channelRow(1, thread, user)})), 1)
	if n := len(b.updates(user)); n != 1 {
		t.Errorf("%d updates, want 1", n)
	}
}

func TestChannelOfARestoredSourceBeginsAnew(t *testing.T) {
	b, thread, user := receiving(t)
	wantCounted(t, b.do(takeRows(2, []*cellpb.ChannelRow{channelRow(1, thread, user), channelRow(2, thread, user)})), 2)
	again := takeRows(2, []*cellpb.ChannelRow{channelRow(1, thread, user)})
	again.GetTakeChannelRows().Incarnation = []byte("another-life-123")
	wantCounted(t, b.do(again), 1)
	zero := takeRows(2, []*cellpb.ChannelRow{channelRow(0, thread, user), channelRow(1, thread, user)})
	zero.GetTakeChannelRows().Incarnation = []byte("a-third-life-123")
	wantCounted(t, b.do(zero), 1)
}

// A row without effect here is counted all the same.
func TestChannelRowsWithoutEffectAreCounted(t *testing.T) {
	b, thread, user := receiving(t)
	foreign := proto.RangeID(7).First()
	rows := []*cellpb.ChannelRow{
		{Number: 1}, // of a kind these rules do not know
		channelRow(2, thread, user+1000),
		channelRow(3, proto.DirectThread(foreign, foreign+1), foreign), // not of this range
		channelRow(4, thread, user),
	}
	rows[0].Body = nil
	before := len(tables(t, b))
	wantCounted(t, b.do(takeRows(2, rows[:3])), 3)
	if grown := len(tables(t, b)) - before; grown > 200 {
		t.Errorf("rows without effect wrote %d characters", grown) // the count itself takes about 120
	}
	wantCounted(t, b.do(takeRows(2, rows)), 4)
	if n := len(b.updates(user)); n != 1 {
		t.Errorf("%d updates, want 1", n)
	}
}

func TestChannelNumbersOutliveTrimmingAndRestart(t *testing.T) {
	b, thread, mine := crossing(t)
	trim := func(counted uint64) *cellpb.Result {
		return b.do(&cellpb.Command{Body: &cellpb.Command_TrimChannel{TrimChannel: &cellpb.TrimChannel{Dest: 2, Counted: counted}}})
	}
	for range 3 {
		wantCode(t, b.send(thread, mine, b.id(0)), proto.CodeOK)
	}
	wantCode(t, trim(4), proto.CodeBadRequest)
	wantCounted(t, trim(2), 2)
	wantCounted(t, trim(1), 2)
	if rows := b.channelRows(2, 0, 10); len(rows) != 1 || rows[0].Number != 3 || rows[0].Event.GetText().GetText() != "hello" {
		t.Errorf("after trimming: %v", rows)
	}
	wantCounted(t, trim(3), 3)
	b.restart(false)
	wantCode(t, b.send(thread, mine, b.id(0)), proto.CodeOK)
	if rows := b.channelRows(2, 0, 10); len(rows) != 1 || rows[0].Number != 4 {
		t.Errorf("after trimming all and restarting: %v", rows)
	}
	// One row per message and destination: the peer's. The sender is here.
	if n := len(b.updates(mine)); n != 4 {
		t.Errorf("the sender has %d updates, want 4", n)
	}
}
