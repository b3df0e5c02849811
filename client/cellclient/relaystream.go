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
	// relaySweep is how often deadlines are looked at.
	relaySweep = 50 * time.Millisecond
)

// relayStream is the stream to one node. It lives until it breaks; the next
// call opens another.
type relayStream struct {
	relay *Relay
	node  proto.NodeID
	wake  chan struct{}

	mu      sync.Mutex // guards the fields below
	queue   []*attempt
	pending map[uint64]*attempt
	nextID  uint64
	broken  bool
}

func newRelayStream(r *Relay, node proto.NodeID) *relayStream {
	return &relayStream{relay: r, node: node, wake: make(chan struct{}, 1), pending: map[uint64]*attempt{}}
}

// enqueue queues an attempt.
//
// Errors: [proto.CodeOverloaded]; [proto.CodeUnavailable] when the stream has
// broken.
func (s *relayStream) enqueue(a *attempt) *proto.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.broken:
		return proto.Errorf(proto.CodeUnavailable, "the stream to node %s has broken", s.node)
	case len(s.queue) >= relayQueue:
		return proto.Errorf(proto.CodeOverloaded, "too much waits for node %s", s.node)
	}
	a.expires = time.Now().Add(relayAttempt)
	s.queue = append(s.queue, a)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
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
	for i, a := range s.queue[:n] {
		s.nextID++
		a.req.Id = s.nextID
		s.pending[s.nextID] = a
		out[i] = a.req
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
	lost := s.queue
	for _, a := range s.pending {
		lost = append(lost, a)
	}
	s.queue, s.pending = nil, nil
	s.mu.Unlock()
	s.relay.lost(s.node, lost, proto.Errorf(proto.CodeUnavailable, "node %s: %v", s.node, err))
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
	a := s.pending[reply.Id]
	delete(s.pending, reply.Id)
	s.mu.Unlock()
	if a != nil {
		s.relay.answered(a, reply)
	}
}

// expire takes back the attempts that have been unanswered for too long.
func (s *relayStream) expire() {
	now := time.Now()
	var late []*attempt
	over := func(a *attempt) bool {
		if !now.After(a.expires) && !now.After(a.call.deadline) {
			return false
		}
		late = append(late, a)
		return true
	}
	s.mu.Lock()
	for id, a := range s.pending {
		if over(a) {
			delete(s.pending, id)
		}
	}
	s.queue = slices.DeleteFunc(s.queue, over)
	s.mu.Unlock()
	s.relay.lost(s.node, late, proto.Errorf(proto.CodeUnavailable, "node %s does not answer", s.node))
}
