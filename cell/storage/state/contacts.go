package state

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// changeContact decides what two people are to each other from now on. Their
// direct thread's header is the truth; the contact rows of the two are copies.
func (m *Machine) changeContact(c *cellpb.ChangeContact, out *cellpb.Applied) *cellpb.Result {
	thread, from, id, refusal := m.contactTarget(c)
	if refusal != nil {
		return refusal
	}
	t := m.thread(thread)
	b := newBond(t.header, c, thread)
	before, beforeTheirs := b.views()
	if m.sentBefore(thread, from, id) != nil {
		row := new(cellpb.SentRow)
		if m.get(engine.SentKey(thread.Owner(), id, from), row); row.Seq != 0 || row.Thread != c.Thread {
			return refusef(proto.CodeBadRequest, "client id %s was used for something else", id)
		}
		return &cellpb.Result{Contact: m.withNotes(from, before), TimeMs: row.TimeMs, Repeated: true}
	}
	if refusal := m.checkAge(id); refusal != nil {
		return refusal
	}
	done, err := b.act(c, m.state.TimeMs)
	if err != nil {
		return refuse(err)
	}
	mine, theirs := b.views()
	if refusal := m.checkContacts(c, b, mine, theirs); refusal != nil {
		return refusal
	}
	t.header = b.header
	m.putHeader(thread, t)
	m.noteSent(thread, from, id, &cellpb.SentRow{Thread: c.Thread, TimeMs: m.state.TimeMs})
	m.forgetOldSends(thread.Owner())

	names := c.Alias != "" || len(c.Tags) > 0
	given := names && mine.Relation == clientpb.Relation_RELATION_REQUEST_SENT
	if given || !pb.Equal(before, mine) {
		mine.Alias, mine.Tags = c.Alias, c.Tags
		m.tellContact(&cellpb.ContactRow{User: c.From, Names: names, Update: &cellpb.ContactUpdate{Action: done.mine, By: c.From, Contact: mine}}, out)
	}
	if !pb.Equal(beforeTheirs, theirs) {
		quiet := theirs.Relation == beforeTheirs.Relation && theirs.Relation == clientpb.Relation_RELATION_REQUEST_IGNORED
		m.tellContact(&cellpb.ContactRow{User: uint64(b.toID), Quiet: quiet, Update: &cellpb.ContactUpdate{Action: done.theirs, By: c.From, Contact: theirs}}, out)
	}
	for i, h := range done.hellos {
		id := m.helloID(thread, i)
		m.storeMessage(thread, &cellpb.StoredEvent{
			From: uint64(h.from), ClientMsgId: id[:], FromName: h.fromName,
			Body: &cellpb.StoredEvent_Text{Text: &cellpb.TextBody{Text: h.text}},
		}, h.toName, out)
	}
	return &cellpb.Result{Contact: m.withNotes(from, mine), TimeMs: m.state.TimeMs}
}

// contactTarget reads and checks a command's fields, whatever the state.
func (m *Machine) contactTarget(c *cellpb.ChangeContact) (thread proto.ThreadID, from proto.EntityID, id proto.ClientMsgID, refusal *cellpb.Result) {
	bad := func(code proto.Code, format string, args ...any) (proto.ThreadID, proto.EntityID, proto.ClientMsgID, *cellpb.Result) {
		return thread, from, id, refusef(code, format, args...)
	}
	thread, err := proto.ParseThreadID(c.Thread)
	if err != nil {
		return bad(proto.CodeBadRequest, "%v", err)
	}
	from = proto.EntityID(c.From)
	if !m.rng.Contains(thread.Owner()) {
		return bad(proto.CodeBadRequest, "thread %s is owned by range %s, not %s", thread, thread.OwnerRange(), m.rng)
	}
	if !thread.Has(from) {
		return bad(proto.CodeNotMember, "you are not a member of thread %s", thread)
	}
	if id, err = proto.ClientMsgIDFromBytes(c.ClientId); err != nil {
		return bad(proto.CodeBadRequest, "%v", err)
	}
	if err := proto.CheckText("greeting", c.Greeting, proto.GreetingBytesMax); err != nil {
		return thread, from, id, refuse(err)
	}
	if err := proto.CheckNotes(c.Alias, c.Tags); err != nil {
		return thread, from, id, refuse(err)
	}
	return thread, from, id, m.checkSides(thread)
}

// checkSides refuses what a user who does not exist, or a channel that has
// been stuck for long, cannot take.
func (m *Machine) checkSides(thread proto.ThreadID) *cellpb.Result {
	for _, user := range []proto.EntityID{thread.Low, thread.High} {
		if m.rng.Contains(user) {
			if !m.user(user).exists {
				return refusef(proto.CodeUnknownUser, "there is no user %s", user)
			}
			continue
		}
		if ch := m.channel(user.Range()); ch.last-ch.trimmed >= proto.ChannelRowsMax {
			return refusef(proto.CodeOverloaded, "range %s has not been reachable for long: try again later", user.Range())
		}
	}
	return nil
}

// checkContacts holds [proto.ContactsMax], for the users of this range. The
// rows of the other one are counted in his own range: where he acts, his host
// has looked there before proposing, so that some changes under way at once
// may take him past the limit by as many; where he is asked from elsewhere his
// rows may come to more than the limit.
func (m *Machine) checkContacts(c *cellpb.ChangeContact, b *bond, mine, theirs *clientpb.Contact) *cellpb.Result {
	full := func(user, peer proto.EntityID, then *clientpb.Contact) bool {
		return then.Relation != clientpb.Relation_RELATION_NONE && m.rng.Contains(user) &&
			m.user(user).log.Contacts >= proto.ContactsMax && !m.get(engine.ContactKey(user, peer), new(cellpb.Contact))
	}
	if full(b.meID, b.toID, mine) {
		return refuse(proto.TooManyContacts())
	}
	if full(b.toID, b.meID, theirs) {
		return refusef(proto.CodeTooMany, "%s has too many contacts to take a request", nameOr(c.ToName, b.toID))
	}
	return nil
}

// helloID is the client message id of a hello message: the same on every
// replica, of the range's time, and never given twice, because a thread is
// greeted once.
func (m *Machine) helloID(thread proto.ThreadID, n int) proto.ClientMsgID {
	var id proto.ClientMsgID
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(m.state.TimeMs)<<16)
	copy(id[:6], ms[:6])
	id[6], id[7] = 0x70, byte(n)
	sum := xxh3.HashStringSeed(thread.String(), xxh3.Hash(m.meta.Incarnation))
	binary.BigEndian.PutUint64(id[8:], sum&^(3<<62)|1<<63)
	return id
}

// tellContact writes a contact row and its update for a user of this range, or
// puts a row on the channel to the range of one elsewhere.
func (m *Machine) tellContact(row *cellpb.ContactRow, out *cellpb.Applied) {
	user, peer := proto.EntityID(row.User), proto.EntityID(row.Update.Contact.User)
	if row.Update.Contact.Relation == clientpb.Relation_RELATION_FRIEND && m.rng.Contains(peer) {
		row.Update.Contact.Card, row.CardChanged = m.card(peer)
	}
	if m.rng.Contains(user) {
		m.logContact(row, out)
		return
	}
	m.sendRow(user.Range(), &cellpb.ChannelRow{Body: &cellpb.ChannelRow_Contact{Contact: row}}, out)
}

// sendRow appends a row to the channel to dest.
func (m *Machine) sendRow(dest proto.RangeID, row *cellpb.ChannelRow, out *cellpb.Applied) {
	ch := m.channel(dest)
	ch.last++
	row.Dest, row.Number = uint64(dest), ch.last
	m.appendRow(engine.ChannelOutKey(m.rng, dest, ch.last), row)
	out.ChannelRows = append(out.ChannelRows, row)
}

// takeContact takes a contact row from the range that owns the direct thread.
// Who has just become a friend there gets the user's card in return.
func (m *Machine) takeContact(source proto.RangeID, row *cellpb.ContactRow, out *cellpb.Applied) {
	user, peer := proto.EntityID(row.User), proto.EntityID(row.GetUpdate().GetContact().GetUser())
	if peer == 0 || peer == user || !m.rng.Contains(user) || !m.user(user).exists || proto.DirectThread(user, peer).OwnerRange() != source {
		return
	}
	if m.logContact(row, out) {
		card, changed := m.card(user)
		m.sendRow(source, &cellpb.ChannelRow{Body: &cellpb.ChannelRow_Profile{
			Profile: &cellpb.ProfileRow{Users: []uint64{uint64(peer)}, Card: card, Changed: changed},
		}}, out)
	}
}

// logContact stores what became of a contact of a user of this range and tells
// his devices. It returns whether the two have just become friends.
func (m *Machine) logContact(row *cellpb.ContactRow, out *cellpb.Applied) (befriended bool) {
	user, told := proto.EntityID(row.User), row.Update.Contact
	u := m.user(user)
	key := engine.ContactKey(user, proto.EntityID(told.User))
	have := new(cellpb.Contact)
	found := m.get(key, have)
	next := &cellpb.Contact{Relation: told.Relation, Name: told.Name, Greeting: told.Greeting, TimeMs: told.TimeMs, Alias: have.Alias, Tags: have.Tags}
	if next.Name == "" {
		next.Name = have.Name
	}
	if row.Names {
		next.Alias, next.Tags = told.Alias, told.Tags
	}
	if next.Relation == clientpb.Relation_RELATION_FRIEND {
		befriended = have.Relation != next.Relation
		next.Card, next.CardChanged = have.Card, have.CardChanged
		if told.Card != nil && (have.Card == nil || row.CardChanged > have.CardChanged) {
			next.Card, next.CardChanged = told.Card, row.CardChanged
		}
	}
	switch gone := next.Relation == clientpb.Relation_RELATION_NONE; {
	case gone && found:
		m.remove(key)
		u.log.Contacts--
		m.put(engine.EntityKey(user, engine.TagUpdateLog), u.log)
	case gone:
	default:
		m.put(key, next)
		if !found {
			u.log.Contacts++
			m.put(engine.EntityKey(user, engine.TagUpdateLog), u.log)
		}
	}
	if !row.Quiet {
		m.logUpdate(user, &cellpb.StoredUpdate{Body: &cellpb.StoredUpdate_Contact{Contact: &cellpb.ContactUpdate{
			Action: row.Update.Action, By: row.Update.By, Contact: wireContact(told.User, next),
		}}}, out)
	}
	return befriended
}

// logUpdate writes the next update of a user of this range.
func (m *Machine) logUpdate(user proto.EntityID, update *cellpb.StoredUpdate, out *cellpb.Applied) *cellpb.LoggedUpdate {
	u := m.user(user)
	u.pts++
	m.appendRow(engine.UpdateKey(user, u.pts), update)
	logged := &cellpb.LoggedUpdate{User: uint64(user), Pts: uint64(u.pts), Update: update}
	out.Updates = append(out.Updates, logged)
	return logged
}

// wireContact is a contact row as clients see it.
func wireContact(peer uint64, row *cellpb.Contact) *clientpb.Contact {
	return &clientpb.Contact{
		User: peer, Name: row.Name, Relation: row.Relation, Alias: row.Alias, Tags: row.Tags,
		Greeting: row.Greeting, TimeMs: row.TimeMs, Card: row.Card,
	}
}

// withNotes adds to what the header says of a contact what the user's own row
// says. The host of a user of another range does it there.
func (m *Machine) withNotes(user proto.EntityID, c *clientpb.Contact) *clientpb.Contact {
	row := new(cellpb.Contact)
	if !m.rng.Contains(user) || !m.get(engine.ContactKey(user, proto.EntityID(c.User)), row) {
		return c
	}
	return wireContact(c.User, row)
}

// editContact sets what a user notes of a contact himself.
func (m *Machine) editContact(c *cellpb.EditContact, out *cellpb.Applied) *cellpb.Result {
	user, peer := proto.EntityID(c.User), proto.EntityID(c.Contact)
	if !m.rng.Contains(user) || !m.user(user).exists {
		return refusef(proto.CodeUnknownUser, "there is no user %s", user)
	}
	if err := proto.CheckNotes(c.Alias, c.Tags); err != nil {
		return refuse(err)
	}
	key := engine.ContactKey(user, peer)
	row := new(cellpb.Contact)
	if !m.get(key, row) {
		return refusef(proto.CodeUnknownUser, "user %s is not among your contacts", peer)
	}
	before := pb.CloneOf(row)
	row.Alias, row.Tags = c.Alias, c.Tags
	contact := wireContact(c.Contact, row)
	if !pb.Equal(before, row) {
		m.put(key, row)
		m.logUpdate(user, &cellpb.StoredUpdate{Body: &cellpb.StoredUpdate_Contact{
			Contact: &cellpb.ContactUpdate{By: c.User, Contact: contact},
		}}, out)
	}
	return &cellpb.Result{Contact: contact}
}
