package chatscreen

import (
	"strings"
	"testing"

	clientpb "github.com/waggle-im/waggle/proto/client"
)

// A livestream is shown with what became of it and how many watch. Starts and
// ends count for no message, and by them nobody has read.
func TestALivestreamInAConversation(t *testing.T) {
	m := drawn(140, 24)
	m.store.takeContact(friend(peer, "bob"))
	talk(m, "hi ann", "hello bob")
	before := *m.store.threads[direct]
	tell := func(seq uint64, action clientpb.LiveAction) {
		m.store.event(&clientpb.Event{
			Thread: direct, Seq: seq, From: uint64(peer), FromName: "bob", Messages: before.messages, TimeMs: before.lastTimeMS + int64(seq),
			Body: &clientpb.Event_Live{Live: &clientpb.LiveMessage{
				Live: "8-1", Action: action, Title: "my\x1b[2J garden", DurationMs: 61_000, Video: "H.264",
			}},
		})
	}
	tell(3, clientpb.LiveAction_LIVE_ACTION_STARTED)
	wantOnScreen(t, m, "is on: waggle live watch 8-1")
	m.Update(viewersMsg{&clientpb.LiveViewers{Thread: direct, Live: "8-1", Viewers: 3}})
	wantOnScreen(t, m, "garden (8-1) is on: waggle live watch 8-1 · 3 watching")
	tell(4, clientpb.LiveAction_LIVE_ACTION_ENDED)
	wantOnScreen(t, m, "garden (8-1) has ended after 1m1s")
	if screen := strings.Join(screenOf(m), "\n"); strings.Contains(screen, "watching") {
		t.Errorf("it is watched after its end:\n%s", screen)
	}
	after := m.store.threads[direct]
	if after.unread != before.unread || after.read != before.read || after.readSeq != before.readSeq {
		t.Errorf("unread %d, read %d, read by us %d; before %d, %d, %d", after.unread, after.read, after.readSeq, before.unread, before.read, before.readSeq)
	}
	m.Update(viewersMsg{&clientpb.LiveViewers{Thread: "x", Live: "8-1", Viewers: 3}}) // of no thread: nothing happens
}
