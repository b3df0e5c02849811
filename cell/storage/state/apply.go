package state

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// applyEntry judges the fences and then each command.
func (m *Machine) applyEntry(term uint64, entry *cellpb.Entry) *cellpb.Applied {
	out := &cellpb.Applied{Results: make([]*cellpb.Result, 0, len(entry.Commands))}
	if entry.TimeMs > m.state.TimeMs {
		m.state.TimeMs = entry.TimeMs // the range's clock never goes back
	}
	refusal := m.fence(term, entry)
	for _, c := range entry.Commands {
		if refusal == nil {
			out.Results = append(out.Results, m.applyCommand(term, entry, c, out))
			continue
		}
		out.Results = append(out.Results, refuse(refusal))
	}
	return out
}

// fence checks range, epoch and grant. Whoever was asleep while the range
// changed hands fails here, however late he wakes.
func (m *Machine) fence(term uint64, entry *cellpb.Entry) *proto.Error {
	switch {
	case proto.RangeID(entry.Range) != m.rng:
		return proto.Errorf(proto.CodeBadRequest, "entry of range %d in the log of range %s", entry.Range, m.rng)
	case entry.Epoch != m.newDesc.Epoch:
		return proto.Errorf(proto.CodeStaleEpoch, "range %s is at epoch %d, not %d", m.rng, m.newDesc.Epoch, entry.Epoch)
	case entry.Grant == nil:
		return nil // each command says whether the leader may propose it
	case entry.Grant.Term != term || entry.Grant.Term != m.state.GrantTerm || entry.Grant.Number != m.state.GrantNumber:
		return proto.Errorf(proto.CodeStaleGrant, "range %s is granted as %d.%d, not %d.%d", m.rng,
			m.state.GrantTerm, m.state.GrantNumber, entry.Grant.Term, entry.Grant.Number)
	}
	return nil
}

func refuse(err *proto.Error) *cellpb.Result {
	return &cellpb.Result{Code: uint32(err.Code), Message: err.Message, RetryMs: err.RetryMillis()}
}

func refusef(code proto.Code, format string, args ...any) *cellpb.Result {
	return refuse(proto.Errorf(code, format, args...))
}

func (m *Machine) applyCommand(term uint64, entry *cellpb.Entry, c *cellpb.Command, out *cellpb.Applied) *cellpb.Result {
	byLeader := entry.Grant == nil
	switch body := c.Body.(type) {
	case *cellpb.Command_GrantHost:
		if !byLeader {
			return refusef(proto.CodeForbidden, "only the leader grants")
		}
		m.state.GrantTerm, m.state.GrantNumber, m.state.GrantNode = term, body.GrantHost.Number, body.GrantHost.Node
		return &cellpb.Result{}
	case *cellpb.Command_ChangeReplicas:
		if !byLeader {
			return refusef(proto.CodeForbidden, "only the leader changes replicas")
		}
		return m.changeReplicas(body.ChangeReplicas)
	case *cellpb.Command_RecoverRange:
		if !byLeader {
			return refusef(proto.CodeForbidden, "only the leader recovers a range")
		}
		return m.recoverRange(body.RecoverRange)
	case *cellpb.Command_SetRules:
		if !byLeader {
			return refusef(proto.CodeForbidden, "only the leader sets the rules version")
		}
		return m.setRules(body.SetRules)
	}
	if byLeader {
		return refusef(proto.CodeStaleGrant, "range %s: this command needs a grant", m.rng)
	}
	switch body := c.Body.(type) {
	case *cellpb.Command_AppendMessage:
		return m.appendMessage(body.AppendMessage, out)
	case *cellpb.Command_TakeChannelRows:
		return m.takeChannelRows(body.TakeChannelRows, out)
	case *cellpb.Command_TrimChannel:
		return m.trimChannel(body.TrimChannel)
	case *cellpb.Command_CreateUser:
		return m.createUser(body.CreateUser)
	case *cellpb.Command_LoginDevice:
		return m.loginDevice(body.LoginDevice)
	case *cellpb.Command_LogoutDevice:
		return m.logoutDevice(body.LogoutDevice)
	case *cellpb.Command_RaiseAuthority:
		return m.raiseAuthority(body.RaiseAuthority)
	case *cellpb.Command_RefreshDevice:
		return m.refreshDevice(body.RefreshDevice)
	case *cellpb.Command_ConfirmUpdates:
		return m.confirmUpdates(body.ConfirmUpdates, out)
	case *cellpb.Command_MarkThread:
		return m.markThread(body.MarkThread, out)
	case *cellpb.Command_ChangeContact:
		return m.changeContact(body.ChangeContact, out)
	case *cellpb.Command_EditContact:
		return m.editContact(body.EditContact, out)
	case *cellpb.Command_SetProfile:
		return m.setProfile(body.SetProfile, out)
	case *cellpb.Command_SetAvatar:
		return m.setAvatar(body.SetAvatar, out)
	}
	if result := m.fileCommand(c); result != nil {
		return result
	}
	if result := m.liveCommand(c, out); result != nil {
		return result
	}
	return refusef(proto.CodeUnsupported, "range %s: a command these rules do not know", m.rng)
}

// appendMessage stores a message of a thread this range owns.
func (m *Machine) appendMessage(c *cellpb.AppendMessage, out *cellpb.Applied) *cellpb.Result {
	thread, err := proto.ParseThreadID(c.Thread)
	if err != nil {
		return refusef(proto.CodeBadRequest, "%v", err)
	}
	owner, from := thread.Owner(), proto.EntityID(c.From)
	if !m.rng.Contains(owner) {
		return refusef(proto.CodeBadRequest, "thread %s is owned by range %s, not %s", thread, owner.Range(), m.rng)
	}
	if !thread.Has(from) {
		return refusef(proto.CodeNotMember, "you are not a member of thread %s", thread)
	}
	id, err := proto.ClientMsgIDFromBytes(c.ClientMsgId)
	if err != nil {
		return refusef(proto.CodeBadRequest, "%v", err)
	}
	if again := m.sentBefore(thread, from, id); again != nil {
		return again
	}
	if refusal := m.checkSend(thread, from, id, c); refusal != nil {
		return refusal
	}
	event := &cellpb.StoredEvent{
		From: c.From, ClientMsgId: c.ClientMsgId, FromName: c.FromName,
	}
	setBody(event, c)
	seq := m.storeMessage(thread, event, c.ToName, out)
	m.forgetOldSends(owner)
	return &cellpb.Result{Seq: uint64(seq), TimeMs: event.TimeMs}
}

// storeMessage makes event the next of a thread this range owns, sets its time
// and its count, and tells both sides. toName is the other side's user name,
// where it is known.
func (m *Machine) storeMessage(thread proto.ThreadID, event *cellpb.StoredEvent, toName string, out *cellpb.Applied) proto.Seq {
	t := m.thread(thread)
	if !t.exists {
		m.putHeader(thread, t)
	}
	t.seq++
	if !byItself(event) {
		t.messages++
	}
	event.TimeMs, event.Messages = m.state.TimeMs, t.messages
	m.appendRow(engine.EventKey(thread, t.seq), event)
	name, from := thread.String(), proto.EntityID(event.From)
	m.noteSent(thread, from, proto.ClientMsgID(event.ClientMsgId), &cellpb.SentRow{Seq: uint64(t.seq), Thread: name, TimeMs: event.TimeMs})
	peer := thread.Peer(from)
	m.tell(messageTold{thread: thread, name: name, seq: t.seq, event: event, to: peer, peerName: event.FromName}, out)
	m.tell(messageTold{thread: thread, name: name, seq: t.seq, event: event, to: from, peerName: toName, own: true}, out)
	return t.seq
}

// putHeader writes a thread's header, making the thread if there is none yet.
func (m *Machine) putHeader(thread proto.ThreadID, t *threadCounters) {
	if !t.exists {
		t.exists = true
		t.header.Incarnation, t.header.CreatedMs = m.meta.Incarnation, m.state.TimeMs
	}
	m.put(engine.HeaderKey(thread), t.header)
}

// sentBefore gives the answer of the first time if id was stored.
func (m *Machine) sentBefore(thread proto.ThreadID, from proto.EntityID, id proto.ClientMsgID) *cellpb.Result {
	// Ids grow with time, so a new one is nearly always above all that are
	// stored, and then there is nothing to look up: the look-up was 15 % of a
	// busy node's time.
	if bytes.Compare(id[:], m.greatestSent(thread.Owner())[:]) > 0 {
		return nil
	}
	row := new(cellpb.SentRow)
	if !m.get(engine.SentKey(thread.Owner(), id, from), row) {
		return nil
	}
	if row.Thread != thread.String() || row.Seq == 0 {
		return refusef(proto.CodeBadRequest, "client_msg_id %s was used before in thread %s", id, row.Thread)
	}
	return &cellpb.Result{Seq: row.Seq, TimeMs: row.TimeMs, Repeated: true}
}

// greatestSent is the greatest client message id stored under an owner, in
// any of his threads: by cache, else by one seek. Zero if there is none.
func (m *Machine) greatestSent(owner proto.EntityID) *proto.ClientMsgID {
	if id := m.sent[owner]; id != nil {
		return id
	}
	id := new(proto.ClientMsgID)
	span := engine.TableSpan(owner, engine.TagSent)
	m.lastKey(span, func(key, _ []byte) { copy(id[:], key[len(span.Start):]) })
	m.sent[owner] = id
	return id
}

// checkSend is everything that refuses a new message.
func (m *Machine) checkSend(thread proto.ThreadID, from proto.EntityID, id proto.ClientMsgID, c *cellpb.AppendMessage) *cellpb.Result {
	if refusal := m.checkAge(id); refusal != nil {
		return refusal
	}
	if c.Live != nil && !m.by(rulesLivestreams) {
		return refusef(proto.CodeBadRequest, "a message that rules %d do not know", m.state.Rules)
	}
	if refusal := checkBody(c); refusal != nil {
		return refusal
	}
	if refusal := m.checkSides(thread); refusal != nil {
		return refusal
	}
	if refusal := m.checkMayWrite(thread, from, c); refusal != nil {
		return refusal
	}
	return m.checkAfter(thread, from, time.UnixMilli(m.state.TimeMs), c)
}

// checkAge refuses a client id outside the time in which ids are remembered.
func (m *Machine) checkAge(id proto.ClientMsgID) *cellpb.Result {
	now := time.UnixMilli(m.state.TimeMs)
	if at := id.Time(); at.Before(now.Add(-proto.ClientMsgIDPast)) || at.After(now.Add(proto.ClientMsgIDFuture)) {
		return refusef(proto.CodeMessageTooOld, "client_msg_id is of %s, the server's time is %s: take a new id",
			at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkAfter refuses a send whose predecessor on the same device is not known
// yet, so that a lost batch cannot reorder.
func (m *Machine) checkAfter(thread proto.ThreadID, from proto.EntityID, now time.Time, c *cellpb.AppendMessage) *cellpb.Result {
	if len(c.After) == 0 {
		return nil
	}
	after, err := proto.ClientMsgIDFromBytes(c.After)
	if err != nil {
		return refusef(proto.CodeBadRequest, "after: %v", err)
	}
	if after.Time().Before(now.Add(-proto.ClientMsgIDPast)) {
		return nil // forgotten by now, whatever became of it
	}
	row := new(cellpb.SentRow)
	if !m.get(engine.SentKey(thread.Owner(), after, from), row) || row.Thread != c.Thread {
		return refusef(proto.CodeAfterUnknown, "the previous message %s has not arrived yet", after)
	}
	return nil
}

// forgetOldSends drops client message ids too old to be accepted again, once
// per owner and hour. What it deletes depends on stored values only: what the
// store happens to hold just now differs between replicas.
func (m *Machine) forgetOldSends(owner proto.EntityID) {
	cutoff := time.UnixMilli(m.state.TimeMs).Add(-proto.ClientMsgIDPast - time.Hour)
	hour := cutoff.Unix() / 3600
	u := m.user(owner)
	if hour <= 0 || uint64(hour) <= u.log.ForgottenHour {
		return
	}
	u.log.ForgottenHour = uint64(hour)
	m.put(engine.EntityKey(owner, engine.TagUpdateLog), u.log)
	var end [8]byte
	binary.BigEndian.PutUint64(end[:], uint64(hour)*3_600_000<<16)
	span := engine.TableSpan(owner, engine.TagSent)
	m.removeRange(engine.Span{Start: span.Start, End: append(bytes.Clone(span.Start), end[:6]...)})
}

type messageTold struct {
	thread   proto.ThreadID
	name     string
	seq      proto.Seq
	event    *cellpb.StoredEvent
	to       proto.EntityID
	peerName string
	own      bool // to has sent it
}

// tell logs a message for a member of this range, or puts a row on the
// channel to the range of one elsewhere.
func (m *Machine) tell(msg messageTold, out *cellpb.Applied) {
	row := &cellpb.MessageRow{
		Thread: msg.name, Seq: uint64(msg.seq), User: uint64(msg.to), Messages: msg.event.Messages,
		TimeMs: msg.event.TimeMs, Own: msg.own, PeerName: msg.peerName, ByItself: byItself(msg.event),
	}
	if msg.own {
		row.File = carriedFile(msg.to, msg.event)
	}
	if m.rng.Contains(msg.to) {
		m.logMessage(msg.thread, row, msg.event, out)
		return
	}
	dest := msg.to.Range()
	ch := m.channel(dest)
	ch.last++
	stored := &cellpb.ChannelRow{Dest: uint64(dest), Number: ch.last, Body: &cellpb.ChannelRow_Message{Message: row}}
	m.appendRow(engine.ChannelOutKey(m.rng, dest, ch.last), stored)
	stored.Event = msg.event
	out.ChannelRows = append(out.ChannelRows, stored)
}

// logMessage writes a message's update and thread row for a user of this
// range.
func (m *Machine) logMessage(thread proto.ThreadID, row *cellpb.MessageRow, event *cellpb.StoredEvent, out *cellpb.Applied) {
	user := proto.EntityID(row.User)
	u := m.user(user)
	if !u.exists {
		return
	}
	m.logUpdate(user, &cellpb.StoredUpdate{Thread: row.Thread, Seq: row.Seq, Own: row.Own}, out).Event = event
	if row.File != 0 {
		m.referToFile(user, row.File, thread, proto.Seq(row.Seq))
	}
	j := m.joinedThread(user, thread)
	if !row.Own && thread.Direct() {
		m.keepTail(u, thread, row.Seq)
		if !row.ByItself {
			// Whoever writes has read, and so has got it.
			j.PeerRead, j.PeerDelivered = max(j.PeerRead, row.Seq), max(j.PeerDelivered, row.Seq)
		}
	}
	if row.Seq > j.LastSeq {
		j.LastSeq, j.LastTimeMs, j.Messages = row.Seq, row.TimeMs, row.Messages
	}
	if row.PeerName != "" {
		j.PeerName = row.PeerName
	}
	if row.Own && !row.ByItself && row.Seq > j.ReadSeq { // whoever writes has read
		j.ReadSeq, j.ReadMessages = row.Seq, row.Messages
		j.DeliveredSeq = max(j.DeliveredSeq, row.Seq)
	}
	m.appendRow(engine.ThreadKey(user, thread), j)
}
