package state

import (
	"fmt"
	"strings"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// addUser adds a user with two devices to one of the model's ranges.
func (m *model) addUser(b *rig) proto.EntityID {
	user := b.addUser()
	for _, device := range []string{"phone", "tablet"} {
		m.expect(b.do(login(user, device, "n")), proto.CodeOK, "login")
	}
	return user
}

// confirm confirms any part of a user's log, perhaps less than before.
func (m *model) confirm(i int) {
	b, user := m.rigs[i], m.users[i][m.draw(len(m.users[i]), "user")]
	pts := uint64(m.draw(int(b.m.user(user).pts)+1, "pts"))
	device := []string{"phone", "tablet"}[m.draw(2, "device")]
	m.expect(b.do(confirm(user, device, pts)), proto.CodeOK, "confirm")
	m.confirmed[user] = max(m.confirmed[user], pts)
}

// markRead marks any part of a thread as read, or beyond its end.
func (m *model) markRead(i int) {
	user := m.users[i][m.draw(len(m.users[i]), "user")]
	all := append(append([]proto.EntityID(nil), m.users[0]...), m.users[1]...)
	peer := all[m.draw(len(all), "peer")]
	if peer == user {
		return
	}
	thread := proto.DirectThread(user, peer)
	seq := uint64(1 + m.draw(len(m.threads[thread])+2, "seq"))
	r := m.rigs[i].do(markRead(user, thread, seq))
	if proto.Code(r.Code) == proto.CodeUnknownThread {
		return
	}
	m.expect(r, proto.CodeOK, "mark read")
	if r.Seq > uint64(len(m.threads[thread])) {
		m.t.Fatalf("thread %s has %d messages and is read up to %d", thread, len(m.threads[thread]), r.Seq)
	}
	m.read[joinedKey{user, thread}] = max(m.read[joinedKey{user, thread}], r.Seq)
}

func markRead(user proto.EntityID, thread proto.ThreadID, seq uint64) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_MarkThread{MarkThread: &cellpb.MarkThread{
		User: uint64(user), Thread: thread.String(), ReadSeq: seq, ReadMessages: seq,
	}}}
}

// checkMarks compares what a user knows of his peers' marks with what they
// confirmed, read and wrote, and counts the marks in his log, each of which
// must be above the one before it.
func (m *model) checkMarks(b *rig, user proto.EntityID, log []string) int {
	n := 0
	last := map[string]uint64{}
	for _, name := range log {
		kind, rest, isMark := strings.Cut(name, " ")
		if !isMark {
			continue
		}
		n++
		var seq, by uint64
		thread, place, _ := strings.Cut(rest, "#")
		if _, err := fmt.Sscanf(place, "%d by %d", &seq, &by); err != nil {
			m.t.Fatalf("mark %q: %v", name, err)
		}
		key := fmt.Sprint(kind, thread, by)
		if seq <= last[key] {
			m.t.Fatalf("user %s: %q follows %d", user, name, last[key])
		}
		last[key] = seq
	}
	for thread := range m.threads {
		if !thread.Has(user) {
			continue
		}
		delivered, read := m.marks(thread.Peer(user), thread)
		row := b.threadRow(user, thread)
		if row.PeerDelivered != delivered || row.PeerRead != read {
			m.t.Fatalf("user %s, thread %s: the peer's marks are %d and %d, want %d and %d",
				user, thread, row.PeerDelivered, row.PeerRead, delivered, read)
		}
		if _, own := m.marks(user, thread); row.ReadSeq != own {
			m.t.Fatalf("user %s, thread %s: read up to %d, want %d", user, thread, row.ReadSeq, own)
		}
	}
	return n
}

// marks are how far a user has got in a thread, by what he did.
func (m *model) marks(user proto.EntityID, thread proto.ThreadID) (delivered, read uint64) {
	read = m.read[joinedKey{user, thread}]
	own := map[uint64]bool{}
	for i, id := range m.threads[thread] {
		if m.sent[id].From == uint64(user) { // whoever writes has read
			own[uint64(i+1)] = true
			read = max(read, uint64(i+1))
		}
	}
	delivered = read
	for i, name := range m.rigs[user.Range()-1].updates(user) {
		if uint64(i+1) > m.confirmed[user] {
			break
		}
		var seq uint64
		if place, ok := strings.CutPrefix(name, thread.String()+"#"); ok {
			if _, err := fmt.Sscan(place, &seq); err == nil && !own[seq] {
				delivered = max(delivered, seq)
			}
		}
	}
	return delivered, read
}
