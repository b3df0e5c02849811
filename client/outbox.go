package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// windowMessages and windowBytes bound what is sent and not yet answered.
	// They stay below what an edge keeps for one connection, and below what it
	// lets through of one while it has nothing else to do.
	windowMessages = 64
	windowBytes    = 512 << 10
	// retryCheck is the shortest time between two looks at what was refused.
	retryCheck = 10 * time.Millisecond
)

// ErrOutboxFull refuses a message while too many are unacknowledged.
var ErrOutboxFull = errors.New("client: the outbox is full: wait for acknowledgements")

// ErrClosed is the error of what was unanswered when Run returned. Messages
// may have been stored.
var ErrClosed = errors.New("client: closed before the server answered")

// Sent is where a message was stored.
type Sent struct {
	Thread      string
	Seq         proto.Seq
	Time        time.Time
	ClientMsgID proto.ClientMsgID
}

// Pending is a message on its way.
type Pending struct {
	thread string
	body   *clientpb.SendMessage // what to send, without its id
	bytes  int                   // of body
	done   chan struct{}

	// Owned by the client's lock until done is closed.
	id       proto.ClientMsgID
	hasID    bool
	inFlight uint64    // request id, 0: not on the wire
	notTill  time.Time // refused "retry later"
	refusals int       // so many times
	tried    time.Time // put on the wire last
	took     time.Duration
	sent     Sent
	err      error
}

// Done is closed when the message is stored or has failed for good.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Refusals is how often the message was refused "retry later" before what
// Result says came of it. It is for after [Pending.Done].
func (p *Pending) Refusals() int { return p.refusals }

// Took is the time from sending the message for the last time to its
// acknowledgement: without what it waited in the outbox before, for its turn or
// because it had been refused. It is for after [Pending.Done]; 0 where none came.
func (p *Pending) Took() time.Duration { return p.took }

// Result waits for the acknowledgement. When ctx ends first the message stays
// in the outbox and may still be stored.
func (p *Pending) Result(ctx context.Context) (Sent, error) {
	select {
	case <-p.done:
		return p.sent, p.err
	case <-ctx.Done():
		return Sent{}, ctx.Err()
	}
}

// Post puts a text into the outbox and returns at once. Messages to one
// thread are stored in the order of their posting.
//
// Errors: [ErrOutboxFull], [ErrClosed]; [proto.CodeBadRequest] for what cannot
// be put on the wire at all.
func (c *Client) Post(thread, text string) (*Pending, error) {
	return c.PostBody(TextMessage(thread, text))
}

// Send posts a message and waits until it is stored.
//
// Errors: what the server refused it with, as *proto.Error; ctx's, after
// which the message may still be stored.
func (c *Client) Send(ctx context.Context, thread, text string) (Sent, error) {
	p, err := c.Post(thread, text)
	if err != nil {
		return Sent{}, err
	}
	return p.Result(ctx)
}

// Unacknowledged is the number of messages in the outbox.
func (c *Client) Unacknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.outbox)
}

// unsent tells whether messages wait to be sent or to be sent again. It needs mu.
func (c *Client) unsent(conn *connection) bool { return len(c.outbox) > conn.unanswered }

// nextSends numbers and frames what may go out now. Where something waits for a
// time, as what was refused does, it gives the first such time. It needs mu.
//
// Where a message was refused "retry later", those after it in its thread would
// be too, all of them each time it is tried: so it is tried alone, and then the
// thread has a [pace] until it is empty.
//
// A long outbox is not gone through for each message: not where all is on its
// way, nor beyond where all threads wait.
func (c *Client) nextSends(conn *connection, now time.Time) (out []*clientpb.ClientFrame, again time.Time) {
	if !c.unsent(conn) {
		return nil, time.Time{}
	}
	before := map[string]*Pending{} // the latest unacknowledged one of each thread
	held := map[string]bool{}       // threads whose order asks to wait
	flying := map[string]int{}      // unanswered ones of each thread with a pace
	for _, p := range c.outbox {
		previous := before[p.thread]
		before[p.thread] = p
		pace, paced := c.pace[p.thread]
		if p.inFlight != 0 {
			if paced {
				flying[p.thread]++
			}
			continue
		}
		if held[p.thread] {
			continue
		}
		early := now.Before(p.notTill)
		if early || paced && flying[p.thread] >= pace.allowed {
			if early && (again.IsZero() || p.notTill.Before(again)) {
				again = p.notTill
			}
			if held[p.thread] = true; len(held) == len(c.threads) {
				break
			}
			continue
		}
		if conn.unanswered >= windowMessages || conn.unansweredBytes >= windowBytes {
			break
		}
		if !p.hasID {
			p.id, p.hasID = proto.NewClientMsgID(now.Add(conn.clockOffset)), true
		}
		send := &clientpb.SendMessage{
			Thread: p.thread, ClientMsgId: p.id[:], Text: p.body.Text, Location: p.body.Location, Card: p.body.Card, File: p.body.File,
		}
		if previous != nil {
			send.After = previous.id[:]
		}
		c.nextRequest++
		p.inFlight = c.nextRequest
		if paced {
			flying[p.thread]++
		}
		p.tried = now
		conn.sends[p.inFlight] = p
		conn.unanswered++
		conn.unansweredBytes += p.bytes
		out = append(out, &clientpb.ClientFrame{Id: p.inFlight, Body: &clientpb.ClientFrame_SendMessage{SendMessage: send}})
	}
	return out, again
}

// pace is how many messages of a thread may be unanswered after one was refused:
// one more each time that as many have been acknowledged, as TCP avoids
// congestion (RFC 5681, 3.1). Were it one more for each, a client that has many
// would fill what room there is at once, and be refused again.
type pace struct {
	allowed      int
	acknowledged int // since it was raised
}

// raise is the pace after an acknowledgement.
func (p pace) raise() pace {
	if p.acknowledged++; p.acknowledged < p.allowed {
		return p
	}
	return pace{allowed: p.allowed + 1}
}

// sendAnswered takes the answer to a message. It needs mu.
// It returns a refusal after which the message is sent again.
func (c *Client) sendAnswered(conn *connection, p *Pending, f *clientpb.ServerFrame) *proto.Error {
	delete(conn.sends, f.Id)
	conn.unanswered--
	conn.unansweredBytes -= p.bytes
	p.inFlight = 0
	if sent := f.GetMessageSent(); sent != nil {
		p.took = time.Since(p.tried)
		p.sent = Sent{Thread: p.thread, Seq: proto.Seq(sent.Seq), Time: time.UnixMilli(sent.TimeMs), ClientMsgID: p.id}
		if pace, paced := c.pace[p.thread]; paced {
			c.pace[p.thread] = pace.raise()
		}
		c.finish(p)
		return nil
	}
	err := serverError(f.GetError())
	if err.Code.Class() == proto.ClassGiveUp {
		p.err = err
		c.finish(p)
		return nil
	}
	p.notTill = time.Now().Add(err.Retry)
	p.refusals++
	c.pace[p.thread] = pace{allowed: 1}
	return err
}

func (c *Client) finish(p *Pending) {
	at := slices.Index(c.outbox, p)
	c.outbox = slices.Delete(c.outbox, at, at+1)
	if c.threads[p.thread]--; c.threads[p.thread] == 0 {
		delete(c.threads, p.thread)
		delete(c.pace, p.thread)
	}
	close(p.done)
}

// serverError is an error frame as an error; a frame of another kind is one
// too.
func serverError(e *clientpb.Error) *proto.Error {
	if e == nil {
		return proto.Errorf(proto.CodeBadFrame, "the server gave an answer that does not fit")
	}
	return proto.AsError(proto.FromWire(e.Code, e.Message, e.RetryMs))
}
