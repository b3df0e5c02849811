package chatscreen

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/waggle-im/waggle/client"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// widthMin and heightMin are the smallest screen that is drawn on.
	widthMin, heightMin = 40, 10
	// listWidth is the width of the list of threads; on a narrow screen it
	// takes a third.
	listWidth = 26
)

// theme is the colours. Nothing is told by colour alone.
type theme struct {
	title, accent, faint, warn, selected, mine, theirs lipgloss.Style
}

func newTheme(dark bool) theme {
	pick := lipgloss.LightDark(dark)
	c := func(light, dark string) lipgloss.Style {
		return lipgloss.NewStyle().Foreground(pick(lipgloss.Color(light), lipgloss.Color(dark)))
	}
	return theme{
		title:    lipgloss.NewStyle().Bold(true),
		accent:   c("26", "81").Bold(true),
		faint:    c("244", "244"),
		warn:     c("160", "209").Bold(true),
		selected: lipgloss.NewStyle().Reverse(true),
		mine:     c("232", "255").Background(pick(lipgloss.Color("153"), lipgloss.Color("24"))),
		theirs:   c("232", "255").Background(pick(lipgloss.Color("254"), lipgloss.Color("237"))),
	}
}

// count is a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// row draws a line of a list.
func (m *Model) row(s string, selected bool) string {
	if selected {
		return m.theme.selected.Render(s)
	}
	return s
}

// View implements [tea.Model].
func (m *Model) View() tea.View {
	v := tea.NewView("")
	v.AltScreen, v.ReportFocus, v.MouseMode = true, true, tea.MouseModeCellMotion
	v.WindowTitle = "waggle: " + oneLine(m.name)
	switch {
	case m.width == 0:
		return v
	case m.width < widthMin || m.height < heightMin:
		v.SetContent(fmt.Sprintf("The screen is too small: %d×%d, at least %d×%d.", m.width, m.height, widthMin, heightMin))
		return v
	case m.ended != nil:
		v.SetContent(m.endView())
		return v
	}
	body, cursor := m.bodyView()
	v.SetContent(m.header() + "\n" + strings.Join(body, "\n") + "\n" + m.footer())
	v.Cursor = cursor
	return v
}

// bodyHeight is what is between the first and the last line.
func (m *Model) bodyHeight() int { return m.height - 2 }

func (m *Model) bodyView() ([]string, *tea.Cursor) {
	height := m.bodyHeight()
	var lines []string
	var cursor *tea.Cursor
	switch m.page {
	case chatting:
		return m.chatView()
	case people:
		lines = m.peopleView(m.width, height)
	case finding:
		lines = m.findView(m.width, height)
		cursor = at(m.lists.word.Cursor(), 0, 1)
	case person:
		lines = m.personView(m.width, height)
	case profile:
		lines = m.profileView(m.width, height)
	case asking:
		m.ask.input.Prompt = " " + m.ask.prompt
		lines = []string{"", fit(m.ask.input.View(), m.width), "", fit(m.theme.faint.Render(" enter: done · esc: never mind"), m.width)}
		cursor = at(m.ask.input.Cursor(), 0, 2)
	case helping:
		lines = m.helpView()
	}
	return pad(lines, m.width, height), cursor
}

// at moves a cursor from its field to where that is drawn.
func at(c *tea.Cursor, x, y int) *tea.Cursor {
	if c != nil {
		c.X, c.Y = c.X+x, c.Y+y
	}
	return c
}

// pad makes lines fill a height.
func pad(lines []string, width, height int) []string {
	out := make([]string, height)
	for i := range out {
		if i < len(lines) {
			out[i] = fit(lines[i], width)
		} else {
			out[i] = strings.Repeat(" ", width)
		}
	}
	return out
}

// header says who one is, what waits, and how it is with the server.
func (m *Model) header() string {
	left := " waggle · " + oneLine(m.name)
	if n := len(m.store.with(clientpb.Relation_RELATION_REQUEST_RECEIVED)); n > 0 {
		left += fmt.Sprintf(" · %s (F2)", count(n, "friend request"))
	}
	unread := 0
	for _, t := range m.store.threads {
		if t.unread > 0 {
			unread++
		}
	}
	if unread > 0 {
		left += fmt.Sprintf(" · %d unread", unread)
	}
	var right string
	switch m.link {
	case client.Connected:
		right = "● connected"
		if m.transport != client.Auto {
			right += " by " + strings.ToUpper(string(m.transport))
		}
	case client.Disconnected:
		right = "○ connection lost, trying again"
	default:
		right = "◌ connecting"
	}
	line := between(left+" ", right+" ", m.width)
	if m.link != client.Connected {
		return m.theme.warn.Reverse(true).Render(line)
	}
	return m.theme.selected.Render(line)
}

// footer is a notice, or what the keys do.
func (m *Model) footer() string {
	if m.notice != "" {
		return m.theme.warn.Render(fit(" "+m.notice, m.width))
	}
	keys := "F1 help · F2 people · F3 find · F4 profile · tab next · ctrl+q quit"
	switch m.page {
	case people, person, finding, profile:
		keys = "↑↓ choose · enter open · esc back · F1 help · ctrl+q quit"
	case helping:
		keys = "esc back"
	}
	return m.theme.faint.Render(fit(" "+keys, m.width))
}

func (m *Model) helpView() []string {
	help := []string{
		"", "  Threads are on the left, newest first: ● online, ○ not, [2] unread.",
		"  Your own messages are on the right: … on its way, ✓ stored, ✓✓ delivered,",
		"  ✓✓ read, ✗ failed. What cannot be sent now is kept and sent later.", "",
		"  enter          send                      alt+enter      new line",
		"  tab, ctrl+n    next thread               shift+tab      previous thread",
		"  pgup, pgdown   scroll; older messages    alt+end        to the newest",
		"                 are read as you go        ctrl+r         send failed ones again",
		"  ctrl+o         who this is, and what can be done: friends, block, name",
		"  F2             friends and requests      F3             find people",
		"  ctrl+f         choose a file             /download [DIR]  fetch it, or the last",
		"  /upload PATH   send a file",
		"  F4             your profile              esc            back",
		"  ctrl+q         quit",
	}
	for i := range help {
		help[i] = fit(help[i], m.width)
	}
	return help
}

// endView is shown when the server has ended the session for good.
func (m *Model) endView() string {
	words := wrap(harmless(m.ended.Error()), min(60, m.width-8))
	box := lipgloss.NewStyle().Border(lipgloss.RoundedBorder()).Padding(1, 2).Render(
		m.theme.warn.Render("This session has ended") + "\n\n" + strings.Join(words, "\n") + "\n\n" + m.theme.faint.Render("any key leaves"))
	return lipgloss.Place(m.width, m.height, lipgloss.Center, lipgloss.Center, box)
}

// chatView is the list of threads, the conversation and the line to write in.
func (m *Model) chatView() ([]string, *tea.Cursor) {
	height, left := m.bodyHeight(), m.listWidth()
	right := m.width - left - 1
	list := pad(m.threadsView(left, height), left, height)
	var talk []string
	var cursor *tea.Cursor
	if t := m.current(); t == nil {
		hint := "No conversation yet: F3 finds people, F2 shows your contacts."
		if len(m.store.threads) > 0 {
			hint = "tab opens a conversation; F3 finds people."
		}
		talk = []string{""}
		for _, line := range wrap(hint, right-2) {
			talk = append(talk, " "+line)
		}
		talk = pad(talk, right, height)
	} else {
		compose := strings.Split(m.compose.View(), "\n")
		talk = append(talk, m.theme.title.Render(fit(" "+m.threadTitle(t), right)))
		talk = append(talk, m.conversation(t, right, m.conversationHeight())...)
		talk = append(talk, m.theme.faint.Render(m.rule(t, right)))
		for _, line := range compose {
			talk = append(talk, fit(line, right))
		}
		talk = pad(talk, right, height)
		cursor = at(m.compose.Cursor(), left+1, 1+height-len(compose))
	}
	lines := make([]string, height)
	bar := m.theme.faint.Render("│")
	for i := range lines {
		lines[i] = list[i] + bar + talk[i]
	}
	return lines, cursor
}

func (m *Model) listWidth() int { return min(listWidth, m.width/3) }

// layout gives the fields the room they have.
func (m *Model) layout() {
	if m.width == 0 {
		return
	}
	m.compose.SetWidth(max(10, m.width-m.listWidth()-2))
	m.lists.word.SetWidth(max(10, m.width-12))
	m.ask.input.SetWidth(max(10, m.width-20))
}

// conversationHeight is the lines of messages: the body without title, rule
// and compose lines.
func (m *Model) conversationHeight() int { return m.bodyHeight() - 2 - m.compose.Height() }

func (m *Model) threadTitle(t *thread) string {
	title := m.store.name(t)
	if name := oneLine(t.peerName); name != "" && name != title {
		title += " (" + name + ")"
	}
	if words := m.presenceWords(t.peer); words != "" {
		title += " " + m.dot(t.peer) + " " + words
	}
	if c := m.store.contacts[t.peer]; c != nil && c.Relation != clientpb.Relation_RELATION_FRIEND {
		title += " · " + relationWords(c.Relation)
	}
	return title
}

// rule is the line above what is being written.
func (m *Model) rule(t *thread, width int) string {
	words := ""
	switch {
	case m.files.fetching != nil:
		words = "─ " + m.files.fetching.words() + " "
	case m.now().Before(t.typingUntil):
		words = "─ " + m.store.name(t) + " is writing… "
	case m.below > 0:
		words = fmt.Sprintf("─ ↓ %d new below (alt+end) ", m.below)
	case m.scroll > 0:
		words = "─ ↓ more below (alt+end) "
	}
	words = fit(words, min(width, lipgloss.Width(words)))
	return words + strings.Repeat("─", width-lipgloss.Width(words))
}

// threadsView is the list of threads, two lines each.
func (m *Model) threadsView(width, height int) []string {
	all := m.store.ordered()
	if len(all) == 0 {
		return []string{"", fit(" no threads yet", width)}
	}
	var lines []string
	chosen := 0
	for _, t := range all {
		if t.id == m.thread {
			chosen = len(lines)
		}
		lines = append(lines, m.threadLines(t, width)...)
	}
	return window(lines, chosen, height-height%2)
}

func (m *Model) threadLines(t *thread, width int) []string {
	first := between(" "+m.dot(t.peer)+" "+m.store.name(t), " "+short(t.time(), m.now())+" ", width)
	preview, own := oneLine(t.preview), t.previewOwn
	if n := len(t.outbox); n > 0 {
		preview, own = oneLine(t.outbox[n-1].text), true
	}
	switch {
	case m.now().Before(t.typingUntil):
		preview = "writing…"
	case own:
		preview = "you: " + preview
	}
	badge := " "
	if t.unread > 0 {
		badge = fmt.Sprintf(" [%d] ", t.unread)
	}
	second := between("   "+preview, badge, width)
	switch {
	case t.id == m.thread:
		return []string{m.theme.selected.Render(first), m.theme.selected.Render(second)}
	case t.unread > 0:
		return []string{m.theme.title.Render(first), m.theme.title.Render(second)}
	}
	return []string{first, m.theme.faint.Render(second)}
}

// dayLine separates days.
func (m *Model) dayLine(ms int64, width int) string {
	day := time.UnixMilli(ms).Format("Monday, 2 January 2006")
	if sameDay(time.UnixMilli(ms), m.now()) {
		day = "today"
	}
	return m.theme.faint.Render(lipgloss.PlaceHorizontal(width, lipgloss.Center, fit("── "+day+" ──", min(width, lipgloss.Width(day)+6))))
}
