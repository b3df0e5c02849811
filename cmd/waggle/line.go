package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// eventLine is an update, or without pts a row of history.
type eventLine struct {
	Pts         string      `json:"pts,omitempty"`
	Kind        string      `json:"kind"`
	Thread      string      `json:"thread"`
	Seq         string      `json:"seq"`
	From        string      `json:"from"`
	FromName    string      `json:"from_name"`
	ClientMsgID string      `json:"client_msg_id"`
	Time        string      `json:"time"`
	Text        *string     `json:"text,omitempty"`
	Location    *placeLine  `json:"location,omitempty"`
	Card        *sharedLine `json:"card,omitempty"`
	*fileLine
	*liveLine
	Late        bool `json:"late,omitempty"`         // after updates with a higher pts
	BodyMissing bool `json:"body_missing,omitempty"` // read it with `waggle history`

	timeMS int64
}

func lineOf(pts proto.Pts, e *clientpb.Event) eventLine {
	l := eventLine{
		Kind: "unknown", Thread: e.GetThread(), Seq: decimal(e.GetSeq()), From: decimal(e.GetFrom()), FromName: e.GetFromName(),
		Time: jsonTime(e.GetTimeMs()), timeMS: e.GetTimeMs(), BodyMissing: e.GetBodyMissing(),
	}
	if pts != 0 {
		l.Pts = decimal(uint64(pts))
	}
	if id, err := proto.ClientMsgIDFromBytes(e.GetClientMsgId()); err == nil {
		l.ClientMsgID = id.String()
	}
	l.content(e)
	return l
}

// print prints the line for scripts, or for people: time, sender, text.
func (l eventLine) print(w io.Writer, json bool) error {
	if json {
		return printLine(w, l)
	}
	from := l.FromName
	if from == "" {
		from = "user " + l.From
	}
	text, known := l.words()
	switch {
	case known:
	case l.BodyMissing:
		text = "(the text cannot be had just now: waggle history " + l.Thread + ")"
	default:
		text = "(of a kind this program does not know)"
	}
	if l.Late {
		text += " (late)"
	}
	text = strings.ReplaceAll(harmless(text), "\n", "\n    ")
	_, err := fmt.Fprintf(w, "%s  %s: %s\n", time.UnixMilli(l.timeMS).Format(time.DateTime), harmless(from), text)
	return err
}

// sentLine is an acknowledged message.
type sentLine struct {
	Thread      string `json:"thread"`
	Seq         string `json:"seq"`
	ClientMsgID string `json:"client_msg_id"`
	Time        string `json:"time"`
}

func printSent(w io.Writer, s client.Sent, json bool) error {
	if json {
		return printLine(w, sentLine{s.Thread, decimal(uint64(s.Seq)), s.ClientMsgID.String(), jsonTime(s.Time.UnixMilli())})
	}
	_, err := fmt.Fprintf(w, "%s  stored as %s of %s\n", s.Time.Format(time.DateTime), decimal(uint64(s.Seq)), s.Thread)
	return err
}
