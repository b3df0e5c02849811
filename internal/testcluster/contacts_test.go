package testcluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client"
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
