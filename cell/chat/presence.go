package chat

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// offlineCached bounds the people without sessions of whom a host
	// remembers when they were last seen.
	offlineCached = 4096
	// probesMax bounds the probes of people without sessions that are being
	// looked up; more are not answered.
	probesMax = 256
	// friendsPerFrame bounds the friends of one frame: each takes under 30
	// bytes.
	friendsPerFrame = 1000
)

// presence is who of this range is here, and what they know of their friends.
// Nothing of it is stored; a new host asks anew.
type presence struct {
	people  map[proto.EntityID]*presentUser
	leaving map[proto.EntityID]*presentUser // those of them who have left
	offline map[proto.EntityID]offlineUser  // looked up, or just gone
	probes  int                             // being looked up
	out     map[proto.RangeID]*signalQueue
	refresh time.Time // when to say again who is here
	expire  time.Time // when to look for friends that were not heard of
}

// presentUser is a user with subscribing sessions, or one whose last has ended
// so recently that it may only be attaching anew.
//
//	reading friends ──known──► here ──last session ends──► left ──grace──► forgotten
//	                             ◄────────a session─────────┘
type presentUser struct {
	friends map[proto.EntityID]friend // nil while there are none
	touched map[proto.EntityID]bool   // changed while they were being read
	reading bool
	known   bool // friends are complete
	hidden  bool
	left    time.Time            // zero: there are sessions
	typed   map[string]time.Time // nil until the first time
}

// friend is what is known of a friend.
type friend struct {
	online   bool
	heard    time.Time
	lastSeen int64 // Unix milliseconds, 0: not known
}

type offlineUser struct {
	hidden   bool
	lastSeen int64
}

func newPresence() presence {
	return presence{
		people: map[proto.EntityID]*presentUser{}, leaving: map[proto.EntityID]*presentUser{},
		offline: map[proto.EntityID]offlineUser{}, out: map[proto.RangeID]*signalQueue{},
	}
}

// lifetime is how long a friend is believed to be online; grace is how long a
// user without sessions is not said to be gone. Both go with the refresh.
func (s *Service) lifetime() time.Duration {
	return s.cfg.PresenceRefresh * (proto.PresenceLifetime / time.Second) / (proto.PresenceRefresh / time.Second)
}

func (s *Service) grace() time.Duration { return s.cfg.PresenceRefresh / 5 }

// arrived takes in a subscribing session that has just been attached.
func (h *host) arrived(ses *session) {
	if !ses.subscribe {
		return
	}
	u := ses.user
	p := h.presence.people[u.id]
	if p == nil {
		p = &presentUser{hidden: u.hidden}
		h.presence.people[u.id] = p
		delete(h.presence.offline, u.id)
		h.readFriends(u.id, p)
		return
	}
	p.left = time.Time{}
	delete(h.presence.leaving, u.id)
	var all []*clientpb.FriendPresence
	for id, f := range p.friends {
		if f.online || f.lastSeen != 0 {
			all = append(all, f.wire(id))
		}
	}
	h.sendPresence([]*session{ses}, all)
}

// departed notes that a session has ended.
func (h *host) departed(ses *session) {
	if !ses.attached || h.closed {
		return
	}
	device, subscribing := false, false
	for _, other := range ses.user.sessions {
		device = device || other.device == ses.device
		subscribing = subscribing || other.subscribe
	}
	if !device {
		h.noteConfirm(deviceKey{uint64(ses.user.id), ses.device}, confirmation{seen: true})
	}
	if p := h.presence.people[ses.user.id]; p != nil && !subscribing {
		p.left = time.Now()
		h.presence.leaving[ses.user.id] = p
	}
}

// readFriends reads a user's friends, page by page, and then tells them that
// he is here and asks who of them is.
func (h *host) readFriends(user proto.EntityID, p *presentUser) {
	p.reading, p.touched = true, map[proto.EntityID]bool{}
	var next func(after uint64)
	next = func(after uint64) {
		q := &cellpb.ReadContacts{
			User: uint64(user), Relations: []clientpb.Relation{clientpb.Relation_RELATION_FRIEND}, Limit: proto.PageMax, After: after,
		}
		h.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Contacts{Contacts: q}}, func(r *cellpb.ReadResult, err *proto.Error) {
			if h.presence.people[user] != p || h.closed {
				return
			}
			if err != nil {
				p.reading = false // the next refresh tries again
				return
			}
			for _, c := range r.Contacts {
				if id := proto.EntityID(c.User); !p.touched[id] {
					p.note(id, friend{})
				}
				after = c.User
			}
			if r.More {
				next(after)
				return
			}
			p.reading, p.known, p.touched = false, true, nil
			h.announce(user, p, nil)
			h.probe(user, p, nil)
			h.flushSignals()
		})
	}
	next(0)
}

// note keeps what is known of a friend.
func (p *presentUser) note(id proto.EntityID, f friend) {
	if p.friends == nil {
		p.friends = map[proto.EntityID]friend{}
	}
	p.friends[id] = f
}

// presentNow is what a user's friends may know of him.
func (p *presentUser) presentNow(user proto.EntityID) *clientpb.FriendPresence {
	out := &clientpb.FriendPresence{User: uint64(user)}
	switch {
	case p.hidden:
	case p.left.IsZero():
		out.Online = true
	default:
		out.LastSeenMs = p.left.UnixMilli()
	}
	return out
}

// byRange are the friends of a user by their range; only those named unless
// nil.
func (p *presentUser) byRange(only []uint64) map[proto.RangeID][]uint64 {
	out := map[proto.RangeID][]uint64{}
	if only == nil {
		for id := range p.friends {
			out[id.Range()] = append(out[id.Range()], uint64(id))
		}
		return out
	}
	for _, id := range only {
		if _, ok := p.friends[proto.EntityID(id)]; ok {
			r := proto.EntityID(id).Range()
			out[r] = append(out[r], id)
		}
	}
	return out
}

// announce tells friends, all if only is nil, whether the user is here.
func (h *host) announce(user proto.EntityID, p *presentUser, only []uint64) {
	now := p.presentNow(user)
	if p.hidden && only == nil {
		return // to be hidden is said once, see profileChanged
	}
	for dest, to := range p.byRange(only) {
		h.signal(dest, &cellpb.Signal{From: uint64(user), To: to, Body: &cellpb.Signal_Presence{Presence: now}})
	}
}

// probe asks who of the friends is here.
func (h *host) probe(user proto.EntityID, p *presentUser, only []uint64) {
	for dest, to := range p.byRange(only) {
		h.signal(dest, &cellpb.Signal{From: uint64(user), To: to, Body: &cellpb.Signal_Probe{Probe: &cellpb.PresenceProbe{}}})
	}
}

// probeSilent asks again for the friends of whom nothing was heard: the
// question or its answer was dropped, and one who is away says nothing by
// himself.
func (h *host) probeSilent(user proto.EntityID, p *presentUser) {
	var silent []uint64
	for id, f := range p.friends {
		if f.heard.IsZero() {
			silent = append(silent, uint64(id))
		}
	}
	if len(silent) > 0 {
		h.probe(user, p, silent)
	}
}

// tendPresence runs with every housekeeping: what it does each time must not
// grow with the people who are here.
func (h *host) tendPresence(now time.Time) {
	pr := &h.presence
	for user, p := range pr.leaving {
		if now.Sub(p.left) >= h.s.grace() {
			if p.known {
				h.announce(user, p, nil)
			}
			delete(pr.people, user)
			delete(pr.leaving, user)
			h.rememberOffline(user, offlineUser{hidden: p.hidden, lastSeen: p.left.UnixMilli()})
		}
	}
	if now.After(pr.refresh) {
		pr.refresh = now.Add(h.s.cfg.PresenceRefresh)
		for user, p := range pr.people {
			switch {
			case p.known && p.left.IsZero():
				h.announce(user, p, nil)
				h.probeSilent(user, p)
			case !p.known && !p.reading:
				h.readFriends(user, p)
			}
		}
	}
	if now.After(pr.expire) {
		pr.expire = now.Add(h.s.cfg.PresenceRefresh / 10)
		h.expireFriends(now)
	}
	h.flushSignals()
}

// expireFriends takes friends whose hosts have been silent for too long for
// gone.
func (h *host) expireFriends(now time.Time) {
	for user, p := range h.presence.people {
		var gone []*clientpb.FriendPresence
		for id, f := range p.friends {
			if f.online && now.Sub(f.heard) >= h.s.lifetime() {
				f.online, f.lastSeen = false, f.heard.UnixMilli()
				p.friends[id] = f
				gone = append(gone, f.wire(id))
			}
		}
		h.tellPresence(user, gone)
	}
}

func (f friend) wire(id proto.EntityID) *clientpb.FriendPresence {
	if f.online {
		return &clientpb.FriendPresence{User: uint64(id), Online: true}
	}
	return &clientpb.FriendPresence{User: uint64(id), LastSeenMs: f.lastSeen}
}

func (h *host) rememberOffline(user proto.EntityID, o offlineUser) {
	if len(h.presence.offline) >= offlineCached {
		clear(h.presence.offline)
	}
	h.presence.offline[user] = o
}

// contactChanged keeps the friends of a user who is here current.
func (h *host) contactChanged(user proto.EntityID, c *clientpb.Contact) {
	p := h.presence.people[user]
	if p == nil || c == nil {
		return
	}
	id := proto.EntityID(c.User)
	if p.touched != nil {
		p.touched[id] = true
	}
	f, was := p.friends[id]
	is := c.Relation == clientpb.Relation_RELATION_FRIEND
	switch {
	case is && !was:
		p.note(id, friend{})
		if p.known {
			h.announce(user, p, []uint64{c.User})
			h.probe(user, p, []uint64{c.User})
			h.flushSignals()
		}
	case was && !is:
		delete(p.friends, id)
		if f.online || f.lastSeen != 0 {
			h.tellPresence(user, []*clientpb.FriendPresence{{User: c.User}})
		}
	}
}

// profileChanged takes note of whether the user shows his presence.
func (h *host) profileChanged(user proto.EntityID, profile *cellpb.Profile) {
	delete(h.presence.offline, user)
	if u := h.users[user]; u != nil {
		u.hidden = profile.GetHidden()
	}
	p := h.presence.people[user]
	if p == nil || p.hidden == profile.GetHidden() {
		return
	}
	p.hidden = profile.GetHidden()
	all := make([]uint64, 0, len(p.friends))
	for id := range p.friends {
		all = append(all, uint64(id))
	}
	h.announce(user, p, all)
	h.flushSignals()
}

// tellPresence tells the user's sessions of friends.
func (h *host) tellPresence(user proto.EntityID, friends []*clientpb.FriendPresence) {
	if u := h.users[user]; u != nil && len(friends) > 0 {
		h.sendPresence(u.sessions, friends)
	}
}

func (h *host) sendPresence(sessions []*session, friends []*clientpb.FriendPresence) {
	for len(friends) > 0 {
		n := min(len(friends), friendsPerFrame)
		h.tellSessions(sessions, &clientpb.ServerFrame{Body: &clientpb.ServerFrame_Presence{
			Presence: &clientpb.Presence{Friends: friends[:n]},
		}})
		friends = friends[n:]
	}
}

// tellSessions sends a frame nobody asked for to the subscribing ones of a
// user's sessions. Edges drop it for clients that read slowly.
func (h *host) tellSessions(sessions []*session, frame *clientpb.ServerFrame) {
	byEdge := map[*edgeConn][]uint64{}
	for _, ses := range sessions {
		if ses.subscribe && ses.attached && !ses.closed {
			byEdge[ses.edge] = append(byEdge[ses.edge], ses.id)
		}
	}
	if len(byEdge) == 0 {
		return
	}
	raw := encode(frame)
	for edge, ids := range byEdge {
		edge.send(&cellpb.HostFrame{Sessions: ids, Body: &cellpb.HostFrame_Response{Response: raw}}, len(raw)+30)
	}
}
