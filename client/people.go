package client

import (
	"context"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// FindPeople finds people by the beginning of their user name, at least
// [proto.PrefixBytesMin] bytes. limit 0 means 20, at most 50.
func (c *Client) FindPeople(ctx context.Context, prefix string, limit uint32) ([]*clientpb.Card, error) {
	q := &clientpb.FindPeople{Prefix: prefix, Limit: limit}
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_FindPeople{FindPeople: q}})
	return f.GetPeople().GetCards(), err
}

// ContactChange is what to do about another person.
type ContactChange struct {
	User     proto.EntityID
	Action   clientpb.ContactAction
	Greeting string   // of a request
	Alias    string   // of a request or an acceptance: the user's own name for the other
	Tags     []string // likewise
}

// ChangeContact asks to be friends, accepts, ignores, removes, blocks or
// unblocks, exactly once, and returns the contact as it stands afterwards.
//
// Errors: [proto.CodeBlocked], [proto.CodeNoRequest] for an acceptance of what
// nobody asked, [proto.CodeTooMany], [proto.CodeUnknownUser].
func (c *Client) ChangeContact(ctx context.Context, change ContactChange) (*clientpb.Contact, error) {
	id := proto.NewClientMsgID(c.serverTime())
	q := &clientpb.ChangeContact{
		User: uint64(change.User), Action: change.Action, ClientId: id[:],
		Greeting: change.Greeting, Alias: change.Alias, Tags: change.Tags,
	}
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_ChangeContact{ChangeContact: q}})
	return f.GetContactChanged().GetContact(), err
}

// serverTime is the server's clock, as far as known.
func (c *Client) serverTime() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return time.Now()
	}
	return time.Now().Add(c.conn.clockOffset)
}

// EditContact sets the user's own name for a contact and his tags.
func (c *Client) EditContact(ctx context.Context, user proto.EntityID, alias string, tags []string) (*clientpb.Contact, error) {
	q := &clientpb.EditContact{User: uint64(user), Alias: alias, Tags: tags}
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_EditContact{EditContact: q}})
	return f.GetContactChanged().GetContact(), err
}

// Contacts pages through the contacts of some relations, by user id. The
// cursor of the last page is empty.
func (c *Client) Contacts(ctx context.Context, q *clientpb.ListContacts) (contacts []*clientpb.Contact, next string, err error) {
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_ListContacts{ListContacts: q}})
	return f.GetContacts().GetContacts(), f.GetContacts().GetCursor(), err
}

// Profile reads the user's own profile.
func (c *Client) Profile(ctx context.Context) (*clientpb.Profile, error) {
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_ReadProfile{ReadProfile: new(clientpb.ReadProfile)}})
	return f.GetProfile(), err
}

// SetProfile changes the fields that are given and tells the friends.
func (c *Client) SetProfile(ctx context.Context, change *clientpb.SetProfile) (*clientpb.Profile, error) {
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_SetProfile{SetProfile: change}})
	return f.GetProfile(), err
}

// Devices lists the user's logged-in devices.
func (c *Client) Devices(ctx context.Context) ([]*clientpb.DeviceRow, error) {
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_ListDevices{ListDevices: new(clientpb.ListDevices)}})
	return f.GetDevices().GetDevices(), err
}

// EndDevice logs one of the user's devices out; empty: this one, after which
// Run returns [proto.CodeLoggedOut].
func (c *Client) EndDevice(ctx context.Context, device string) error {
	_, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_EndDevice{EndDevice: &clientpb.EndDevice{Device: device}}})
	return err
}

// EndAllDevices ends every login of the user, this one too.
func (c *Client) EndAllDevices(ctx context.Context) error {
	_, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_EndAllDevices{EndAllDevices: new(clientpb.EndAllDevices)}})
	return err
}
