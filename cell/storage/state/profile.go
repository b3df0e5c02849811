package state

import (
	"bytes"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// profileRowUsers bounds the friends that one row tells of a changed card.
const profileRowUsers = 1000

// card is what others see of a user of this range, and the count of its
// changes.
func (m *Machine) card(user proto.EntityID) (*clientpb.Card, uint64) {
	p := new(cellpb.Profile)
	m.get(engine.EntityKey(user, engine.TagProfile), p)
	return cardOf(user, p), p.Changed
}

func cardOf(user proto.EntityID, p *cellpb.Profile) *clientpb.Card {
	return &clientpb.Card{
		User: uint64(user), Name: p.Name, Nick: p.Nick, Description: p.Description, Sex: p.Sex, Avatar: p.Avatar,
	}
}

// setProfile changes what is given. Friends are told of another card, and the
// ranges that own threads of the user of another direct_from.
func (m *Machine) setProfile(c *cellpb.SetProfile, out *cellpb.Applied) *cellpb.Result {
	user := proto.EntityID(c.User)
	key := engine.EntityKey(user, engine.TagProfile)
	p := new(cellpb.Profile)
	if !m.rng.Contains(user) || !m.get(key, p) {
		return refusef(proto.CodeUnknownUser, "there is no user %s", user)
	}
	if err := proto.CheckProfile(c.Change.GetNick(), c.Change.GetDescription(), c.Change.GetSex()); err != nil {
		return refuse(err)
	}
	if _, known := clientpb.DirectFrom_name[int32(c.Change.GetDirectFrom())]; !known {
		return refusef(proto.CodeBadRequest, "direct_from is anyone or friends")
	}
	before := pb.CloneOf(p)
	applyProfile(p, c.Change)
	if pb.Equal(before, p) {
		return &cellpb.Result{Profile: p}
	}
	newCard := !pb.Equal(cardOf(user, before), cardOf(user, p))
	newDirect := before.DirectFrom != p.DirectFrom
	if newCard || newDirect {
		p.Changed++
	}
	m.put(key, p)
	u := m.user(user)
	u.directFrom, u.changed = p.DirectFrom, p.Changed
	if newDirect {
		for _, r := range m.directOwners(user) {
			m.tellDirectFrom(user, r, out)
		}
	}
	if newCard {
		m.tellFriends(user, cardOf(user, p), p.Changed, out)
	}
	return &cellpb.Result{Profile: p}
}

func applyProfile(p *cellpb.Profile, change *clientpb.SetProfile) {
	if change == nil {
		return
	}
	if change.Nick != nil {
		p.Nick = *change.Nick
	}
	if change.Description != nil {
		p.Description = *change.Description
	}
	if change.Sex != nil {
		p.Sex = *change.Sex
	}
	if change.DirectFrom != nil {
		p.DirectFrom = *change.DirectFrom
	}
	if change.Presence != nil {
		p.Hidden = !*change.Presence
	}
}

// tellFriends tells the user's friends of his card: those of this range
// directly, the others by rows to their ranges.
func (m *Machine) tellFriends(user proto.EntityID, card *clientpb.Card, changed uint64, out *cellpb.Applied) {
	var dest proto.RangeID
	var users []uint64
	send := func() {
		if len(users) > 0 {
			m.sendRow(dest, &cellpb.ChannelRow{Body: &cellpb.ChannelRow_Profile{
				Profile: &cellpb.ProfileRow{Users: users, Card: card, Changed: changed},
			}}, out)
		}
		users = nil
	}
	for _, friend := range m.friends(user) { // by id, so by range
		if m.rng.Contains(friend) {
			m.takeCard(friend, card, changed, out)
			continue
		}
		if friend.Range() != dest || len(users) == profileRowUsers {
			send()
		}
		dest, users = friend.Range(), append(users, uint64(friend))
	}
	send()
}

// takeCard stores a friend's card with a user of this range and tells his
// devices. It has no effect on who is no friend, or has a newer one.
func (m *Machine) takeCard(user proto.EntityID, card *clientpb.Card, changed uint64, out *cellpb.Applied) {
	key := engine.ContactKey(user, proto.EntityID(card.User))
	row := new(cellpb.Contact)
	if !m.rng.Contains(user) || !m.get(key, row) || row.Relation != clientpb.Relation_RELATION_FRIEND ||
		row.Card != nil && changed <= row.CardChanged {
		return
	}
	row.Card, row.CardChanged = card, changed
	m.put(key, row)
	m.logUpdate(user, &cellpb.StoredUpdate{Body: &cellpb.StoredUpdate_Profile{Profile: card}}, out)
}

// takeProfile takes a card from the range of its user.
func (m *Machine) takeProfile(source proto.RangeID, row *cellpb.ProfileRow, out *cellpb.Applied) {
	if !source.Contains(proto.EntityID(row.GetCard().GetUser())) {
		return
	}
	for _, user := range row.Users {
		m.takeCard(proto.EntityID(user), row.Card, row.Changed, out)
	}
}

// friends lists a user's friends by id, as the batch being built will leave
// them.
func (m *Machine) friends(user proto.EntityID) []proto.EntityID {
	span := engine.TableSpan(user, engine.TagContact)
	var out []proto.EntityID
	visit := func(key, value []byte) {
		row := new(cellpb.Contact)
		m.fail(codec.Unmarshal(value, row))
		if row.Relation == clientpb.Relation_RELATION_FRIEND {
			out = append(out, proto.EntityID(engine.LastNumber(key)))
		}
	}
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		m.fail(err)
		return nil
	}
	for ok := it.First(); ok; ok = it.Next() {
		if _, newer := m.dirty[string(it.Key())]; !newer {
			visit(it.Key(), it.Value())
		}
	}
	m.fail(it.Error())
	m.fail(it.Close())
	for key, value := range m.dirty {
		if value != nil && bytes.HasPrefix([]byte(key), span.Start) {
			visit([]byte(key), value)
		}
	}
	slices.Sort(out)
	return out
}

// directOwners lists the other ranges that own direct threads of a user.
func (m *Machine) directOwners(user proto.EntityID) []proto.RangeID {
	var out []proto.RangeID
	add := func(t proto.ThreadID) {
		if t.Has(user) && t.OwnerRange() != m.rng {
			out = append(out, t.OwnerRange())
		}
	}
	span := engine.TableSpan(user, engine.TagThread)
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		m.fail(err)
		return nil
	}
	for ok := it.First(); ok; ok = it.Next() {
		if t, ok := engine.ParseThreadKey(it.Key()); ok {
			add(t)
		}
	}
	m.fail(it.Error())
	m.fail(it.Close())
	// Rows of the batch being built are in the cache; what else it holds is
	// on disk too, so that its content makes no difference.
	for k, row := range m.joined {
		if k.user == user && row.LastSeq > 0 {
			add(k.thread)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// tellDirectFrom tells a range that owns threads of a user of this range who
// may write to him.
func (m *Machine) tellDirectFrom(user proto.EntityID, dest proto.RangeID, out *cellpb.Applied) {
	u := m.user(user)
	m.sendRow(dest, &cellpb.ChannelRow{Body: &cellpb.ChannelRow_DirectFrom{
		DirectFrom: &cellpb.DirectFromRow{User: uint64(user), DirectFrom: u.directFrom, Changed: u.changed},
	}}, out)
}

// takeDirectFrom takes who may write to a user from the user's range.
func (m *Machine) takeDirectFrom(source proto.RangeID, row *cellpb.DirectFromRow) {
	user := proto.EntityID(row.User)
	if !source.Contains(user) || row.Changed <= m.direct(user).Changed {
		return
	}
	m.put(engine.DirectFromKey(m.rng, user), row)
	m.directs[user] = row
}

// direct is what this range knows of who may write to a user of another one:
// by cache, else by one look-up. Changed is 0 where nothing is known.
func (m *Machine) direct(user proto.EntityID) *cellpb.DirectFromRow {
	if row := m.directs[user]; row != nil {
		return row
	}
	row := new(cellpb.DirectFromRow)
	m.get(engine.DirectFromKey(m.rng, user), row)
	m.directs[user] = row
	return row
}

// checkMayWrite refuses a message that the other side does not take.
func (m *Machine) checkMayWrite(thread proto.ThreadID, from proto.EntityID, c *cellpb.AppendMessage) *cellpb.Result {
	if !thread.Direct() {
		return nil
	}
	peer, name := thread.Peer(from), nameOr(c.ToName, thread.Peer(from))
	h := m.thread(thread).header
	me, other := h.GetLow(), h.GetHigh()
	if from == thread.High {
		me, other = other, me
	}
	switch {
	case other.GetBlocks():
		return refusef(proto.CodeBlocked, "%s does not take messages from you", name)
	case me.GetBlocks():
		return refusef(proto.CodeBlocked, "you have blocked %s: unblock to write", name)
	case h.GetFriends():
		return nil
	case c.FriendsOnly:
		return refusef(proto.CodeNotFriends, "only friends may write to each other here: ask %s to be friends first", name)
	}
	direct := c.ToDirectFrom
	if m.rng.Contains(peer) {
		direct = m.user(peer).directFrom
	} else if known := m.direct(peer); known.Changed > 0 && known.Changed >= c.ToDirectChanged {
		direct = known.DirectFrom
	}
	if direct == clientpb.DirectFrom_DIRECT_FROM_FRIENDS {
		return refusef(proto.CodeNotFriends, "%s takes messages from friends only: ask to be friends first", name)
	}
	return nil
}

// noteSent remembers a client id for as long as it could come again.
func (m *Machine) noteSent(thread proto.ThreadID, from proto.EntityID, id proto.ClientMsgID, row *cellpb.SentRow) {
	owner := thread.Owner()
	if greatest := m.greatestSent(owner); bytes.Compare(id[:], greatest[:]) > 0 {
		*greatest = id
	}
	m.put(engine.SentKey(owner, id, from), row)
}
