package chatscreen

import (
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// key does what a key means where the screen is.
func (m *Model) key(k tea.KeyPressMsg) tea.Cmd {
	if m.ended != nil {
		return tea.Quit
	}
	switch k.String() {
	case "ctrl+c", "ctrl+q":
		return tea.Quit
	case "f1":
		return m.show(helping)
	case "f2":
		m.lists.selected = 0
		return m.show(people)
	case "f3":
		m.lists.selected = 0
		return m.show(finding)
	case "f4":
		return tea.Batch(m.show(profile), m.readProfile())
	case "esc":
		return m.leave()
	}
	switch m.page {
	case chatting:
		return m.chatKey(k)
	case people:
		return m.peopleKey(k)
	case finding:
		return m.findKey(k)
	case person:
		return m.personKey(k)
	case profile:
		return m.profileKey(k)
	case asking:
		return m.askKey(k)
	}
	return m.leave()
}

// show opens a page over what is there.
func (m *Model) show(p page) tea.Cmd {
	if m.page != p {
		m.back = append(m.back, m.page)
		m.page = p
	}
	return nil
}

// leave goes back to what was there before.
func (m *Model) leave() tea.Cmd {
	m.page = chatting
	if n := len(m.back); n > 0 {
		m.page, m.back = m.back[n-1], m.back[:n-1]
	}
	return m.markRead()
}

func (m *Model) chatKey(k tea.KeyPressMsg) tea.Cmd {
	page := max(1, m.conversationHeight()-2)
	switch k.String() {
	case "enter":
		return m.send()
	case "tab", "ctrl+n", "alt+down":
		return m.step(1)
	case "shift+tab", "ctrl+p", "alt+up":
		return m.step(-1)
	case "pgup":
		return m.scrollBy(page)
	case "pgdown":
		return m.scrollBy(-page)
	case "ctrl+end", "alt+end":
		return m.scrollBy(-m.scroll)
	case "ctrl+r":
		return m.again()
	case "ctrl+f":
		return m.chooseFile()
	case "ctrl+o":
		if t := m.current(); t != nil {
			return m.openPerson(m.cardOf(t.peer))
		}
		return nil
	}
	if m.thread == "" {
		return nil
	}
	return m.typed(k)
}

// typed gives a key or a paste to the line being written.
func (m *Model) typed(msg tea.Msg) tea.Cmd {
	var cmd tea.Cmd
	switch m.page {
	case chatting:
		before := m.compose.Value()
		m.compose, cmd = m.compose.Update(msg)
		if m.compose.Value() != before {
			m.layout()
			return tea.Batch(cmd, m.writing())
		}
	case finding:
		m.lists.word, cmd = m.lists.word.Update(msg)
	case asking:
		m.ask.input, cmd = m.ask.input.Update(msg)
	}
	return cmd
}

// step opens the thread that stands by steps from the open one in the list.
func (m *Model) step(steps int) tea.Cmd {
	all := m.store.ordered()
	if len(all) == 0 {
		return nil
	}
	i := slices.IndexFunc(all, func(t *thread) bool { return t.id == m.thread })
	return m.open(all[((i+steps)%len(all)+len(all))%len(all)].id)
}

// move selects a row of a list of n.
func (m *Model) move(k string, n int) bool {
	switch k {
	case "up", "ctrl+p":
		m.lists.selected--
	case "down", "ctrl+n", "tab":
		m.lists.selected++
	case "pgup":
		m.lists.selected -= 10
	case "pgdown":
		m.lists.selected += 10
	default:
		return false
	}
	m.lists.selected = max(0, min(m.lists.selected, n-1))
	return true
}

func (m *Model) peopleKey(k tea.KeyPressMsg) tea.Cmd {
	rows := m.peopleRows()
	if m.move(k.String(), len(rows)) || m.lists.selected >= len(rows) {
		return nil
	}
	c := rows[m.lists.selected]
	if k.String() == "enter" {
		return m.openPerson(m.cardOf(proto.EntityID(c.User)))
	}
	m.card = m.cardOf(proto.EntityID(c.User))
	return m.act(k.String())
}

// peopleRows are the contacts in the order in which they are drawn.
func (m *Model) peopleRows() []*clientpb.Contact {
	var out []*clientpb.Contact
	for _, group := range peopleGroups() {
		out = append(out, m.store.with(group.relation)...)
	}
	return out
}

func (m *Model) findKey(k tea.KeyPressMsg) tea.Cmd {
	word := strings.TrimSpace(m.lists.word.Value())
	switch {
	case k.String() == "enter" && word == m.lists.searched && m.lists.selected < len(m.lists.found):
		return m.openPerson(m.lists.found[m.lists.selected])
	case k.String() == "enter":
		return m.find()
	case m.move(k.String(), len(m.lists.found)):
		return nil
	}
	return m.typed(k)
}

// cardOf is what is known of a person without asking.
func (m *Model) cardOf(user proto.EntityID) *clientpb.Card {
	card := &clientpb.Card{User: uint64(user)}
	if c := m.store.contacts[user]; c != nil {
		card.Name = c.Name
		if c.Card != nil {
			card.Nick, card.Description, card.Sex = c.Card.Nick, c.Card.Description, c.Card.Sex
		}
	}
	if card.Name == "" {
		if t := m.store.threads[proto.DirectThread(m.store.me, user).String()]; t != nil {
			card.Name = t.peerName
		}
	}
	return card
}

func (m *Model) openPerson(card *clientpb.Card) tea.Cmd {
	m.card = card
	return m.show(person)
}

func (m *Model) personKey(k tea.KeyPressMsg) tea.Cmd {
	if k.String() == "enter" {
		return m.act("w")
	}
	return m.act(k.String())
}

// relation is what the person on the card is to the user.
func (m *Model) relation() clientpb.Relation {
	if c := m.store.contacts[proto.EntityID(m.card.GetUser())]; c != nil {
		return c.Relation
	}
	return clientpb.Relation_RELATION_NONE
}

// act does what the letter k stands for about the person on the card.
func (m *Model) act(k string) tea.Cmd {
	user := proto.EntityID(m.card.GetUser())
	if user == 0 || user == m.store.me || !slices.ContainsFunc(actionsOf(m.relation()), func(a action) bool { return a.key == k }) {
		return nil
	}
	do := func(a clientpb.ContactAction) tea.Cmd { return m.change(client.ContactChange{User: user, Action: a}) }
	switch k {
	case "w":
		return m.open(proto.DirectThread(m.store.me, user).String())
	case "a":
		if m.relation() == clientpb.Relation_RELATION_NONE {
			return m.question("greeting: ", "", func(greeting string) tea.Cmd {
				return m.change(client.ContactChange{User: user, Action: clientpb.ContactAction_CONTACT_ACTION_REQUEST, Greeting: greeting})
			})
		}
		return do(clientpb.ContactAction_CONTACT_ACTION_ACCEPT)
	case "i":
		return do(clientpb.ContactAction_CONTACT_ACTION_IGNORE)
	case "r":
		return do(clientpb.ContactAction_CONTACT_ACTION_REMOVE)
	case "b":
		return do(clientpb.ContactAction_CONTACT_ACTION_BLOCK)
	case "u":
		return do(clientpb.ContactAction_CONTACT_ACTION_UNBLOCK)
	case "n":
		c := m.store.contacts[user]
		return m.question("your name for "+cardName(m.card)+": ", c.GetAlias(), func(alias string) tea.Cmd {
			return m.edit(user, strings.TrimSpace(alias), c.GetTags())
		})
	case "t":
		c := m.store.contacts[user]
		return m.question("tags, with commas: ", strings.Join(c.GetTags(), ", "), func(line string) tea.Cmd {
			return m.edit(user, c.GetAlias(), splitTags(line))
		})
	}
	return nil
}

func splitTags(line string) []string {
	var out []string
	for _, tag := range strings.Split(line, ",") {
		if tag = strings.TrimSpace(tag); tag != "" && !slices.Contains(out, tag) {
			out = append(out, tag)
		}
	}
	return out
}

// question asks for one line of text.
func (m *Model) question(prompt, value string, then func(string) tea.Cmd) tea.Cmd {
	m.ask.prompt, m.ask.then = prompt, then
	m.ask.input.SetValue(value)
	m.ask.input.CursorEnd()
	return m.show(asking)
}

func (m *Model) askKey(k tea.KeyPressMsg) tea.Cmd {
	if k.String() != "enter" {
		return m.typed(k)
	}
	value, then := m.ask.input.Value(), m.ask.then
	m.leave()
	return then(value)
}

func (m *Model) profileKey(k tea.KeyPressMsg) tea.Cmd {
	if m.own == nil {
		return m.readProfile()
	}
	lines := m.profileLines()
	switch k.String() {
	case "up", "ctrl+p":
		m.ownLine = max(0, m.ownLine-1)
	case "down", "ctrl+n", "tab":
		m.ownLine = min(len(lines)-1, m.ownLine+1)
	case "enter", "space":
		return lines[m.ownLine].change()
	}
	return nil
}
