package chat

import (
	"slices"
	"strconv"

	"golang.org/x/time/rate"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// asksPerSecond and asksBurst limit how often each user may look people up,
// change contacts and his profile: nobody does so by hand more often, and who
// lists all names has to take his time.
const (
	asksPerSecond = 5
	asksBurst     = 20
)

// takeAsk applies the limit on what is not a message.
func (ses *session) takeAsk() *proto.Error {
	u := ses.user
	if u.asks == nil {
		u.asks = rate.NewLimiter(asksPerSecond, asksBurst)
	}
	r := u.asks.Reserve()
	wait := r.Delay()
	if wait == 0 {
		return nil
	}
	r.Cancel()
	err := proto.Errorf(proto.CodeRateLimited, "too many searches and changes: at most %d per second", asksPerSecond)
	err.Retry = wait
	return err
}

// resultError is the error of a command's result, nil if it was done.
func resultError(r *cellpb.Result, err *proto.Error) *proto.Error {
	if err == nil && r.Code != 0 {
		return proto.AsError(proto.FromWire(r.Code, r.Message, r.RetryMs))
	}
	return err
}

func (ses *session) answerContact(id uint64, c *clientpb.Contact) {
	ses.answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_ContactChanged{
		ContactChanged: &clientpb.ContactChanged{Contact: c},
	}}))
}

// changeContact checks a change and hands it to the range that owns the direct
// thread of the two.
func (ses *session) changeContact(id uint64, q *clientpb.ChangeContact) {
	err := ses.checkChange(q)
	if err == nil {
		err = ses.takeAsk()
	}
	if err != nil {
		ses.fail(id, err)
		return
	}
	h, peer := ses.host, proto.EntityID(q.User)
	h.ownContacts(ses.user.id, []uint64{q.User}, func(r *cellpb.ReadResult, err *proto.Error) {
		if err != nil {
			ses.fail(id, err)
			return
		}
		if len(r.Contacts) == 1 {
			ses.proposeChange(id, q, r.Contacts[0], r.Contacts[0].Name)
			return
		}
		// The owner cannot count the rows of a user of another range.
		adds := q.Action != clientpb.ContactAction_CONTACT_ACTION_REMOVE && q.Action != clientpb.ContactAction_CONTACT_ACTION_UNBLOCK
		if adds && r.ContactCount >= proto.ContactsMax {
			ses.fail(id, proto.TooManyContacts())
			return
		}
		h.resolvePeer(ses.user.id, proto.DirectThread(ses.user.id, peer), func(found peerFound) {
			if found.err != nil {
				ses.fail(id, found.err)
				return
			}
			ses.proposeChange(id, q, nil, found.name)
		})
	})
}

func (ses *session) checkChange(q *clientpb.ChangeContact) *proto.Error {
	switch peer := proto.EntityID(q.User); {
	case peer == 0:
		return proto.Errorf(proto.CodeBadRequest, "no user is named")
	case peer == ses.user.id:
		return proto.Errorf(proto.CodeBadRequest, "that is you: name another user")
	}
	if _, known := clientpb.ContactAction_name[int32(q.Action)]; !known || q.Action == clientpb.ContactAction_CONTACT_ACTION_NONE {
		return proto.Errorf(proto.CodeBadRequest, "there is no such action on a contact: %d", q.Action)
	}
	if _, err := proto.ClientMsgIDFromBytes(q.ClientId); err != nil {
		return proto.Errorf(proto.CodeBadRequest, "%v", err)
	}
	if err := proto.CheckText("greeting", q.Greeting, proto.GreetingBytesMax); err != nil {
		return err
	}
	return proto.CheckNotes(q.Alias, q.Tags)
}

// proposeChange brings a change to the owner of the thread. have is the user's
// row so far, nil if there is none.
func (ses *session) proposeChange(id uint64, q *clientpb.ChangeContact, have *clientpb.Contact, name string) {
	h, thread := ses.host, proto.DirectThread(ses.user.id, proto.EntityID(q.User))
	c := &cellpb.ChangeContact{
		Thread: thread.String(), From: uint64(ses.user.id), Action: q.Action, ClientId: q.ClientId,
		Greeting: q.Greeting, Alias: q.Alias, Tags: q.Tags, FromName: ses.user.name, ToName: name,
	}
	done := func(r *cellpb.Result, err *proto.Error) {
		if err = resultError(r, err); err != nil {
			ses.fail(id, err)
			return
		}
		ses.answerContact(id, r.Contact)
	}
	if owner := thread.OwnerRange(); owner != h.rng {
		h.relay(owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ChangeContact{ChangeContact: c}}, func(reply *cellpb.RelayReply, err *proto.Error) {
			r := reply.GetResult()
			if r.GetContact() != nil {
				addNotes(r.Contact, have)
			}
			done(r, err)
		})
		return
	}
	h.proposeContact(c, done)
}

// addNotes adds what only the user's own range knows of a contact.
func addNotes(c, have *clientpb.Contact) {
	if c.Relation == clientpb.Relation_RELATION_NONE || have == nil {
		return
	}
	if c.Alias == "" && len(c.Tags) == 0 {
		c.Alias, c.Tags = have.Alias, have.Tags
	}
	if c.Relation == clientpb.Relation_RELATION_FRIEND && c.Card == nil {
		c.Card = have.Card
	}
}

func (h *host) proposeContact(c *cellpb.ChangeContact, done func(*cellpb.Result, *proto.Error)) {
	h.propose(&cellpb.Command{Body: &cellpb.Command_ChangeContact{ChangeContact: c}}, 40+codec.Size(c), done)
}

// ownContacts reads those of a user's contacts that are named, and how many he
// has.
func (h *host) ownContacts(user proto.EntityID, named []uint64, done func(*cellpb.ReadResult, *proto.Error)) {
	q := &cellpb.ReadContacts{User: uint64(user), Users: named}
	h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Contacts{Contacts: q}}, done)
}

// editContact sets what the user notes of a contact.
func (ses *session) editContact(id uint64, q *clientpb.EditContact) {
	err := proto.CheckNotes(q.Alias, q.Tags)
	if err == nil {
		err = ses.takeAsk()
	}
	if err != nil {
		ses.fail(id, err)
		return
	}
	c := &cellpb.EditContact{User: uint64(ses.user.id), Contact: q.User, Alias: q.Alias, Tags: q.Tags}
	ses.host.propose(&cellpb.Command{Body: &cellpb.Command_EditContact{EditContact: c}}, 40+codec.Size(c), func(r *cellpb.Result, err *proto.Error) {
		if err = resultError(r, err); err != nil {
			ses.fail(id, err)
			return
		}
		ses.answerContact(id, r.Contact)
	})
}

// listContacts pages through the user's contacts; the cursor is the id of the
// last one given.
func (ses *session) listContacts(id uint64, q *clientpb.ListContacts) {
	after := uint64(0)
	if q.Cursor != "" {
		var err error
		if after, err = strconv.ParseUint(q.Cursor, 10, 64); err != nil {
			ses.fail(id, proto.Errorf(proto.CodeBadRequest, "the cursor is not one of ours"))
			return
		}
	}
	if len(q.Relations) == 0 || slices.Contains(q.Relations, clientpb.Relation_RELATION_NONE) {
		ses.fail(id, proto.Errorf(proto.CodeBadRequest, "name the relations to list: friends, requests, blocked"))
		return
	}
	read := &cellpb.ReadContacts{User: uint64(ses.user.id), Relations: q.Relations, Limit: q.Limit, After: after}
	ses.host.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Contacts{Contacts: read}}, func(r *cellpb.ReadResult, err *proto.Error) {
		if err != nil {
			ses.fail(id, err)
			return
		}
		out := &clientpb.Contacts{Contacts: r.Contacts}
		if r.More && len(r.Contacts) > 0 {
			out.Cursor = strconv.FormatUint(r.Contacts[len(r.Contacts)-1].User, 10)
		}
		ses.answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_Contacts{Contacts: out}}))
	})
}

// answerProfile answers with the user's own profile.
func (ses *session) answerProfile(id uint64, p *cellpb.Profile) {
	ses.answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_Profile{Profile: &clientpb.Profile{
		Card: &clientpb.Card{
			User: uint64(ses.user.id), Name: p.GetName(), Nick: p.GetNick(), Description: p.GetDescription(), Sex: p.GetSex(), Avatar: p.GetAvatar(),
		},
		DirectFrom: p.GetDirectFrom(), Presence: !p.GetHidden(),
	}}}))
}

func (ses *session) readProfile(id uint64) {
	ses.host.readUser(ses.user.id, func(info *cellpb.UserInfo, err *proto.Error) {
		if err != nil {
			ses.fail(id, err)
			return
		}
		ses.answerProfile(id, info.Profile)
	})
}

func (ses *session) setProfile(id uint64, q *clientpb.SetProfile) {
	err := proto.CheckProfile(q.GetNick(), q.GetDescription(), q.GetSex())
	if err == nil {
		err = ses.takeAsk()
	}
	if err != nil {
		ses.fail(id, err)
		return
	}
	c := &cellpb.SetProfile{User: uint64(ses.user.id), Change: q}
	ses.host.propose(&cellpb.Command{Body: &cellpb.Command_SetProfile{SetProfile: c}}, 40+codec.Size(c), func(r *cellpb.Result, err *proto.Error) {
		if err = resultError(r, err); err != nil {
			ses.fail(id, err)
			return
		}
		ses.host.profileChanged(ses.user.id, r.Profile)
		ses.answerProfile(id, r.Profile)
	})
}
