package chatscreen

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// drawn is a screen without a server, at noon of a fixed day.
func drawn(width, height int) *Model {
	m := newModel(nil, me, "ann")
	m.now = func() time.Time { return time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local) }
	m.link, m.transport = client.Connected, client.QUIC
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	return m
}

// screenOf is what is seen, line by line, without colours.
func screenOf(m *Model) []string { return strings.Split(ansi.Strip(m.View().Content), "\n") }

func talk(m *Model, texts ...string) {
	m.store.newest(direct, nil, false)
	for i, text := range texts {
		e := message(uint64(i+1), []proto.EntityID{peer, me}[i%2])
		e.TimeMs = m.now().Add(time.Duration(i-60) * time.Minute).UnixMilli()
		e.Body = &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: text}}
		m.store.event(e)
	}
	m.open(direct)
}

func friend(user proto.EntityID, name string) *clientpb.Contact {
	return &clientpb.Contact{User: uint64(user), Relation: clientpb.Relation_RELATION_FRIEND, Name: name}
}

// TestEveryPageFillsTheScreen: whatever is written, in whatever script, each
// line is as wide as the screen and there are as many as it has.
func TestEveryPageFillsTheScreen(t *testing.T) {
	words := rapid.SampledFrom([]string{
		"hello", "漢字かな交じり文", "👋🏽", "👨‍👩‍👧‍👦", "é", "مرحبا", "नमस्ते", "\x1b[31mred\x1b[0m", "\t", "\u202e", "a\u0301", "🇩🇪", "\n", "W" + strings.Repeat("i", 90), "…",
	})
	rapid.Check(t, func(t *rapid.T) {
		width, height := rapid.IntRange(widthMin, 130).Draw(t, "width"), rapid.IntRange(heightMin, 50).Draw(t, "height")
		m := drawn(width, height)
		line := func(what string) string { return strings.Join(rapid.SliceOfN(words, 0, 12).Draw(t, what), " ") }
		var texts []string
		for range rapid.IntRange(0, 12).Draw(t, "messages") {
			texts = append(texts, line("text"))
		}
		talk(m, texts...)
		c := friend(peer, line("name"))
		c.Alias, c.Tags, c.Greeting = line("alias"), []string{line("tag")}, line("greeting")
		c.Relation = clientpb.Relation(rapid.IntRange(1, 5).Draw(t, "relation"))
		m.store.takeContact(c)
		m.store.presence[peer] = &clientpb.FriendPresence{User: uint64(peer), LastSeenMs: 1}
		m.lists.found, m.lists.searched = []*clientpb.Card{{User: 99, Name: line("found"), Nick: line("nick"), Description: line("about")}}, "x"
		m.own = &clientpb.Profile{Card: &clientpb.Card{Nick: line("own"), Description: line("own about")}}
		m.card = m.cardOf(peer)
		m.scroll = rapid.IntRange(0, 100).Draw(t, "scroll")
		m.compose.SetValue(strings.ReplaceAll(line("draft"), "\x1b", ""))
		m.layout()
		if rapid.Bool().Draw(t, "notice") {
			m.say(line("notice"))
		}
		for _, p := range []page{chatting, people, finding, person, profile, asking, helping} {
			m.page = p
			lines := strings.Split(m.View().Content, "\n")
			if len(lines) != height {
				t.Fatalf("page %d: %d lines on a screen of %d", p, len(lines), height)
			}
			for i, l := range lines {
				if w := lipgloss.Width(l); w != width {
					t.Fatalf("page %d, line %d of %dx%d: %d columns: %q", p, i, width, height, w, l)
				}
			}
		}
	})
}

func wantOnScreen(t *testing.T, m *Model, want ...string) {
	t.Helper()
	screen := strings.Join(screenOf(m), "\n")
	for _, w := range want {
		if !strings.Contains(screen, w) {
			t.Errorf("%q is not to be seen in\n%s", w, screen)
		}
	}
}

func TestAConversationAt80x24(t *testing.T) {
	m := drawn(80, 24)
	m.store.takeContact(friend(peer, "bob"))
	m.store.presence[peer] = &clientpb.FriendPresence{User: uint64(peer), Online: true}
	talk(m, "hi ann, 你好", "hello bob", "how are you?")
	m.store.mark(&clientpb.Mark{Thread: direct, Seq: 2, User: uint64(peer), Read: true})
	wantOnScreen(t, m, "waggle · ann", "● connected by QUIC", "bob ● online", "hi ann, 你好  11:00", "hello bob  11:01 ✓✓ read", "This is the beginning.")
	for i, l := range screenOf(m) {
		if strings.Contains(l, "hello bob  ") && !strings.HasSuffix(strings.TrimRight(l, " "), "read") {
			t.Errorf("line %d: an own message is not on the right: %q", i, l)
		}
	}
	m.Update(typingMsg{&clientpb.TypingNow{Thread: direct, User: uint64(peer)}})
	wantOnScreen(t, m, "bob is writing…")
	m.Update(stateMsg{client.Disconnected, errors.New("gone")})
	wantOnScreen(t, m, "connection lost, trying again")
}

func TestScrollingShowsOlderMessagesAndWhatIsNewBelow(t *testing.T) {
	m := drawn(80, 24)
	var texts []string
	for i := range 60 {
		texts = append(texts, fmt.Sprint("number ", i+1))
	}
	talk(m, texts...)
	if s := strings.Join(screenOf(m), "\n"); strings.Contains(s, "beginning") || !strings.Contains(s, "number 60 ") {
		t.Fatalf("the newest message is not at the bottom:\n%s", s)
	}
	for range 20 {
		m.Update(tea.KeyPressMsg{Code: tea.KeyPgUp})
		screenOf(m)
	}
	wantOnScreen(t, m, "This is the beginning.", "more below")
	e := message(61, peer)
	m.Update(updateMsg{client.Update{Event: e}})
	wantOnScreen(t, m, "1 new below")
	m.Update(tea.KeyPressMsg{Code: tea.KeyEnd, Mod: tea.ModAlt})
	wantOnScreen(t, m, "message 61")
}

func TestAnEndedSessionSaysWhy(t *testing.T) {
	m := drawn(80, 24)
	m.Update(endedMsg{proto.Errorf(proto.CodeDisplaced, "same account logged in from a different location")})
	wantOnScreen(t, m, "This session has ended", "same account logged in from a different location")
	if _, cmd := m.Update(tea.KeyPressMsg{Code: tea.KeyEnter}); cmd == nil {
		t.Error("a key does not leave")
	}
}

func TestRequestsAreSeen(t *testing.T) {
	m := drawn(80, 24)
	c := &clientpb.Contact{User: 99, Name: "carol", Relation: clientpb.Relation_RELATION_REQUEST_RECEIVED, Greeting: "we met at the fair"}
	m.Update(updateMsg{client.Update{Contact: &clientpb.ContactEvent{Action: clientpb.ContactAction_CONTACT_ACTION_REQUEST, By: 99, Contact: c}}})
	wantOnScreen(t, m, "carol asks to be friends", "1 friend request (F2)")
	m.Update(tea.KeyPressMsg{Code: tea.KeyF2})
	wantOnScreen(t, m, "They ask to be friends (1)", "we met at", "a accept")
}

func TestATinyScreenSaysSo(t *testing.T) {
	m := drawn(20, 5)
	wantOnScreen(t, m, "too small")
}
