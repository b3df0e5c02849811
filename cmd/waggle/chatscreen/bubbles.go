package chatscreen

import (
	"strings"
	"time"

	"charm.land/lipgloss/v2"
)

// bubbleShare is the share of the width that a bubble may take, in per cent.
const bubbleShare = 78

// conversation draws the messages of a thread into exactly height lines, the
// newest at the bottom, moved up by m.scroll. Only what is in sight is drawn:
// it begins with the newest message and ends where the screen does.
func (m *Model) conversation(t *thread, width, height int) []string {
	var up []string // from the bottom up
	rows := make([]*row, 0, len(t.rows)+len(t.outbox))
	rows = append(append(rows, t.rows...), t.outbox...)
	need := m.scroll + height
	i := len(rows) - 1
	for ; i >= 0 && len(up) < need; i-- {
		bubble := m.bubble(t, rows[i], width)
		for j := len(bubble) - 1; j >= 0; j-- {
			up = append(up, bubble[j])
		}
		if r := rows[i]; !r.own && r.seq > m.newFrom && m.newFrom > 0 && (i == 0 || rows[i-1].seq <= m.newFrom) {
			up = append(up, m.theme.accent.Render(lipgloss.PlaceHorizontal(width, lipgloss.Center, "── new ──")))
		}
		if i == 0 || !sameDay(time.UnixMilli(rows[i].timeMS), time.UnixMilli(rows[i-1].timeMS)) {
			up = append(up, m.dayLine(rows[i].timeMS, width))
		}
	}
	if i < 0 {
		up = append(up, m.theme.faint.Render(fit(topWords(t), width)))
	}
	// What is scrolled past the top shows nothing new.
	m.scroll = max(0, min(m.scroll, len(up)-height))
	m.atTop = i < 0 && m.scroll >= len(up)-height
	up = up[m.scroll:min(len(up), m.scroll+height)]
	lines := make([]string, 0, height)
	for len(lines)+len(up) < height {
		lines = append(lines, strings.Repeat(" ", width))
	}
	for j := len(up) - 1; j >= 0; j-- {
		lines = append(lines, up[j])
	}
	return lines
}

func topWords(t *thread) string {
	switch {
	case t.asking:
		return "  reading…"
	case !t.loaded:
		return "  not read yet"
	case t.older:
		return "  ↑ older messages (pgup)"
	case len(t.rows) == 0 && len(t.outbox) == 0:
		return "  Nothing was written here yet."
	}
	return "  This is the beginning."
}

// bubble draws one message: the text, and behind it, or below where it does
// not fit, the time and how far it got.
func (m *Model) bubble(t *thread, r *row, width int) []string {
	most := max(8, (width-2)*bubbleShare/100-2)
	text := wrap(strings.TrimRight(r.shown(), "\n")+t.watching(r), most)
	if r.file != nil && r.seq != 0 && r.seq == t.chosen {
		text[0] = "▸ " + text[0]
	}
	meta := clock(r.timeMS)
	if r.own {
		meta += " " + t.state(r)
	}
	style := m.theme.theirs
	if r.own {
		style = m.theme.mine
	}
	last := len(text) - 1
	if lipgloss.Width(text[last])+2+lipgloss.Width(meta) > most {
		text = append(text, "")
		last++
	}
	inner := 0
	for i, line := range text {
		w := lipgloss.Width(line)
		if i == last {
			w += 2 + lipgloss.Width(meta)
		}
		inner = max(inner, w)
	}
	lines := make([]string, len(text))
	for i, line := range text {
		body := style.Render(" " + fit(line, inner) + " ")
		if i == last {
			room := inner - lipgloss.Width(meta)
			body = style.Render(" "+fit(line, room)) + style.Faint(true).Render(meta) + style.Render(" ")
		}
		space := strings.Repeat(" ", max(0, width-inner-3))
		if r.own {
			lines[i] = space + body + " "
		} else {
			lines[i] = " " + body + space
		}
	}
	return append(lines, strings.Repeat(" ", width))
}
