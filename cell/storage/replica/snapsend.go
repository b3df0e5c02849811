package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/zeebo/xxh3"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/time/rate"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	snapshotFormat     = 1
	snapshotChunkBytes = 1 << 20
	snapshotQueueMax   = 4096 // waiting per peer
)

// snapshotMetadata answers Raft, which found that a follower needs what was
// cut off the log. The copy itself is made when the sender comes to it, at
// the index reached by then.
func (n *Node) snapshotMetadata(g *group) (*raftpb.Snapshot, error) {
	at := g.appliedPlace()
	if at.index == 0 || n.ticks < g.snapAfter {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return snapshotAt(at, g.desc), nil
}

func snapshotAt(at place, d *cellpb.Descriptor) *raftpb.Snapshot {
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: confState(d), Index: new(at.index), Term: new(at.term),
	}}
}

// snapshotSender sends one snapshot at a time to each peer.
type snapshotSender struct {
	n       *Node
	limiter *rate.Limiter // bytes per second, of the whole node

	mu     sync.Mutex // guards the fields below
	queues map[proto.NodeID][]snapshotJob
}

type snapshotJob struct {
	g  *group
	to proto.NodeID
	m  *raftpb.Message // MsgSnap

	copied  *atomic.Int64 // bytes sent
	limiter *rate.Limiter // of this one, beside the node's; nil: none
}

func newSnapshotSender(n *Node) *snapshotSender {
	return &snapshotSender{
		n:       n,
		limiter: rate.NewLimiter(rate.Limit(n.cfg.SnapshotBytesSec), 4*snapshotChunkBytes),
		queues:  map[proto.NodeID][]snapshotJob{},
	}
}

// queueSnapshot takes over a MsgSnap of Raft. Raft waits for the report.
func (n *Node) queueSnapshot(g *group, m *raftpb.Message) {
	job := snapshotJob{g: g, to: g.nodes[m.GetTo()], m: m, copied: new(atomic.Int64)}
	if limit := g.desc.ReplicaOf(m.GetTo()).GetCopyBytesPerS(); limit > 0 {
		job.limiter = rate.NewLimiter(rate.Limit(limit), snapshotChunkBytes)
	}
	if g.copied == nil {
		g.copied = map[uint64]*atomic.Int64{}
	}
	g.copied[m.GetTo()] = job.copied
	g.sending++
	if n.cfg.Inline {
		n.held = append(n.held, job) // copied as of the end of the step, so that a simulation repeats
		return
	}
	n.startSnapshot(job)
}

func (n *Node) startSnapshot(job snapshotJob) {
	if job.to == "" || !n.snapshots.add(job) {
		n.snapshotDone(job, errors.New("too many snapshots wait for that node"))
	}
}

func (s *snapshotSender) add(job snapshotJob) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, running := s.queues[job.to]
	if len(q) >= snapshotQueueMax || s.n.ctx.Err() != nil {
		return false
	}
	s.queues[job.to] = append(q, job)
	if !running {
		s.n.wg.Go(func() { s.run(job.to) })
	}
	return true
}

// run sends what waits for one peer, then ends.
func (s *snapshotSender) run(to proto.NodeID) {
	for {
		s.mu.Lock()
		q := s.queues[to]
		if len(q) == 0 {
			delete(s.queues, to)
			s.mu.Unlock()
			return
		}
		job := q[0]
		s.queues[to] = q[1:]
		s.mu.Unlock()
		s.n.snapshotDone(job, s.send(s.n.ctx, job))
	}
}

// snapshotDone reports to Raft.
func (n *Node) snapshotDone(job snapshotJob, err error) {
	n.inbox.call(func() {
		g := job.g
		g.sending--
		status := raft.SnapshotFinish
		if err != nil {
			status = raft.SnapshotFailure
			g.snapAfter = n.ticks + uint64(n.cfg.SnapshotRetryTicks)
			n.metrics.snapshotsFailed.Inc()
			n.cfg.Logger.Warn("snapshot was not taken: it is sent again", "range", g.rng, "to", job.to, "err", err)
			if pebble.IsCorruptionError(err) {
				n.fail(g, err) // it was our copy that could not be read
				return
			}
		} else {
			n.metrics.snapshotsSent.Inc()
		}
		if g.failed || g.installing {
			return
		}
		n.touch(g)
		if err := g.guard(func() error { g.raft.ReportSnapshot(job.m.GetTo(), status); return nil }); err != nil {
			n.fail(g, err)
		}
	})
}

// send copies the range's two spans to the peer, as of one applied index.
func (s *snapshotSender) send(ctx context.Context, job snapshotJob) error {
	g := job.g
	installs := g.installs.Load()
	snap := s.n.cfg.State.NewSnapshot()
	defer snap.Close()
	header, err := snapshotHeader(snap, job, s.n.cfg.Self)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.n.transport.Snapshot(ctx, job.to)
	if err != nil {
		return err
	}
	if err := stream.Send(&cellpb.SnapshotChunk{Header: header}); err != nil {
		return answerOf(stream, err)
	}
	c := chunker{send: func(chunk *cellpb.SnapshotChunk, bytes int) error {
		for _, limiter := range []*rate.Limiter{job.limiter, s.limiter} {
			if limiter == nil {
				continue
			}
			if err := limiter.WaitN(ctx, min(bytes, limiter.Burst())); err != nil {
				return err
			}
		}
		// An excise reaches through snapshots of the store, so a copy begun
		// before this replica was itself replaced is void.
		if g.installs.Load() != installs {
			return errors.New("the sender's own state was replaced")
		}
		s.n.metrics.snapshotBytes.Add(float64(bytes))
		job.copied.Add(int64(bytes))
		return stream.Send(chunk)
	}}
	if err := c.copy(snap, g.rng); err != nil {
		return answerOf(stream, err)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return answerOf(stream, nil)
}

// answerOf is what the receiver says of the snapshot; a broken stream says
// more when read than when written.
func answerOf(stream SnapshotStream, sendErr error) error {
	if sendErr != nil {
		_ = stream.CloseSend()
	}
	ack, err := stream.Recv()
	switch {
	case err != nil:
		return errors.Join(sendErr, err)
	case ack.GetDone() && sendErr == nil:
		return nil
	case ack.GetError() != "":
		return errors.New(ack.GetError())
	}
	return errors.Join(sendErr, errors.New("the receiver broke off"))
}

// snapshotHeader names what the copy is: Raft's message with the index and
// the configuration found in the copy itself.
func snapshotHeader(snap pebble.Reader, job snapshotJob, self proto.NodeID) (*cellpb.SnapshotHeader, error) {
	r := job.g.rng
	state, desc := new(cellpb.RangeState), new(cellpb.Descriptor)
	if err := getProto(snap, engine.RangeStateKey(r), state); err != nil {
		return nil, err
	}
	if err := getProto(snap, engine.DescriptorKey(r), desc); err != nil {
		return nil, err
	}
	at := place{index: state.GetAppliedIndex(), term: state.GetAppliedTerm()}
	if at.index < job.m.GetSnapshot().GetMetadata().GetIndex() {
		return nil, fmt.Errorf("replica: range %s is at entry %d, below the %d a snapshot was promised for", r, at.index,
			job.m.GetSnapshot().GetMetadata().GetIndex())
	}
	m := pb.CloneOf(job.m)
	m.Snapshot = snapshotAt(at, desc)
	raw, err := marshalMessage(m)
	if err != nil {
		return nil, fmt.Errorf("replica: encode snapshot of range %s: %w", r, err)
	}
	return &cellpb.SnapshotHeader{
		From: string(self), Range: uint64(r), FromReplica: job.g.id, ToReplica: m.GetTo(),
		Message: raw, Format: snapshotFormat,
	}, nil
}

func getProto(db pebble.Reader, key []byte, into pb.Message) error {
	raw, found, err := get(db, key)
	if err == nil && !found {
		err = fmt.Errorf("replica: key %x is missing", key)
	}
	if err == nil {
		err = pb.Unmarshal(raw, into)
	}
	return err
}

// chunker packs pairs into chunks of about snapshotChunkBytes.
type chunker struct {
	send  func(chunk *cellpb.SnapshotChunk, bytes int) error
	pairs []*cellpb.KeyValue
	bytes int
}

func (c *chunker) copy(snap pebble.Reader, r proto.RangeID) error {
	for _, span := range engine.Spans(r) {
		it, err := snap.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
		if err != nil {
			return err
		}
		for ok := it.First(); ok; ok = it.Next() {
			if err := c.add(it.Key(), it.Value()); err != nil {
				_ = it.Close()
				return err
			}
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return err
		}
	}
	return c.flush(true)
}

func (c *chunker) add(key, value []byte) error {
	c.pairs = append(c.pairs, &cellpb.KeyValue{Key: append([]byte(nil), key...), Value: append([]byte(nil), value...)})
	c.bytes += len(key) + len(value)
	if c.bytes < snapshotChunkBytes {
		return nil
	}
	return c.flush(false)
}

func (c *chunker) flush(last bool) error {
	chunk := &cellpb.SnapshotChunk{Pairs: c.pairs, Last: last, Checksum: pairsChecksum(c.pairs)}
	bytes := c.bytes
	c.pairs, c.bytes = nil, 0
	return c.send(chunk, bytes)
}

// pairsChecksum is the xxh3 of every pair as key length, key, value length,
// value, the lengths in four bytes of big endian.
func pairsChecksum(pairs []*cellpb.KeyValue) uint64 {
	h := xxh3.New()
	var length [4]byte
	for _, p := range pairs {
		for _, part := range [][]byte{p.GetKey(), p.GetValue()} {
			binary.BigEndian.PutUint32(length[:], uint32(len(part)))
			_, _ = h.Write(length[:])
			_, _ = h.Write(part)
		}
	}
	return h.Sum64()
}
