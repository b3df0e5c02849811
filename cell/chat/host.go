package chat

import (
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// proposalsInFlight bounds the batches of one range under way: while one
	// is being synced the next is on its way to the leader.
	proposalsInFlight = 2
	// batchCommands and batchBytes bound one batch.
	batchCommands = 512
	batchBytes    = 1 << 20
	// commandsWaiting bounds the commands of one range that wait for a batch;
	// more are answered "retry later".
	commandsWaiting = 8192
	// peersCached bounds the names of other users a host remembers.
	peersCached = 16384
)

// host is one hosted range. It is touched only by its shard.
type host struct {
	s           *Service
	shard       *shard
	leader      Leader
	rng         proto.RangeID
	grant       *cellpb.Grant
	descriptor  *cellpb.Descriptor
	incarnation []byte // of this range's channels
	closed      bool

	users    map[proto.EntityID]*hostedUser
	waiting  []*waitingCommand
	asked    map[uint64]asked // requests to the leader under way
	inFlight int              // proposals among them
	marks    marks
	presence presence

	peers   map[proto.ThreadID]string            // names of the other sides of threads known to have messages
	lookups map[proto.ThreadID][]func(peerFound) // waiting for one to be found

	channels      map[proto.RangeID]*outChannel
	channelsKnown bool                            // those that hold rows from before are in channels
	bodies        map[bodyKey]*cellpb.StoredEvent // of channel rows being taken
	ticks         int
	messages      latency.Rate // stored in threads that the range owns
}

type deviceKey struct {
	user   uint64
	device string
}

type bodyKey struct {
	thread string
	seq    uint64
}

// waitingCommand is a command and who waits for its result. done gets either
// a result or an error; an error means that the outcome is unknown or that
// another host should be asked.
type waitingCommand struct {
	command *cellpb.Command
	bytes   int
	done    func(*cellpb.Result, *proto.Error)
}

// asked is one request to the leader.
type asked struct {
	batch    []*waitingCommand
	question *cellpb.LeadRead
	read     func(*cellpb.ReadResult, *proto.Error)
}

func newHost(s *Service, sh *shard, leader Leader, g *cellpb.Granted) *host {
	return &host{
		s: s, shard: sh, leader: leader, rng: proto.RangeID(g.Range), grant: g.Grant, descriptor: g.Descriptor_, incarnation: g.Incarnation,
		users: map[proto.EntityID]*hostedUser{}, asked: map[uint64]asked{}, marks: newMarks(), presence: newPresence(),
		peers: map[proto.ThreadID]string{}, lookups: map[proto.ThreadID][]func(peerFound){},
		channels: map[proto.RangeID]*outChannel{}, bodies: map[bodyKey]*cellpb.StoredEvent{},
	}
}

func (h *host) route() *cellpb.Route {
	r := &cellpb.Route{Range: uint64(h.rng), Cell: h.descriptor.GetCell(), Epoch: h.descriptor.GetEpoch(), Host: string(h.s.cfg.Self)}
	for _, rep := range h.descriptor.GetReplicas() {
		r.Nodes = append(r.Nodes, rep.Node)
	}
	return r
}

func (h *host) gone(why string) *proto.Error {
	return proto.Errorf(proto.CodeNotHost, "range %s is no longer hosted by %s: %s", h.rng, h.s.cfg.Self, why)
}

// close lets the range go: sessions are sent elsewhere, whoever waits is told
// that the outcome is unknown.
func (h *host) close(why string) {
	if h.closed {
		return
	}
	h.closed = true
	if h.shard.hosts[h.rng] == h {
		delete(h.shard.hosts, h.rng)
		h.s.mu.Lock()
		delete(h.s.hosted, h.rng)
		h.s.mu.Unlock()
		h.s.cfg.Locator.Forget(h.rng, h.s.cfg.Self)
	}
	err := h.gone(why)
	for _, c := range h.waiting {
		c.done(nil, err)
	}
	for _, a := range h.asked {
		a.fail(err)
	}
	for thread := range h.lookups {
		h.peerResolved(thread, peerFound{err: err})
	}
	h.waiting, h.asked = nil, nil
	h.releaseSessions(err)
}

func (a asked) fail(err *proto.Error) {
	for _, c := range a.batch {
		c.done(nil, err)
	}
	if a.read != nil {
		a.read(nil, err)
	}
}

// propose adds a command to the next batch. It goes out when the shard has
// nothing else to do, see flush.
func (h *host) propose(command *cellpb.Command, bytes int, done func(*cellpb.Result, *proto.Error)) {
	if h.closed {
		done(nil, h.gone("closed"))
		return
	}
	if len(h.waiting) >= commandsWaiting {
		done(nil, proto.Errorf(proto.CodeOverloaded, "range %s has too much to do: try again shortly", h.rng))
		return
	}
	h.waiting = append(h.waiting, &waitingCommand{command, bytes, done})
}

// flush sends what waits, as far as proposals may be under way.
func (h *host) flush() {
	for len(h.waiting) > 0 && h.inFlight < proposalsInFlight {
		n, bytes := 0, 0
		for n < len(h.waiting) && n < batchCommands && bytes < batchBytes {
			bytes += h.waiting[n].bytes
			n++
		}
		batch := append([]*waitingCommand(nil), h.waiting[:n]...)
		h.waiting = append(h.waiting[:0], h.waiting[n:]...)
		p := &cellpb.Proposal{Commands: make([]*cellpb.Command, n)}
		for i, c := range batch {
			p.Commands[i] = c.command
		}
		h.inFlight++
		h.s.metrics.batchCommands.Observe(float64(n))
		h.ask(asked{batch: batch}, &cellpb.LeadRequest{Body: &cellpb.LeadRequest_Propose{Propose: p}})
	}
}

// read asks the leader for applied state.
func (h *host) read(q *cellpb.LeadRead, done func(*cellpb.ReadResult, *proto.Error)) {
	if h.closed {
		done(nil, h.gone("closed"))
		return
	}
	h.ask(asked{question: q, read: done}, &cellpb.LeadRequest{Body: &cellpb.LeadRequest_Read{Read: q}})
}

func (h *host) ask(a asked, req *cellpb.LeadRequest) {
	req.Id, req.Range, req.Epoch, req.Grant = h.s.nextID.Add(1), uint64(h.rng), h.descriptor.GetEpoch(), h.grant
	h.asked[req.Id] = a
	h.leader.Request(req)
}

// replied takes the leader's answer to one request.
func (h *host) replied(reply *cellpb.LeadReply) {
	a, ok := h.asked[reply.Id]
	if !ok {
		return
	}
	delete(h.asked, reply.Id)
	if a.batch != nil {
		h.inFlight--
	}
	if refused := reply.GetRefused(); refused == nil {
		var err error
		if a.batch != nil {
			err = cellclient.CheckApplied(reply.GetApplied())
		} else {
			err = cellclient.CheckRead(a.question, reply.GetRead())
		}
		switch {
		case err != nil:
			h.s.cfg.Logger.Error("the leader's answer is malformed", "range", h.rng, "err", err)
			a.fail(proto.AsError(err))
		case a.batch != nil:
			h.applied(a.batch, reply.GetApplied())
		default:
			a.read(reply.GetRead(), nil)
		}
	} else {
		err := proto.AsError(proto.FromWire(refused.Code, refused.Message, refused.RetryMs))
		a.fail(err)
		if err.Code.Class() == proto.ClassRetryElsewhere {
			// The leader has gone or has granted another: it will not come
			// back to this grant.
			h.close(err.Message)
		}
	}
}

// applied passes on what became of a batch: results to those who wait, rows
// to the channels, updates to the sessions.
func (h *host) applied(batch []*waitingCommand, applied *cellpb.Applied) {
	h.messages.Add(time.Now(), stored(batch, applied))
	for i, c := range batch {
		if i >= len(applied.Results) {
			c.done(nil, proto.Errorf(proto.CodeUnavailable, "range %s gave no result", h.rng))
			continue
		}
		r := applied.Results[i]
		if code := proto.Code(r.Code); code.Class() == proto.ClassRetryElsewhere {
			c.done(nil, h.gone(r.Message))
			continue
		}
		c.done(r, nil)
	}
	if h.closed {
		return
	}
	h.pushAll(applied.Updates)
	for _, row := range applied.ChannelRows {
		h.channelRow(row)
	}
	h.pumpChannels()
}

// housekeep runs every [housekeeping].
func (h *host) housekeep() {
	h.ticks++
	now := time.Now()
	h.flushConfirms(now)
	h.flushReads(now)
	h.tendPresence(now)
	if h.ticks%5 == 0 {
		h.trimChannels(1)
		h.pumpChannels()
	}
	h.flush()
}
