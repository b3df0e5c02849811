package chatscreen

import (
	"cmp"
	"slices"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// store is what is known of the user's threads and contacts. Updates, pages
// that were asked for and answers may come in any order; the greater seq and
// the later mark win.
type store struct {
	me       proto.EntityID
	threads  map[string]*thread
	contacts map[proto.EntityID]*clientpb.Contact
	presence map[proto.EntityID]*clientpb.FriendPresence
}

// thread is one conversation.
type thread struct {
	id       string
	peer     proto.EntityID
	peerName string

	lastSeq, messages     uint64
	lastTimeMS            int64
	unread, readSeq       uint64
	delivered, read       uint64 // the other side's marks
	preview               string
	previewOwn            bool
	typingUntil           time.Time
	rows                  []*row // consecutive, oldest first
	loaded, older, asking bool   // rows reach the newest; there are some below; a page is on its way
	outbox                []*row // posted and not stored, by order of posting
	draft                 string
	chosen                uint64            // the seq of the message whose file is chosen; 0: none
	watch                 map[string]uint32 // how many watch each livestream that is on
}

// row is one message.
type row struct {
	seq      uint64 // 0: not stored
	id       string // client message id, or 16 bytes of zero
	own      bool
	name     string
	timeMS   int64
	messages uint64
	text     string // safe to draw
	written  string // as the user wrote it, while it is on its way
	missing  bool   // its text is on its way
	failed   string
	pending  *client.Pending
	file     *clientpb.FileMessage // nil: it carries none
	live     *clientpb.LiveMessage // nil: it tells of none
	upload   *transfer             // of a file to be sent; nil: none
}

func newStore() *store {
	return &store{
		threads: map[string]*thread{}, contacts: map[proto.EntityID]*clientpb.Contact{},
		presence: map[proto.EntityID]*clientpb.FriendPresence{},
	}
}

// thread finds a thread or makes it. What is not a thread of the user gives
// nil.
func (s *store) thread(id string) *thread {
	if t := s.threads[id]; t != nil {
		return t
	}
	parsed, err := proto.ParseThreadID(id)
	if err != nil || !parsed.Has(s.me) {
		return nil
	}
	t := &thread{id: id, peer: parsed.Peer(s.me)}
	s.threads[id] = t
	return t
}

// ordered lists the threads, newest first.
func (s *store) ordered() []*thread {
	out := make([]*thread, 0, len(s.threads))
	for _, t := range s.threads {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b *thread) int {
		return cmp.Or(cmp.Compare(b.time(), a.time()), cmp.Compare(a.id, b.id))
	})
	return out
}

// time is when something last happened in the thread.
func (t *thread) time() int64 {
	if n := len(t.outbox); n > 0 {
		return max(t.lastTimeMS, t.outbox[n-1].timeMS)
	}
	return t.lastTimeMS
}

// takeThread takes one row of a page of threads.
func (s *store) takeThread(p *clientpb.Thread) {
	t := s.thread(p.Thread)
	if t == nil {
		return
	}
	if p.PeerName != "" {
		t.peerName = p.PeerName
	}
	t.raiseMarks(p.PeerDeliveredSeq, p.PeerReadSeq)
	if p.LastSeq < t.lastSeq {
		return // an update was faster than this page
	}
	t.lastSeq, t.lastTimeMS, t.messages = p.LastSeq, p.LastTimeMs, p.Messages
	if p.ReadSeq >= t.readSeq {
		t.readSeq, t.unread = p.ReadSeq, p.Unread
	}
	if p.Last != nil {
		t.preview, t.previewOwn = bodyText(p.Last), proto.EntityID(p.Last.From) == s.me
	}
	if t.loaded && (len(t.rows) == 0 || t.rows[len(t.rows)-1].seq < t.lastSeq) {
		t.loaded = false // there is more than was shown
	}
}

// event takes a message, from an update or late for one without its text. It
// tells whether a message of somebody else is new.
func (s *store) event(e *clientpb.Event) bool {
	t := s.thread(e.Thread)
	if t == nil {
		return false
	}
	r := s.rowOf(e)
	if !r.own && e.FromName != "" {
		t.peerName = e.FromName
	}
	t.heard(r)
	t.dropPosted(r)
	fresh := e.Seq > t.lastSeq
	if fresh {
		t.lastSeq, t.lastTimeMS, t.messages = e.Seq, e.TimeMs, e.Messages
		switch {
		case r.byItself(): // counts for nothing, and by it nobody has read
		case r.own:
			t.readSeq, t.unread = max(t.readSeq, e.Seq), 0
		default:
			t.unread++
			t.typingUntil = time.Time{}
		}
	}
	if e.Seq >= t.lastSeq {
		t.preview, t.previewOwn = r.text, r.own
	}
	t.put(r)
	return fresh && !r.own
}

func (s *store) rowOf(e *clientpb.Event) *row {
	return &row{
		seq: e.Seq, id: string(e.ClientMsgId), own: proto.EntityID(e.From) == s.me, name: e.FromName, timeMS: e.TimeMs,
		messages: e.Messages, text: bodyText(e), missing: e.BodyMissing, file: e.GetFile(), live: e.GetLive(),
	}
}

// heard notes that whoever writes has read what stands before it: the server
// counts it so and sends no mark of its own for it.
func (t *thread) heard(r *row) {
	if !r.own && !r.byItself() {
		t.raiseMarks(r.seq, r.seq)
	}
}

// dropPosted removes the row that stood for r until it was stored.
func (t *thread) dropPosted(r *row) {
	if !r.own || r.id == "" {
		return
	}
	t.outbox = slices.DeleteFunc(t.outbox, func(o *row) bool { return o.id == r.id })
}

// put adds a row that follows those shown, or replaces one of them.
func (t *thread) put(r *row) {
	i, found := slices.BinarySearchFunc(t.rows, r.seq, func(o *row, seq uint64) int { return cmp.Compare(o.seq, seq) })
	switch {
	case found:
		if t.rows[i].missing || !r.missing {
			t.rows[i] = r
		}
	case !t.loaded:
	case len(t.rows) == 0 && r.seq == 1, len(t.rows) > 0 && r.seq == t.rows[len(t.rows)-1].seq+1:
		t.rows = append(t.rows, r)
	case len(t.rows) == 0 || r.seq > t.rows[len(t.rows)-1].seq:
		t.loaded = false // a gap: the newest page must be read again
	}
}

// newest takes the newest page of a thread's history.
func (s *store) newest(id string, events []*clientpb.Event, more bool) {
	t := s.thread(id)
	if t == nil {
		return
	}
	t.rows, t.older, t.loaded, t.asking = nil, more, true, false
	for _, e := range events {
		r := s.rowOf(e)
		t.heard(r)
		t.dropPosted(r)
		t.rows = append(t.rows, r)
	}
	if n := len(t.rows); n > 0 && t.rows[n-1].seq < t.lastSeq {
		t.loaded = false // more came while the page was on its way
	} else if n > 0 && t.rows[n-1].seq > t.lastSeq {
		last := events[n-1]
		t.lastSeq, t.lastTimeMS, t.messages = last.Seq, last.TimeMs, last.Messages
		t.preview, t.previewOwn = t.rows[n-1].text, t.rows[n-1].own
	}
}

// olderPage takes the page of rows below before, asked for when that was the
// oldest row shown.
func (s *store) olderPage(id string, before uint64, events []*clientpb.Event, more bool) {
	t := s.thread(id)
	if t == nil {
		return
	}
	t.asking = false
	if len(t.rows) == 0 || t.rows[0].seq != before {
		return // the thread was read anew meanwhile
	}
	page := make([]*row, 0, len(events)+len(t.rows))
	for _, e := range events {
		page = append(page, s.rowOf(e))
	}
	t.rows, t.older = append(page, t.rows...), more
}

// mark takes how far a member, or another device of the user, has got.
func (s *store) mark(m *clientpb.Mark) {
	t := s.thread(m.Thread)
	switch {
	case t == nil:
	case proto.EntityID(m.User) != s.me && m.Read:
		t.raiseMarks(m.Seq, m.Seq)
	case proto.EntityID(m.User) != s.me:
		t.raiseMarks(m.Seq, 0)
	case m.Read && m.Seq > t.readSeq:
		t.readSeq = m.Seq
		if m.Seq >= t.lastSeq {
			t.unread = 0
			return
		}
		// Unread is a difference of counts, where the row at the mark is known.
		for _, r := range t.rows {
			if r.seq == m.Seq {
				t.unread = t.messages - min(t.messages, r.messages)
			}
		}
	}
}

func (t *thread) raiseMarks(delivered, read uint64) {
	t.read = max(t.read, read)
	t.delivered = max(t.delivered, delivered, t.read)
}

// state is how far an own message got, as a short sign.
func (t *thread) state(r *row) string {
	switch {
	case r.failed != "":
		return "✗ failed"
	case r.seq == 0:
		return "…"
	case r.seq <= t.read:
		return "✓✓ read"
	case r.seq <= t.delivered:
		return "✓✓"
	}
	return "✓"
}

// post adds a message on its way.
func (t *thread) post(text string, p *client.Pending, now time.Time) *row {
	r := &row{own: true, text: harmless(text), written: text, timeMS: now.UnixMilli(), pending: p}
	t.outbox = append(t.outbox, r)
	return r
}

// sent takes the acknowledgement of a posted message. The message itself
// follows, or came already, as an update.
func (s *store) sent(r *row, where client.Sent) {
	t := s.thread(where.Thread)
	if t == nil {
		return
	}
	r.id = string(where.ClientMsgID[:])
	known := func(o *row) bool { return o != r && o.id == r.id }
	if slices.ContainsFunc(t.rows, known) {
		t.outbox = slices.DeleteFunc(t.outbox, func(o *row) bool { return o == r })
		return
	}
	// It stays where it is until the update puts it in its place.
	r.seq, r.timeMS = uint64(where.Seq), where.Time.UnixMilli()
}

func (s *store) takeContact(c *clientpb.Contact) {
	if c.GetUser() == 0 {
		return
	}
	id := proto.EntityID(c.User)
	if c.Relation == clientpb.Relation_RELATION_NONE {
		delete(s.contacts, id)
	} else {
		s.contacts[id] = c
	}
	if c.Relation != clientpb.Relation_RELATION_FRIEND {
		delete(s.presence, id)
	}
}

// takeCard takes a friend's new card.
func (s *store) takeCard(card *clientpb.Card) {
	if c := s.contacts[proto.EntityID(card.User)]; c != nil {
		c.Card = card
	}
}

// with lists the contacts of a relation by the name shown.
func (s *store) with(relations ...clientpb.Relation) []*clientpb.Contact {
	var out []*clientpb.Contact
	for _, c := range s.contacts {
		if slices.Contains(relations, c.Relation) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *clientpb.Contact) int {
		return cmp.Or(cmp.Compare(contactName(a), contactName(b)), cmp.Compare(a.User, b.User))
	})
	return out
}

// contactName is what a contact is called here: the user's own name for him,
// what he calls himself, his user name.
func contactName(c *clientpb.Contact) string {
	return oneLine(cmp.Or(c.GetAlias(), c.GetCard().GetNick(), c.GetName(), "user "+proto.EntityID(c.GetUser()).String()))
}

// name is what a thread is called.
func (s *store) name(t *thread) string {
	if c := s.contacts[t.peer]; c != nil && (c.Alias != "" || c.GetCard().GetNick() != "") {
		return contactName(c)
	}
	if t.peerName != "" {
		return oneLine(t.peerName)
	}
	if c := s.contacts[t.peer]; c != nil {
		return contactName(c)
	}
	return "user " + t.peer.String()
}
