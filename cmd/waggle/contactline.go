package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// printer is one line of what tail prints.
type printer interface {
	print(w io.Writer, json bool) error
}

// lineOfUpdate is the line of an update of any kind.
func lineOfUpdate(u client.Update) printer {
	switch {
	case u.Mark != nil:
		return markLineOf(u)
	case u.Contact != nil:
		return contactLine(u.Pts, u.Contact)
	case u.Profile != nil:
		return profileLine(u.Pts, u.Profile)
	}
	return lineOf(u.Pts, u.Event)
}

// cardLine is what is known of a person.
type cardLine struct {
	User        string `json:"user"`
	Name        string `json:"name"`
	Nick        string `json:"nick"`
	Description string `json:"description"`
	Sex         string `json:"sex"`
	Avatar      string `json:"avatar"`
	Relation    string `json:"relation"` // to the one who asks
}

func cardOf(c *clientpb.Card) cardLine {
	return cardLine{
		User: decimal(c.GetUser()), Name: c.GetName(), Nick: c.GetNick(), Description: c.GetDescription(),
		Sex: c.GetSex(), Avatar: c.GetAvatar(), Relation: relationName(c.GetRelation()),
	}
}

// relationName is a relation as in JSON: none, friend, request_received,
// request_sent, request_ignored or blocked.
func relationName(r clientpb.Relation) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "RELATION_"))
}

// personLine is one person in the user's contacts.
type personLine struct {
	User     string    `json:"user"`
	Name     string    `json:"name"`
	Relation string    `json:"relation"`
	Alias    string    `json:"alias"`
	Tags     []string  `json:"tags"`
	Greeting string    `json:"greeting"` // of the request
	Time     string    `json:"time"`     // of the last change of relation
	Card     *cardLine `json:"card"`     // a friend's, null where none is known

	timeMS int64
}

func personOf(c *clientpb.Contact) personLine {
	l := personLine{
		User: decimal(c.GetUser()), Name: c.GetName(), Relation: relationName(c.GetRelation()), Alias: c.GetAlias(),
		Tags: list(c.GetTags()), Greeting: c.GetGreeting(), Time: jsonTime(c.GetTimeMs()), timeMS: c.GetTimeMs(),
	}
	if c.GetCard() != nil {
		card := cardOf(c.GetCard())
		card.Relation = l.Relation
		l.Card = &card
	}
	return l
}

// shown is how people see a person: his name, or his id.
func (l personLine) shown() string {
	return harmless(cmp.Or(l.Name, "user "+l.User))
}

// contactUpdate is an update of a contact.
type contactUpdate struct {
	Pts    string `json:"pts"`
	Kind   string `json:"kind"`
	Action string `json:"action"` // request, accept, ignore, remove, block, unblock; none: alias or tags
	By     string `json:"by"`     // who acted
	personLine
}

// contactLine is the line of an update of a contact. Its kind is
// friend_request for a request from another, friend_accepted for a friendship
// that begins, friend_removed for one, or a request, that ends; contact for
// all else.
func contactLine(pts proto.Pts, e *clientpb.ContactEvent) contactUpdate {
	l := contactUpdate{
		Pts: decimal(uint64(pts)), Kind: "contact", By: decimal(e.GetBy()), personLine: personOf(e.GetContact()),
		Action: strings.ToLower(strings.TrimPrefix(e.GetAction().String(), "CONTACT_ACTION_")),
	}
	switch e.GetAction() {
	case clientpb.ContactAction_CONTACT_ACTION_REQUEST:
		if e.GetContact().GetRelation() == clientpb.Relation_RELATION_REQUEST_RECEIVED {
			l.Kind = "friend_request"
		}
	case clientpb.ContactAction_CONTACT_ACTION_ACCEPT:
		l.Kind = "friend_accepted"
	case clientpb.ContactAction_CONTACT_ACTION_REMOVE:
		l.Kind = "friend_removed"
	}
	return l
}

// print implements printer.
func (l contactUpdate) print(w io.Writer, json bool) error {
	if json {
		return printLine(w, l)
	}
	var text string
	switch {
	case l.Kind == "friend_request":
		text = l.shown() + " asks to be friends"
		if l.Greeting != "" {
			text += ": " + harmless(l.Greeting)
		}
		text += " (waggle friends accept " + l.shown() + ")"
	case l.Kind == "friend_accepted":
		text = l.shown() + " and you are friends now"
	case l.Kind == "friend_removed":
		text = l.shown() + " is no friend, and no request waits"
	case l.Action == "none":
		text = l.shown() + " is noted as " + notes(l.personLine)
	default:
		text = "your " + l.Action + " of " + l.shown() + ": " + strings.ReplaceAll(l.Relation, "_", " ")
	}
	_, err := fmt.Fprintf(w, "%s  %s\n", time.UnixMilli(l.timeMS).Format(time.DateTime), text)
	return err
}

// notes are alias and tags for people.
func notes(l personLine) string {
	parts := []string{harmless(l.Alias)}
	if l.Alias == "" {
		parts = nil
	}
	for _, tag := range l.Tags {
		parts = append(parts, "#"+harmless(tag))
	}
	return cmp.Or(strings.Join(parts, " "), "nothing")
}

// profileUpdate is an update of a friend's card.
type profileUpdate struct {
	Pts  string `json:"pts"`
	Kind string `json:"kind"`
	cardLine
}

// profileLine is the line of an update of a friend's card.
func profileLine(pts proto.Pts, c *clientpb.Card) profileUpdate {
	l := profileUpdate{Pts: decimal(uint64(pts)), Kind: "profile", cardLine: cardOf(c)}
	l.Relation = relationName(clientpb.Relation_RELATION_FRIEND) // only friends are told
	return l
}

// print implements printer.
func (l profileUpdate) print(w io.Writer, json bool) error {
	if json {
		return printLine(w, l)
	}
	_, err := fmt.Fprintf(w, "%s has another profile: %s\n", harmless(cmp.Or(l.Name, "user "+l.User)), aboutCard(l.cardLine))
	return err
}

// aboutCard is what a card says of a person, for people.
func aboutCard(c cardLine) string {
	var parts []string
	for _, part := range []string{c.Nick, c.Sex, c.Description} {
		if part != "" {
			parts = append(parts, harmless(part))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "empty")
}
