package cellclient

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// relayAttempt is how long one attempt may stay unanswered: a host that
	// is asleep must not use up the caller's whole time.
	relayAttempt = 1500 * time.Millisecond
	// The wait before asking once more grows from relayPauseMin to
	// relayPauseMax. A range that changes owner has its next host within some
	// ten milliseconds, and one question serves all calls to it.
	relayPauseMin = 5 * time.Millisecond
	relayPauseMax = 250 * time.Millisecond
)

// Relay carries requests to ranges, wherever they are hosted, in batches over
// one stream per node. Requests must be safe to repeat: one whose answer was
// lost is sent again until its time is over.
//
// Requests to one range reach each of its hosts in the order they came, also
// when the range has changed hosts: a later message must not arrive before the
// one it follows.
type Relay struct {
	self    proto.NodeID
	dialer  *Dialer
	locator *Locator
	local   LocalHosts

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards the fields below, the lanes and their calls
	streams map[proto.NodeID]*relayStream
	lanes   map[proto.RangeID]*lane // those with calls
	made    uint64                  // calls
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
		streams: map[proto.NodeID]*relayStream{}, lanes: map[proto.RangeID]*lane{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// lane is what waits for the answer of one range.
//
//	flowing ──sent elsewhere, stream broken, no answer──► resting ──pause──► flowing
//	   └──no host known──► looking ──found──► flowing
//	                          └──not found──► resting
//
// Calls are sent only while it flows, the oldest first. When the host has
// changed by then, those under way to the one before are sent again ahead of
// the rest.
type lane struct {
	rng     proto.RangeID
	state   laneState
	target  Target        // where the last call was sent
	pause   time.Duration // the last one; 0: none since an answer came
	sending bool          // somebody is at it
	unsent  []*relayCall  // by number
	sent    map[*relayCall]struct{}
}

type laneState uint8

const (
	flowing laneState = iota
	resting
	looking
)

// relayCall is one request until it is done.
type relayCall struct {
	lane     *lane
	number   uint64 // older calls have lower ones
	body     *cellpb.RelayRequest
	done     func(*cellpb.RelayReply, error)
	deadline time.Time
	over     bool          // done is called, or about to be
	attempt  *attempt      // under way; nil: none
	pause    time.Duration // the last one it had for itself
	last     *proto.Error  // of the latest attempt
}

// attempt is a call on its way to one node.
type attempt struct {
	call    *relayCall
	node    proto.NodeID
	req     *cellpb.RelayRequest
	expires time.Time
}

// Go sends req to the host of rng and calls done exactly once, from another
// goroutine. req belongs to the relay until then.
//
// Errors are *proto.Error: what the range refused, or [proto.CodeUnavailable]
// or [proto.CodeNotReady] when no answer was had within timeout, in which case
// the outcome is unknown.
func (r *Relay) Go(rng proto.RangeID, req *cellpb.RelayRequest, timeout time.Duration, done func(*cellpb.RelayReply, error)) {
	c := &relayCall{body: req, done: done, deadline: time.Now().Add(timeout)}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		done(nil, errRelayClosed())
		return
	}
	l := r.lanes[rng]
	if l == nil {
		l = &lane{rng: rng, sent: map[*relayCall]struct{}{}}
		r.lanes[rng] = l
	}
	r.made++
	c.lane, c.number = l, r.made
	l.unsent = append(l.unsent, c)
	r.mu.Unlock()
	r.flow(l)
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
	var calls []*relayCall
	for _, l := range r.lanes {
		for c := range l.sent {
			calls = append(calls, c)
		}
		calls = append(calls, l.unsent...)
	}
	for _, c := range calls {
		r.removeLocked(c)
	}
	r.mu.Unlock()
	for _, c := range calls {
		c.done(nil, errRelayClosed())
	}
	r.cancel()
	r.wg.Wait()
}

func errRelayClosed() error { return proto.Errorf(proto.CodeUnavailable, "shutting down") }

// removeLocked takes a call out of its lane; it is done.
func (r *Relay) removeLocked(c *relayCall) {
	l := c.lane
	c.over, c.attempt = true, nil
	delete(l.sent, c)
	if i, waits := l.find(c); waits {
		l.unsent = slices.Delete(l.unsent, i, i+1)
	}
	if len(l.unsent) == 0 && len(l.sent) == 0 && l.state == flowing && !l.sending && r.lanes[l.rng] == l {
		delete(r.lanes, l.rng)
	}
}

// find is where c stands, or would, among the unsent.
func (l *lane) find(c *relayCall) (int, bool) {
	return slices.BinarySearchFunc(l.unsent, c, func(a, b *relayCall) int { return cmp.Compare(a.number, b.number) })
}

// unsend puts a call back among the unsent, at its place.
func (l *lane) unsend(c *relayCall) {
	delete(l.sent, c)
	c.attempt = nil
	if i, waits := l.find(c); !waits {
		l.unsent = slices.Insert(l.unsent, i, c)
	}
}

// oldest tells whether no call of the lane came before c.
func (l *lane) oldest(c *relayCall) bool {
	if len(l.unsent) > 0 && l.unsent[0].number < c.number {
		return false
	}
	for other := range l.sent {
		if other.number < c.number {
			return false
		}
	}
	return true
}

// flow sends what is unsent, one after the other, unless another goroutine is
// at it or the lane does not flow.
func (r *Relay) flow(l *lane) {
	r.mu.Lock()
	if l.sending {
		r.mu.Unlock()
		return
	}
	l.sending = true
	for l.state == flowing && len(l.unsent) > 0 && !r.closed {
		target, known := r.locator.Cached(l.rng)
		if !known {
			l.state = looking
			deadline := l.unsent[0].deadline
			r.wg.Go(func() { r.look(l, deadline) })
			break
		}
		if target != l.target {
			l.target = target
			// Those that rest for themselves go with the rest.
			for c := range l.sent {
				l.unsend(c)
			}
		}
		c := l.unsent[0]
		l.unsent = l.unsent[1:]
		l.sent[c] = struct{}{}
		a := &attempt{
			call: c, node: target.Node,
			req: &cellpb.RelayRequest{Range: uint64(l.rng), Epoch: uint64(target.Epoch), Body: c.body.Body},
		}
		c.attempt = a
		s := r.streamLocked(target.Node)
		r.mu.Unlock()
		r.send(a, s)
		r.mu.Lock()
	}
	l.sending = false
	if len(l.unsent) == 0 {
		l.unsent = nil
		if len(l.sent) == 0 && l.state == flowing && r.lanes[l.rng] == l {
			delete(r.lanes, l.rng)
		}
	}
	r.mu.Unlock()
}

// streamLocked is the stream to a node, a new one if need be; nil: none is
// needed.
func (r *Relay) streamLocked(node proto.NodeID) *relayStream {
	if r.local != nil && node == r.self {
		return nil
	}
	s := r.streams[node]
	if s == nil {
		s = newRelayStream(r, node)
		r.streams[node] = s
		r.wg.Go(s.run)
	}
	return s
}

// send brings an attempt on its way.
func (r *Relay) send(a *attempt, s *relayStream) {
	if s == nil {
		r.local.Relay(a.req, func(reply *cellpb.RelayReply) { r.answered(a, reply) })
		return
	}
	switch err := s.enqueue(a); {
	case err == nil:
	case err.Code == proto.CodeOverloaded:
		r.finish(a.call, nil, err)
	default:
		r.elsewhere(a, err)
	}
}

// look finds the host of a lane's range.
func (r *Relay) look(l *lane, deadline time.Time) {
	ctx, cancel := context.WithDeadline(r.ctx, deadline)
	_, err := r.locator.Host(ctx, l.rng)
	cancel()
	r.mu.Lock()
	if err == nil {
		l.state = flowing
		r.mu.Unlock()
		r.flow(l)
		return
	}
	for _, c := range l.unsent {
		c.last = proto.AsError(err)
	}
	r.restLocked(l)
	r.mu.Unlock()
}

// restLocked holds a lane up for a while, unless it is so already.
func (r *Relay) restLocked(l *lane) {
	if l.state == resting || r.closed {
		return
	}
	l.state = resting
	l.pause = min(max(2*l.pause, relayPauseMin), relayPauseMax)
	time.AfterFunc(l.pause, func() {
		r.mu.Lock()
		l.state = flowing
		var late []*relayCall
		now := time.Now()
		for _, c := range slices.Clone(l.unsent) {
			if now.After(c.deadline) {
				r.removeLocked(c)
				late = append(late, c)
			}
		}
		r.mu.Unlock()
		for _, c := range late {
			c.done(nil, c.inTime())
		}
		r.flow(l)
	})
}

// inTime is why a call is given up when its time is over.
func (c *relayCall) inTime() error {
	if c.last == nil || c.last.Code.Class() == proto.ClassRetryElsewhere {
		return proto.Errorf(proto.CodeUnavailable, "range %s could not be reached in time: try again", c.lane.rng)
	}
	return c.last
}

// answered judges a reply: pass it on, or try again.
func (r *Relay) answered(a *attempt, reply *cellpb.RelayReply) {
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
		failed = checkReply(a.req, reply)
	}
	if failed == nil {
		r.finish(a.call, reply, nil)
		return
	}
	err := proto.AsError(failed)
	if err.Code.Class() == proto.ClassRetryElsewhere {
		if route := reply.GetRefused().GetRoute(); route.GetHost() == "" || route.GetHost() == string(a.node) {
			r.locator.Forget(a.call.lane.rng, a.node)
		}
		r.elsewhere(a, err)
		return
	}
	r.mu.Lock()
	c := a.call
	stale := c.attempt != a // it is on its way to another host, whose word counts
	again := err.Code == proto.CodeNotReady || err.Code == proto.CodeUnavailable || err.Code == proto.CodeAfterUnknown && !c.lane.oldest(c)
	r.mu.Unlock()
	switch {
	case stale:
	case again:
		r.refused(a, err)
	default:
		r.finish(c, reply, err)
	}
}

// finish passes an answer on.
func (r *Relay) finish(c *relayCall, reply *cellpb.RelayReply, err error) {
	r.mu.Lock()
	over := c.over
	if !over {
		c.lane.pause = 0
		r.removeLocked(c)
	}
	r.mu.Unlock()
	if !over {
		c.done(reply, err)
	}
}

// elsewhere is told that an attempt has gone to the wrong node, or to one that
// cannot answer: the calls behind it wait until the host was looked for.
func (r *Relay) elsewhere(a *attempt, err *proto.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := a.call
	if c.attempt != a {
		return
	}
	c.last = err
	c.lane.unsend(c)
	if c.lane.state == flowing {
		r.restLocked(c.lane)
	}
}

// lost is told of attempts whose answer will not come.
func (r *Relay) lost(node proto.NodeID, attempts []*attempt, why *proto.Error) {
	for _, a := range attempts {
		r.locator.Forget(a.call.lane.rng, node)
		r.elsewhere(a, why)
	}
}

// refused is told that an attempt is to be made again, which says nothing of
// others: the call rests for itself.
func (r *Relay) refused(a *attempt, err *proto.Error) {
	r.mu.Lock()
	c := a.call
	if c.attempt != a {
		r.mu.Unlock()
		return
	}
	c.attempt, c.last = nil, err
	c.pause = min(max(2*c.pause, relayPauseMin), relayPauseMax)
	if time.Now().Add(c.pause).After(c.deadline) {
		r.removeLocked(c)
		r.mu.Unlock()
		c.done(nil, c.inTime())
		return
	}
	r.mu.Unlock()
	time.AfterFunc(c.pause, func() {
		r.mu.Lock()
		_, mine := c.lane.sent[c]
		if mine = mine && c.attempt == nil; mine {
			c.lane.unsend(c)
		}
		r.mu.Unlock()
		if mine {
			r.flow(c.lane)
		}
	})
}
