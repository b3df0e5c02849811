package chatscreen

import (
	"context"
	"errors"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// askTimeout bounds one question to the server; the screen goes on meanwhile.
const askTimeout = 20 * time.Second

// historyRows is one page of a conversation.
const historyRows = 50

// answer is what a command brings back: a change of the model.
type answer func(*Model) tea.Cmd

// question to the server: ask runs beside the screen, what it returns on it.
func (m *Model) server(ask func(context.Context) (answer, error)) tea.Cmd {
	if m.srv == nil {
		return nil
	}
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		done, err := ask(ctx)
		switch {
		case errors.Is(err, client.ErrClosed):
			return nil // the end is told by itself
		case errors.Is(err, context.DeadlineExceeded):
			err = errors.New("the server does not answer: it is tried again when you ask again")
		}
		if err != nil {
			return answer(func(m *Model) tea.Cmd {
				m.say(err.Error())
				if done != nil {
					return done(m)
				}
				return nil
			})
		}
		return done
	}
}

// readAll reads threads, contacts and profile.
func (m *Model) readAll() tea.Cmd {
	for _, t := range m.store.threads {
		t.loaded, t.asking = false, false
	}
	return tea.Batch(m.readThreads(""), m.readContacts(""), m.readProfile(), m.fill())
}

// threadPages bounds the pages of threads read at once, 200 threads each.
const threadPages = 50

func (m *Model) readThreads(cursor string) tea.Cmd {
	return m.server(func(ctx context.Context) (answer, error) {
		var all []*clientpb.Thread
		for range threadPages {
			page, next, err := m.srv.Threads(ctx, proto.PageMax, cursor)
			if err != nil {
				return nil, err
			}
			all = append(all, page...)
			if cursor = next; cursor == "" {
				break
			}
		}
		return func(m *Model) tea.Cmd {
			for _, t := range all {
				m.store.takeThread(t)
			}
			if m.thread == "" {
				if first := m.store.ordered(); len(first) > 0 {
					return m.open(first[0].id)
				}
			}
			return m.fill()
		}, nil
	})
}

func (m *Model) readContacts(cursor string) tea.Cmd {
	q := &clientpb.ListContacts{Limit: proto.PageMax, Cursor: cursor, Relations: []clientpb.Relation{
		clientpb.Relation_RELATION_FRIEND, clientpb.Relation_RELATION_REQUEST_RECEIVED, clientpb.Relation_RELATION_REQUEST_SENT,
		clientpb.Relation_RELATION_REQUEST_IGNORED, clientpb.Relation_RELATION_BLOCKED,
	}}
	return m.server(func(ctx context.Context) (answer, error) {
		page, next, err := m.srv.Contacts(ctx, q)
		return func(m *Model) tea.Cmd {
			for _, c := range page {
				m.store.takeContact(c)
			}
			if next == "" {
				return nil
			}
			return m.readContacts(next)
		}, err
	})
}

func (m *Model) readProfile() tea.Cmd {
	return m.server(func(ctx context.Context) (answer, error) {
		p, err := m.srv.Profile(ctx)
		return func(m *Model) tea.Cmd { m.own = p; return nil }, err
	})
}

// fill reads the newest page of the open thread if it is not known.
func (m *Model) fill() tea.Cmd {
	t := m.current()
	if t == nil || t.loaded || t.asking {
		return nil
	}
	id := t.id
	cmd := m.server(func(ctx context.Context) (answer, error) {
		events, more, err := m.srv.History(ctx, &clientpb.ReadHistory{Thread: id, Limit: historyRows})
		if err != nil {
			return func(m *Model) tea.Cmd { m.store.thread(id).asking = false; return nil }, err
		}
		return func(m *Model) tea.Cmd {
			m.store.newest(id, events, more)
			return tea.Batch(m.fill(), m.markRead())
		}, nil
	})
	t.asking = cmd != nil
	return cmd
}

// older reads the page above the rows shown.
func (m *Model) older() tea.Cmd {
	t := m.current()
	if t == nil || !t.loaded || !t.older || t.asking || len(t.rows) == 0 {
		return nil
	}
	id, before := t.id, t.rows[0].seq
	cmd := m.server(func(ctx context.Context) (answer, error) {
		events, more, err := m.srv.History(ctx, &clientpb.ReadHistory{Thread: id, Before: before, Limit: historyRows})
		if err != nil {
			return func(m *Model) tea.Cmd { m.store.thread(id).asking = false; return nil }, err
		}
		return func(m *Model) tea.Cmd { m.store.olderPage(id, before, events, more); return nil }, nil
	})
	t.asking = cmd != nil
	return cmd
}

func (m *Model) raiseMark(id string, upTo uint64) tea.Cmd {
	return m.server(func(ctx context.Context) (answer, error) {
		seq, err := m.srv.MarkRead(ctx, id, proto.Seq(upTo))
		return func(m *Model) tea.Cmd {
			delete(m.reading, id)
			if err == nil {
				m.store.mark(&clientpb.Mark{Thread: id, Seq: uint64(seq), User: uint64(m.store.me), Read: true})
			}
			return nil
		}, err
	})
}

// send posts what was written.
func (m *Model) send() tea.Cmd {
	t, text := m.current(), strings.TrimRight(m.compose.Value(), " \n")
	if t == nil || strings.TrimSpace(text) == "" {
		return nil
	}
	if cmd, is := m.fileVerb(t, text); is {
		return cmd
	}
	if m.srv == nil {
		return nil
	}
	p, err := m.srv.Post(t.id, text)
	if err != nil {
		m.say(err.Error())
		return nil
	}
	m.compose.Reset()
	m.layout()
	m.scroll, m.below, m.typedAt = 0, 0, time.Time{}
	r := t.post(text, p, m.now())
	return m.await(r)
}

// await waits for the acknowledgement of a posted message, however long the
// server cannot be reached: the outbox keeps it.
func (m *Model) await(r *row) tea.Cmd {
	return func() tea.Msg {
		where, err := r.pending.Result(context.Background()) // ends with the client at the latest
		return answer(func(m *Model) tea.Cmd {
			if err != nil {
				r.failed = oneLine(err.Error())
				m.say("not sent: " + r.failed + " (ctrl+r tries again)")
				return nil
			}
			m.store.sent(r, where)
			return m.sentFile(r)
		})
	}
}

// again posts the failed messages of the open thread anew.
func (m *Model) again() tea.Cmd {
	t := m.current()
	if t == nil || m.srv == nil {
		return nil
	}
	var cmds []tea.Cmd
	for _, r := range t.outbox {
		if r.failed == "" {
			continue
		}
		if r.upload != nil {
			cmds = append(cmds, m.upload(t.id, r))
			continue
		}
		p, err := m.srv.Post(t.id, r.written)
		if err != nil {
			m.say(err.Error())
			break
		}
		r.failed, r.pending = "", p
		cmds = append(cmds, m.await(r))
	}
	return tea.Batch(cmds...)
}

// writing tells the other side now and then that the user writes.
func (m *Model) writing() tea.Cmd {
	t := m.current()
	if t == nil || m.srv == nil || m.compose.Value() == "" || m.now().Sub(m.typedAt) < typingEvery {
		return nil
	}
	m.typedAt = m.now()
	id := t.id
	return func() tea.Msg { m.srv.Typing(id); return nil }
}

// find looks people up by the word in the line.
func (m *Model) find() tea.Cmd {
	word := strings.TrimSpace(m.lists.word.Value())
	if len(word) < proto.PrefixBytesMin {
		m.say("type the first letters of a name")
		return nil
	}
	return m.server(func(ctx context.Context) (answer, error) {
		cards, err := m.srv.FindPeople(ctx, word, proto.PeopleMax)
		return func(m *Model) tea.Cmd {
			m.lists.found, m.lists.searched, m.lists.selected = cards, word, 0
			return nil
		}, err
	})
}

// change does something about a person.
func (m *Model) change(c client.ContactChange) tea.Cmd {
	return m.server(func(ctx context.Context) (answer, error) {
		contact, err := m.srv.ChangeContact(ctx, c)
		return func(m *Model) tea.Cmd {
			if err != nil {
				return nil
			}
			m.store.takeContact(contact)
			if contact.GetRelation() == clientpb.Relation_RELATION_NONE {
				delete(m.store.contacts, c.User)
			}
			m.say("done: " + relationWords(contact.GetRelation()))
			return nil
		}, err
	})
}

func (m *Model) edit(user proto.EntityID, alias string, tags []string) tea.Cmd {
	return m.server(func(ctx context.Context) (answer, error) {
		contact, err := m.srv.EditContact(ctx, user, alias, tags)
		return func(m *Model) tea.Cmd { m.store.takeContact(contact); return nil }, err
	})
}

func (m *Model) setProfile(change *clientpb.SetProfile) tea.Cmd {
	return m.server(func(ctx context.Context) (answer, error) {
		p, err := m.srv.SetProfile(ctx, change)
		return func(m *Model) tea.Cmd {
			if err == nil {
				m.own = p
				m.say("saved; friends are told")
			}
			return nil
		}, err
	})
}
