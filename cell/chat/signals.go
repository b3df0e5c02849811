package chat

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// signalTimeout bounds the delivery of signals: what is late is wrong.
	signalTimeout = time.Second
	// signalsMax bounds the signals that wait for one range; more are dropped,
	// and signalsBatch those of one delivery.
	signalsMax   = 8192
	signalsBatch = 2048
	// typedMax bounds the threads a user is remembered to type in.
	typedMax = 64
)

// signalQueue is what waits to be told to another range. One delivery is
// under way at a time.
type signalQueue struct {
	waiting []*cellpb.Signal
	busy    bool
}

// signal queues a signal to a range; flushSignals sends it.
func (h *host) signal(dest proto.RangeID, s *cellpb.Signal) {
	q := h.presence.out[dest]
	if q == nil {
		q = new(signalQueue)
		h.presence.out[dest] = q
	}
	if len(q.waiting) < signalsMax {
		q.waiting = append(q.waiting, s)
	}
}

// flushSignals delivers what waits, at most once: presence is said again
// anyway, and typing is soon over.
func (h *host) flushSignals() {
	if h.closed {
		return
	}
	for dest, q := range h.presence.out {
		if q.busy {
			continue
		}
		if len(q.waiting) == 0 {
			delete(h.presence.out, dest)
			continue
		}
		n := min(len(q.waiting), signalsBatch)
		batch := &cellpb.Signals{Signals: append([]*cellpb.Signal(nil), q.waiting[:n]...)}
		q.waiting = append(q.waiting[:0], q.waiting[n:]...)
		if dest == h.rng {
			h.shard.post(func() { h.takeSignals(batch) }) // a host never calls itself
			continue
		}
		q.busy = true
		req := &cellpb.RelayRequest{Body: &cellpb.RelayRequest_Signals{Signals: batch}}
		h.s.relay.Go(dest, req, signalTimeout, func(*cellpb.RelayReply, error) {
			h.shard.post(func() {
				q.busy = false
				if len(q.waiting) > 0 {
					h.flushSignals()
				}
			})
		})
	}
}

// takeSignals takes what other hosts, or this one, tell the people here. Only
// what comes from a friend of theirs has an effect.
func (h *host) takeSignals(batch *cellpb.Signals) {
	if h.closed {
		return
	}
	changed := map[proto.EntityID][]*clientpb.FriendPresence{}
	for _, s := range batch.Signals {
		from := proto.EntityID(s.From)
		for _, id := range s.To {
			to := proto.EntityID(id)
			p := h.presence.people[to]
			switch body := s.Body.(type) {
			case *cellpb.Signal_Presence:
				if told := p.hear(from, body.Presence); told != nil {
					changed[to] = append(changed[to], told)
				}
			case *cellpb.Signal_Typing:
				h.hearTyping(to, p, from, body.Typing)
			case *cellpb.Signal_LiveViewers:
				h.hearLive(to, from, body.LiveViewers)
			case *cellpb.Signal_Probe:
				h.probed(to, p, from)
			}
		}
	}
	for to, friends := range changed {
		h.tellPresence(to, friends)
	}
	h.flushSignals()
}

// hear takes a friend's presence and returns it if it is news.
func (p *presentUser) hear(from proto.EntityID, said *clientpb.FriendPresence) *clientpb.FriendPresence {
	if p == nil {
		return nil
	}
	f, ok := p.friends[from]
	if !ok {
		return nil
	}
	next := friend{online: said.GetOnline(), heard: time.Now(), lastSeen: said.GetLastSeenMs()}
	p.friends[from] = next
	if next.online == f.online && (next.online || next.lastSeen == f.lastSeen) {
		return nil
	}
	return next.wire(from)
}

// probed tells a friend of user whether he is here, or when he was last seen.
func (h *host) probed(user proto.EntityID, p *presentUser, by proto.EntityID) {
	answer := func(said *clientpb.FriendPresence) {
		said.User = uint64(user)
		h.signal(by.Range(), &cellpb.Signal{From: uint64(user), To: []uint64{uint64(by)}, Body: &cellpb.Signal_Presence{Presence: said}})
	}
	if p != nil {
		if _, friends := p.friends[by]; friends {
			answer(p.presentNow(user))
		}
		return // while friends are still being read, all are told soon
	}
	if !h.rng.Contains(user) || h.presence.probes >= probesMax {
		return
	}
	h.presence.probes++
	named := &cellpb.ReadContacts{User: uint64(user), Users: []uint64{uint64(by)}}
	h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Contacts{Contacts: named}}, func(r *cellpb.ReadResult, err *proto.Error) {
		if err != nil || len(r.Contacts) != 1 || r.Contacts[0].Relation != clientpb.Relation_RELATION_FRIEND {
			h.presence.probes--
			return
		}
		h.lastSeen(user, func(o offlineUser) {
			h.presence.probes--
			if h.presence.people[user] != nil {
				return // he has come meanwhile, and says so himself
			}
			said := new(clientpb.FriendPresence)
			if !o.hidden {
				said.LastSeenMs = o.lastSeen
			}
			answer(said)
			h.flushSignals()
		})
	})
}

// lastSeen finds when a user without sessions was here last.
func (h *host) lastSeen(user proto.EntityID, done func(offlineUser)) {
	if o, ok := h.presence.offline[user]; ok {
		done(o)
		return
	}
	h.readUser(user, func(info *cellpb.UserInfo, err *proto.Error) {
		o := offlineUser{hidden: err != nil || info.GetProfile().GetHidden()}
		for _, d := range info.GetDevices() {
			// A host that was killed may not have written that the device left:
			// then it was there at least when it logged in or confirmed.
			o.lastSeen = max(o.lastSeen, d.Row.GetSeenMs(), d.Row.GetConfirmedMs(), d.Row.GetLoginMs())
		}
		if err == nil && h.presence.people[user] == nil {
			h.rememberOffline(user, o)
		}
		done(o)
	})
}

// typing passes on that the user is writing, to a friend and not too often. It
// has no answer.
func (ses *session) typing(t *clientpb.Typing) {
	h, user := ses.host, ses.user.id
	thread, err := ses.memberThread(t.GetThread())
	p := h.presence.people[user]
	if err != nil || p == nil || p.hidden || !thread.Direct() {
		return
	}
	peer := thread.Peer(user)
	if _, friends := p.friends[peer]; !friends {
		return
	}
	now, name := time.Now(), thread.String()
	if at, ok := p.typed[name]; ok && now.Sub(at) < proto.TypingInterval {
		return
	}
	if len(p.typed) >= typedMax {
		clear(p.typed)
	}
	if p.typed == nil {
		p.typed = map[string]time.Time{}
	}
	p.typed[name] = now
	h.signal(peer.Range(), &cellpb.Signal{From: uint64(user), To: []uint64{uint64(peer)}, Body: &cellpb.Signal_Typing{
		Typing: &clientpb.TypingNow{Thread: name, User: uint64(user)},
	}})
	h.flushSignals()
}

// hearTyping tells a user's sessions that a friend is writing to him.
func (h *host) hearTyping(user proto.EntityID, p *presentUser, from proto.EntityID, t *clientpb.TypingNow) {
	thread, err := proto.ParseThreadID(t.GetThread())
	if err != nil || p == nil || !thread.Has(user) || !thread.Has(from) {
		return
	}
	if _, friends := p.friends[from]; !friends {
		return
	}
	h.tellSessions(h.sessionsOf(user), &clientpb.ServerFrame{Body: &clientpb.ServerFrame_TypingNow{
		TypingNow: &clientpb.TypingNow{Thread: t.Thread, User: uint64(from)},
	}})
}

func (h *host) sessionsOf(user proto.EntityID) []*session {
	if u := h.users[user]; u != nil {
		return u.sessions
	}
	return nil
}
