package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// writeTimeout bounds one write to the server; a tenth less at times.
	writeTimeout = 10 * time.Second
	// doubtAfter is how long a server may be silent while it owes an answer,
	// before it is asked for a sign of life; after twice that the connection
	// is given up.
	doubtAfter = 3 * time.Second
	// confirmSooner is how long processed updates wait to be confirmed
	// together after a while of quiet. In a stream of updates confirmations are
	// confirmApart from each other: the server stores those of a user at most
	// once in [proto.MarkInterval], so more of them tell nobody anything.
	confirmSooner = 100 * time.Millisecond
	confirmApart  = proto.MarkInterval / 2
)

// connection is one life of the client's connection.
type connection struct {
	wire        *wire
	close       func()
	heartbeat   time.Duration
	clockOffset time.Duration

	// Guarded by the client's lock.
	sends           map[uint64]*Pending
	unanswered      int
	unansweredBytes int
	lastHeard       time.Time
	owesSince       time.Time // from before the first of what is unanswered was sent
	confirmed       proto.Pts
	confirming      *time.Timer // runs while updates wait to be confirmed; nil: none do
	confirmDue      bool        // it has run out
	confirmedAt     time.Time   // the latest confirmation
	doubted         time.Time   // a sign of life was asked for

	deadlineSet time.Time // of writes; guarded by the client's writing
}

// serve connects and serves the connection, and those it is moved to, until
// one breaks.
func (c *Client) serve(ctx context.Context) error {
	if err := c.freshToken(ctx); err != nil {
		c.nextServer()
		return err
	}
	c.mu.Lock()
	server := c.servers[0]
	c.mu.Unlock()
	next, err := c.reach(ctx, server)
	if err != nil {
		c.nextServer()
		return err
	}
	conn := c.adopt(next)
	c.tell(Connected, nil)
	c.mu.Lock()
	first := !c.stood
	c.stood = true
	c.mu.Unlock()
	if first {
		close(c.connected)
	}
	for {
		next, err := c.use(ctx, conn)
		if next == nil {
			return err
		}
		conn = c.adopt(next)
	}
}

// reached is a connection that stands and is not in use yet.
type reached struct {
	wire    *wire
	welcome *clientpb.Welcome
	rtt     time.Duration
	at      time.Time // of the welcome
	close   func()
}

// reach connects to a server and says hello, within the time for dialling.
func (c *Client) reach(ctx context.Context, server string) (*reached, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	w, err := dial(ctx, &c.cfg, server)
	if err != nil {
		return nil, err
	}
	r := &reached{wire: w, close: sync.OnceFunc(w.close)}
	stop := context.AfterFunc(ctx, r.close)
	err = c.hello(r)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// use serves a connection until it breaks, or until it has been left for
// another, which is next.
func (c *Client) use(ctx context.Context, conn *connection) (next *reached, err error) {
	defer conn.close()
	received := make(chan struct{})
	var goodbye sync.WaitGroup
	defer goodbye.Wait()
	goodbye.Go(func() {
		select {
		case <-ctx.Done():
			c.sayGoodbye(conn.wire, received)
			conn.close()
		case <-received:
		}
	})
	mover := &mover{client: c, conn: conn, received: received}
	runCtx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		end(c.write(runCtx, conn))
		// Else the goodbye closes it, or whoever leaves it.
		if ctx.Err() == nil && !mover.arrived() {
			conn.close()
		}
	})
	err = c.receive(ctx, conn, mover)
	close(received)
	end(err)
	wg.Wait()
	if cause := context.Cause(runCtx); cause != nil {
		err = cause
	}
	c.detach(conn)
	return mover.wait(), err
}

// nextServer puts the server that failed last.
func (c *Client) nextServer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers = append(c.servers[1:len(c.servers):len(c.servers)], c.servers[0])
}

// hello logs in, from the place to resume from.
func (c *Client) hello(r *reached) error {
	c.mu.Lock()
	h := &clientpb.Hello{
		ProtocolVersion: proto.ClientProtocolVersion, Token: c.tokens.Token, Device: c.cfg.Device, Client: c.cfg.Name,
		Subscribe: c.cfg.Subscribe, Incarnation: c.incarnation, LastPts: uint64(c.pts), FromConfirmed: !c.placed,
	}
	c.mu.Unlock()
	raw, err := appendFrame(nil, &clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: h}})
	if err != nil {
		return err
	}
	if _, err := r.wire.rw.Write(raw); err != nil {
		return fmt.Errorf("client: say hello: %w", err)
	}
	before := time.Now()
	f, err := r.wire.read()
	if err != nil {
		return fmt.Errorf("client: the server closed the connection at hello: %w", err)
	}
	r.welcome = f.GetWelcome()
	switch {
	case f.GetClosing() != nil:
		return c.closing(f.GetClosing())
	case r.welcome == nil:
		return serverError(f.GetError())
	}
	r.at = time.Now()
	r.rtt = r.at.Sub(before)
	return nil
}

// adopt makes a connection the one in use. Of one that was reached while
// another was in use, updates that came there meanwhile come again.
func (c *Client) adopt(r *reached) *connection {
	conn := &connection{
		wire: r.wire, close: r.close, heartbeat: time.Duration(r.welcome.HeartbeatMs) * time.Millisecond, lastHeard: time.Now(),
		clockOffset: time.UnixMilli(r.welcome.ServerTimeMs).Add(r.rtt / 2).Sub(r.at),
		sends:       map[uint64]*Pending{},
	}
	if conn.heartbeat <= 0 {
		conn.heartbeat = proto.HeartbeatInterval
	}
	c.mu.Lock()
	c.nextRequest = max(c.nextRequest, 1)
	c.conn, c.user, c.transport = conn, proto.EntityID(r.welcome.User), r.wire.transport
	if c.cfg.Subscribe {
		resumed, same := proto.Pts(r.welcome.ResumeFrom), c.placed && bytes.Equal(c.incarnation, r.welcome.Incarnation)
		conn.confirmed = resumed
		if !same || r.welcome.Resync || resumed > c.pts {
			c.pts = resumed
		}
		c.incarnation, c.placed = r.welcome.Incarnation, true
	}
	c.mu.Unlock()
	c.wakeWriter()
	return conn
}

// closing turns the server's last frame into an error and notes where to go.
func (c *Client) closing(f *clientpb.Closing) error {
	c.preferServers(f.Alternatives)
	err := proto.AsError(proto.FromWire(f.Code, f.Message, f.RetryMs))
	return err
}

// preferServers puts servers before the others.
func (c *Client) preferServers(servers []string) {
	if len(servers) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var next []string
	for _, s := range append(slices.Clone(servers), c.servers...) {
		if !slices.Contains(next, s) {
			next = append(next, s)
		}
	}
	c.servers = next
}

// sayGoodbye confirms what was handed out and asks the server to close the
// connection, so that nothing of it is lost on the way, and waits until it
// has, at most [proto.CloseFlushTimeout].
func (c *Client) sayGoodbye(w *wire, closed <-chan struct{}) {
	// A writer that is stuck must not keep us.
	_ = w.deadline(time.Now().Add(proto.CloseFlushTimeout))
	c.writing.Lock()
	defer c.writing.Unlock()
	var buf []byte
	frames := []*clientpb.ClientFrame{{Body: &clientpb.ClientFrame_Logout{Logout: &clientpb.Logout{}}}}
	if c.cfg.Subscribe {
		confirm := &clientpb.Confirm{Pts: uint64(c.handedOut())}
		frames = append([]*clientpb.ClientFrame{{Body: &clientpb.ClientFrame_Confirm{Confirm: confirm}}}, frames...)
	}
	for _, f := range frames {
		var err error
		if buf, err = appendFrame(buf, f); err != nil {
			return
		}
	}
	if _, err := w.rw.Write(buf); err != nil {
		return
	}
	select {
	case <-closed:
	case <-time.After(proto.CloseFlushTimeout):
	}
}

func (c *Client) handedOut() proto.Pts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pts
}

// detach puts what is unanswered back.
func (c *Client) detach(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = nil
	if conn.confirming != nil {
		conn.confirming.Stop()
	}
	for _, p := range conn.sends {
		p.inFlight = 0
	}
	for _, r := range c.requests {
		r.sentOn = nil
	}
}

// receive takes the server's frames in order until the connection breaks.
func (c *Client) receive(ctx context.Context, conn *connection, m *mover) error {
	for {
		f, err := conn.wire.read()
		if err != nil {
			return fmt.Errorf("client: connection lost: %w", err)
		}
		c.mu.Lock()
		conn.lastHeard = time.Now()
		c.mu.Unlock()
		switch body := f.Body.(type) {
		case *clientpb.ServerFrame_Updates:
			if err := c.updates(body.Updates.Updates); err != nil {
				return err
			}
			c.confirmSoon(conn)
		case *clientpb.ServerFrame_Resync:
			c.mu.Lock()
			c.incarnation, c.pts = body.Resync.Incarnation, proto.Pts(body.Resync.Pts)
			conn.confirmed = c.pts // places before it are of no use any more
			c.mu.Unlock()
			if c.cfg.OnResync != nil {
				c.cfg.OnResync(Resync{Pts: proto.Pts(body.Resync.Pts), Incarnation: body.Resync.Incarnation, Reason: body.Resync.Reason})
			}
		case *clientpb.ServerFrame_Closing:
			return c.closing(body.Closing)
		case *clientpb.ServerFrame_Redirect:
			m.start(ctx, body.Redirect)
		case *clientpb.ServerFrame_HeartbeatAck:
		case *clientpb.ServerFrame_Presence:
			if c.cfg.OnPresence != nil {
				c.cfg.OnPresence(body.Presence)
			}
		case *clientpb.ServerFrame_TypingNow:
			if c.cfg.OnTyping != nil {
				c.cfg.OnTyping(body.TypingNow)
			}
		case *clientpb.ServerFrame_LiveViewers:
			if c.cfg.OnLiveViewers != nil {
				c.cfg.OnLiveViewers(body.LiveViewers)
			}
		default:
			if e := f.GetError(); e != nil && f.Id == 0 {
				return serverError(e)
			}
			var refused *proto.Error
			c.mu.Lock()
			if p := conn.sends[f.Id]; p != nil {
				refused = c.sendAnswered(conn, p, f)
			} else {
				c.answered(f)
			}
			held := c.unsent(conn) || c.requestWaits()
			c.mu.Unlock()
			if held {
				c.wakeWriter()
			}
			if refused != nil && c.cfg.OnRefused != nil {
				c.cfg.OnRefused(refused)
			}
		}
	}
}

// updates hands updates out, each once and in order.
func (c *Client) updates(list []*clientpb.Update) error {
	for _, u := range list {
		pts := proto.Pts(u.Pts)
		last := c.handedOut()
		if pts <= last {
			continue
		}
		if pts != last+1 {
			return fmt.Errorf("client: update %d follows %d: resuming", pts, last)
		}
		update := Update{Pts: pts, Event: u.GetEvent(), Mark: u.GetMark(), Contact: u.GetContact(), Profile: u.GetProfile()}
		if c.cfg.OnUpdate != nil {
			c.cfg.OnUpdate(update)
		}
		c.mu.Lock()
		c.pts = pts
		c.mu.Unlock()
		if update.Event.GetBodyMissing() && c.cfg.OnBody != nil {
			c.fetchBody(update)
		}
	}
	return nil
}

// write sends what is due until ctx ends.
func (c *Client) write(ctx context.Context, conn *connection) error {
	var alarm alarm
	defer alarm.stop()
	beat := time.Now().Add(conn.heartbeat)
	var buf []byte
	for {
		frames, retry := c.dueFrames(conn)
		var err error
		for buf = buf[:0]; len(frames) > 0; frames = frames[1:] {
			if buf, err = appendFrame(buf, frames[0]); err != nil {
				return err
			}
		}
		if err := c.flush(conn, buf); err != nil {
			return err
		}
		now := time.Now()
		if !now.Before(beat) {
			beat = now.Add(conn.heartbeat)
			if err := c.beat(conn); err != nil {
				return err
			}
		}
		doubt, err := c.doubt(conn, now)
		if err != nil {
			return err
		}
		alarm.by(retry, now)
		alarm.by(beat, now)
		alarm.by(doubt, now)
		select {
		case <-c.wake:
		case <-alarm.c():
			alarm.rang()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// alarm is a timer that is set only to ring sooner than it would: a message does
// not pay for one. It may ring before anything is due.
type alarm struct {
	timer *time.Timer // nil: never set
	at    time.Time   // zero: it will not ring
}

// by has it ring at a time at the latest; the zero time is none.
func (a *alarm) by(at, now time.Time) {
	switch {
	case at.IsZero() || !a.at.IsZero() && !at.Before(a.at):
		return
	case a.timer == nil:
		a.timer = time.NewTimer(at.Sub(now))
	default:
		a.timer.Reset(at.Sub(now))
	}
	a.at = at
}

func (a *alarm) c() <-chan time.Time {
	if a.timer == nil {
		return nil
	}
	return a.timer.C
}

func (a *alarm) rang() { a.at = time.Time{} }

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

func (c *Client) flush(conn *connection, buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	// Moving the deadline costs a tenth of a write: once in a while is enough.
	if now := time.Now(); now.Sub(conn.deadlineSet) > writeTimeout/10 {
		if err := conn.wire.deadline(now.Add(writeTimeout)); err != nil {
			return fmt.Errorf("client: connection lost: %w", err)
		}
		conn.deadlineSet = now
	}
	if _, err := conn.wire.rw.Write(buf); err != nil {
		return fmt.Errorf("client: connection lost: %w", err)
	}
	return nil
}

// requestWaits tells whether a request waits to be sent again. It needs mu.
func (c *Client) requestWaits() bool {
	for _, r := range c.requests {
		if r.sentOn == nil {
			return true
		}
	}
	return false
}

// dueFrames are the requests, messages and confirmations that may go out now.
// Where some may later, it gives the time, [retryCheck] from now at the least.
func (c *Client) dueFrames(conn *connection) (out []*clientpb.ClientFrame, again time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.owed(conn) {
		conn.owesSince = now
	}
	out, again = c.nextSends(conn, now)
	for _, r := range c.requests {
		switch {
		case r.sentOn != nil:
		case now.After(r.retry):
			r.sentOn = conn
			out = append(out, r.frame)
		case again.IsZero() || r.retry.Before(again):
			again = r.retry
		}
	}
	if conn.confirmDue {
		conn.confirmDue, conn.confirming = false, nil
		if c.pts > conn.confirmed { // else a resynchronisation has overtaken it
			conn.confirmed, conn.confirmedAt = c.pts, now
			confirm := &clientpb.Confirm{Pts: uint64(c.pts)}
			out = append(out, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_Confirm{Confirm: confirm}})
		}
	}
	if !again.IsZero() {
		again = latest(again, now.Add(retryCheck))
	}
	return out, again
}

// confirmSoon has what was handed out confirmed, at the latest after
// [confirmApart].
func (c *Client) confirmSoon(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pts <= conn.confirmed || conn.confirming != nil {
		return
	}
	wait := max(confirmSooner, confirmApart-time.Since(conn.confirmedAt))
	conn.confirming = time.AfterFunc(wait, func() {
		c.mu.Lock()
		conn.confirmDue = true
		c.mu.Unlock()
		c.wakeWriter()
	})
}

// doubt asks a server that owes an answer and has been silent for long for a
// sign of life, and gives it up when there is none. It tells when to look again;
// zero: not before something is owed.
func (c *Client) doubt(conn *connection, now time.Time) (again time.Time, err error) {
	c.mu.Lock()
	owes := c.owed(conn)
	asked := !conn.doubted.Before(conn.lastHeard) && !conn.doubted.Before(conn.owesSince)
	again = latest(conn.lastHeard, conn.owesSince).Add(doubtAfter)
	if asked {
		again = conn.doubted.Add(doubtAfter)
	}
	due := owes && !now.Before(again)
	if due && !asked {
		conn.doubted, again = now, now.Add(doubtAfter)
	}
	c.mu.Unlock()
	switch {
	case !owes:
		return time.Time{}, nil
	case due && asked:
		return again, errors.New("client: the server does not answer any more")
	case due:
		return again, c.beat(conn)
	}
	return again, nil
}

// owed tells whether the server owes answers. It needs mu.
func (c *Client) owed(conn *connection) bool {
	if conn.unanswered > 0 {
		return true
	}
	for _, r := range c.requests {
		if r.sentOn == conn {
			return true
		}
	}
	return false
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// beat sends a heartbeat and judges the server's silence as it judges ours.
func (c *Client) beat(conn *connection) error {
	c.mu.Lock()
	silent := time.Since(conn.lastHeard)
	c.mu.Unlock()
	if silent > conn.heartbeat*proto.HeartbeatSilenceFactor/10 {
		return errors.New("client: the server has been silent for too long")
	}
	buf, err := appendFrame(nil, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_Heartbeat{Heartbeat: &clientpb.Heartbeat{}}})
	if err != nil {
		return err
	}
	return c.flush(conn, buf)
}
