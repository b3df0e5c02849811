package cellclient

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// relayQueue bounds the requests waiting to be written to one node, and
	// relayBatch those of one write.
	relayQueue = 8192
	relayBatch = 512
	// relayAttempt is how long one attempt may stay unanswered: a host that
	// is asleep must not use up the caller's whole time.
	relayAttempt = 1500 * time.Millisecond
	// The wait before asking again grows from relayBackoffMin to
	// relayBackoffMax: a new host is usually found within a few hundred
	// milliseconds.
	relayBackoffMin = 10 * time.Millisecond
	relayBackoffMax = 250 * time.Millisecond
	// relaySweep is how often deadlines are looked at.
	relaySweep = 50 * time.Millisecond
)

// Relay carries requests to ranges, wherever they are hosted, in batches over
// one stream per node. Requests must be safe to repeat: one whose answer was
// lost is sent again until its time is over.
type Relay struct {
	self    proto.NodeID
	dialer  *Dialer
	locator *Locator
	local   LocalHosts

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	streams map[proto.NodeID]*relayStream
	waiting map[*relayCall]struct{}        // between two attempts
	looking map[proto.RangeID][]*relayCall // waiting for the range's host to be found
	closed  bool
}

// LocalHosts takes requests for ranges hosted by this very node, which need
// no stream. done is called exactly once, from any goroutine.
type LocalHosts interface {
	Relay(req *cellpb.RelayRequest, done func(*cellpb.RelayReply))
}

// NewRelay makes a relay for node self. local may be nil. Close ends it.
func NewRelay(self proto.NodeID, dialer *Dialer, locator *Locator, local LocalHosts) *Relay {
	r := &Relay{
		self: self, dialer: dialer, locator: locator, local: local,
		streams: map[proto.NodeID]*relayStream{}, waiting: map[*relayCall]struct{}{},
		looking: map[proto.RangeID][]*relayCall{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

type relayCall struct {
	rng      proto.RangeID
	req      *cellpb.RelayRequest
	done     func(*cellpb.RelayReply, error)
	deadline time.Time
	backoff  time.Duration
	last     *proto.Error // of the latest attempt
	expires  time.Time    // of the attempt under way
}

// Go sends req to the host of rng and calls done exactly once, from another
// goroutine. req belongs to the relay until then.
//
// Errors are *proto.Error: what the range refused, or [proto.CodeUnavailable]
// or [proto.CodeNotReady] when no answer was had within timeout, in which case
// the outcome is unknown.
func (r *Relay) Go(rng proto.RangeID, req *cellpb.RelayRequest, timeout time.Duration, done func(*cellpb.RelayReply, error)) {
	r.attempt(&relayCall{rng: rng, req: req, done: done, deadline: time.Now().Add(timeout), backoff: relayBackoffMin})
}

// Do is Go for callers that wait. Without a deadline in ctx it waits 10 s at
// most.
func (r *Relay) Do(ctx context.Context, rng proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	timeout := 10 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	type answer struct {
		reply *cellpb.RelayReply
		err   error
	}
	ch := make(chan answer, 1)
	r.Go(rng, req, timeout, func(reply *cellpb.RelayReply, err error) { ch <- answer{reply, err} })
	select {
	case a := <-ch:
		return a.reply, a.err
	case <-ctx.Done():
		return nil, proto.Errorf(proto.CodeUnavailable, "range %s did not answer in time", rng)
	}
}

// Close ends all streams. Calls under way fail.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	waiting := r.waiting
	r.waiting = map[*relayCall]struct{}{}
	r.mu.Unlock()
	for c := range waiting {
		c.done(nil, errRelayClosed())
	}
	r.cancel()
	r.wg.Wait()
}

func errRelayClosed() error { return proto.Errorf(proto.CodeUnavailable, "shutting down") }

// attempt sends the call to the host as far as known, and has the host looked
// for otherwise. Calls that wait for the same look-up go on in the order they
// came.
func (r *Relay) attempt(c *relayCall) {
	r.mu.Lock()
	if calls, looking := r.looking[c.rng]; looking {
		r.looking[c.rng] = append(calls, c)
		r.mu.Unlock()
		return
	}
	target, ok := r.locator.Cached(c.rng)
	if ok {
		r.mu.Unlock()
		r.sendTo(target, c)
		return
	}
	if r.closed {
		r.mu.Unlock()
		c.done(nil, errRelayClosed())
		return
	}
	r.looking[c.rng] = []*relayCall{c}
	r.wg.Go(func() { r.look(c.rng, c.deadline) })
	r.mu.Unlock()
}

// look finds the host of a range for all calls that wait for it. They wait at
// most as long as the first of them may.
func (r *Relay) look(rng proto.RangeID, deadline time.Time) {
	ctx, cancel := context.WithDeadline(r.ctx, deadline)
	target, err := r.locator.Host(ctx, rng)
	cancel()
	for {
		r.mu.Lock()
		calls := r.looking[rng]
		if len(calls) == 0 {
			delete(r.looking, rng)
			r.mu.Unlock()
			return
		}
		r.looking[rng] = calls[:0:0]
		r.mu.Unlock()
		for _, c := range calls {
			if err != nil {
				c.last = proto.AsError(err)
				r.again(c)
			} else {
				r.sendTo(target, c)
			}
		}
	}
}

// again waits and tries once more, or gives up when the time is over.
func (r *Relay) again(c *relayCall) {
	wait := c.backoff
	c.backoff = min(2*c.backoff, relayBackoffMax)
	if time.Now().Add(wait).After(c.deadline) {
		err := c.last
		if err == nil || err.Code.Class() == proto.ClassRetryElsewhere {
			err = proto.Errorf(proto.CodeUnavailable, "range %s could not be reached in time: try again", c.rng)
		}
		c.done(nil, err)
		return
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		c.done(nil, errRelayClosed())
		return
	}
	r.waiting[c] = struct{}{}
	r.mu.Unlock()
	time.AfterFunc(wait, func() {
		r.mu.Lock()
		_, mine := r.waiting[c]
		delete(r.waiting, c)
		r.mu.Unlock()
		if mine {
			r.attempt(c)
		}
	})
}

func (r *Relay) sendTo(target Target, c *relayCall) {
	// A request of its own for each attempt: the one before may still be on
	// its way into another stream.
	c.req = &cellpb.RelayRequest{Range: uint64(c.rng), Epoch: uint64(target.Epoch), Body: c.req.Body}
	if r.local != nil && target.Node == r.self {
		r.local.Relay(c.req, func(reply *cellpb.RelayReply) { r.answered(target.Node, c, reply) })
		return
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		c.done(nil, errRelayClosed())
		return
	}
	s := r.streams[target.Node]
	if s == nil {
		s = newRelayStream(r, target.Node)
		r.streams[target.Node] = s
		r.wg.Go(s.run)
	}
	r.mu.Unlock()
	s.enqueue(c)
}

// answered judges a reply: pass it on, or go elsewhere.
func (r *Relay) answered(node proto.NodeID, c *relayCall, reply *cellpb.RelayReply) {
	var code uint32
	var message string
	var retryMS uint32
	if refused := reply.GetRefused(); refused != nil {
		code, message, retryMS = refused.Code, refused.Message, refused.RetryMs
		r.locator.Learn(refused.Route)
	} else if result := reply.GetResult(); result != nil {
		code, message, retryMS = result.Code, result.Message, result.RetryMs
	}
	failed := proto.FromWire(code, message, retryMS)
	if failed == nil {
		failed = checkReply(c.req, reply)
	}
	if failed == nil {
		c.done(reply, nil)
		return
	}
	err := proto.AsError(failed)
	switch {
	case err.Code.Class() == proto.ClassRetryElsewhere:
		if route := reply.GetRefused().GetRoute(); route.GetHost() == "" || route.GetHost() == string(node) {
			r.locator.Forget(c.rng, node)
		}
	case err.Code == proto.CodeNotReady || err.Code == proto.CodeUnavailable:
	default:
		c.done(reply, err)
		return
	}
	c.last = err
	r.again(c)
}

// relayStream is the stream to one node. It lives until it breaks; the next
// call opens another.
type relayStream struct {
	relay *Relay
	node  proto.NodeID
	wake  chan struct{}

	mu      sync.Mutex // guards the fields below
	queue   []*relayCall
	pending map[uint64]*relayCall
	nextID  uint64
	broken  bool
}

func newRelayStream(r *Relay, node proto.NodeID) *relayStream {
	return &relayStream{relay: r, node: node, wake: make(chan struct{}, 1), pending: map[uint64]*relayCall{}}
}

func (s *relayStream) enqueue(c *relayCall) {
	s.mu.Lock()
	switch {
	case s.broken:
		s.mu.Unlock()
		s.relay.again(c)
		return
	case len(s.queue) >= relayQueue:
		s.mu.Unlock()
		c.done(nil, proto.Errorf(proto.CodeOverloaded, "too much waits for node %s", s.node))
		return
	}
	c.expires = time.Now().Add(relayAttempt)
	s.queue = append(s.queue, c)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take moves up to a batch of the queue to pending and numbers it.
func (s *relayStream) take() []*cellpb.RelayRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.queue), relayBatch)
	if n == 0 {
		return nil
	}
	out := make([]*cellpb.RelayRequest, n)
	for i, c := range s.queue[:n] {
		s.nextID++
		c.req.Id = s.nextID
		s.pending[s.nextID] = c
		out[i] = c.req
	}
	s.queue = append(s.queue[:0], s.queue[n:]...)
	return out
}

func (s *relayStream) run() {
	ctx, cancel := context.WithCancel(s.relay.ctx)
	err := s.serve(ctx, cancel)
	cancel()
	s.relay.mu.Lock()
	delete(s.relay.streams, s.node)
	s.relay.mu.Unlock()
	s.mu.Lock()
	s.broken = true
	calls := s.queue
	for _, c := range s.pending {
		calls = append(calls, c)
	}
	s.queue, s.pending = nil, nil
	s.mu.Unlock()
	for _, c := range calls {
		c.last = proto.Errorf(proto.CodeUnavailable, "node %s: %v", s.node, err)
		s.relay.locator.Forget(c.rng, s.node)
		s.relay.again(c)
	}
}

func (s *relayStream) serve(ctx context.Context, cancel context.CancelFunc) error {
	conn, err := s.relay.dialer.Conn(s.node)
	if err != nil {
		return err
	}
	opening := time.AfterFunc(relayAttempt, cancel)
	stream, err := cellpb.NewChatClient(conn).Relay(ctx)
	if !opening.Stop() && err == nil {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return err
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	beside.Go(func() { s.sweep(ctx) })
	beside.Go(func() {
		defer cancel()
		for {
			batch, err := stream.Recv()
			if err != nil {
				return
			}
			for _, reply := range batch.Replies {
				s.reply(reply)
			}
		}
	})
	if err := stream.Send(&cellpb.RelayBatch{From: string(s.relay.self)}); err != nil {
		return err
	}
	for {
		for requests := s.take(); requests != nil; requests = s.take() {
			if err := stream.Send(&cellpb.RelayBatch{Requests: requests}); err != nil {
				return err
			}
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sweep looks at deadlines. It has a goroutine of its own, because writing to
// a node that is asleep blocks.
func (s *relayStream) sweep(ctx context.Context) {
	tick := time.NewTicker(relaySweep)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.expire()
		case <-ctx.Done():
			return
		}
	}
}

func (s *relayStream) reply(reply *cellpb.RelayReply) {
	s.mu.Lock()
	c := s.pending[reply.Id]
	delete(s.pending, reply.Id)
	s.mu.Unlock()
	if c != nil {
		s.relay.answered(s.node, c, reply)
	}
}

// expire takes back the attempts that have been unanswered for too long.
func (s *relayStream) expire() {
	now := time.Now()
	var late []*relayCall
	over := func(c *relayCall) bool {
		if !now.After(c.expires) && !now.After(c.deadline) {
			return false
		}
		late = append(late, c)
		return true
	}
	s.mu.Lock()
	for id, c := range s.pending {
		if over(c) {
			delete(s.pending, id)
		}
	}
	s.queue = slices.DeleteFunc(s.queue, over)
	s.mu.Unlock()
	for _, c := range late {
		c.last = proto.Errorf(proto.CodeUnavailable, "node %s does not answer", s.node)
		s.relay.locator.Forget(c.rng, s.node)
		s.relay.again(c)
	}
}
