package state

import (
	"slices"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// contacts pages through a user's contacts of some relations by id, or reads
// those that are named. A page ends early where it would not fit a frame.
func (v view) contacts(q *cellpb.ReadContacts, out *cellpb.ReadResult) error {
	user := proto.EntityID(q.User)
	log := new(cellpb.UpdateLog)
	found, err := read(v.r, engine.EntityKey(user, engine.TagUpdateLog), log)
	if err != nil {
		return err
	}
	if !found {
		return proto.Errorf(proto.CodeUnknownUser, "there is no user %s", user)
	}
	out.ContactCount = log.Contacts
	if len(q.Users) > 0 {
		return v.namedContacts(q, out)
	}
	span := engine.TableSpan(user, engine.TagContact)
	span.Start = engine.ContactKey(user, proto.EntityID(q.After))
	it, err := v.iter(span)
	if err != nil {
		return err
	}
	defer it.Close()
	limit, size := page(q.Limit), 0
	for ok := it.First(); ok; ok = it.Next() {
		peer := engine.LastNumber(it.Key())
		if peer <= q.After {
			continue
		}
		row := new(cellpb.Contact)
		if err := decode(it, row); err != nil {
			return err
		}
		if !slices.Contains(q.Relations, row.Relation) {
			continue
		}
		if len(out.Contacts) == limit || size >= proto.UpdatesBytesPerFrame {
			out.More = true
			break
		}
		contact := wireContact(peer, row)
		size += codec.Size(contact) + 8
		out.Contacts = append(out.Contacts, contact)
	}
	return it.Error()
}

func (v view) namedContacts(q *cellpb.ReadContacts, out *cellpb.ReadResult) error {
	for _, peer := range q.Users[:min(len(q.Users), proto.PageMax)] {
		row := new(cellpb.Contact)
		found, err := read(v.r, engine.ContactKey(proto.EntityID(q.User), proto.EntityID(peer)), row)
		if err != nil {
			return err
		}
		if found {
			out.Contacts = append(out.Contacts, wireContact(peer, row))
		}
	}
	return nil
}

// cards reads what viewer may see of users of this range. Who blocks him, and
// who does not exist, is left out.
func (v view) cards(q *cellpb.ReadCards) (*cellpb.Cards, error) {
	out := new(cellpb.Cards)
	for _, id := range q.Users[:min(len(q.Users), proto.PageMax)] {
		user := proto.EntityID(id)
		if !v.rng.Contains(user) {
			continue
		}
		contact := new(cellpb.Contact)
		if _, err := read(v.r, engine.ContactKey(user, proto.EntityID(q.Viewer)), contact); err != nil {
			return nil, err
		}
		if contact.Relation == clientpb.Relation_RELATION_BLOCKED {
			continue
		}
		p := new(cellpb.Profile)
		found, err := read(v.r, engine.EntityKey(user, engine.TagProfile), p)
		if err != nil {
			return nil, err
		}
		if found {
			out.Cards = append(out.Cards, cardOf(user, p))
		}
	}
	return out, nil
}
