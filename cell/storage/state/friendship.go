package state

import (
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// bond is what two people are to each other, seen from the one who acts. It
// is a copy of their direct thread's header.
//
//	        request              accept, crossing request
//	none ───────────► requested ──────────────────────────► friends
//	  ▲ ◄─── remove ─────┘ │ ignore: the other side has put it aside,
//	  │                    │ which only changes how he sees it
//	  └──────── remove, or a block of either ───────────────────┘
//
// Each side's block stands beside this, ends it and keeps it at none.
type bond struct {
	header     *cellpb.ThreadHeader
	me, other  *cellpb.Side
	meID, toID proto.EntityID
	meName     string
	toName     string
}

func newBond(h *cellpb.ThreadHeader, c *cellpb.ChangeContact, thread proto.ThreadID) *bond {
	h = pb.CloneOf(h)
	if h.Low == nil {
		h.Low = new(cellpb.Side)
	}
	if h.High == nil {
		h.High = new(cellpb.Side)
	}
	from := proto.EntityID(c.From)
	b := &bond{header: h, me: h.Low, other: h.High, meID: from, toID: thread.Peer(from), meName: c.FromName, toName: c.ToName}
	if from == thread.High {
		b.me, b.other = h.High, h.Low
	}
	return b
}

// nameOr is a user's name for messages to people.
func nameOr(name string, user proto.EntityID) string {
	if name == "" {
		return "user " + user.String()
	}
	return name
}

// relationOf is what other is to the user of side me.
func relationOf(friends bool, me, other *cellpb.Side) clientpb.Relation {
	switch {
	case me.GetBlocks():
		return clientpb.Relation_RELATION_BLOCKED
	case friends:
		return clientpb.Relation_RELATION_FRIEND
	case me.GetRequests():
		return clientpb.Relation_RELATION_REQUEST_SENT
	case other.GetRequests() && me.GetIgnores():
		return clientpb.Relation_RELATION_REQUEST_IGNORED
	case other.GetRequests():
		return clientpb.Relation_RELATION_REQUEST_RECEIVED
	}
	return clientpb.Relation_RELATION_NONE
}

// views are the contacts as the two see each other.
func (b *bond) views() (mine, theirs *clientpb.Contact) {
	view := func(me, other *cellpb.Side, peer proto.EntityID, name string) *clientpb.Contact {
		c := &clientpb.Contact{User: uint64(peer), Name: name, Relation: relationOf(b.header.Friends, me, other), TimeMs: me.SinceMs}
		switch c.Relation {
		case clientpb.Relation_RELATION_REQUEST_SENT:
			c.Greeting = me.Greeting
		case clientpb.Relation_RELATION_REQUEST_RECEIVED, clientpb.Relation_RELATION_REQUEST_IGNORED:
			c.Greeting = other.Greeting
		}
		return c
	}
	return view(b.me, b.other, b.toID, b.toName), view(b.other, b.me, b.meID, b.meName)
}

// deed is what an action has done.
type deed struct {
	mine, theirs clientpb.ContactAction // what each is told
	hellos       []hello
}

// hello is one of the two messages that begin a friendship.
type hello struct {
	from           proto.EntityID
	fromName, text string
	toName         string
}

// act changes b as asked. Nothing has changed where it refuses.
func (b *bond) act(c *cellpb.ChangeContact, nowMs int64) (deed, *proto.Error) {
	before, beforeTheirs := b.views()
	d := deed{mine: c.Action, theirs: c.Action}
	var err *proto.Error
	switch c.Action {
	case clientpb.ContactAction_CONTACT_ACTION_REQUEST:
		err = b.request(c.Greeting, nowMs, &d)
	case clientpb.ContactAction_CONTACT_ACTION_ACCEPT:
		switch {
		case b.header.Friends:
		case !b.other.Requests:
			err = b.noRequest()
		default:
			b.befriend("", &d)
		}
	case clientpb.ContactAction_CONTACT_ACTION_IGNORE:
		if !b.other.Requests {
			err = b.noRequest()
		} else {
			b.me.Ignores = true
		}
	case clientpb.ContactAction_CONTACT_ACTION_REMOVE:
		b.header.Friends = false
		withdraw(b.me, b.other)
	case clientpb.ContactAction_CONTACT_ACTION_BLOCK:
		b.header.Friends = false
		withdraw(b.me, b.other)
		withdraw(b.other, b.me)
		b.me.Blocks = true
		// The other side never learns that it is a block.
		d.theirs = clientpb.ContactAction_CONTACT_ACTION_REMOVE
	case clientpb.ContactAction_CONTACT_ACTION_UNBLOCK:
		b.me.Blocks = false
	default:
		err = proto.Errorf(proto.CodeBadRequest, "there is no such action on a contact: %d", c.Action)
	}
	if err != nil {
		return deed{}, err
	}
	after, afterTheirs := b.views()
	if before.Relation != after.Relation {
		b.me.SinceMs = nowMs
	}
	if beforeTheirs.Relation != afterTheirs.Relation {
		b.other.SinceMs = nowMs
	}
	return d, nil
}

func (b *bond) noRequest() *proto.Error {
	return proto.Errorf(proto.CodeNoRequest, "%s has not asked to be friends, or has taken it back", nameOr(b.toName, b.toID))
}

func (b *bond) request(greeting string, nowMs int64, d *deed) *proto.Error {
	switch {
	case b.other.Blocks:
		return proto.Errorf(proto.CodeBlocked, "%s does not take anything from you", nameOr(b.toName, b.toID))
	case b.me.Blocks:
		return proto.Errorf(proto.CodeBlocked, "you have blocked %s: unblock to ask to be friends", nameOr(b.toName, b.toID))
	case b.header.Friends:
	case b.other.Requests:
		// The two have asked each other: so both agree.
		d.mine, d.theirs = clientpb.ContactAction_CONTACT_ACTION_ACCEPT, clientpb.ContactAction_CONTACT_ACTION_ACCEPT
		b.befriend(greeting, d)
	case !b.me.Requests || b.me.Greeting != greeting:
		b.me.Requests, b.me.Greeting, b.me.RequestedMs = true, greeting, nowMs
	}
	return nil
}

// befriend makes friends of me, who accepts, and the other, who has asked.
// greeting is me's own, empty for the usual one.
func (b *bond) befriend(greeting string, d *deed) {
	asked := b.other.Greeting
	withdraw(b.me, b.other)
	withdraw(b.other, b.me)
	b.header.Friends = true
	if b.header.Greeted {
		return
	}
	b.header.Greeted = true
	if asked == "" {
		asked = "Hello, I am " + nameOr(b.toName, b.toID) + "."
	}
	if greeting == "" {
		greeting = "We are friends now. Say hello!"
	}
	d.hellos = []hello{
		{from: b.toID, fromName: b.toName, text: asked, toName: b.meName},
		{from: b.meID, fromName: b.meName, text: greeting, toName: b.toName},
	}
}

// withdraw takes a side's request back.
func withdraw(side, other *cellpb.Side) {
	side.Requests, side.Greeting, side.RequestedMs = false, "", 0
	other.Ignores = false
}
