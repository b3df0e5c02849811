package testcluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
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

// change does something about another person.
func (d *Device) change(ctx context.Context, to User, action clientpb.ContactAction, greeting string) (clientpb.Relation, error) {
	c, err := d.ChangeContact(ctx, client.ContactChange{User: to.ID, Action: action, Greeting: greeting})
	return c.GetRelation(), err
}

// must is change that has to work and end in a relation.
func (c *Cluster) must(d *Device, to User, action clientpb.ContactAction, want clientpb.Relation) {
	c.t.Helper()
	if got, err := d.change(c.Context(), to, action, ""); err != nil || got != want {
		c.t.Fatalf("%s: %s %s: %s, %v; want %s", d.User.Name, action, to.Name, got, err, want)
	}
}

// refused is change that has to be refused.
func (c *Cluster) refused(d *Device, to User, action clientpb.ContactAction, want proto.Code) {
	c.t.Helper()
	if got, err := d.change(c.Context(), to, action, ""); proto.CodeOf(err) != want || err.Error() == "" {
		c.t.Fatalf("%s: %s %s: %s, %v; want %s", d.User.Name, action, to.Name, got, err, want)
	}
}

// contacts are a device's contacts by user.
func (c *Cluster) contacts(d *Device) map[proto.EntityID]*clientpb.Contact {
	c.t.Helper()
	out := map[proto.EntityID]*clientpb.Contact{}
	for cursor := ""; ; {
		page, next, err := d.Contacts(c.Context(), &clientpb.ListContacts{Relations: []clientpb.Relation{friend, received, sent, aside, blocked}, Limit: 2, Cursor: cursor})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, one := range page {
			if out[proto.EntityID(one.User)] != nil {
				c.t.Fatalf("%d is listed twice", one.User)
			}
			out[proto.EntityID(one.User)] = one
		}
		if cursor = next; cursor == "" {
			return out
		}
	}
}

// untilRelation waits until a device's list of contacts says so.
func (c *Cluster) untilRelation(d *Device, to User, want clientpb.Relation) {
	c.t.Helper()
	c.Until(fmt.Sprintf("%s is %s to %s", to.Name, want, d.User.Name), func() error {
		if got := c.contacts(d)[to.ID].GetRelation(); got != want {
			return fmt.Errorf("is %s", got)
		}
		return nil
	})
}

// contactUpdates are the updates of contacts received so far, as text.
func contactUpdates(d *Device) []string {
	var out []string
	for _, u := range d.Updates() {
		if e := u.Contact; e != nil {
			out = append(out, strings.ToLower(strings.TrimPrefix(e.Action.String(), "CONTACT_ACTION_"))+" "+
				strings.ToLower(strings.TrimPrefix(e.Contact.Relation.String(), "RELATION_"))+" "+e.Contact.Name)
		}
	}
	return out
}

func (c *Cluster) untilContactUpdates(d *Device, want ...string) {
	c.t.Helper()
	c.Until(fmt.Sprintf("%s is told %q", d.User.Name, want), func() error {
		if got := contactUpdates(d); !slices.Equal(got, want) {
			return fmt.Errorf("told %q", got)
		}
		return nil
	})
}

// pair makes two users in two cells whose thread belongs to the first one's
// range, or to the second one's.
func (c *Cluster) pair(name string, firstOwns bool) (User, User) {
	c.t.Helper()
	a := c.AddUser(name+"a", "c1")
	for i := 0; ; i++ {
		b := c.AddUser(fmt.Sprintf("%sb%d", name, i), "c2")
		if proto.DirectThread(a.ID, b.ID).Owner() == a.ID == firstOwns {
			return a, b
		}
	}
}

// owners runs a test with the thread owned on either side.
func owners(t *testing.T, c *Cluster, test func(t *testing.T, c *Cluster, a, b User)) {
	for _, firstOwns := range []bool{true, false} {
		a, b := c.pair(fmt.Sprintf("owner%t", firstOwns), firstOwns)
		t.Run(fmt.Sprintf("first owns %t", firstOwns), func(t *testing.T) {
			sub := *c
			sub.t = t
			test(t, &sub, a, b)
		})
	}
}

// A request is pushed, and waits for who is away; who accepts becomes a
// friend, and both have the two hello messages, once.
func TestContactsRequestAndAccept(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	owners(t, c, func(t *testing.T, c *Cluster, ann, bob User) {
		ctx := c.Context()
		a := c.Connect(ann, client.TCP, nil)
		if _, err := a.SetProfile(ctx, &clientpb.SetProfile{Nick: new("Annie")}); err != nil {
			t.Fatal(err)
		}
		contact, err := a.ChangeContact(ctx, client.ContactChange{User: bob.ID, Action: ask, Greeting: "Ann, from the choir", Alias: "Bobby", Tags: []string{"choir"}})
		if err != nil || contact.Relation != sent || contact.Alias != "Bobby" || contact.Name != bob.Name || contact.TimeMs == 0 {
			t.Fatalf("asked: %v, %v", contact, err)
		}
		c.untilRelation(a, bob, sent)
		b := c.Connect(bob, client.QUIC, nil) // was away
		c.untilContactUpdates(b, "request request_received "+ann.Name)
		got := c.contacts(b)[ann.ID]
		if got.GetGreeting() != "Ann, from the choir" || got.Alias != "" {
			t.Errorf("bob's row is %v", got)
		}
		if contact, err := b.ChangeContact(ctx, client.ContactChange{User: ann.ID, Action: accept, Alias: "A."}); err != nil || contact.Relation != friend || contact.Alias != "A." {
			t.Fatalf("accepted: %v, %v", contact, err)
		}
		thread := proto.DirectThread(ann.ID, bob.ID).String()
		for _, d := range []*Device{a, b} {
			hellos := c.WaitTexts(d, thread, 2)
			if want := []string{"Ann, from the choir", "We are friends now. Say hello!"}; !slices.Equal(hellos, want) {
				t.Errorf("%s has the hello messages %q", d.User.Name, hellos)
			}
		}
		c.untilContactUpdates(a, "request request_sent "+bob.Name, "accept friend "+bob.Name)
		c.untilContactUpdates(b, "request request_received "+ann.Name, "accept friend "+ann.Name)
		c.Until("both have each other's card", func() error {
			of, to := c.contacts(a)[bob.ID], c.contacts(b)[ann.ID]
			if of.GetCard().GetName() != bob.Name || to.GetCard().GetNick() != "Annie" || of.Alias != "Bobby" || to.Alias != "A." {
				return fmt.Errorf("%v and %v", of, to)
			}
			return nil
		})
		if _, err := a.SetProfile(ctx, &clientpb.SetProfile{Description: new("sings alto")}); err != nil {
			t.Fatal(err)
		}
		c.Until("bob hears of ann's new profile", func() error {
			for _, u := range b.Updates() {
				if u.Profile.GetDescription() == "sings alto" && u.Profile.Nick == "Annie" {
					return nil
				}
			}
			return fmt.Errorf("updates: %v", b.Updates())
		})
		// Being friends a second time is not greeted.
		c.must(a, bob, remove, none)
		c.untilRelation(b, ann, none)
		c.must(b, ann, ask, sent)
		c.must(a, bob, ask, friend)
		c.untilRelation(b, ann, friend)
		if n := len(c.History(a, thread)); n != 2 {
			t.Errorf("the thread has %d messages, want the two of the first time", n)
		}
		for i, u := range b.Updates() {
			if u.Pts != proto.Pts(i+1) {
				t.Fatalf("update %d has pts %d", i, u.Pts)
			}
		}
	})
}

// Who is blocked cannot write, ask or find; history stays readable; who
// blocks is not told on.
func TestContactsBlock(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	owners(t, c, func(t *testing.T, c *Cluster, ann, bob User) {
		ctx := c.Context()
		a, b := c.Connect(ann, client.TCP, nil), c.Connect(bob, client.TCP, nil)
		thread := proto.DirectThread(ann.ID, bob.ID).String()
		c.must(a, bob, ask, sent)
		c.untilRelation(b, ann, received)
		c.must(b, ann, accept, friend)
		c.untilRelation(a, bob, friend)
		c.must(b, ann, block, blocked)
		c.untilRelation(b, ann, blocked)
		c.untilContactUpdates(a, "request request_sent "+bob.Name, "accept friend "+bob.Name, "remove none "+bob.Name)
		for what, err := range map[string]error{
			"the blocked writes": second(a.Send(ctx, thread, "x")), "the one who blocks writes": second(b.Send(ctx, thread, "x")),
		} {
			if proto.CodeOf(err) != proto.CodeBlocked {
				t.Errorf("%s: %v", what, err)
			}
		}
		c.refused(a, bob, ask, proto.CodeBlocked)
		c.refused(b, ann, ask, proto.CodeBlocked)
		c.refused(a, bob, accept, proto.CodeNoRequest)
		_, errName := a.FindCard(ctx, &clientpb.FindUser{Name: bob.Name})
		_, errID := a.FindCard(ctx, &clientpb.FindUser{User: uint64(bob.ID)})
		_, errNobody := a.FindCard(ctx, &clientpb.FindUser{Name: "nobody"})
		if proto.CodeOf(errName) != proto.CodeUnknownUser || proto.CodeOf(errID) != proto.CodeUnknownUser ||
			strings.ReplaceAll(errName.Error(), bob.Name, "nobody") != errNobody.Error() {
			t.Errorf("found by the blocked: %v, %v; nobody: %v", errName, errID, errNobody)
		}
		if people, err := a.FindPeople(ctx, bob.Name, 0); err != nil || len(people) != 0 {
			t.Errorf("the blocked finds %v, %v", people, err)
		}
		if card, err := b.FindCard(ctx, &clientpb.FindUser{Name: ann.Name}); err != nil || card.Relation != blocked {
			t.Errorf("the one who blocks finds %v, %v", card, err)
		}
		if n := len(c.History(a, thread)); n != 2 {
			t.Errorf("the blocked reads %d messages, want 2", n)
		}
		c.must(b, ann, unblock, none)
		if _, err := a.Send(ctx, thread, "again"); err != nil {
			t.Errorf("after the block: %v", err)
		}
		c.must(a, bob, ask, sent)
		c.untilRelation(b, ann, received)
		c.must(b, ann, ignore, aside)
		c.must(b, ann, block, blocked)
		c.untilRelation(a, bob, none)
	})
}

// Who wants messages from friends only gets no others, whichever range owns
// the thread, from the first message on and after each change.
func TestContactsFriendsOnly(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	owners(t, c, func(t *testing.T, c *Cluster, ann, bob User) {
		ctx := c.Context()
		a, b := c.Connect(ann, client.TCP, nil), c.Connect(bob, client.TCP, nil)
		thread := proto.DirectThread(ann.ID, bob.ID).String()
		set := func(d clientpb.DirectFrom) {
			t.Helper()
			if p, err := b.SetProfile(ctx, &clientpb.SetProfile{DirectFrom: d.Enum()}); err != nil || p.DirectFrom != d {
				t.Fatalf("set: %v, %v", p, err)
			}
		}
		send := func(text string) error { return second(a.Send(ctx, thread, text)) }
		const anyone, friends = clientpb.DirectFrom_DIRECT_FROM_ANYONE, clientpb.DirectFrom_DIRECT_FROM_FRIENDS
		set(friends)
		if err := send("the first"); proto.CodeOf(err) != proto.CodeNotFriends {
			t.Fatalf("a stranger's first message: %v", err)
		}
		set(anyone)
		if err := send("hello"); err != nil {
			t.Fatal(err)
		}
		c.WaitTexts(b, thread, 1)
		set(friends)
		c.Until("a stranger's message is refused", func() error {
			if err := send("more"); proto.CodeOf(err) != proto.CodeNotFriends {
				return fmt.Errorf("answered %v", err)
			}
			return nil
		})
		if _, err := b.Send(ctx, thread, "who narrows may write"); err != nil {
			t.Error(err)
		}
		c.must(a, bob, ask, sent)
		c.untilRelation(b, ann, received)
		c.must(b, ann, accept, friend)
		if err := send("as a friend"); err != nil {
			t.Error(err)
		}
		c.untilRelation(a, bob, friend)
		c.must(a, bob, remove, none)
		if err := send("no more"); proto.CodeOf(err) != proto.CodeNotFriends {
			t.Errorf("who is no friend any more: %v", err)
		}
		set(anyone)
		c.Until("anyone may write again", func() error { return send("again") })
	})
}

// A deployment can let only friends write to each other.
func TestContactsFriendsOnlyDeployment(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true, Override: func(cfg *daemon.Config) error {
		cfg.Chat.DirectFrom = "friends"
		return nil
	}})
	owners(t, c, func(t *testing.T, c *Cluster, ann, bob User) {
		a, b := c.Connect(ann, client.TCP, nil), c.Connect(bob, client.TCP, nil)
		thread := proto.DirectThread(ann.ID, bob.ID).String()
		if _, err := a.Send(c.Context(), thread, "x"); proto.CodeOf(err) != proto.CodeNotFriends {
			t.Errorf("strangers: %v", err)
		}
		c.must(a, bob, ask, sent)
		c.must(b, ann, ask, friend)
		if _, err := a.Send(c.Context(), thread, "x"); err != nil {
			t.Errorf("friends: %v", err)
		}
	})
}

// What a stranger, or one who is no friend any more, asks is refused with a
// clear code and changes nothing.
func TestContactsStrangers(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	owners(t, c, func(t *testing.T, c *Cluster, ann, bob User) {
		ctx := c.Context()
		a, b := c.Connect(ann, client.TCP, nil), c.Connect(bob, client.TCP, nil)
		nobody := User{ID: bob.ID + 1000, Name: "nobody"}
		nowhere := User{ID: 1 << 50, Name: "nowhere"}
		long := strings.Repeat("x", 600)
		try := func(change client.ContactChange) error { return second(a.ChangeContact(ctx, change)) }
		for what, test := range map[string]struct {
			err  error
			want proto.Code
		}{
			"accepting what nobody asked":   {try(client.ContactChange{User: bob.ID, Action: accept}), proto.CodeNoRequest},
			"putting aside what is not":     {try(client.ContactChange{User: bob.ID, Action: ignore}), proto.CodeNoRequest},
			"asking oneself":                {try(client.ContactChange{User: ann.ID, Action: ask}), proto.CodeBadRequest},
			"asking nobody":                 {try(client.ContactChange{User: nobody.ID, Action: ask}), proto.CodeUnknownUser},
			"blocking nobody":               {try(client.ContactChange{User: nobody.ID, Action: block}), proto.CodeUnknownUser},
			"asking someone in no range":    {try(client.ContactChange{User: nowhere.ID, Action: ask}), proto.CodeUnknownUser},
			"asking no user":                {try(client.ContactChange{Action: ask}), proto.CodeBadRequest},
			"no action":                     {try(client.ContactChange{User: bob.ID}), proto.CodeBadRequest},
			"an action that does not exist": {try(client.ContactChange{User: bob.ID, Action: 99}), proto.CodeBadRequest},
			"a long greeting":               {try(client.ContactChange{User: bob.ID, Action: ask, Greeting: long}), proto.CodeTooBig},
			"a greeting with controls":      {try(client.ContactChange{User: bob.ID, Action: ask, Greeting: "a\x1b[2J"}), proto.CodeBadRequest},
			"a long alias":                  {try(client.ContactChange{User: bob.ID, Action: ask, Alias: long[:65]}), proto.CodeTooBig},
			"an empty tag":                  {try(client.ContactChange{User: bob.ID, Action: ask, Tags: []string{""}}), proto.CodeBadRequest},
			"editing who is no contact":     {second(a.EditContact(ctx, bob.ID, "x", nil)), proto.CodeUnknownUser},
			"a long nick":                   {second(a.SetProfile(ctx, &clientpb.SetProfile{Nick: new(long[:65])})), proto.CodeTooBig},
			"an unknown direct_from":        {second(a.SetProfile(ctx, &clientpb.SetProfile{DirectFrom: clientpb.DirectFrom(9).Enum()})), proto.CodeBadRequest},
			"listing no relation":           {third(a.Contacts(ctx, &clientpb.ListContacts{})), proto.CodeBadRequest},
			"a wrong cursor":                {third(a.Contacts(ctx, &clientpb.ListContacts{Relations: []clientpb.Relation{friend}, Cursor: "x"})), proto.CodeBadRequest},
			"a short prefix":                {second(a.FindPeople(ctx, "x", 0)), proto.CodeBadRequest},
			"a prefix of no name":           {second(a.FindPeople(ctx, "%_", 0)), proto.CodeBadRequest},
		} {
			if proto.CodeOf(test.err) != test.want {
				t.Errorf("%s: got %v, want %s", what, test.err, test.want)
			} else if test.err.Error() == "" {
				t.Errorf("%s: the error has no words", what)
			}
		}
		c.must(a, bob, remove, none) // nothing to end
		c.must(a, bob, unblock, none)
		if n := len(c.contacts(a)) + len(c.contacts(b)) + len(a.Updates()) + len(b.Updates()); n != 0 {
			t.Errorf("what was refused has left %d traces", n)
		}
		// Once friends, then not: accepting again is no way back.
		c.must(a, bob, ask, sent)
		c.untilRelation(b, ann, received)
		c.must(b, ann, accept, friend)
		c.must(b, ann, accept, friend)
		c.untilRelation(a, bob, friend)
		c.must(b, ann, remove, none)
		c.refused(a, bob, accept, proto.CodeNoRequest)
		c.refused(b, ann, accept, proto.CodeNoRequest)
	})
}

// People are found by the beginning of their name, with their card and what
// they are to the one who asks; who lies in a dead cell, by name alone.
func TestContactsFindPeople(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	ann := c.AddUser("ann", "c1")
	cid, cis, cob := c.AddUser("cid", "c1"), c.AddUser("cis", "c2"), c.AddUser("cob", "c2")
	ctx := c.Context()
	a, s := c.Connect(ann, client.TCP, nil), c.Connect(cis, client.TCP, nil)
	if _, err := s.SetProfile(ctx, &clientpb.SetProfile{Nick: new("Cis")}); err != nil {
		t.Fatal(err)
	}
	c.must(a, cis, ask, sent)
	found := func(prefix string, limit uint32) string {
		t.Helper()
		people, err := a.FindPeople(ctx, prefix, limit)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range people {
			out = append(out, fmt.Sprintf("%s/%s/%d", p.Name, p.Nick, p.Relation))
		}
		return strings.Join(out, " ")
	}
	c.untilRelation(a, cis, sent)
	for _, test := range []struct {
		prefix string
		limit  uint32
		want   string
	}{
		{"ci", 0, "cid//0 cis/Cis/3"}, {"CI", 1, "cid//0"}, {"cob", 0, "cob//0"}, {"c_", 0, ""}, {"zz", 0, ""},
	} {
		if got := found(test.prefix, test.limit); got != test.want {
			t.Errorf("%s, %d: found %q, want %q", test.prefix, test.limit, got, test.want)
		}
	}
	_, _ = cid, cob
	c.StopNode("c2-n1")
	if got := found("ci", 0); got != "cid//0 cis//3" {
		t.Errorf("with a dead cell: %q", got)
	}
	c.StartNode("c2-n1")
	// More than a few searches a second are answered with a time to wait.
	r, _ := c.Login(ann, nil)
	for range 100 {
		r.Write(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_FindPeople{FindPeople: &clientpb.FindPeople{Prefix: "ci"}}})
	}
	limited := 0
	for range 100 {
		if e := r.Read().GetError(); proto.Code(e.GetCode()) == proto.CodeRateLimited && e.RetryMs > 0 {
			limited++
		}
	}
	if limited == 0 {
		t.Error("no search was limited")
	}
}
