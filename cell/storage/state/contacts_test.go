package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// The actions and relations, short.
const (
	ask     = clientpb.ContactAction_CONTACT_ACTION_REQUEST
	accept  = clientpb.ContactAction_CONTACT_ACTION_ACCEPT
	ignore  = clientpb.ContactAction_CONTACT_ACTION_IGNORE
	remove  = clientpb.ContactAction_CONTACT_ACTION_REMOVE
	block   = clientpb.ContactAction_CONTACT_ACTION_BLOCK
	unblock = clientpb.ContactAction_CONTACT_ACTION_UNBLOCK

	none     = clientpb.Relation_RELATION_NONE
	friend   = clientpb.Relation_RELATION_FRIEND
	received = clientpb.Relation_RELATION_REQUEST_RECEIVED
	sent     = clientpb.Relation_RELATION_REQUEST_SENT
	aside    = clientpb.Relation_RELATION_REQUEST_IGNORED
	blocked  = clientpb.Relation_RELATION_BLOCKED
)

func change(from, to proto.EntityID, action clientpb.ContactAction, id proto.ClientMsgID) *cellpb.ChangeContact {
	return &cellpb.ChangeContact{
		Thread: proto.DirectThread(from, to).String(), From: uint64(from), Action: action, ClientId: id[:],
		FromName: fmt.Sprint("user", from), ToName: fmt.Sprint("user", to),
	}
}

func changeCommand(c *cellpb.ChangeContact) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_ChangeContact{ChangeContact: c}}
}

func editCommand(user, peer proto.EntityID, alias string, tags ...string) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_EditContact{EditContact: &cellpb.EditContact{
		User: uint64(user), Contact: uint64(peer), Alias: alias, Tags: tags,
	}}}
}

func profileCommand(user proto.EntityID, change *clientpb.SetProfile) *cellpb.Command {
	return &cellpb.Command{Body: &cellpb.Command_SetProfile{SetProfile: &cellpb.SetProfile{User: uint64(user), Change: change}}}
}

// contact is a user's row, nil if there is none.
func (b *rig) contact(user, peer proto.EntityID) *clientpb.Contact {
	b.t.Helper()
	q := &cellpb.ReadContacts{User: uint64(user), Users: []uint64{uint64(peer)}}
	rows := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Contacts{Contacts: q}}).Contacts
	if len(rows) == 0 {
		return nil
	}
	return rows[0]
}

// told is a user's whole log of contact updates, as "action relation".
func (b *rig) told(user proto.EntityID) string {
	b.t.Helper()
	var out []string
	q := &cellpb.ReadUpdates{User: uint64(user), Limit: proto.PageMax}
	for _, u := range b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: q}}).Updates {
		switch body := u.Update.Body.(type) {
		case *cellpb.StoredUpdate_Contact:
			c := body.Contact
			out = append(out, fmt.Sprintf("%s %s", short(c.Action.String()), short(c.Contact.Relation.String())))
		case *cellpb.StoredUpdate_Profile:
			out = append(out, "card "+body.Profile.Nick)
		default:
			out = append(out, "message")
		}
	}
	return strings.Join(out, ", ")
}

func short(s string) string {
	return strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(s, "CONTACT_ACTION_"), "RELATION_"))
}

// texts are the messages of a thread.
func (b *rig) texts(thread proto.ThreadID) []string {
	b.t.Helper()
	q := &cellpb.ReadThread{Thread: thread.String(), User: uint64(thread.Low), Limit: proto.PageMax}
	var out []string
	for _, e := range b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Thread{Thread: q}}).Events.Events {
		out = append(out, fmt.Sprintf("%d: %s", e.From, e.GetText().GetText()))
	}
	return out
}

// Each rule of friendship, as a sequence of what a and b do, the code of the
// last action, and what both are told and are to each other then.
func TestContactRules(t *testing.T) {
	for name, test := range map[string]struct {
		do       string // as in "a:request b:accept"
		code     proto.Code
		a, b     clientpb.Relation
		toA, toB string
	}{
		"asked":                         {"a:request", 0, sent, received, "request request_sent", "request request_received"},
		"asked twice":                   {"a:request a:request", 0, sent, received, "request request_sent", "request request_received"},
		"asked with another greeting":   {"a:request a:request=hi", 0, sent, received, "request request_sent, request request_sent", "request request_received, request request_received"},
		"accepted":                      {"a:request b:accept", 0, friend, friend, "request request_sent, accept friend, message, message", "request request_received, accept friend, message, message"},
		"accepted twice":                {"a:request b:accept b:accept", 0, friend, friend, "request request_sent, accept friend, message, message", "request request_received, accept friend, message, message"},
		"crossing":                      {"a:request b:request", 0, friend, friend, "request request_sent, accept friend, message, message", "request request_received, accept friend, message, message"},
		"asking a friend":               {"a:request b:accept a:request=hi", 0, friend, friend, "request request_sent, accept friend, message, message", "request request_received, accept friend, message, message"},
		"accepting nothing":             {"b:accept", proto.CodeNoRequest, none, none, "", ""},
		"accepting one's own":           {"a:request a:accept", proto.CodeNoRequest, sent, received, "request request_sent", "request request_received"},
		"put aside":                     {"a:request b:ignore", 0, sent, aside, "request request_sent", "request request_received, ignore request_ignored"},
		"put aside twice":               {"a:request b:ignore b:ignore", 0, sent, aside, "request request_sent", "request request_received, ignore request_ignored"},
		"put aside, asked again":        {"a:request b:ignore a:request=hi", 0, sent, aside, "request request_sent, request request_sent", "request request_received, ignore request_ignored"},
		"put aside, accepted":           {"a:request b:ignore b:accept", 0, friend, friend, "request request_sent, accept friend, message, message", "request request_received, ignore request_ignored, accept friend, message, message"},
		"put aside, crossing":           {"a:request b:ignore b:request", 0, friend, friend, "request request_sent, accept friend, message, message", "request request_received, ignore request_ignored, accept friend, message, message"},
		"ignoring nothing":              {"b:ignore", proto.CodeNoRequest, none, none, "", ""},
		"withdrawn":                     {"a:request a:remove", 0, none, none, "request request_sent, remove none", "request request_received, remove none"},
		"withdrawn after put aside":     {"a:request b:ignore a:remove a:request", 0, sent, received, "request request_sent, remove none, request request_sent", "request request_received, ignore request_ignored, remove none, request request_received"},
		"removing what one is asked":    {"a:request b:remove", 0, sent, received, "request request_sent", "request request_received"},
		"removing nothing":              {"a:remove", 0, none, none, "", ""},
		"removed":                       {"a:request b:accept a:remove", 0, none, none, "request request_sent, accept friend, message, message, remove none", "request request_received, accept friend, message, message, remove none"},
		"friends again, no hello":       {"a:request b:accept a:remove b:request a:accept", 0, friend, friend, "request request_sent, accept friend, message, message, remove none, request request_received, accept friend", "request request_received, accept friend, message, message, remove none, request request_sent, accept friend"},
		"blocked strangers":             {"a:block", 0, blocked, none, "block blocked", ""},
		"blocked twice":                 {"a:block a:block", 0, blocked, none, "block blocked", ""},
		"blocked friend":                {"a:request b:accept a:block", 0, blocked, none, "request request_sent, accept friend, message, message, block blocked", "request request_received, accept friend, message, message, remove none"},
		"blocked who asks":              {"b:request a:block", 0, blocked, none, "request request_received, block blocked", "request request_sent, remove none"},
		"blocked whom one asks":         {"a:request a:block", 0, blocked, none, "request request_sent, block blocked", "request request_received, remove none"},
		"asking who blocks":             {"a:block b:request", proto.CodeBlocked, blocked, none, "block blocked", ""},
		"asking whom one blocks":        {"a:block a:request", proto.CodeBlocked, blocked, none, "block blocked", ""},
		"unblocked":                     {"a:block a:unblock", 0, none, none, "block blocked, unblock none", ""},
		"unblocked, asked":              {"a:block a:unblock b:request", 0, received, sent, "block blocked, unblock none, request request_received", "request request_sent"},
		"unblocking nobody":             {"a:unblock", 0, none, none, "", ""},
		"unblocking who blocks":         {"a:block b:unblock", 0, blocked, none, "block blocked", ""},
		"both block":                    {"a:block b:block", 0, blocked, blocked, "block blocked", "block blocked"},
		"both block, one no more":       {"a:block b:block a:unblock b:request", proto.CodeBlocked, none, blocked, "block blocked, unblock none", "block blocked"},
		"removing whom one blocks":      {"a:block a:remove", 0, blocked, none, "block blocked", ""},
		"no such action":                {"a:none", proto.CodeBadRequest, none, none, "", ""},
		"accepting after a block":       {"a:request b:block b:accept", proto.CodeNoRequest, none, blocked, "request request_sent, remove none", "request request_received, block blocked"},
		"accepting what was taken back": {"a:request a:remove b:accept", proto.CodeNoRequest, none, none, "request request_sent, remove none", "request request_received, remove none"},
	} {
		t.Run(name, func(t *testing.T) {
			b := forTest(t, newRig(t, 1))
			users := map[byte]proto.EntityID{'a': b.addUser(), 'b': b.addUser()}
			var r *cellpb.Result
			for _, step := range strings.Fields(test.do) {
				verb, greeting, _ := strings.Cut(step[2:], "=")
				peer := byte('a' + 'b' - step[0])
				c := change(users[step[0]], users[peer], clientpb.ContactAction(clientpb.ContactAction_value["CONTACT_ACTION_"+strings.ToUpper(verb)]), b.id(0))
				c.Greeting = greeting
				if r != nil && r.Code != 0 {
					t.Fatalf("before %s: %v", step, r)
				}
				r = b.do(changeCommand(c))
				if r.Code == 0 && r.Contact.GetRelation() != b.contact(users[step[0]], users[peer]).GetRelation() {
					t.Fatalf("%s is answered %v, the row is %v", step, r.Contact, b.contact(users[step[0]], users[peer]))
				}
			}
			if proto.Code(r.Code) != test.code || r.Code != 0 && r.Message == "" {
				t.Errorf("answered %v, want %s", r, test.code)
			}
			for _, side := range []struct {
				me, peer byte
				want     clientpb.Relation
				told     string
			}{{'a', 'b', test.a, test.toA}, {'b', 'a', test.b, test.toB}} {
				if got := b.contact(users[side.me], users[side.peer]); got.GetRelation() != side.want || (got == nil) != (side.want == none) {
					t.Errorf("%c has the row %v, want %s", side.me, got, side.want)
				}
				if got := b.told(users[side.me]); got != side.told {
					t.Errorf("%c is told %q, want %q", side.me, got, side.told)
				}
			}
		})
	}
}

// The two hello messages are what the two have written, or the usual words;
// the first is of who asked.
func TestHelloMessages(t *testing.T) {
	for name, test := range map[string]struct {
		mine, theirs string // greetings; theirs: of a crossing request
		crossing     bool
		want         [2]string
	}{
		"usual":              {want: [2]string{"Hello, I am user1.", "We are friends now. Say hello!"}},
		"greeted":            {mine: "It is me", want: [2]string{"It is me", "We are friends now. Say hello!"}},
		"crossing":           {mine: "It is me", theirs: "I know", crossing: true, want: [2]string{"It is me", "I know"}},
		"crossing, wordless": {crossing: true, want: [2]string{"Hello, I am user1.", "We are friends now. Say hello!"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := forTest(t, newRig(t, 0))
			one, two := b.addUser(), b.addUser()
			c := change(one, two, ask, b.id(0))
			c.Greeting = test.mine
			b.must(b.entry(b.granted(changeCommand(c))))
			answer := change(two, one, accept, b.id(0))
			if test.crossing {
				answer.Action, answer.Greeting = ask, test.theirs
			}
			b.must(b.entry(b.granted(changeCommand(answer))))
			thread := proto.DirectThread(one, two)
			got := b.texts(thread)
			if want := []string{"1: " + test.want[0], "2: " + test.want[1]}; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("the thread has %q, want %q", got, want)
			}
			// They are messages like any: the next one follows, and each has
			// an id that cannot be used again.
			if r := b.send(thread, one, b.id(0)); r.Code != 0 || r.Seq != 3 {
				t.Errorf("the next message: %v", r)
			}
			first := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Thread{Thread: &cellpb.ReadThread{Thread: thread.String(), User: 1}}}).Events.Events[0]
			id, err := proto.ClientMsgIDFromBytes(first.ClientMsgId)
			if err != nil {
				t.Fatal(err)
			}
			if r := b.send(thread, one, id); !r.Repeated || r.Seq != 1 {
				t.Errorf("its id sent again: %v", r)
			}
		})
	}
}

// One client id acts once, and not for two things.
func TestContactChangeActsOnce(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	one, two := b.addUser(), b.addUser()
	request, removal := change(one, two, ask, b.id(0)), change(one, two, remove, b.id(0))
	for range 2 {
		b.must(b.entry(b.granted(changeCommand(request))))
		b.must(b.entry(b.granted(changeCommand(removal))))
	}
	r := b.do(changeCommand(request))
	if !r.Repeated || r.Contact.Relation != none || b.contact(two, one) != nil {
		t.Errorf("the request sent again: %v", r)
	}
	if got := b.told(two); got != "request request_received, remove none" {
		t.Errorf("told %q", got)
	}
	thread := proto.DirectThread(one, two)
	if r := b.send(thread, one, proto.ClientMsgID(request.ClientId)); proto.Code(r.Code) != proto.CodeBadRequest {
		t.Errorf("a message with the id of a request: %v", r)
	}
	id := b.id(0)
	b.must(b.entry(b.granted(appendCommand(message(thread, one, id)))))
	if r := b.do(changeCommand(change(one, two, ask, id))); proto.Code(r.Code) != proto.CodeBadRequest {
		t.Errorf("a request with the id of a message: %v", r)
	}
	old := change(one, two, ask, b.id(-proto.ClientMsgIDPast-time.Second))
	if r := b.do(changeCommand(old)); proto.Code(r.Code) != proto.CodeMessageTooOld {
		t.Errorf("an old id: %v", r)
	}
}

// What cannot be is refused where it is applied, whatever the host let pass.
func TestContactChangeRefusals(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	one, two := b.addUser(), b.addUser()
	with := func(f func(*cellpb.ChangeContact)) *cellpb.Command {
		c := change(one, two, ask, b.id(0))
		f(c)
		return changeCommand(c)
	}
	elsewhere, ok := threadOwnedBy(2, []proto.EntityID{one}, []proto.EntityID{8192, 8193, 8194, 8195, 8196, 8197})
	if !ok {
		t.Fatal("no thread is owned elsewhere")
	}
	long := strings.Repeat("x", proto.GreetingBytesMax+1)
	for name, test := range map[string]struct {
		command *cellpb.Command
		want    proto.Code
	}{
		"a stranger":          {with(func(c *cellpb.ChangeContact) { c.From = 99 }), proto.CodeNotMember},
		"a group":             {with(func(c *cellpb.ChangeContact) { c.Thread = "g/" + one.String() }), proto.CodeNotMember},
		"no thread":           {with(func(c *cellpb.ChangeContact) { c.Thread = "x" }), proto.CodeBadRequest},
		"another's thread":    {with(func(c *cellpb.ChangeContact) { c.Thread = elsewhere.String() }), proto.CodeBadRequest},
		"no id":               {with(func(c *cellpb.ChangeContact) { c.ClientId = nil }), proto.CodeBadRequest},
		"a long greeting":     {with(func(c *cellpb.ChangeContact) { c.Greeting = long }), proto.CodeTooBig},
		"a bad greeting":      {with(func(c *cellpb.ChangeContact) { c.Greeting = "a\x07" }), proto.CodeBadRequest},
		"a long alias":        {with(func(c *cellpb.ChangeContact) { c.Alias = long[:proto.AliasBytesMax+1] }), proto.CodeTooBig},
		"the same tag twice":  {with(func(c *cellpb.ChangeContact) { c.Tags = []string{"x", "x"} }), proto.CodeBadRequest},
		"many tags":           {with(func(c *cellpb.ChangeContact) { c.Tags = make([]string, proto.TagsMax+1) }), proto.CodeBadRequest},
		"nobody":              {changeCommand(change(one, two+1, ask, b.id(0))), proto.CodeUnknownUser},
		"editing no contact":  {editCommand(one, two, "x"), proto.CodeUnknownUser},
		"editing for another": {editCommand(9999, two, "x"), proto.CodeUnknownUser},
		"a long tag":          {editCommand(one, two, "x", long[:proto.TagBytesMax+1]), proto.CodeTooBig},
		"a long description":  {profileCommand(one, &clientpb.SetProfile{Description: new(long)}), proto.CodeTooBig},
		"no direct_from":      {profileCommand(one, &clientpb.SetProfile{DirectFrom: clientpb.DirectFrom(5).Enum()}), proto.CodeBadRequest},
		"nobody's profile":    {profileCommand(two+1, &clientpb.SetProfile{}), proto.CodeUnknownUser},
	} {
		if r := b.do(test.command); proto.Code(r.Code) != test.want || r.Message == "" {
			t.Errorf("%s: %v, want %s", name, r, test.want)
		}
	}
	if got := b.told(one) + b.told(two); got != "" || b.contact(one, two) != nil {
		t.Errorf("what was refused was told: %q", got)
	}
}

// Nobody has more contacts than the limit; what changes no count goes on.
func TestContactsLimit(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	full, other, third := b.addUser(), b.addUser(), b.addUser()
	do := func(from, to proto.EntityID, action clientpb.ContactAction, want proto.Code) {
		t.Helper()
		if r := b.do(changeCommand(change(from, to, action, b.id(0)))); proto.Code(r.Code) != want {
			t.Errorf("%d: %s %d: %v, want %s", from, action, to, r, want)
		}
	}
	do(other, full, ask, 0)
	b.m.user(full).log.Contacts = proto.ContactsMax
	do(full, third, ask, proto.CodeTooMany)
	do(full, third, block, proto.CodeTooMany)
	do(third, full, ask, proto.CodeTooMany)
	do(third, full, block, 0)
	do(third, full, unblock, 0)
	do(full, other, accept, 0)
	do(full, other, remove, 0)
	if n := b.m.user(full).log.Contacts; n != proto.ContactsMax-1 {
		t.Errorf("the count is %d", n)
	}
	do(full, third, ask, 0)
}

// A page of contacts fits a frame however long what is in it is, and the
// pages together have each contact of the relations asked for once.
func TestContactPages(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	b.manual = true
	me := b.addUser()
	long := strings.Repeat("é", proto.GreetingBytesMax/2)
	want := map[uint64]bool{}
	for i := range 150 {
		peer := b.addUser()
		c := change(peer, me, ask, b.id(0))
		c.Greeting = long
		if i%3 == 0 {
			c.Action = block // no row for me
		} else {
			want[uint64(peer)] = true
		}
		b.must(b.entry(b.granted(changeCommand(c))))
	}
	pages := 0
	for after := uint64(0); ; pages++ {
		q := &cellpb.ReadContacts{User: uint64(me), After: after, Limit: proto.PageMax, Relations: []clientpb.Relation{received, friend}}
		page := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Contacts{Contacts: q}})
		if page.ContactCount != uint64(100) {
			t.Fatalf("the count is %d", page.ContactCount)
		}
		size := 0
		for _, c := range page.Contacts {
			if !want[c.User] || c.User <= after {
				t.Fatalf("%d comes after %d", c.User, after)
			}
			delete(want, c.User)
			after, size = c.User, size+len(c.Greeting)+40
		}
		if size > proto.FrameBytesMax {
			t.Fatalf("a page has %d bytes", size)
		}
		if !page.More {
			break
		}
	}
	if len(want) != 0 || pages == 0 {
		t.Errorf("%d contacts are missing on %d pages", len(want), pages+1)
	}
	q := &cellpb.ReadContacts{User: uint64(me), Relations: []clientpb.Relation{blocked}}
	if page := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Contacts{Contacts: q}}); len(page.Contacts) != 0 || page.More {
		t.Errorf("blocked: %v", page)
	}
}

// Rows are taken from the range that may send them only.
func TestContactRowsOfOthersAreIgnored(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	me := b.addUser()
	thread, ok := threadOwnedBy(1, []proto.EntityID{me}, []proto.EntityID{8192, 8193, 8194, 8195, 8196, 8197})
	if !ok {
		t.Fatal("no thread is owned here")
	}
	peer := thread.Peer(me)
	row := &cellpb.ContactRow{User: uint64(me), Update: &cellpb.ContactUpdate{Contact: &clientpb.Contact{User: uint64(peer), Relation: friend}}}
	b.do(takeRows(peer.Range(), []*cellpb.ChannelRow{{Number: 1, Body: &cellpb.ChannelRow_Contact{Contact: row}}}))
	if got := b.contact(me, peer); got != nil || b.told(me) != "" {
		t.Errorf("a range that does not own the thread has made %v", got)
	}
	b.do(takeRows(peer.Range(), []*cellpb.ChannelRow{
		{Number: 2, Body: &cellpb.ChannelRow_DirectFrom{DirectFrom: &cellpb.DirectFromRow{User: 3 * proto.RangeEntities, Changed: 9}}},
		{Number: 3, Body: &cellpb.ChannelRow_Contact{}}, {Number: 4, Body: &cellpb.ChannelRow_Profile{}},
	}))
	if found := b.m.get(engine.DirectFromKey(1, 3*proto.RangeEntities), new(cellpb.DirectFromRow)); found {
		t.Error("a range has said who may write to a user of another")
	}
}

// A card, a setting or a contact row that comes late or without a card takes
// nothing newer away.
func TestOlderRowsChangeNothing(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	me := b.addUser()
	var peer proto.EntityID
	for id := proto.EntityID(8192); peer == 0; id++ {
		if proto.DirectThread(me, id).OwnerRange() == 2 {
			peer = id
		}
	}
	number := uint64(0)
	take := func(row *cellpb.ChannelRow) {
		t.Helper()
		number++
		row.Number = number
		b.must(b.entry(b.granted(takeRows(2, []*cellpb.ChannelRow{row}))))
	}
	befriend := func(alias string, card *clientpb.Card, changed uint64) {
		take(&cellpb.ChannelRow{Body: &cellpb.ChannelRow_Contact{Contact: &cellpb.ContactRow{
			User: uint64(me), Names: true, CardChanged: changed,
			Update: &cellpb.ContactUpdate{Contact: &clientpb.Contact{User: uint64(peer), Relation: friend, Alias: alias, Card: card}},
		}}})
	}
	card := func(nick string) *clientpb.Card { return &clientpb.Card{User: uint64(peer), Nick: nick} }
	profile := func(nick string, changed uint64) {
		take(&cellpb.ChannelRow{Body: &cellpb.ChannelRow_Profile{Profile: &cellpb.ProfileRow{
			Users: []uint64{uint64(me), uint64(me) + 1, 9999}, Card: card(nick), Changed: changed,
		}}})
	}
	direct := func(d clientpb.DirectFrom, changed uint64) {
		take(&cellpb.ChannelRow{Body: &cellpb.ChannelRow_DirectFrom{DirectFrom: &cellpb.DirectFromRow{User: uint64(peer), DirectFrom: d, Changed: changed}}})
	}
	befriend("one", card("second"), 2)
	profile("first", 1)
	profile("second again", 2)
	befriend("two", nil, 0)
	befriend("three", card("first"), 1)
	if got := b.contact(me, peer); got.Card.GetNick() != "second" || got.Alias != "three" {
		t.Errorf("the row is %v", got)
	}
	profile("third", 3)
	if got := b.contact(me, peer); got.Card.GetNick() != "third" {
		t.Errorf("the row is %v", got)
	}
	if got := b.told(me); got != "none friend, none friend, none friend, card third" {
		t.Errorf("told %q", got)
	}
	direct(clientpb.DirectFrom_DIRECT_FROM_FRIENDS, 5)
	direct(clientpb.DirectFrom_DIRECT_FROM_ANYONE, 4)
	if got := b.m.direct(peer); got.DirectFrom != clientpb.DirectFrom_DIRECT_FROM_FRIENDS {
		t.Errorf("the setting is %v", got)
	}
}
