package state

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Livestreams of a user belong to his range: their keys, and what they are
// doing, as the node reports that carries them. Starts and ends go to the thread
// they were announced in, by channel, so that its members hear of them whatever
// dies.

const (
	liveKeyBytes = 32
	// liveHistory bounds how long a livestream is believed to be on without a
	// sign of its node, where its place is needed: longer than any is on.
	liveHistory = 7 * 24 * time.Hour
)

// liveCommand applies a command about livestreams; nil: it is none.
func (m *Machine) liveCommand(c *cellpb.Command, out *cellpb.Applied) *cellpb.Result {
	if !m.by(rulesLivestreams) {
		return nil // as the release before does
	}
	switch body := c.Body.(type) {
	case *cellpb.Command_CreateLive:
		return m.createLive(body.CreateLive)
	case *cellpb.Command_ReportLive:
		return m.reportLive(body.ReportLive, out)
	case *cellpb.Command_RemoveLive:
		return m.removeLive(body.RemoveLive)
	}
	return nil
}

func (m *Machine) live(user proto.EntityID, number uint64) (*cellpb.StoredLive, bool) {
	live := new(cellpb.StoredLive)
	return live, m.rng.Contains(user) && m.get(engine.LiveKey(user, number), live)
}

func liveResult(user, number uint64, live *cellpb.StoredLive) *cellpb.Result {
	return &cellpb.Result{Live: &cellpb.LiveRow{User: user, Number: number, Live: live}}
}

// liveOn tells whether a livestream has a publisher, or had one a moment ago.
func liveOn(live *cellpb.StoredLive) bool {
	return live.State == cellpb.LiveState_LIVE_STATE_ON || live.State == cellpb.LiveState_LIVE_STATE_INTERRUPTED
}

// checkCreateLive refuses what can be no livestream of the user.
func (m *Machine) checkCreateLive(c *cellpb.CreateLive) *cellpb.Result {
	user := proto.EntityID(c.User)
	if !m.rng.Contains(user) || !m.user(user).exists {
		return refusef(proto.CodeUnknownUser, "there is no user %s", user)
	}
	thread, err := proto.ParseThreadID(c.Thread)
	if err != nil {
		return refusef(proto.CodeBadRequest, "%v", err)
	}
	if !thread.Has(user) {
		return refusef(proto.CodeNotMember, "you are not a member of thread %s", thread)
	}
	if _, err := proto.ClientMsgIDFromBytes(c.ClientId); err != nil {
		return refusef(proto.CodeBadRequest, "%v", err)
	}
	if err := proto.CheckText("title", c.Title, proto.LiveTitleBytesMax); err != nil {
		return refuse(err)
	}
	if len(c.KeyHash) != liveKeyBytes || len(c.TicketKey) != liveKeyBytes {
		return refusef(proto.CodeBadRequest, "the keys of a livestream have %d bytes", liveKeyBytes)
	}
	return nil
}

func (m *Machine) createLive(c *cellpb.CreateLive) *cellpb.Result {
	if refusal := m.checkCreateLive(c); refusal != nil {
		return refusal
	}
	user := proto.EntityID(c.User)
	book := new(cellpb.LiveBook)
	m.get(engine.EntityKey(user, engine.TagLiveBook), book)
	idle := -1 // the oldest that can make way
	for i, number := range book.Numbers {
		live, _ := m.live(user, number)
		if bytes.Equal(live.ClientId, c.ClientId) {
			return m.createLiveAgain(c, number, live)
		}
		stuck := m.state.TimeMs-live.StartedMs > liveHistory.Milliseconds()
		if idle < 0 && (!liveOn(live) || stuck) {
			idle = i
		}
	}
	if len(book.Numbers) >= proto.LivesMax {
		if idle < 0 {
			return refusef(proto.CodeTooMany, "%d livestreams of yours are on: end one first", len(book.Numbers))
		}
		m.remove(engine.LiveKey(user, book.Numbers[idle]))
		book.Numbers = slices.Delete(book.Numbers, idle, idle+1)
	}
	book.LastNumber++
	book.Numbers = append(book.Numbers, book.LastNumber)
	live := &cellpb.StoredLive{
		Thread: c.Thread, Title: c.Title, Record: c.Record, ClientId: c.ClientId, KeyHash: c.KeyHash, TicketKey: c.TicketKey,
		CreatedMs: m.state.TimeMs,
	}
	m.put(engine.EntityKey(user, engine.TagLiveBook), book)
	m.put(engine.LiveKey(user, book.LastNumber), live)
	return liveResult(c.User, book.LastNumber, live)
}

// createLiveAgain answers a request whose first answer was lost, and with it the
// stream key: the one of now counts.
func (m *Machine) createLiveAgain(c *cellpb.CreateLive, number uint64, live *cellpb.StoredLive) *cellpb.Result {
	switch {
	case live.Thread != c.Thread:
		return refusef(proto.CodeBadRequest, "the client id was used for another livestream")
	case live.State != cellpb.LiveState_LIVE_STATE_WAITING:
		return refusef(proto.CodeConflict, "the livestream was created and has begun already")
	}
	live.KeyHash = c.KeyHash
	m.put(engine.LiveKey(proto.EntityID(c.User), number), live)
	r := liveResult(c.User, number, live)
	r.Repeated = true
	return r
}

// removeLive removes a livestream, if there is one.
func (m *Machine) removeLive(c *cellpb.RemoveLive) *cellpb.Result {
	user := proto.EntityID(c.User)
	live, found := m.live(user, c.Number)
	if !found {
		return liveResult(c.User, c.Number, nil)
	}
	if liveOn(live) {
		return refusef(proto.CodeConflict, "the livestream is on: end it first")
	}
	book := new(cellpb.LiveBook)
	m.get(engine.EntityKey(user, engine.TagLiveBook), book)
	book.Numbers = slices.DeleteFunc(book.Numbers, func(n uint64) bool { return n == c.Number })
	m.put(engine.EntityKey(user, engine.TagLiveBook), book)
	m.remove(engine.LiveKey(user, c.Number))
	return liveResult(c.User, c.Number, live)
}

// reportLive notes what a livestream is doing. A run is known by its start: what
// comes late of an older one has no effect on a newer.
func (m *Machine) reportLive(c *cellpb.ReportLive, out *cellpb.Applied) *cellpb.Result {
	user := proto.EntityID(c.User)
	id := proto.LiveID{Owner: user, Number: c.Number}
	live, found := m.live(user, c.Number)
	if !found {
		return refusef(proto.CodeUnknownLive, "there is no livestream %s", id)
	}
	if c.Node == "" || c.StartedMs <= 0 {
		return refusef(proto.CodeBadRequest, "the report names no node or no start")
	}
	for _, text := range []string{c.Reason, c.Video, c.Audio} {
		if err := proto.CheckText("report", text, proto.LiveTextBytesMax); err != nil {
			return refuse(err)
		}
	}
	same := c.Node == live.Node && c.StartedMs == live.StartedMs
	switch {
	case c.State == cellpb.LiveState_LIVE_STATE_ON && !same:
		if c.StartedMs <= live.StartedMs {
			return refusef(proto.CodeConflict, "livestream %s is published anew elsewhere", id)
		}
		if liveOn(live) {
			m.endLive(id, live, "its node was lost", out)
		}
		live.Run++
		live.Node, live.Cell, live.StartedMs, live.EndedMs, live.Reason = c.Node, c.Cell, c.StartedMs, 0, ""
		m.noteLive(live, c)
		m.tellLive(id, live, &clientpb.LiveMessage{Action: clientpb.LiveAction_LIVE_ACTION_STARTED, Video: c.Video, Audio: c.Audio}, out)
	case !same:
		return refusef(proto.CodeConflict, "livestream %s is published anew elsewhere", id)
	case !liveOn(live): // over, and this report is late
	case c.State == cellpb.LiveState_LIVE_STATE_ENDED:
		m.endLive(id, live, c.Reason, out)
	case c.State == cellpb.LiveState_LIVE_STATE_ON || c.State == cellpb.LiveState_LIVE_STATE_INTERRUPTED:
		m.noteLive(live, c)
	default:
		return refusef(proto.CodeBadRequest, "nobody reports that a livestream waits")
	}
	m.put(engine.LiveKey(user, c.Number), live)
	return liveResult(c.User, c.Number, live)
}

func (m *Machine) noteLive(live *cellpb.StoredLive, c *cellpb.ReportLive) {
	live.State, live.Viewers, live.Video, live.Audio = c.State, c.Viewers, c.Video, c.Audio
}

// endLive ends a run and tells the thread.
func (m *Machine) endLive(id proto.LiveID, live *cellpb.StoredLive, reason string, out *cellpb.Applied) {
	live.State, live.Viewers, live.EndedMs, live.Reason = cellpb.LiveState_LIVE_STATE_ENDED, 0, m.state.TimeMs, reason
	m.tellLive(id, live, &clientpb.LiveMessage{
		Action: clientpb.LiveAction_LIVE_ACTION_ENDED, Reason: reason, DurationMs: uint64(max(0, live.EndedMs-live.StartedMs)),
	}, out)
}

// tellLive tells the thread of a livestream of this range what became of it.
func (m *Machine) tellLive(id proto.LiveID, live *cellpb.StoredLive, told *clientpb.LiveMessage, out *cellpb.Applied) {
	thread, err := proto.ParseThreadID(live.Thread)
	if err != nil {
		return // was checked
	}
	told.Live, told.Title, told.Record = id.String(), live.Title, live.Record
	profile := new(cellpb.Profile)
	m.get(engine.EntityKey(id.Owner, engine.TagProfile), profile)
	row := &cellpb.LiveEventRow{Thread: live.Thread, From: uint64(id.Owner), FromName: profile.Name, Run: live.Run, Live: told}
	if dest := thread.OwnerRange(); dest != m.rng {
		m.sendRow(dest, &cellpb.ChannelRow{Body: &cellpb.ChannelRow_Live{Live: row}}, out)
		return
	}
	m.takeLive(m.rng, row, out)
}

// takeLive makes an event of what became of a livestream, if its members may
// still hear of it. An end is told as long as neither has blocked the other.
func (m *Machine) takeLive(source proto.RangeID, row *cellpb.LiveEventRow, out *cellpb.Applied) {
	if !m.by(rulesLivestreams) {
		return // the release before knows no such row
	}
	thread, err := proto.ParseThreadID(row.Thread)
	id, err2 := proto.ParseLiveID(row.GetLive().GetLive())
	from := proto.EntityID(row.From)
	if err != nil || err2 != nil || id.Owner != from || from.Range() != source || !thread.Has(from) || !m.rng.Contains(thread.Owner()) {
		return
	}
	t := m.thread(thread)
	ended := row.Live.Action == clientpb.LiveAction_LIVE_ACTION_ENDED
	if !t.exists || m.checkSides(thread) != nil || anyBlock(t.header) || !ended && !sharesLive(t.header) {
		return
	}
	event := &cellpb.StoredEvent{
		From: row.From, FromName: row.FromName, ClientMsgId: m.liveEventID(row), Body: &cellpb.StoredEvent_Live{Live: row.Live},
	}
	m.storeMessage(thread, event, "", out)
}

// liveEventID is the client message id of an event that the server makes: the
// same on every replica, and another one for each start and end.
func (m *Machine) liveEventID(row *cellpb.LiveEventRow) []byte {
	var id proto.ClientMsgID
	binary.BigEndian.PutUint64(id[:], uint64(m.state.TimeMs)<<16)
	id[6], id[7] = 0x71, byte(row.Live.Action)
	name := binary.BigEndian.AppendUint64([]byte(row.Live.Live), row.Run)
	binary.BigEndian.PutUint64(id[8:], xxh3.HashSeed(name, xxh3.Hash(m.meta.Incarnation))&^(3<<62)|1<<63)
	return id[:]
}

// byItself tells whether an event is no message of its sender: it counts for
// none, and by it he has read nothing.
func byItself(event *cellpb.StoredEvent) bool {
	return event.GetLive() != nil && event.GetLive().Action != clientpb.LiveAction_LIVE_ACTION_ANNOUNCED
}

// checkLiveBody refuses what cannot announce a livestream.
func checkLiveBody(from proto.EntityID, live *clientpb.LiveMessage) *cellpb.Result {
	id, err := proto.ParseLiveID(live.Live)
	switch {
	case err != nil:
		return refusef(proto.CodeBadRequest, "%v", err)
	case id.Owner != from:
		return refusef(proto.CodeUnknownLive, "livestream %s is not yours", id)
	case live.Action != clientpb.LiveAction_LIVE_ACTION_ANNOUNCED:
		return refusef(proto.CodeBadRequest, "only the server tells of starts and ends")
	}
	if err := proto.CheckText("title", live.Title, proto.LiveTitleBytesMax); err != nil {
		return refuse(err)
	}
	return nil
}

func anyBlock(h *cellpb.ThreadHeader) bool { return h.GetLow().GetBlocks() || h.GetHigh().GetBlocks() }

// sharesLive tells whether the two of a direct thread may watch each other's
// livestreams: friends may, and people who may write to each other without ever
// having been friends. Former friends may not.
func sharesLive(h *cellpb.ThreadHeader) bool {
	return !anyBlock(h) && (h.GetFriends() || !h.GetGreeted())
}

// readLive reads one livestream.
func (v view) readLive(q *cellpb.ReadLive) (*cellpb.LiveRow, error) {
	row := &cellpb.LiveRow{User: q.User, Number: q.Number}
	live := new(cellpb.StoredLive)
	found, err := read(v.r, engine.LiveKey(proto.EntityID(q.User), q.Number), live)
	if found {
		row.Live = live
	}
	return row, err
}

// members tells who takes part in a thread with a user now.
func (v view) members(q *cellpb.ReadMembers) (*cellpb.Members, error) {
	thread, err := proto.ParseThreadID(q.Thread)
	switch {
	case err != nil:
		return nil, proto.Errorf(proto.CodeBadRequest, "%v", err)
	case !v.rng.Contains(thread.Owner()):
		return nil, proto.Errorf(proto.CodeBadRequest, "thread %s is not owned by range %s", thread, v.rng)
	case !thread.Direct() || !thread.Has(proto.EntityID(q.User)):
		return nil, proto.Errorf(proto.CodeNotMember, "you are not a member of thread %s", thread)
	}
	header := new(cellpb.ThreadHeader)
	if _, err := read(v.r, engine.HeaderKey(thread), header); err != nil {
		return nil, err
	}
	if !sharesLive(header) {
		return nil, proto.Errorf(proto.CodeNotFriends, "you are not friends any more in thread %s", thread)
	}
	return &cellpb.Members{Users: []uint64{uint64(thread.Low), uint64(thread.High)}}, nil
}
