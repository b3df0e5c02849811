package chatscreen

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"

	clientpb "github.com/waggle-im/waggle/proto/client"
)

// bodyText is what a message says, safe to draw.
func bodyText(e *clientpb.Event) string {
	switch body := e.Body.(type) {
	case *clientpb.Event_Text:
		return harmless(body.Text.GetText())
	case *clientpb.Event_Location:
		l := body.Location
		return strings.TrimSpace(fmt.Sprintf("⌖ %.5f, %.5f %s", l.GetLatitude(), l.GetLongitude(), oneLine(l.GetName())))
	case *clientpb.Event_Card:
		return fmt.Sprintf("☺ %s (user %d)", oneLine(body.Card.GetName()), body.Card.GetUser())
	case *clientpb.Event_File:
		return fileText(body.File)
	case *clientpb.Event_Live:
		return liveText(body.Live)
	}
	if e.BodyMissing {
		return "(the text is on its way)"
	}
	return "(a kind of message this program does not know)"
}

// harmless replaces what would move the cursor, change colours, or turn the
// direction of the text of others around.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t':
			return ' '
		case unicode.IsControl(r), r >= 0x202A && r <= 0x202E, r >= 0x2066 && r <= 0x2069, r == 0x200E, r == 0x200F:
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

func oneLine(s string) string {
	return strings.Join(strings.Fields(harmless(s)), " ")
}

// fit cuts or pads s to exactly width columns.
func fit(s string, width int) string {
	if width <= 0 {
		return ""
	}
	s = ansi.Truncate(s, width, "…")
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

// between puts left and right at the ends of a line of width columns; left
// gives way.
func between(left, right string, width int) string {
	room := width - ansi.StringWidth(right)
	if room <= 0 {
		return fit(right, width)
	}
	return fit(left, room) + right
}

// wrap breaks s into lines of at most width columns, inside words only where
// it must.
func wrap(s string, width int) []string {
	return strings.Split(ansi.Wrap(s, max(1, width), ""), "\n")
}

// clock is a time of day; short is a time as short as it can be told from now.
func clock(ms int64) string { return time.UnixMilli(ms).Format("15:04") }

func short(ms int64, now time.Time) string {
	t := time.UnixMilli(ms)
	switch {
	case ms == 0:
		return ""
	case sameDay(t, now):
		return t.Format("15:04")
	case t.After(now.AddDate(0, 0, -6)) && t.Before(now):
		return t.Format("Mon")
	case t.Year() == now.Year():
		return t.Format("2 Jan")
	}
	return t.Format("2 Jan 06")
}

func sameDay(a, b time.Time) bool {
	ay, am, ad := a.Date()
	by, bm, bd := b.Date()
	return ay == by && am == bm && ad == bd
}

// ago is how long ago a time was, in words.
func ago(ms int64, now time.Time) string {
	d := now.Sub(time.UnixMilli(ms))
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return "on " + short(ms, now)
}
