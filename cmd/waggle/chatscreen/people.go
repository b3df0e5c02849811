package chatscreen

import (
	"cmp"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

type peopleGroup struct {
	title    string
	relation clientpb.Relation
}

func peopleGroups() []peopleGroup {
	return []peopleGroup{
		{"They ask to be friends", clientpb.Relation_RELATION_REQUEST_RECEIVED},
		{"Friends", clientpb.Relation_RELATION_FRIEND},
		{"You have asked", clientpb.Relation_RELATION_REQUEST_SENT},
		{"Put aside", clientpb.Relation_RELATION_REQUEST_IGNORED},
		{"Blocked", clientpb.Relation_RELATION_BLOCKED},
	}
}

func relationWords(r clientpb.Relation) string {
	switch r {
	case clientpb.Relation_RELATION_FRIEND:
		return "you are friends"
	case clientpb.Relation_RELATION_REQUEST_RECEIVED:
		return "asks to be friends"
	case clientpb.Relation_RELATION_REQUEST_SENT:
		return "you have asked to be friends"
	case clientpb.Relation_RELATION_REQUEST_IGNORED:
		return "asked to be friends, put aside"
	case clientpb.Relation_RELATION_BLOCKED:
		return "blocked by you"
	}
	return "no contact of yours"
}

// action is what can be done about a person, by one letter.
type action struct{ key, what string }

func actionsOf(r clientpb.Relation) []action {
	write := action{"w", "write"}
	block := action{"b", "block"}
	notes := []action{{"n", "name"}, {"t", "tags"}}
	switch r {
	case clientpb.Relation_RELATION_FRIEND:
		return append([]action{write, {"r", "remove"}, block}, notes...)
	case clientpb.Relation_RELATION_REQUEST_RECEIVED:
		return []action{{"a", "accept"}, {"i", "ignore"}, block, write}
	case clientpb.Relation_RELATION_REQUEST_SENT:
		return append([]action{write, {"r", "take back"}, block}, notes...)
	case clientpb.Relation_RELATION_REQUEST_IGNORED:
		return []action{{"a", "accept"}, block, write}
	case clientpb.Relation_RELATION_BLOCKED:
		return []action{{"u", "unblock"}}
	}
	return []action{write, {"a", "ask to be friends"}, block}
}

func actionLine(actions []action) string {
	parts := make([]string, len(actions))
	for i, a := range actions {
		parts[i] = a.key + " " + a.what
	}
	return strings.Join(parts, " · ")
}

func cardName(c *clientpb.Card) string {
	return oneLine(cmp.Or(c.GetName(), "user "+proto.EntityID(c.GetUser()).String()))
}

// peopleView lists the contacts by what they are to the user.
func (m *Model) peopleView(width, height int) []string {
	var lines []string
	at, chosen := 0, 0
	for _, group := range peopleGroups() {
		contacts := m.store.with(group.relation)
		if len(contacts) == 0 {
			continue
		}
		lines = append(lines, m.theme.title.Render(fit(fmt.Sprintf("%s (%d)", group.title, len(contacts)), width)))
		for _, c := range contacts {
			if at == m.lists.selected {
				chosen = len(lines)
			}
			lines = append(lines, m.contactLine(c, at == m.lists.selected, width))
			at++
		}
	}
	if at == 0 {
		return []string{"", fit(" You have no contacts yet. F3 finds people.", width)}
	}
	return window(lines, chosen, height)
}

func (m *Model) contactLine(c *clientpb.Contact, selected bool, width int) string {
	left := " " + m.dot(proto.EntityID(c.User)) + " " + contactName(c)
	if name := oneLine(c.Name); name != "" && name != contactName(c) {
		left += " (" + name + ")"
	}
	if c.Greeting != "" && c.Relation == clientpb.Relation_RELATION_REQUEST_RECEIVED {
		left += ": “" + oneLine(c.Greeting) + "”"
	}
	right := ""
	for _, tag := range c.Tags {
		right += "#" + oneLine(tag) + " "
	}
	if selected {
		right = actionLine(actionsOf(c.Relation)) + " "
	}
	return m.row(between(left, right, width), selected)
}

// dot shows presence.
func (m *Model) dot(user proto.EntityID) string {
	switch p := m.store.presence[user]; {
	case p == nil:
		return " "
	case p.Online:
		return "●"
	}
	return "○"
}

// presenceWords says how present a friend is.
func (m *Model) presenceWords(user proto.EntityID) string {
	p := m.store.presence[user]
	switch {
	case p == nil:
		return ""
	case p.Online:
		return "online"
	case p.LastSeenMs > 0:
		return "last seen " + ago(p.LastSeenMs, m.now())
	}
	return "offline"
}

// findView is the search for people.
func (m *Model) findView(width, height int) []string {
	lines := []string{fit(m.lists.word.View(), width), ""}
	switch {
	case m.lists.searched == "":
		lines = append(lines, fit(" Type the beginning of a user name, then enter.", width))
	case len(m.lists.found) == 0:
		lines = append(lines, fit(" Nobody's name begins with “"+oneLine(m.lists.searched)+"”.", width))
	}
	var list []string
	for i, card := range m.lists.found {
		left := " " + m.dot(proto.EntityID(card.User)) + " " + cardName(card)
		if card.Nick != "" {
			left += " (" + oneLine(card.Nick) + ")"
		}
		if card.Description != "" {
			left += "  " + oneLine(card.Description)
		}
		right := ""
		if c := m.store.contacts[proto.EntityID(card.User)]; c != nil {
			right = relationWords(c.Relation) + " "
		} else if proto.EntityID(card.User) == m.store.me {
			right = "you "
		}
		list = append(list, m.row(between(left, right, width), i == m.lists.selected))
	}
	return append(lines, window(list, m.lists.selected, height-len(lines))...)
}

// personView is one person's card and what can be done.
func (m *Model) personView(width, _ int) []string {
	c, contact := m.card, m.store.contacts[proto.EntityID(m.card.GetUser())]
	lines := []string{"", m.theme.title.Render(fit("  "+cardName(c), width))}
	field := func(what, value string) {
		for i, line := range wrap(strings.TrimSpace(harmless(value)), width-18) {
			if i > 0 {
				what = ""
			}
			if value != "" {
				lines = append(lines, fit(fmt.Sprintf("  %-13s %s", what, line), width))
			}
		}
	}
	field("nick", c.GetNick())
	field("about", c.GetDescription())
	field("sex", c.GetSex())
	field("id", proto.EntityID(c.GetUser()).String())
	field("your name", contact.GetAlias())
	field("tags", strings.Join(contact.GetTags(), ", "))
	field("greeting", contact.GetGreeting())
	field("presence", m.presenceWords(proto.EntityID(c.GetUser())))
	if proto.EntityID(c.GetUser()) == m.store.me {
		return append(lines, "", fit("  This is you. F4 changes your profile.", width))
	}
	lines = append(lines, "", fit("  "+relationWords(m.relation()), width), "")
	for _, a := range actionsOf(m.relation()) {
		lines = append(lines, fit("    "+m.theme.accent.Render(a.key)+"  "+a.what, width))
	}
	return lines
}

// window is the part of lines of the given height that holds line at.
func window(lines []string, at, height int) []string {
	if len(lines) <= height || height <= 0 {
		return lines
	}
	start := max(0, min(at-height/2, len(lines)-height))
	return lines[start : start+height]
}

// profileLine is one thing of the user's profile and how to change it.
type profileLine struct {
	what, value string
	change      func() tea.Cmd
}

func (m *Model) profileLines() []profileLine {
	card := m.own.GetCard()
	text := func(what, value string, change func(string) *clientpb.SetProfile) profileLine {
		return profileLine{what, value, func() tea.Cmd {
			return m.question(what+": ", value, func(s string) tea.Cmd { return m.setProfile(change(s)) })
		}}
	}
	friendsOnly := m.own.GetDirectFrom() == clientpb.DirectFrom_DIRECT_FROM_FRIENDS
	shown := m.own.GetPresence()
	choose := func(yes bool, a, b string) string {
		if yes {
			return a
		}
		return b
	}
	return []profileLine{
		text("nick", card.GetNick(), func(s string) *clientpb.SetProfile { return &clientpb.SetProfile{Nick: &s} }),
		text("about", card.GetDescription(), func(s string) *clientpb.SetProfile { return &clientpb.SetProfile{Description: &s} }),
		text("sex", card.GetSex(), func(s string) *clientpb.SetProfile { return &clientpb.SetProfile{Sex: &s} }),
		{"who may write", choose(friendsOnly, "friends", "anyone"), func() tea.Cmd {
			next := clientpb.DirectFrom_DIRECT_FROM_FRIENDS
			if friendsOnly {
				next = clientpb.DirectFrom_DIRECT_FROM_ANYONE
			}
			return m.setProfile(&clientpb.SetProfile{DirectFrom: &next})
		}},
		{"presence", choose(shown, "shown to friends", "hidden"), func() tea.Cmd {
			next := !shown
			return m.setProfile(&clientpb.SetProfile{Presence: &next})
		}},
	}
}

func (m *Model) profileView(width, _ int) []string {
	lines := []string{"", m.theme.title.Render(fit("  "+oneLine(m.name)+", user "+m.store.me.String(), width)), ""}
	if m.own == nil {
		return append(lines, fit("  reading…", width))
	}
	for i, l := range m.profileLines() {
		value := oneLine(l.value)
		if value == "" {
			value = "–"
		}
		lines = append(lines, m.row(fit(fmt.Sprintf("  %-14s %s", l.what, value), width), i == m.ownLine))
	}
	return append(lines, "", fit("  enter changes the chosen line", width))
}
