package client

import (
	"unicode/utf8"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// TextMessage is a text for [Client.PostBody].
func TextMessage(thread, text string) *clientpb.SendMessage {
	return &clientpb.SendMessage{Thread: thread, Text: &clientpb.TextMessage{Text: text}}
}

// LocationMessage is a place on the map for [Client.PostBody]: WGS 84
// degrees, name at most [proto.PlaceNameBytesMax] bytes.
func LocationMessage(thread string, place *clientpb.Location) *clientpb.SendMessage {
	return &clientpb.SendMessage{Thread: thread, Location: place}
}

// CardMessage names a person to the members of a thread, for
// [Client.PostBody]. The server fills the person's name in.
func CardMessage(thread string, user proto.EntityID) *clientpb.SendMessage {
	return &clientpb.SendMessage{Thread: thread, Card: &clientpb.SharedCard{User: uint64(user)}}
}

// FileMessage shows one of the user's own files, which must be complete, to the
// members of a thread, for [Client.PostBody]. The server fills in what the file
// is; kind, thumbnail, width, height and duration are the sender's word.
func FileMessage(thread string, file *clientpb.FileMessage) *clientpb.SendMessage {
	return &clientpb.SendMessage{Thread: thread, File: file}
}

// PostBody puts a message of any kind into the outbox and returns at once, as
// [Client.Post] does for texts. m has a thread and exactly one body; its id is
// chosen when it goes out. m is not kept, its body must not be changed.
//
// Errors: [ErrOutboxFull], [ErrClosed]; [proto.CodeBadRequest] and
// [proto.CodeTooBig] for what cannot be put on the wire at all.
func (c *Client) PostBody(m *clientpb.SendMessage) (*Pending, error) {
	list, err := c.postAll([]*clientpb.SendMessage{m})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// PostAll puts texts into the outbox, all or none, in order. They travel
// pipelined, and each has its own answer.
//
// Errors: those of [Client.Post], after which nothing was posted.
func (c *Client) PostAll(thread string, texts []string) ([]*Pending, error) {
	list := make([]*clientpb.SendMessage, len(texts))
	for i, text := range texts {
		list[i] = TextMessage(thread, text)
	}
	return c.postAll(list)
}

func (c *Client) postAll(list []*clientpb.SendMessage) ([]*Pending, error) {
	out := make([]*Pending, len(list))
	for i, m := range list {
		if err := checkMessage(m); err != nil {
			return nil, err
		}
		body := &clientpb.SendMessage{Text: m.Text, Location: m.Location, Card: m.Card, File: m.File}
		out[i] = &Pending{thread: m.Thread, body: body, bytes: codec.Size(body), done: make(chan struct{})}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, ErrClosed
	case len(c.outbox)+len(out) > c.cfg.OutboxMax:
		return nil, ErrOutboxFull
	}
	c.outbox = append(c.outbox, out...)
	for _, p := range out {
		c.threads[p.thread]++
	}
	c.wakeWriter()
	return out, nil
}

// checkMessage refuses what cannot be put on the wire; the server checks the
// rest.
func checkMessage(m *clientpb.SendMessage) error {
	bodies := 0
	for _, given := range []bool{m.Text != nil, m.Location != nil, m.Card != nil, m.File != nil} {
		if given {
			bodies++
		}
	}
	text, place := m.Text.GetText(), m.Location.GetName()
	switch {
	case bodies != 1:
		return proto.Errorf(proto.CodeBadRequest, "a message is one of text, location, card and file, not %d of them", bodies)
	case !utf8.ValidString(text) || !utf8.ValidString(place) || !utf8.ValidString(m.Thread) || !utf8.ValidString(m.GetFile().GetFile()):
		return proto.Errorf(proto.CodeBadRequest, "the text is not valid UTF-8")
	case len(text) > proto.TextBytesMax:
		return proto.Errorf(proto.CodeTooBig, "the text has %d bytes, the limit is %d: send it in parts", len(text), proto.TextBytesMax)
	case len(place) > proto.PlaceNameBytesMax:
		return proto.Errorf(proto.CodeTooBig, "the place's name has %d bytes, the limit is %d", len(place), proto.PlaceNameBytesMax)
	}
	return nil
}
