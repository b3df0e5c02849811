package history

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-im/waggle/proto"
)

// ViolationsMax bounds what [Check] reports: one fault may show in every
// later record.
const ViolationsMax = 1000

// Violation is one broken promise.
type Violation struct {
	// Invariant is I1 to I11, or "history" where the history contradicts
	// itself and cannot be judged.
	Invariant string
	Thread    string // empty where none is concerned
	Message   string // the message id, (thread, seq) or text hash; may be empty
	Detail    string
}

// String names invariant, thread and message.
func (v Violation) String() string {
	var b strings.Builder
	b.WriteString(v.Invariant)
	if v.Thread != "" {
		b.WriteString(" thread " + v.Thread)
	}
	if v.Message != "" {
		b.WriteString(" message " + v.Message)
	}
	return b.String() + ": " + v.Detail
}

// Check judges h. It returns nil for a history that keeps every promise, else
// at most [ViolationsMax] violations.
func Check(h History) []Violation {
	c := &checker{
		h: &h, threads: map[string]*thread{}, posts: map[uint64]*post{}, byText: map[TextHash]*post{},
		posters: map[proto.EntityID]bool{},
	}
	c.readPosts()
	c.readStored()
	c.checkAcks()
	c.checkOwnOrder()
	c.checkSeen()
	c.checkOwners()
	c.checkHashes()
	return c.found
}

type checker struct {
	h       *History
	found   []Violation
	threads map[string]*thread
	names   []string // of threads, as they first appear
	posts   map[uint64]*post
	byText  map[TextHash]*post
	posters map[proto.EntityID]bool
}

// thread is what the servers hold.
type thread struct {
	id   proto.ThreadID
	rows []*Stored // by seq
}

func (t *thread) row(seq proto.Seq) *Stored {
	if t == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(t.rows, seq, func(s *Stored, seq proto.Seq) int { return cmp.Compare(s.Seq, seq) })
	if !ok {
		return nil
	}
	return t.rows[i]
}

type post struct {
	*Posted
	ack    *Acked
	stored *Stored
	copies int
}

func (c *checker) violate(v Violation) {
	if len(c.found) < ViolationsMax {
		c.found = append(c.found, v)
	}
}

func place(name string, seq proto.Seq) string { return fmt.Sprintf("%s#%d", name, seq) }

func (t TextHash) message() string { return fmt.Sprintf("text %016x", uint64(t)) }

// readPosts finds each post by number and by text.
func (c *checker) readPosts() {
	for i := range c.h.Posted {
		p := &post{Posted: &c.h.Posted[i]}
		c.posters[p.Device.User] = true
		if c.posts[p.Number] != nil || c.byText[p.Text] != nil {
			c.violate(Violation{"history", p.Thread, p.Text.message(), "posted twice: every text and number must be different"})
			continue
		}
		c.posts[p.Number], c.byText[p.Text] = p, p
	}
	for i := range c.h.Acked {
		a := &c.h.Acked[i]
		p := c.posts[a.Number]
		switch {
		case p == nil:
			c.violate(Violation{"history", "", a.ID.String(), fmt.Sprintf("acknowledgement of post %d, which is not recorded", a.Number)})
		case p.ack != nil && (p.ack.Seq != a.Seq || p.ack.ID != a.ID):
			c.violate(Violation{"I2", p.Thread, a.ID.String(), fmt.Sprintf("acknowledged as %s and as %s",
				place(p.Thread, p.ack.Seq), place(p.Thread, a.Seq))})
		default:
			p.ack = a
		}
	}
	for _, f := range c.h.Failed {
		if c.posts[f.Number] == nil {
			c.violate(Violation{"history", "", "", fmt.Sprintf("failure of post %d, which is not recorded", f.Number)})
		}
	}
}

// readStored judges the threads by themselves: dense, no message twice, time
// never backwards, nothing that nobody posted.
func (c *checker) readStored() {
	for i := range c.h.Stored {
		s := &c.h.Stored[i]
		t := c.threads[s.Thread]
		if t == nil {
			t = new(thread)
			t.id, _ = proto.ParseThreadID(s.Thread) // the zero id has no members
			c.threads[s.Thread] = t
			c.names = append(c.names, s.Thread)
		}
		t.rows = append(t.rows, s)
	}
	type sentID struct {
		from proto.EntityID
		id   proto.ClientMsgID
	}
	ids := make(map[sentID]*Stored, len(c.h.Stored))
	for _, name := range c.names {
		t := c.threads[name]
		bySeq := func(a, b *Stored) int { return cmp.Compare(a.Seq, b.Seq) }
		if !slices.IsSortedFunc(t.rows, bySeq) { // servers give them in order
			slices.SortStableFunc(t.rows, bySeq)
		}
		var last *Stored
		for _, s := range t.rows {
			c.storedAfter(last, s)
			key := sentID{s.From, s.ID}
			if first := ids[key]; first != nil {
				c.violate(Violation{"I2", name, s.ID.String(), fmt.Sprintf("stored as %s and as %s", place(first.Thread, first.Seq), place(name, s.Seq))})
			}
			ids[key] = s
			c.storedPost(s)
			last = s
		}
	}
}

func (c *checker) storedAfter(last, s *Stored) {
	want := proto.Seq(1)
	if last != nil {
		want = last.Seq + 1
	}
	if s.Seq != want {
		c.violate(Violation{"I4", s.Thread, place(s.Thread, s.Seq), fmt.Sprintf("stored where seq %d should follow", want)})
	}
	if last != nil && s.TimeMs < last.TimeMs {
		c.violate(Violation{"I3", s.Thread, place(s.Thread, s.Seq), fmt.Sprintf("its time is %d ms before the one of seq %d", last.TimeMs-s.TimeMs, last.Seq)})
	}
}

// storedPost finds the post behind a row.
func (c *checker) storedPost(s *Stored) {
	p := c.byText[s.Text]
	if p == nil {
		if c.posters[s.From] {
			c.violate(Violation{"I11", s.Thread, s.ID.String(), fmt.Sprintf("stored as %s, but user %s never posted it", place(s.Thread, s.Seq), s.From)})
		}
		return
	}
	if p.Thread != s.Thread || p.Device.User != s.From {
		c.violate(Violation{"I11", s.Thread, s.ID.String(), fmt.Sprintf("stored in %s from %s, but posted to %s by %s", s.Thread, s.From, p.Thread, p.Device.User)})
		return
	}
	if p.copies++; p.copies == 1 {
		p.stored = s
		return
	}
	invariant := "I2"
	if p.ack == nil {
		invariant = "I11"
	}
	c.violate(Violation{invariant, s.Thread, s.ID.String(), fmt.Sprintf("its text is stored as %s and as %s", place(s.Thread, p.stored.Seq), place(s.Thread, s.Seq))})
}

// checkAcks holds the servers to what they acknowledged.
func (c *checker) checkAcks() {
	for i := range c.h.Acked {
		a := &c.h.Acked[i]
		p := c.posts[a.Number]
		if p == nil || p.ack != a {
			continue
		}
		lost := func(detail string, args ...any) {
			c.violate(Violation{"I1", p.Thread, a.ID.String(), fmt.Sprintf("acknowledged as %s, but ", place(p.Thread, a.Seq)) + fmt.Sprintf(detail, args...)})
		}
		s := c.threads[p.Thread].row(a.Seq)
		switch {
		case s == nil:
			lost("nothing is stored there")
		case s.ID != a.ID:
			lost("message %s is stored there", s.ID)
		case s.Text != p.Text:
			lost("another text is stored there")
		case s.From != p.Device.User:
			lost("user %s is stored as its sender", s.From)
		case s.TimeMs != a.TimeMs:
			lost("its stored time is %d, not %d", s.TimeMs, a.TimeMs)
		}
	}
}

// checkOwnOrder compares the order of posting with the order stored. An
// outbox orders all posts of its run; those of an earlier run, only as far as
// they were acknowledged.
func (c *checker) checkOwnOrder() {
	type lane struct {
		device Device
		thread string
	}
	type state struct {
		run   uint32
		last  *post // of this run, stored
		acked *post // of any run so far, with the highest seq
		floor *post // of earlier runs
	}
	lanes := map[lane]*state{}
	for i := range c.h.Posted {
		p := c.posts[c.h.Posted[i].Number]
		if p == nil || p.Posted != &c.h.Posted[i] || p.stored == nil {
			continue
		}
		key := lane{p.Device, p.Thread}
		l := lanes[key]
		if l == nil {
			l = &state{run: p.Run}
			lanes[key] = l
		}
		if l.run != p.Run {
			l.run, l.last, l.floor = p.Run, nil, l.acked
		}
		for _, earlier := range []*post{l.last, l.floor} {
			if earlier != nil && earlier.stored.Seq >= p.stored.Seq {
				c.violate(Violation{"I5", p.Thread, p.stored.ID.String(), fmt.Sprintf(
					"device %s posted it after the one of seq %d, but it is stored as seq %d", p.Device.Name, earlier.stored.Seq, p.stored.Seq)})
			}
		}
		l.last = p
		if p.ack != nil && (l.acked == nil || l.acked.stored.Seq < p.stored.Seq) {
			l.acked = p
		}
	}
}

// checkOwners: one owner per epoch, epochs never back.
func (c *checker) checkOwners() {
	type version struct {
		rng   proto.RangeID
		epoch proto.Epoch
	}
	type belief struct {
		observer string
		rng      proto.RangeID
	}
	owners := map[version]Owner{}
	last := map[belief]proto.Epoch{}
	for _, o := range c.h.Owners {
		if first, ok := owners[version{o.Range, o.Epoch}]; ok && first.Cell != o.Cell {
			c.violate(Violation{"I7", "", "", fmt.Sprintf("range %s at epoch %d is owned by %s (says %s) and by %s (says %s)",
				o.Range, o.Epoch, first.Cell, first.Observer, o.Cell, o.Observer)})
		} else if !ok {
			owners[version{o.Range, o.Epoch}] = o
		}
		key := belief{o.Observer, o.Range}
		if o.Epoch < last[key] {
			c.violate(Violation{"I7", "", "", fmt.Sprintf("%s saw range %s go back from epoch %d to %d", o.Observer, o.Range, last[key], o.Epoch)})
		}
		last[key] = o.Epoch
	}
}

// checkHashes: equal at equal applied index.
func (c *checker) checkHashes() {
	type at struct {
		rng   proto.RangeID
		index uint64
	}
	hashes := map[at]Hash{}
	for _, x := range c.h.Hashes {
		first, ok := hashes[at{x.Range, x.Index}]
		if !ok {
			hashes[at{x.Range, x.Index}] = x
		} else if first.Hash != x.Hash {
			c.violate(Violation{"I10", "", "", fmt.Sprintf("range %s at index %d: replica %d has running hash %016x, replica %d has %016x",
				x.Range, x.Index, first.Replica, first.Hash, x.Replica, x.Hash)})
		}
	}
}
