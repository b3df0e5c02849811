package state

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// pairModel is what a direct thread's header should say, told otherwise: one
// word for what holds between the two, and who blocks.
type pairModel struct {
	state    string // "", "asked", "friends"
	asker    proto.EntityID
	aside    bool
	greeting string
	blocks   map[proto.EntityID]bool
	greeted  bool
	messages int
}

func (p *pairModel) relation(me, peer proto.EntityID) clientpb.Relation {
	switch {
	case p.blocks[me]:
		return blocked
	case p.state == "friends":
		return friend
	case p.state == "asked" && p.asker == me:
		return sent
	case p.state == "asked" && p.aside:
		return aside
	case p.state == "asked":
		return received
	}
	return none
}

// act is what the action should do, and whether it should be refused.
func (p *pairModel) act(me, peer proto.EntityID, action clientpb.ContactAction, greeting string) proto.Code {
	befriend := func() {
		p.state, p.aside = "friends", false
		if !p.greeted {
			p.greeted, p.messages = true, p.messages+2
		}
	}
	asked := p.state == "asked" && p.asker == peer
	switch action {
	case ask:
		switch {
		case p.blocks[me] || p.blocks[peer]:
			return proto.CodeBlocked
		case asked:
			befriend()
		case p.state == "":
			p.state, p.asker, p.greeting, p.aside = "asked", me, greeting, false
		case p.state == "asked":
			p.greeting = greeting
		}
	case accept:
		if p.state == "friends" {
			return 0
		}
		if !asked {
			return proto.CodeNoRequest
		}
		befriend()
	case ignore:
		if !asked {
			return proto.CodeNoRequest
		}
		p.aside = true
	case remove:
		if p.state == "friends" || p.state == "asked" && p.asker == me {
			p.state = ""
		}
	case block:
		p.state, p.blocks[me] = "", true
	case unblock:
		delete(p.blocks, me)
	}
	return 0
}

// contactModel adds contacts, cards and who may write to the two ranges.
type contactModel struct {
	*model
	pairs map[proto.ThreadID]*pairModel
	done  []*cellpb.ChangeContact // that were not refused
	nicks map[proto.EntityID]string
	from  map[proto.EntityID]clientpb.DirectFrom
	notes map[[2]proto.EntityID]string // alias, of rows owned where the user lives
}

func (m *contactModel) everyone() []proto.EntityID {
	return append(slices.Clone(m.users[0]), m.users[1]...)
}

func (m *contactModel) rigOf(r proto.RangeID) *rig { return m.rigs[r-1] }

func (m *contactModel) two() (me, peer proto.EntityID) {
	all := m.everyone()
	i := m.draw(len(all), "me")
	j := (i + 1 + m.draw(len(all)-1, "peer")) % len(all)
	return all[i], all[j]
}

func (m *contactModel) pair(me, peer proto.EntityID) *pairModel {
	thread := proto.DirectThread(me, peer)
	if m.pairs[thread] == nil {
		m.pairs[thread] = &pairModel{blocks: map[proto.EntityID]bool{}}
	}
	return m.pairs[thread]
}

// change acts, and compares answer and refusal.
func (m *contactModel) change() {
	me, peer := m.two()
	thread, p := proto.DirectThread(me, peer), m.pair(me, peer)
	b := m.rigOf(thread.OwnerRange())
	action := []clientpb.ContactAction{ask, ask, accept, ignore, remove, block, unblock, unblock}[m.draw(8, "action")]
	c := change(me, peer, action, b.id(0))
	c.Greeting = []string{"", "hi", "hello"}[m.draw(3, "greeting")]
	if (action == ask || action == accept) && m.draw(2, "names") == 0 {
		c.Alias = fmt.Sprint("alias", m.draw(3, "alias"))
	}
	before := *p
	relation := p.relation(me, peer)
	want := p.act(me, peer, action, c.Greeting)
	r := b.do(changeCommand(c))
	m.expect(r, want, fmt.Sprintf("%s of %s with %+v", action, me, before))
	if want != 0 {
		return
	}
	m.done = append(m.done, c)
	if got := r.Contact.GetRelation(); got != p.relation(me, peer) || r.Repeated {
		m.t.Fatalf("%s is answered %s, want %s", action, got, p.relation(me, peer))
	}
	key := [2]proto.EntityID{me, peer}
	if now := p.relation(me, peer); c.Alias != "" && (now != relation || now == sent) {
		m.notes[key] = c.Alias
	}
	for _, side := range [][2]proto.EntityID{key, {peer, me}} {
		if p.relation(side[0], side[1]) == none {
			delete(m.notes, side)
		}
	}
}

// again repeats an earlier change: it must do nothing more.
func (m *contactModel) again() {
	if len(m.done) == 0 {
		return
	}
	c := m.done[m.draw(len(m.done), "again")]
	thread, _ := proto.ParseThreadID(c.Thread)
	me := proto.EntityID(c.From)
	r := m.rigOf(thread.OwnerRange()).do(changeCommand(c))
	if proto.Code(r.Code) == proto.CodeMessageTooOld {
		return
	}
	m.expect(r, 0, "again")
	if p := m.pair(me, thread.Peer(me)); !r.Repeated || r.Contact.GetRelation() != p.relation(me, thread.Peer(me)) {
		m.t.Fatalf("repeated: %v, want %s", r, p.relation(me, thread.Peer(me)))
	}
}

// edit changes an alias, where the row is as new as the thread.
func (m *contactModel) edit() {
	me, peer := m.two()
	p := m.pair(me, peer)
	if proto.DirectThread(me, peer).OwnerRange() != me.Range() {
		return
	}
	alias := fmt.Sprint("alias", m.draw(3, "alias"))
	want := proto.CodeOK
	if p.relation(me, peer) == none {
		want = proto.CodeUnknownUser
	} else {
		m.notes[[2]proto.EntityID{me, peer}] = alias
	}
	m.expect(m.rigOf(me.Range()).do(editCommand(me, peer, alias)), want, "edit")
}

func (m *contactModel) profile() {
	all := m.everyone()
	me := all[m.draw(len(all), "me")]
	c := new(clientpb.SetProfile)
	if m.draw(2, "nick") == 0 {
		m.nicks[me] = fmt.Sprint("nick", m.draw(3, "which"))
		c.Nick = new(m.nicks[me])
	}
	if m.draw(2, "direct") == 0 {
		m.from[me] = clientpb.DirectFrom(m.draw(2, "from"))
		c.DirectFrom = m.from[me].Enum()
	}
	r := m.rigOf(me.Range()).do(profileCommand(me, c))
	m.expect(r, 0, "profile")
	if r.Profile.Nick != m.nicks[me] || r.Profile.DirectFrom != m.from[me] {
		m.t.Fatalf("the profile is %v", r.Profile)
	}
}

// write sends a message as the sender's host does. A setting of a user of
// another range may still be on its way there, unless all has settled.
func (m *contactModel) write(me, peer proto.EntityID, settled bool) {
	thread, p := proto.DirectThread(me, peer), m.pair(me, peer)
	b := m.rigOf(thread.OwnerRange())
	c := message(thread, me, b.id(0))
	c.FriendsOnly = m.draw(4, "deployment") == 0
	if m.rigOf(me.Range()).threadRow(me, thread) == nil {
		card := m.rigOf(peer.Range()).read(&cellpb.LeadRead{Body: &cellpb.LeadRead_User{User: &cellpb.ReadUser{User: uint64(peer)}}}).User
		c.ToDirectFrom, c.ToDirectChanged = card.Profile.DirectFrom, card.Profile.Changed
	}
	want := proto.CodeOK
	sure := settled || peer.Range() == thread.OwnerRange()
	switch {
	case p.blocks[me] || p.blocks[peer]:
		want = proto.CodeBlocked
	case p.state == "friends":
	case c.FriendsOnly:
		want = proto.CodeNotFriends
	case m.from[peer] == clientpb.DirectFrom_DIRECT_FROM_FRIENDS:
		want = proto.CodeNotFriends
	}
	r := b.do(appendCommand(c))
	got := proto.Code(r.Code)
	lags := !sure && p.state != "friends" && !c.FriendsOnly && want != proto.CodeBlocked && (got == 0 || got == proto.CodeNotFriends)
	if got != want && !lags {
		m.t.Fatalf("%s writes to %s (%+v): %v, want %s", me, peer, *p, r, want)
	}
	if got == 0 {
		if p.messages++; r.Seq != uint64(p.messages) {
			m.t.Fatalf("seq %d, want %d", r.Seq, p.messages)
		}
	}
}

func (m *contactModel) step() {
	i := m.draw(2, "range")
	switch m.draw(12, "do") {
	case 0, 1, 2, 3:
		m.change()
	case 4:
		m.again()
	case 5:
		m.edit()
	case 6:
		m.profile()
	case 7:
		me, peer := m.two()
		m.write(me, peer, false)
	case 8:
		m.offer(i)
	case 9:
		m.land()
	case 10:
		m.trim(i)
	case 11:
		if m.draw(2, "time") == 0 {
			m.passTime()
		} else {
			m.disturb(m.rigs[i])
		}
	}
}

// check compares everyone's rows with the model once nothing is under way.
func (m *contactModel) check() {
	all := m.everyone()
	for _, me := range all {
		b := m.rigOf(me.Range())
		rows, messages := 0, 0
		for _, peer := range all {
			if me == peer {
				continue
			}
			p := m.pair(me, peer)
			messages += p.messages
			got, want := b.contact(me, peer), p.relation(me, peer)
			if got.GetRelation() != want || (got == nil) != (want == none) {
				m.t.Fatalf("%s has %v of %s, want %s", me, got, peer, want)
			}
			if got == nil {
				continue
			}
			rows++
			greeting := ""
			if p.state == "asked" && want != blocked {
				greeting = p.greeting
			}
			if got.Greeting != greeting || got.Alias != m.notes[[2]proto.EntityID{me, peer}] || got.Name != fmt.Sprint("user", peer) || got.TimeMs == 0 {
				m.t.Fatalf("%s has %v of %s, want greeting %q and alias %q", me, got, peer, greeting, m.notes[[2]proto.EntityID{me, peer}])
			}
			if (got.Card != nil) != (want == friend) || want == friend && got.Card.Nick != m.nicks[peer] {
				m.t.Fatalf("%s has the card %v of %s, want nick %q", me, got.Card, peer, m.nicks[peer])
			}
		}
		if n := b.m.user(me).log.Contacts; n != uint64(rows) {
			m.t.Fatalf("%s has %d contacts, the count is %d", me, rows, n)
		}
		logged := 0
		for _, ref := range b.updates(me) { // which checks that the log is dense
			if ref != "#0" {
				logged++
			}
		}
		if logged != messages {
			m.t.Fatalf("%s is told of %d messages, want %d", me, logged, messages)
		}
	}
	for thread, p := range m.pairs {
		h := new(cellpb.ThreadHeader)
		if m.rigOf(thread.OwnerRange()).m.get(engine.HeaderKey(thread), h); h.Friends != (p.state == "friends") || h.Greeted != p.greeted ||
			h.Low.GetBlocks() != p.blocks[thread.Low] || h.High.GetBlocks() != p.blocks[thread.High] {
			m.t.Fatalf("thread %s has the header %v, want %+v", thread, h, *p)
		}
	}
}

// Whatever two ranges' users do to each other, with changes repeated, rows
// lost, doubled and late between the ranges, and entries committed and replayed
// in any portions: contacts end as a plain account of it says.
func TestContactsAgreeWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &contactModel{
			model: &model{t: t}, pairs: map[proto.ThreadID]*pairModel{}, nicks: map[proto.EntityID]string{},
			from: map[proto.EntityID]clientpb.DirectFrom{}, notes: map[[2]proto.EntityID]string{},
		}
		for i := range m.rigs {
			b := newRig(t, proto.RangeID(i+1))
			m.rigs[i] = b
			defer func() { b.close() }()
			m.users[i] = []proto.EntityID{b.addUser(), b.addUser()}
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			m.step()
		}
		m.deliverAll()
		m.check()
		for _, me := range m.everyone() {
			for _, peer := range m.everyone() {
				if me != peer {
					m.write(me, peer, true)
				}
			}
			m.deliverAll()
		}
		m.check()
		for _, b := range m.rigs {
			checkBatching(t, b)
		}
	})
}
