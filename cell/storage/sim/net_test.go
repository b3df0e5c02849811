package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/zeebo/xxh3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/replica"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// outside is where people are, for the network.
const outside = -1

// network holds what is under way.
type network struct {
	flying []*packet
	number uint64
	cut    map[[2]int]bool // one way, by node
	ended  []*stream       // snapshots sent whole or in part, and answers; see takeStreams
	acks   []ackReady
}

type packet struct {
	due      int
	number   uint64
	from, to int
	deliver  func()
}

// send puts a message on its way, or loses or doubles it.
func (w *world) send(from, to int, deliver func()) {
	copies := 1
	if w.chance(w.loss) {
		copies = 0
	} else if w.chance(w.dup) {
		copies = 2
	}
	for range copies {
		tick := momentsPerTick * len(w.nodes)
		delay := 1 + w.rng.IntN(tick/3)
		if w.chance(w.slow) {
			delay += w.rng.IntN(12 * tick)
		}
		w.net.number++
		w.net.flying = append(w.net.flying, &packet{due: w.moment + delay, number: w.net.number, from: from, to: to, deliver: deliver})
	}
}

// deliver hands over what is due, by due time: later ones overtake.
func (nw *network) deliver(w *world) {
	var due []*packet
	nw.flying = slices.DeleteFunc(nw.flying, func(p *packet) bool {
		if p.due <= w.moment {
			due = append(due, p)
			return true
		}
		return false
	})
	slices.SortFunc(due, func(a, b *packet) int {
		if a.due != b.due {
			return a.due - b.due
		}
		return int(a.number) - int(b.number)
	})
	for _, p := range due {
		if p.from != p.to && nw.cut[[2]int{p.from, p.to}] {
			continue
		}
		p.deliver()
	}
}

func (w *world) byID(id proto.NodeID) *node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool { return n.id == id })]
}

// transport is one life of a node's way to others.
type transport struct {
	n    *node
	life int
}

func (tr transport) Send(to proto.NodeID, b *cellpb.RaftBatch) bool {
	n, w := tr.n, tr.n.w
	if n.life != tr.life || n.cutDisk != nil {
		return true
	}
	peer := w.byID(to)
	raw, err := pb.Marshal(b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.note("raft", n.index, peer.index, xxh3.Hash(raw))
	w.judge.sent(n, peer, b)
	w.send(n.index, peer.index, func() {
		if peer.rep == nil {
			return
		}
		if err := peer.rep.Receive(n.id, b); err != nil {
			w.t.Error(err)
		}
	})
	if n.cutAt > 0 {
		if n.cutAt--; n.cutAt == 0 {
			n.cutDisk = n.synced() // in the middle of the round
		}
	}
	return true
}

// stream is one snapshot on its way. The sender's goroutine fills it and
// waits; the simulation carries it when nobody runs.
type stream struct {
	w        *world
	from     *node
	fromLife int
	to       *node
	chunks   []*cellpb.SnapshotChunk
	ack      chan *cellpb.SnapshotAck
	ctx      context.Context
}

func (tr transport) Snapshot(ctx context.Context, to proto.NodeID) (replica.SnapshotStream, error) {
	return &stream{
		w: tr.n.w, from: tr.n, fromLife: tr.life, to: tr.n.w.byID(to), ctx: ctx, ack: make(chan *cellpb.SnapshotAck, 2),
	}, nil
}

func (s *stream) Send(c *cellpb.SnapshotChunk) error {
	if plant := s.w.opt.fault.chunk; plant != nil && len(s.chunks) > 0 {
		c = plant(proto.RangeID(s.chunks[0].GetHeader().GetRange()), c)
	}
	s.chunks = append(s.chunks, c)
	return nil
}

func (s *stream) CloseSend() error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.net.ended = append(s.w.net.ended, s)
	return nil
}

func (s *stream) Recv() (*cellpb.SnapshotAck, error) {
	select {
	case a := <-s.ack:
		if a == nil {
			return nil, io.EOF
		}
		return a, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *stream) name() string {
	h := s.chunks[0].GetHeader()
	return fmt.Sprintf("%s-%s-%06d", s.from.id, s.to.id, h.GetRange())
}

type ackReady struct {
	s   *stream
	ack *cellpb.SnapshotAck
}

// takeStreams carries what goroutines have left. None of them runs now.
func (w *world) takeStreams() {
	w.mu.Lock()
	ended, acks := w.net.ended, w.net.acks
	w.net.ended, w.net.acks = nil, nil
	w.mu.Unlock()
	slices.SortFunc(ended, func(a, b *stream) int { return compareText(a.name(), b.name()) })
	slices.SortFunc(acks, func(a, b ackReady) int { return compareText(a.s.name(), b.s.name()) })
	for _, s := range ended {
		w.carry(s)
	}
	for _, a := range acks {
		w.note("snapshot answered", a.s.name(), a.ack.GetDone())
		if a.ack.GetDone() {
			w.count("snapshot installed")
		}
		a.s.answer(a.ack)
	}
	if len(acks) > 0 {
		// Whoever was answered goes on with the next copy at once: it must
		// have begun before its node takes another step.
		w.rest()
	}
}

// carry brings a snapshot to its receiver: whole, broken off, or with a bit
// flipped on the way.
func (w *world) carry(s *stream) {
	chunks := s.chunks
	if !w.calm && w.chance(10) {
		chunks = chunks[:w.rng.IntN(len(chunks))]
	} else if !w.calm && w.chance(5) {
		chunks = slices.Clone(chunks)
		at := w.rng.IntN(len(chunks))
		c := pb.CloneOf(chunks[at])
		if len(c.Pairs) > 0 {
			v := c.Pairs[len(c.Pairs)/2]
			v.Value = append(append([]byte(nil), v.Value...), 1)
		}
		chunks[at] = c
	}
	sum := uint64(0)
	for _, c := range chunks {
		raw, _ := pb.Marshal(c)
		sum = xxh3.HashSeed(raw, sum)
	}
	w.note("snapshot", s.name(), len(chunks), sum)
	to, life := s.to, s.to.life
	delay := 1 + w.rng.IntN(4*momentsPerTick*len(w.nodes))
	w.net.number++
	w.net.flying = append(w.net.flying, &packet{due: w.moment + delay, number: w.net.number, from: s.from.index, to: to.index, deliver: func() {
		if to.rep == nil || to.life != life {
			s.answer(nil)
			w.rest()
			return
		}
		if before := w.opt.fault.beforeSnapshot; before != nil {
			before(to, proto.RangeID(s.chunks[0].GetHeader().GetRange()))
		}
		rep := to.rep
		to.streams.Go(func() { _ = rep.HandleSnapshot(&streamEnd{s: s, chunks: chunks}) })
		w.rest() // it is read before the node's next step, not beside it
	}})
	// A cut drops the packet; the sender gives up like on a dead connection.
	w.net.number++
	w.net.flying = append(w.net.flying, &packet{
		due: w.moment + delay + 60*momentsPerTick*len(w.nodes), number: w.net.number, from: outside, to: outside,
		deliver: func() {
			s.answer(nil)
			w.rest()
		},
	})
}

// answer ends the sender's wait; nil: the connection is gone.
func (s *stream) answer(a *cellpb.SnapshotAck) {
	select {
	case s.ack <- a:
	default: // it has its answer
	}
}

// streamEnd is the receiver's end.
type streamEnd struct {
	s      *stream
	chunks []*cellpb.SnapshotChunk
}

func (e *streamEnd) Context() context.Context { return e.s.ctx }

func (e *streamEnd) Recv() (*cellpb.SnapshotChunk, error) {
	if len(e.chunks) == 0 {
		return nil, errors.New("the connection is gone")
	}
	c := e.chunks[0]
	e.chunks = e.chunks[1:]
	return c, nil
}

func (e *streamEnd) Send(a *cellpb.SnapshotAck) error {
	w := e.s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.net.acks = append(w.net.acks, ackReady{e.s, a})
	return nil
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
