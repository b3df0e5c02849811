package chat

import (
	"context"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// cardsTimeout is how long a search waits for the cards of people of other
// ranges. After it they are shown by id and name alone: a dead cell must not
// hold up what others look for.
const cardsTimeout = time.Second

// findUser finds one person by id or by exact name. Who blocks the user is not
// found, in the same words as nobody.
func (ses *session) findUser(id uint64, q *clientpb.FindUser) {
	if err := ses.takeAsk(); err != nil {
		ses.fail(id, err)
		return
	}
	answer := func(card *clientpb.Card, err *proto.Error) {
		if err != nil {
			ses.fail(id, err)
			return
		}
		ses.answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_UserFound{
			UserFound: &clientpb.UserFound{User: card.User, Name: card.Name, Card: card},
		}}))
	}
	if q.User != 0 {
		ses.findByID(q.User, answer)
		return
	}
	unknown := proto.Errorf(proto.CodeUnknownUser, "there is no user %.40q", q.Name)
	find := ses.host.s.cfg.FindUser
	if q.Name == "" || len(q.Name) > proto.NameBytesMax || find == nil {
		answer(nil, unknown)
		return
	}
	var found *clientpb.Card
	ses.lookUp(func(ctx context.Context) error {
		user, name, err := find(ctx, q.Name)
		found = &clientpb.Card{User: uint64(user), Name: name}
		return err
	}, func(err *proto.Error) {
		if err != nil {
			answer(nil, err)
			return
		}
		ses.fillCards([]*clientpb.Card{found}, func(cards []*clientpb.Card) {
			if len(cards) == 0 {
				answer(nil, unknown)
				return
			}
			answer(cards[0], nil)
		})
	})
}

// findByID asks the user's range, which must answer: nobody else knows him.
func (ses *session) findByID(user uint64, answer func(*clientpb.Card, *proto.Error)) {
	h, r := ses.host, proto.EntityID(user).Range()
	unknown := proto.Errorf(proto.CodeUnknownUser, "there is no user %d", user)
	h.routed(r, func(exists bool) {
		if !exists {
			answer(nil, unknown)
			return
		}
		h.readCards(r, ses.user.id, []uint64{user}, relayTimeout, func(cards *cellpb.Cards, err *proto.Error) {
			switch {
			case err != nil:
				answer(nil, err)
			case len(cards.Cards) == 0:
				answer(nil, unknown)
			default:
				ses.addRelations(cards.Cards, func() { answer(cards.Cards[0], nil) })
			}
		})
	})
}

// findPeople finds people by the beginning of their name.
func (ses *session) findPeople(id uint64, q *clientpb.FindPeople) {
	find := ses.host.s.cfg.FindPeople
	err := ses.takeAsk()
	switch {
	case err != nil:
	case len(q.Prefix) < proto.PrefixBytesMin || len(q.Prefix) > proto.NameBytesMax:
		err = proto.Errorf(proto.CodeBadRequest, "the beginning of a name has %d to %d bytes", proto.PrefixBytesMin, proto.NameBytesMax)
	case find == nil:
		err = proto.Errorf(proto.CodeUnavailable, "people cannot be looked up by name here")
	}
	if err != nil {
		ses.fail(id, err)
		return
	}
	limit := proto.PeopleDefault
	if q.Limit > 0 {
		limit = int(min(q.Limit, proto.PeopleMax))
	}
	var found []*clientpb.Card
	ses.lookUp(func(ctx context.Context) (err error) {
		found, err = find(ctx, q.Prefix, limit)
		return err
	}, func(err *proto.Error) {
		if err != nil {
			ses.fail(id, err)
			return
		}
		ses.fillCards(found[:min(len(found), limit)], func(cards []*clientpb.Card) {
			ses.answer(encode(&clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_People{People: &clientpb.People{Cards: cards}}}))
		})
	})
}

// lookUp runs what may wait beside the shard, and done on it.
func (ses *session) lookUp(ask func(context.Context) error, done func(*proto.Error)) {
	h := ses.host
	started := h.s.background(func() {
		ctx, cancel := context.WithTimeout(context.Background(), relayTimeout)
		defer cancel()
		err := ask(ctx)
		h.shard.post(func() {
			if err != nil {
				done(proto.AsError(err))
				return
			}
			done(nil)
		})
	})
	if !started {
		done(proto.Errorf(proto.CodeOverloaded, "too many people are being looked up"))
	}
}

// fillCards completes cards that have id and name only, in their order. Who
// blocks the user, or does not exist, is left out; who cannot be asked within
// [cardsTimeout] stays as he is.
func (ses *session) fillCards(found []*clientpb.Card, done func([]*clientpb.Card)) {
	byRange := map[proto.RangeID][]uint64{}
	for _, c := range found {
		r := proto.EntityID(c.User).Range()
		byRange[r] = append(byRange[r], c.User)
	}
	full, silent := map[uint64]*clientpb.Card{}, map[proto.RangeID]bool{}
	finish := func() {
		var out []*clientpb.Card
		for _, c := range found {
			if known := full[c.User]; known != nil {
				c = known
			} else if !silent[proto.EntityID(c.User).Range()] {
				continue
			}
			out = append(out, c)
		}
		ses.addRelations(out, func() { done(out) })
	}
	left := len(byRange)
	if left == 0 {
		finish()
		return
	}
	for r, users := range byRange {
		ses.host.readCards(r, ses.user.id, users, cardsTimeout, func(cards *cellpb.Cards, err *proto.Error) {
			silent[r] = err != nil
			for _, c := range cards.GetCards() {
				full[c.User] = c
			}
			if left--; left == 0 {
				finish()
			}
		})
	}
}

// readCards reads cards of users of one range, wherever it is. done runs on
// the shard.
func (h *host) readCards(r proto.RangeID, viewer proto.EntityID, users []uint64, limit time.Duration, done func(*cellpb.Cards, *proto.Error)) {
	q := &cellpb.ReadCards{Viewer: uint64(viewer), Users: users}
	if r == h.rng {
		h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Cards{Cards: q}}, func(reply *cellpb.ReadResult, err *proto.Error) {
			done(reply.GetCards(), err)
		})
		return
	}
	h.s.relay.Go(r, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadCards{ReadCards: q}}, limit, func(reply *cellpb.RelayReply, err error) {
		h.shard.post(func() {
			if err != nil {
				done(nil, proto.AsError(err))
				return
			}
			done(reply.GetCards(), nil)
		})
	})
}

// addRelations says what each person is to the user, as far as that can be
// read.
func (ses *session) addRelations(cards []*clientpb.Card, done func()) {
	if len(cards) == 0 {
		done()
		return
	}
	byID := map[uint64]*clientpb.Card{}
	users := make([]uint64, len(cards))
	for i, c := range cards {
		users[i], byID[c.User] = c.User, c
	}
	ses.host.ownContacts(ses.user.id, users, func(r *cellpb.ReadResult, _ *proto.Error) {
		for _, c := range r.GetContacts() {
			if card := byID[c.User]; card != nil {
				card.Relation = c.Relation
			}
		}
		done()
	})
}
