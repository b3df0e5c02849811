package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// The wait before connecting again: anywhere up to a bound that doubles from
// backoffMin to backoffMax, so that the clients of a lost edge do not return
// all at once.
const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 5 * time.Second
	// backoffCrowd and backoffCrowdMax take their place where a server had too
	// many new connections at work: it bears about a thousand in a second, and
	// each attempt costs it something.
	backoffCrowd    = time.Second
	backoffCrowdMax = 10 * time.Second
)

// Client is one device's connection, kept up by Run.
type Client struct {
	cfg  Config
	wake chan struct{} // the writer has something to do

	refreshing chan struct{} // holds one: a refresh is under way

	writing sync.Mutex     // one writer on the wire at a time
	bodies  sync.WaitGroup // fetching missing bodies

	mu          sync.Mutex      // guards the fields below
	outbox      []*Pending      // by order of posting
	threads     map[string]int  // how many of them each thread has
	pace        map[string]pace // of threads of which a message was refused
	nextRequest uint64
	requests    []*request // asked and unanswered, by order
	conn        *connection
	user        proto.EntityID
	incarnation []byte
	pts         proto.Pts // the last update handed out
	placed      bool      // pts is known: resume from there
	servers     []string  // the next one to try first
	closed      bool
	lastErr     error
	connected   chan struct{} // closed when connected for the first time
	stood       bool          // it is closed
	transport   Transport
	tokens      Tokens
	tokenOver   bool      // the server says that the token has expired
	tokenCame   time.Time // zero: it is the configured one
	refreshOver bool      // a refresh was refused for good
	refreshEnd  error     // and how
}

// New makes a client. It does nothing until Run.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Client{
		threads: map[string]int{}, pace: map[string]pace{},
		cfg: cfg, wake: make(chan struct{}, 1), refreshing: make(chan struct{}, 1),
		tokens: Tokens{Token: cfg.Token, RefreshToken: cfg.RefreshToken}, servers: append([]string{cfg.Server}, cfg.Alternatives...),
		incarnation: cfg.Incarnation, pts: cfg.LastPts, placed: !cfg.FromConfirmed, connected: make(chan struct{}),
	}, nil
}

// Run keeps the client connected until ctx ends.
//
// Errors: ctx's; what the server closed the session with for good, as
// *proto.Error (logged out, displaced, token expired); with NoReconnect the
// loss of the connection.
func (c *Client) Run(ctx context.Context) error {
	defer c.bodies.Wait()
	defer c.shutDown()
	refreshCtx, stop := context.WithCancel(ctx)
	var refresher sync.WaitGroup
	defer refresher.Wait()
	defer stop()
	refresher.Go(func() { c.keepToken(refreshCtx) })
	backoff := backoffMin
	for {
		c.tell(Connecting, nil)
		start := time.Now()
		err := c.serve(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.tell(Disconnected, err)
		c.mu.Lock()
		c.lastErr = err
		c.mu.Unlock()
		wait := time.Duration(0)
		if e, ok := errors.AsType[*proto.Error](err); ok {
			if final(e) && !c.helloRefused(e) {
				return e
			}
			wait = e.Retry
		}
		if c.cfg.NoReconnect {
			return err
		}
		if time.Since(start) > 10*time.Second {
			backoff = backoffMin
		}
		var within time.Duration
		within, backoff = nextWait(backoff, err)
		wait += rand.N(within)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nextWait is the bound of the wait after an error, and the one to go on with.
func nextWait(backoff time.Duration, err error) (within, next time.Duration) {
	if crowded(err) {
		within = max(backoff, backoffCrowd)
		return within, min(2*within, backoffCrowdMax)
	}
	return backoff, max(backoff, min(2*backoff, backoffMax))
}

// final tells the refusals that connecting again cannot mend.
func final(e *proto.Error) bool {
	switch e.Code {
	case proto.CodeShuttingDown, proto.CodeIdle, proto.CodeHelloTimeout:
		return false
	}
	return e.Code.Class() == proto.ClassGiveUp
}

func (c *Client) tell(s State, err error) {
	if c.cfg.OnState != nil {
		c.cfg.OnState(s, err)
	}
}

// shutDown fails what is unanswered.
func (c *Client) shutDown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, p := range c.outbox {
		p.err = ErrClosed
		close(p.done)
	}
	for _, r := range c.requests {
		r.finish(nil, ErrClosed)
	}
	c.outbox, c.requests = nil, nil
}

// WaitConnected waits until the first connection stands. The error is ctx's,
// with what kept it from standing.
func (c *Client) WaitConnected(ctx context.Context) error {
	select {
	case <-c.connected:
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.lastErr != nil {
			return fmt.Errorf("client: not connected: %w", c.lastErr)
		}
		return ctx.Err()
	}
}

// User is the logged-in user, 0 before the first connection.
func (c *Client) User() proto.EntityID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user
}

// Transport is how the client is, or was last, connected.
func (c *Client) Transport() Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.transport
}

// Position is the last update handed out and the log it belongs to, for
// resuming in another process.
func (c *Client) Position() (incarnation []byte, pts proto.Pts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.incarnation), c.pts
}

// Drop breaks the connection without a word to the server, as a lost network
// does; Run connects again in its own time. Only by QUIC is the server told:
// silence there would be found out by a timeout. Without a connection it does
// nothing.
func (c *Client) Drop() {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		conn.wire.drop()
	}
}

func (c *Client) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// request is a question; unlike a message it has no place in an order.
type request struct {
	frame  *clientpb.ClientFrame
	sentOn *connection
	retry  time.Time
	done   chan struct{}
	answer *clientpb.ServerFrame
	err    error
}

func (r *request) finish(f *clientpb.ServerFrame, err error) {
	r.answer, r.err = f, err
	close(r.done)
}

// ask sends a request and waits for its answer, across reconnects and
// refusals "retry later".
func (c *Client) ask(ctx context.Context, f *clientpb.ClientFrame) (*clientpb.ServerFrame, error) {
	r := &request{frame: f, done: make(chan struct{})}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	c.nextRequest++
	f.Id = c.nextRequest
	c.requests = append(c.requests, r)
	c.wakeWriter()
	c.mu.Unlock()
	select {
	case <-r.done:
		return r.answer, r.err
	case <-ctx.Done():
		c.mu.Lock()
		c.requests = slices.DeleteFunc(c.requests, func(o *request) bool { return o == r })
		c.mu.Unlock()
		return nil, ctx.Err()
	}
}

// answered takes the answer to a request. It needs mu.
func (c *Client) answered(f *clientpb.ServerFrame) {
	for i, r := range c.requests {
		if r.frame.Id != f.Id {
			continue
		}
		var err error
		if f.GetError() != nil {
			e := serverError(f.GetError())
			if e.Code.Class() != proto.ClassGiveUp {
				r.sentOn, r.retry = nil, time.Now().Add(e.Retry)
				return
			}
			err = e
		}
		c.requests = append(c.requests[:i], c.requests[i+1:]...)
		r.finish(f, err)
		return
	}
}
