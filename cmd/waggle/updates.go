package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/bytesize"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// displaced says why the server has closed the session, as the last line.
func (t *tailer) displaced(reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.json { // people read it on standard error
		t.print(endLine{Kind: "session_displaced", Text: reason.Error()})
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

// endLine is the last line of `tail -o json` where the server says why it has
// ended the session.
type endLine struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

func (l endLine) print(w io.Writer, _ bool) error { return printLine(w, l) }

// placeLine is a location in JSON.
type placeLine struct {
	Latitude  float64 `json:"latitude"`
	Longitude float64 `json:"longitude"`
	Name      string  `json:"name,omitempty"`
}

// sharedLine is a shared card in JSON.
type sharedLine struct {
	User string `json:"user"`
	Name string `json:"name"`
}

// fileLine is a file in JSON, beside the other fields of its message.
type fileLine struct {
	File       string `json:"file_id"`
	Name       string `json:"name"`
	Size       uint64 `json:"size"`
	Type       string `json:"type"`
	Blake3     string `json:"blake3"`
	Width      uint32 `json:"width,omitempty"` // pixels
	Height     uint32 `json:"height,omitempty"`
	DurationMS uint32 `json:"duration_ms,omitempty"`
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
		l.Kind, l.Card = "message", &sharedLine{decimal(body.Card.GetUser()), body.Card.GetName()}
	case *clientpb.Event_File:
		f := body.File
		l.Kind, l.fileLine = "file", &fileLine{
			File: f.GetFile(), Name: f.GetName(), Size: f.GetSize(), Type: f.GetType(), Blake3: hex.EncodeToString(f.GetBlake3()),
			Width: f.GetWidth(), Height: f.GetHeight(), DurationMS: f.GetDurationMs(),
		}
	case *clientpb.Event_Live:
		l.live(body.Live)
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
	case l.liveLine != nil:
		return l.liveLine.words(l.Kind), true
	case l.fileLine != nil:
		return fmt.Sprintf("file %s: %s (%s, %s)", l.File, oneLine(l.Name), bytesize.Words(int64(l.Size)), l.Type), true
	}
	return "", false
}
