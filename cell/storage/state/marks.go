package state

import (
	"slices"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// tailMax is how many messages of a user that no device has confirmed are
// remembered from one Commit to the next. Most people confirm within a second
// what they get, and their marks need no look into the store; the tail of one
// who is away is dropped and read when he comes back.
const tailMax = 16

// tailRow is a message in the tail of a user's log.
type tailRow struct {
	pts    proto.Pts
	thread proto.ThreadID
	seq    proto.Seq
}

// keepTail remembers a message for the user's delivered marks.
func (m *Machine) keepTail(u *userCounters, thread proto.ThreadID, seq uint64) {
	u.tail = append(u.tail, tailRow{u.pts, thread, proto.Seq(seq)})
	if len(u.tail) == tailMax+1 {
		m.longTails = append(m.longTails, u)
	}
}

// dropLongTails forgets what the store holds since the Commit just done.
func (m *Machine) dropLongTails() {
	for _, u := range m.longTails {
		u.tail, u.tailFrom = nil, u.pts
	}
	m.longTails = m.longTails[:0]
}

// confirmUpdates raises devices' high-water marks, tells senders what has
// arrived, and trims what every active device has.
func (m *Machine) confirmUpdates(c *cellpb.ConfirmUpdates, out *cellpb.Applied) *cellpb.Result {
	greatest := map[proto.EntityID]uint64{}
	var order []proto.EntityID
	for _, mark := range c.Marks {
		if !m.confirmDevice(mark) {
			continue
		}
		user := proto.EntityID(mark.User)
		if greatest[user] == 0 {
			order = append(order, user)
		}
		greatest[user] = max(greatest[user], mark.Pts)
	}
	// Once for all devices of a user, so that a sender gets one mark.
	for _, user := range order {
		u := m.user(user)
		m.delivered(user, u, proto.Pts(greatest[user]), out)
		if greatest[user] >= u.log.Trimmed+2*updatesKept {
			m.trimUpdates(user, u)
		}
	}
	return &cellpb.Result{}
}

// confirmDevice tells whether the device's mark was raised.
func (m *Machine) confirmDevice(mark *cellpb.DeviceMark) bool {
	user := proto.EntityID(mark.User)
	d := new(cellpb.Device)
	if !m.rng.Contains(user) || !m.get(engine.DeviceKey(user, mark.Device), d) {
		return false
	}
	raised := mark.Pts > d.ConfirmedPts && mark.Pts <= uint64(m.user(user).pts)
	if raised {
		d.ConfirmedPts = mark.Pts
	}
	if mark.Seen {
		d.SeenMs = m.state.TimeMs
	}
	if raised && m.by(rulesForgetAway) {
		d.ConfirmedMs = m.state.TimeMs
	}
	if raised || mark.Seen {
		m.put(engine.DeviceKey(user, mark.Device), d)
	}
	return raised
}

// delivered raises the user's delivered marks to what the updates up to pts
// tell of, and tells the senders. It happens where the confirmation is
// applied, so that a confirmation that is stored has its marks.
func (m *Machine) delivered(user proto.EntityID, u *userCounters, pts proto.Pts, out *cellpb.Applied) {
	from := proto.Pts(max(u.log.DeliveredPts, u.log.Trimmed))
	if pts <= from {
		return
	}
	greatest := map[proto.ThreadID]proto.Seq{}
	if from < u.tailFrom {
		m.storedMessages(user, from, min(pts, u.tailFrom), greatest)
	}
	kept := u.tail[:0]
	for _, row := range u.tail {
		if row.pts > pts {
			kept = append(kept, row)
		} else if row.pts > from {
			greatest[row.thread] = max(greatest[row.thread], row.seq)
		}
	}
	u.tail, u.tailFrom = kept, max(u.tailFrom, pts)
	u.log.DeliveredPts = uint64(pts)
	m.put(engine.EntityKey(user, engine.TagUpdateLog), u.log)

	threads := make([]proto.ThreadID, 0, len(greatest))
	for thread := range greatest {
		threads = append(threads, thread)
	}
	slices.SortFunc(threads, compareThreads) // every replica in the same order
	for _, thread := range threads {
		seq := uint64(greatest[thread])
		j := m.joinedThread(user, thread)
		if seq <= j.DeliveredSeq {
			continue
		}
		j.DeliveredSeq = seq
		m.appendRow(engine.ThreadKey(user, thread), j)
		m.tellMark(thread, &cellpb.MarkRow{User: uint64(thread.Peer(user)), By: uint64(user), Delivered: seq}, out)
	}
}

func compareThreads(a, b proto.ThreadID) int {
	switch {
	case a.Low < b.Low || a.Low == b.Low && a.High < b.High:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// storedMessages finds the greatest seq of each thread among the messages of
// others in the committed rows above from, up to last.
func (m *Machine) storedMessages(user proto.EntityID, from, last proto.Pts, greatest map[proto.ThreadID]proto.Seq) {
	it, err := m.newIter(engine.Span{Start: engine.UpdateKey(user, from+1), End: engine.UpdateKey(user, last+1)})
	if err != nil {
		m.fail(err)
		return
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		update := new(cellpb.StoredUpdate)
		m.fail(decode(it, update))
		if update.Own || update.Body != nil {
			continue
		}
		if thread, err := proto.ParseThreadID(update.Thread); err == nil && thread.Direct() {
			greatest[thread] = max(greatest[thread], proto.Seq(update.Seq))
		}
	}
	m.fail(it.Error())
}

// markThread raises the user's own read mark, which the other member and the
// user's other devices are told.
func (m *Machine) markThread(c *cellpb.MarkThread, out *cellpb.Applied) *cellpb.Result {
	user := proto.EntityID(c.User)
	thread, err := proto.ParseThreadID(c.Thread)
	if err != nil {
		return refusef(proto.CodeBadRequest, "%v", err)
	}
	if !m.rng.Contains(user) || !thread.Has(user) {
		return refusef(proto.CodeNotMember, "you are not a member of thread %s", thread)
	}
	j := m.joinedThread(user, thread)
	if j.LastSeq == 0 {
		return refusef(proto.CodeUnknownThread, "thread %s has no messages", thread)
	}
	readSeq, readMessages := c.ReadSeq, c.ReadMessages
	if readSeq >= j.LastSeq {
		readSeq, readMessages = j.LastSeq, j.Messages
	}
	if readSeq > j.ReadSeq {
		j.ReadSeq, j.ReadMessages = readSeq, max(j.ReadMessages, min(readMessages, j.Messages))
		j.DeliveredSeq = max(j.DeliveredSeq, readSeq) // who has read it has got it
		m.appendRow(engine.ThreadKey(user, thread), j)
		m.logUpdate(user, m.markOf(thread, user, readSeq, true), out)
		m.tellMark(thread, &cellpb.MarkRow{
			User: uint64(thread.Peer(user)), By: uint64(user), Delivered: j.DeliveredSeq, Read: readSeq,
		}, out)
	}
	return &cellpb.Result{Seq: j.ReadSeq}
}

func (m *Machine) markOf(thread proto.ThreadID, by proto.EntityID, seq uint64, read bool) *cellpb.StoredUpdate {
	return &cellpb.StoredUpdate{Thread: thread.String(), Seq: seq, Body: &cellpb.StoredUpdate_Mark{
		Mark: &cellpb.MarkUpdate{User: uint64(by), Read: read, TimeMs: m.state.TimeMs},
	}}
}

// tellMark tells a member how far another got: at once if he is in this
// range, else by the channel to his. A channel that is full takes no marks:
// the next one says it all.
func (m *Machine) tellMark(thread proto.ThreadID, row *cellpb.MarkRow, out *cellpb.Applied) {
	row.Thread = thread.String()
	user := proto.EntityID(row.User)
	if m.rng.Contains(user) {
		m.takeMark(thread, row, out)
		return
	}
	dest := user.Range()
	ch := m.channel(dest)
	if ch.last-ch.trimmed >= proto.ChannelRowsMax {
		return
	}
	ch.last++
	stored := &cellpb.ChannelRow{Dest: uint64(dest), Number: ch.last, Body: &cellpb.ChannelRow_Mark{Mark: row}}
	m.appendRow(engine.ChannelOutKey(m.rng, dest, ch.last), stored)
	out.ChannelRows = append(out.ChannelRows, stored)
}

// takeMark raises a user's copy of the other member's marks. A mark beyond
// the last message is cut: all it tells of came this way before it.
func (m *Machine) takeMark(thread proto.ThreadID, row *cellpb.MarkRow, out *cellpb.Applied) {
	user, by := proto.EntityID(row.User), proto.EntityID(row.By)
	if !thread.Has(user) || !thread.Has(by) || user == by || !m.user(user).exists {
		return
	}
	j := m.joinedThread(user, thread)
	read, delivered := min(row.Read, j.LastSeq), min(max(row.Delivered, row.Read), j.LastSeq)
	if read <= j.PeerRead && delivered <= j.PeerDelivered {
		return
	}
	if read > j.PeerRead {
		j.PeerRead, j.PeerDelivered = read, max(j.PeerDelivered, read)
		m.logUpdate(user, m.markOf(thread, by, read, true), out)
	}
	if delivered > j.PeerDelivered {
		j.PeerDelivered = delivered
		m.logUpdate(user, m.markOf(thread, by, delivered, false), out)
	}
	m.appendRow(engine.ThreadKey(user, thread), j)
}

// takeMarkRow takes a mark from a channel.
func (m *Machine) takeMarkRow(row *cellpb.MarkRow, out *cellpb.Applied) {
	thread, err := proto.ParseThreadID(row.Thread)
	if err == nil && m.rng.Contains(proto.EntityID(row.User)) {
		m.takeMark(thread, row, out)
	}
}
