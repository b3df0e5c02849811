package chatscreen

import (
	"time"

	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textarea"
	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// page is what covers the conversation.
type page int

const (
	chatting page = iota
	people        // friends, requests, blocked
	finding       // people by name
	person        // one person and what can be done about him
	profile       // the user's own
	asking        // one line of text that something needs
	helping
)

const (
	// typingEvery is how often the server is told that the user writes.
	typingEvery = proto.TypingInterval + time.Second
	// noticeLifetime is how long a notice stays in the last line.
	noticeLifetime = 6 * time.Second
	composeLines   = 4
)

// Model is the screen. It is a [tea.Model]; see [Run].
type Model struct {
	srv   *client.Client // nil only in tests of what is drawn
	store *store
	name  string           // the user's own
	now   func() time.Time // the clock, for tests
	theme theme

	width, height int
	focused       bool // the terminal has the focus, as far as it says so

	// What is open.
	page    page
	thread  string // empty: none
	scroll  int    // lines between the last one and the bottom of the screen
	below   int    // messages that came while scrolled up
	atTop   bool   // the first row known is in sight, as last drawn
	newFrom uint64 // the read mark when the thread was opened with unread messages
	compose textarea.Model

	lists   lists
	ask     question
	back    []page // where escape leads
	card    *clientpb.Card
	own     *clientpb.Profile
	ownLine int

	// How it is with the server.
	link      client.State
	transport client.Transport
	ended     error // for good
	notice    string
	noticeAt  time.Time
	typedAt   time.Time
	reading   map[string]uint64 // marks on their way

	start func() tea.Cmd // what to read first
	files transfers
}

// lists is what the lists of people show.
type lists struct {
	word     textinput.Model
	found    []*clientpb.Card
	searched string
	selected int
}

// question is one line of text asked for.
type question struct {
	prompt string
	input  textinput.Model
	then   func(string) tea.Cmd
}

// newModel makes the screen of user me, called name.
func newModel(srv *client.Client, me proto.EntityID, name string) *Model {
	m := &Model{
		srv: srv, store: newStore(), name: name, now: time.Now, theme: newTheme(true), focused: true,
		compose: textarea.New(), reading: map[string]uint64{},
	}
	m.store.me = me
	c := &m.compose
	c.ShowLineNumbers, c.Prompt, c.Placeholder = false, "› ", "write a message"
	c.CharLimit, c.DynamicHeight, c.MinHeight, c.MaxHeight = 0, true, 1, composeLines
	c.KeyMap.InsertNewline = key.NewBinding(key.WithKeys("alt+enter", "ctrl+j"))
	styles := textarea.DefaultDarkStyles()
	styles.Focused.CursorLine, styles.Focused.Prompt = styles.Focused.Text, m.theme.accent
	c.SetStyles(styles)
	c.SetVirtualCursor(false)
	c.Focus()
	m.lists.word = newInput("find: ")
	m.ask.input = newInput("")
	return m
}

func newInput(prompt string) textinput.Model {
	in := textinput.New()
	in.Prompt = prompt
	in.SetVirtualCursor(false)
	in.Focus()
	return in
}

// Init implements [tea.Model].
func (m *Model) Init() tea.Cmd {
	cmds := []tea.Cmd{tea.RequestBackgroundColor, tick()}
	if m.start != nil {
		cmds = append(cmds, m.start())
	}
	return tea.Batch(cmds...)
}

// What comes from beside the screen.
type (
	stateMsg struct {
		state client.State
		err   error
	}
	updateMsg  struct{ update client.Update }
	bodyMsg    struct{ update client.Update }
	resyncMsg  struct{ resync client.Resync }
	presentMsg struct{ presence *clientpb.Presence }
	typingMsg  struct{ typing *clientpb.TypingNow }
	viewersMsg struct{ viewers *clientpb.LiveViewers }
	endedMsg   struct{ err error }
	tickMsg    struct{}
)

func tick() tea.Cmd { return tea.Tick(time.Second, func(time.Time) tea.Msg { return tickMsg{} }) }

// Update implements [tea.Model].
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		m.layout()
	case tea.BackgroundColorMsg:
		m.theme = newTheme(msg.IsDark())
	case tea.FocusMsg:
		m.focused = true
		return m, m.markRead()
	case tea.BlurMsg:
		m.focused = false
	case tea.KeyPressMsg:
		return m, m.key(msg)
	case tea.PasteMsg:
		return m, m.typed(msg)
	case tea.MouseWheelMsg:
		if msg.Button == tea.MouseWheelUp {
			return m, m.scrollBy(3)
		}
		return m, m.scrollBy(-3)
	case tickMsg:
		if m.notice != "" && m.now().Sub(m.noticeAt) > noticeLifetime {
			m.notice = ""
		}
		return m, tick()
	case answer:
		return m, msg(m)
	default:
		return m, m.fromServer(msg)
	}
	return m, nil
}

// fromServer takes what the server says without being asked.
func (m *Model) fromServer(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case stateMsg:
		m.link = msg.state
		if msg.state == client.Disconnected {
			clear(m.store.presence) // it is told anew after the next login
		}
		if msg.state == client.Connected && m.srv != nil {
			m.transport = m.srv.Transport()
		}
	case endedMsg:
		m.ended = msg.err
	case updateMsg:
		return m.update(msg.update)
	case bodyMsg:
		if e := msg.update.Event; e != nil {
			m.store.event(e)
		}
	case resyncMsg:
		m.say("some updates cannot be had any more: reading everything anew")
		return m.readAll()
	case presentMsg:
		for _, p := range msg.presence.GetFriends() {
			m.store.presence[proto.EntityID(p.User)] = p
		}
	case viewersMsg:
		m.store.watched(msg.viewers)
	case typingMsg:
		if t := m.store.thread(msg.typing.Thread); t != nil {
			t.typingUntil = m.now().Add(proto.TypingLifetime)
		}
	}
	return nil
}

// update takes one update of the user's log.
func (m *Model) update(u client.Update) tea.Cmd {
	switch {
	case u.Event != nil:
		fresh := m.store.event(u.Event)
		switch {
		case u.Event.Thread != m.thread:
			return nil
		case m.scroll > 0 && fresh:
			m.below++
		}
		return tea.Batch(m.fill(), m.markRead())
	case u.Mark != nil:
		m.store.mark(u.Mark)
	case u.Profile != nil:
		m.store.takeCard(u.Profile)
	case u.Contact != nil:
		m.store.takeContact(u.Contact.Contact)
		m.tellContact(u.Contact)
	}
	return nil
}

// tellContact says what somebody else has done.
func (m *Model) tellContact(e *clientpb.ContactEvent) {
	if proto.EntityID(e.By) == m.store.me {
		return
	}
	who := contactName(e.Contact)
	switch e.Action {
	case clientpb.ContactAction_CONTACT_ACTION_REQUEST:
		m.say(who + " asks to be friends (F2)")
	case clientpb.ContactAction_CONTACT_ACTION_ACCEPT:
		m.say(who + " and you are friends now")
	case clientpb.ContactAction_CONTACT_ACTION_REMOVE:
		m.say(who + " is no friend any more")
	}
}

// say shows a notice in the last line for a while.
func (m *Model) say(text string) { m.notice, m.noticeAt = oneLine(text), m.now() }

// current is the open thread, nil if there is none.
func (m *Model) current() *thread {
	if m.thread == "" {
		return nil
	}
	return m.store.thread(m.thread)
}

// open shows a thread.
func (m *Model) open(id string) tea.Cmd {
	if t := m.current(); t != nil {
		t.draft = m.compose.Value()
	}
	t := m.store.thread(id)
	if t == nil {
		m.say("there is no such thread")
		return nil
	}
	m.page, m.back = chatting, nil
	m.thread, m.scroll, m.below, m.newFrom = id, 0, 0, 0
	if t.unread > 0 {
		m.newFrom = t.readSeq
	}
	m.compose.SetValue(t.draft)
	m.layout()
	return tea.Batch(m.fill(), m.markRead())
}

// markRead raises the read mark of the open thread to what is in sight: the
// newest, unless the user has scrolled up or looks elsewhere.
func (m *Model) markRead() tea.Cmd {
	t := m.current()
	if t == nil || m.page != chatting || m.scroll > 0 || !m.focused || !t.loaded {
		return nil
	}
	upTo := t.lastSeq
	if upTo <= max(t.readSeq, m.reading[t.id]) || m.srv == nil {
		return nil
	}
	m.reading[t.id] = upTo
	return m.raiseMark(t.id, upTo)
}

// scrollBy moves the conversation by lines, up if positive.
func (m *Model) scrollBy(lines int) tea.Cmd {
	if m.page != chatting {
		m.lists.selected = max(0, m.lists.selected-lines/3)
		return nil
	}
	if lines > 0 && m.atTop {
		return m.older()
	}
	m.scroll = max(0, m.scroll+lines)
	if m.scroll == 0 {
		m.below = 0
		return m.markRead()
	}
	return nil
}
