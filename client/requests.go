package client

import (
	"context"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// bodyTimeout bounds the fetching of a body that was missing.
const bodyTimeout = 10 * time.Minute

// History pages through a thread: the rows below before (the newest first
// page if 0), or above after if that is not 0. Rows come oldest first; more
// tells that there are further ones. limit 0 means 50, at most 200.
func (c *Client) History(ctx context.Context, q *clientpb.ReadHistory) (events []*clientpb.Event, more bool, err error) {
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_ReadHistory{ReadHistory: q}})
	return f.GetHistory().GetEvents(), f.GetHistory().GetMore(), err
}

// Threads pages through the user's threads, newest first. cursor is empty for
// the first page; the next one's is empty after the last.
func (c *Client) Threads(ctx context.Context, limit uint32, cursor string) (threads []*clientpb.Thread, next string, err error) {
	q := &clientpb.ListThreads{Limit: limit, Cursor: cursor}
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_ListThreads{ListThreads: q}})
	return f.GetThreads().GetThreads(), f.GetThreads().GetCursor(), err
}

// MarkRead raises the user's read mark in a thread and returns where it is.
func (c *Client) MarkRead(ctx context.Context, thread string, seq proto.Seq) (proto.Seq, error) {
	q := &clientpb.MarkRead{Thread: thread, Seq: uint64(seq)}
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_MarkRead{MarkRead: q}})
	return proto.Seq(f.GetReadMarked().GetSeq()), err
}

// FindUser finds a user by exact name.
func (c *Client) FindUser(ctx context.Context, name string) (proto.EntityID, string, error) {
	return c.find(ctx, &clientpb.FindUser{Name: name})
}

// ShowUser finds a user by id.
func (c *Client) ShowUser(ctx context.Context, user proto.EntityID) (string, error) {
	_, name, err := c.find(ctx, &clientpb.FindUser{User: uint64(user)})
	return name, err
}

func (c *Client) find(ctx context.Context, q *clientpb.FindUser) (proto.EntityID, string, error) {
	card, err := c.FindCard(ctx, q)
	return proto.EntityID(card.GetUser()), card.GetName(), err
}

// FindCard finds one person by exact name or by id. What is left out of the
// card could not be read just now.
//
// Errors: [proto.CodeUnknownUser], also for who blocks the user.
func (c *Client) FindCard(ctx context.Context, q *clientpb.FindUser) (*clientpb.Card, error) {
	f, err := c.ask(ctx, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_FindUser{FindUser: q}})
	if err != nil {
		return nil, err
	}
	found := f.GetUserFound()
	if found.GetCard() == nil { // an older server
		return &clientpb.Card{User: found.GetUser(), Name: found.GetName()}, nil
	}
	return found.GetCard(), nil
}

// Typing tells the other members of a thread that the user is writing. It is
// lost when there is no connection; the server passes on at most one in
// [proto.TypingInterval].
func (c *Client) Typing(thread string) {
	c.say(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Typing{Typing: &clientpb.Typing{Thread: thread}}})
}

// say writes a frame that has no answer, if there is a connection.
func (c *Client) say(f *clientpb.ClientFrame) {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return
	}
	if buf, err := appendFrame(nil, f); err == nil {
		_ = c.flush(conn, buf)
	}
}

// Logout ends this connection after what was queued has been written. The
// device stays known; its token stays valid.
func (c *Client) Logout() {
	c.say(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Logout{Logout: &clientpb.Logout{}}})
}

// fetchBody reads the event of an update that came without body, as soon as
// its owner can be reached, and hands it to OnBody.
func (c *Client) fetchBody(u Update) {
	c.bodies.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), bodyTimeout)
		defer cancel()
		events, _, err := c.History(ctx, &clientpb.ReadHistory{Thread: u.Event.Thread, Before: u.Event.Seq + 1, Limit: 1})
		if err == nil && len(events) == 1 && events[0].Seq == u.Event.Seq {
			c.cfg.OnBody(Update{Pts: u.Pts, Event: events[0]})
		}
	})
}
