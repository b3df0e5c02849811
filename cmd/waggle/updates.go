package main

import (
	"fmt"
	"io"
	"time"

	"github.com/waggle-im/waggle/client"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// line is one line of output, for scripts or for people.
type line interface {
	print(w io.Writer, json bool) error
}

// printUpdate prints an update of any kind. It needs mu.
func (t *tailer) printUpdate(u client.Update) bool {
	switch {
	case u.Event != nil:
		return t.print(lineOf(u.Pts, u.Event))
	case u.Mark != nil:
		return t.print(markLineOf(u))
	case u.Contact != nil: // contacts: kinds friend_request, friend_accepted …
		return t.print(plainLine{Pts: decimal(uint64(u.Pts)), Kind: "contact", User: decimal(u.Contact.GetContact().GetUser()),
			Relation: u.Contact.GetContact().GetRelation().String(), Action: u.Contact.GetAction().String()})
	case u.Profile != nil: // contacts: kind profile
		return t.print(plainLine{Pts: decimal(uint64(u.Pts)), Kind: "profile", User: decimal(u.Profile.GetUser())})
	}
	return t.print(plainLine{Pts: decimal(uint64(u.Pts)), Kind: "unknown"})
}

// displaced says why the server has closed the session, as the last line.
func (t *tailer) displaced(reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.json { // people read it on standard error
		t.print(plainLine{Kind: "session_displaced", Text: reason.Error()})
	}
}

// markLine is a mark in `tail`.
type markLine struct {
	Pts      string `json:"pts"`
	Kind     string `json:"kind"` // delivered or read
	Thread   string `json:"thread"`
	Seq      string `json:"seq"`
	From     string `json:"from"`
	FromName string `json:"from_name,omitempty"`
	Time     string `json:"time"`

	timeMS int64
}

func markLineOf(u client.Update) markLine {
	m := u.Mark
	l := markLine{
		Pts: decimal(uint64(u.Pts)), Kind: "delivered", Thread: m.GetThread(), Seq: decimal(m.GetSeq()),
		From: decimal(m.GetUser()), Time: jsonTime(m.GetTimeMs()), timeMS: m.GetTimeMs(),
	}
	if m.GetRead() {
		l.Kind = "read"
	}
	return l
}

func (l markLine) print(w io.Writer, json bool) error {
	if json {
		return printLine(w, l)
	}
	_, err := fmt.Fprintf(w, "%s  %s: %s up to %s by user %s\n", time.UnixMilli(l.timeMS).Format(time.DateTime), l.Thread, l.Kind, l.Seq, l.From)
	return err
}

// plainLine is an update of another kind.
type plainLine struct {
	Pts      string `json:"pts,omitempty"`
	Kind     string `json:"kind"`
	User     string `json:"user,omitempty"`
	Relation string `json:"relation,omitempty"`
	Action   string `json:"action,omitempty"`
	Text     string `json:"text,omitempty"`
}

func (l plainLine) print(w io.Writer, json bool) error {
	if json {
		return printLine(w, l)
	}
	text := l.Text
	if text == "" && l.User != "" {
		text = "user " + l.User
	}
	_, err := fmt.Fprintf(w, "%s: %s %s\n", l.Kind, harmless(text), l.Relation)
	return err
}

// placeLine is a location in JSON.
type placeLine struct {
	Latitude  float64 `json:"latitude"`
	Longitude float64 `json:"longitude"`
	Name      string  `json:"name,omitempty"`
}

// cardLine is a shared card in JSON.
type cardLine struct {
	User string `json:"user"`
	Name string `json:"name"`
}

// content puts what a message is into the line.
func (l *eventLine) content(e *clientpb.Event) {
	switch body := e.GetBody().(type) {
	case *clientpb.Event_Text:
		text := body.Text.GetText()
		l.Kind, l.Text = "message", &text
	case *clientpb.Event_Location:
		p := body.Location
		l.Kind, l.Location = "message", &placeLine{p.GetLatitude(), p.GetLongitude(), p.GetName()}
	case *clientpb.Event_Card:
		l.Kind, l.Card = "message", &cardLine{decimal(body.Card.GetUser()), body.Card.GetName()}
	default:
		if l.BodyMissing {
			l.Kind = "message"
		}
	}
}

// words says for people what the message is; false: of a kind that this
// program does not know, or not to be had.
func (l eventLine) words() (string, bool) {
	switch {
	case l.Text != nil:
		return *l.Text, true
	case l.Location != nil:
		at := fmt.Sprintf("%g, %g", l.Location.Latitude, l.Location.Longitude)
		if l.Location.Name != "" {
			at = l.Location.Name + " (" + at + ")"
		}
		return "location: " + at, true
	case l.Card != nil:
		name := l.Card.Name
		if name == "" {
			name = "user " + l.Card.User
		}
		return "card of " + name + " (" + l.Card.User + ")", true
	}
	return "", false
}
