package replica

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Transport carries what a node says to others.
type Transport interface {
	// Send queues a batch. It does not wait. Batches to one node arrive in
	// order or not at all. false: nothing of this one was queued.
	Send(to proto.NodeID, b *cellpb.RaftBatch) bool
	// Snapshot opens a stream to [Node.HandleSnapshot] of another node.
	Snapshot(ctx context.Context, to proto.NodeID) (SnapshotStream, error)
}

// SnapshotStream is the sender's end of a snapshot.
type SnapshotStream interface {
	Send(*cellpb.SnapshotChunk) error
	CloseSend() error
	Recv() (*cellpb.SnapshotAck, error)
}

// Waits between two tries to reach a node.
const (
	redialMin = 50 * time.Millisecond
	redialMax = time.Second
	// batchBytes closes a gRPC message: far below cellclient.MessageBytesMax,
	// which one entry more cannot reach.
	batchBytes = 1 << 20
)

// streams is the Transport over gRPC: one stream per peer, fed by one
// goroutine from one bounded queue.
type streams struct {
	n *Node

	mu     sync.Mutex // guards the fields below
	peers  map[proto.NodeID]*peerQueue
	closed bool
}

type peerQueue struct {
	to   proto.NodeID
	wake chan struct{}

	mu       sync.Mutex // guards the fields below
	messages []*cellpb.RaftMessage
	bytes    int
	quiet    []*cellpb.QuietGroup
	joint    []*cellpb.JointNote
	alive    bool
	rules    uint32 // with alive
}

func newStreams(n *Node) *streams {
	return &streams{n: n, peers: map[proto.NodeID]*peerQueue{}}
}

// Send implements Transport.
func (s *streams) Send(to proto.NodeID, b *cellpb.RaftBatch) bool {
	q := s.queue(to)
	if q == nil {
		return false
	}
	bytes := 0
	for _, m := range b.Messages {
		bytes += len(m.Message)
	}
	q.mu.Lock()
	fits := len(q.messages)+len(b.Messages)+len(q.joint)+len(b.Joint) <= s.n.cfg.PeerQueueMessagesMax &&
		(q.bytes == 0 || q.bytes+bytes <= s.n.cfg.PeerQueueBytesMax)
	if fits {
		q.messages = append(q.messages, b.Messages...)
		q.quiet = append(q.quiet, b.Quiet...)
		q.joint = append(q.joint, b.Joint...)
		q.bytes += bytes
		if b.Alive {
			q.alive, q.rules = true, b.Rules
		}
	}
	q.mu.Unlock()
	if fits {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return fits
}

func (s *streams) queue(to proto.NodeID) *peerQueue {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	q := s.peers[to]
	if q == nil {
		q = &peerQueue{to: to, wake: make(chan struct{}, 1)}
		s.peers[to] = q
		s.n.wg.Go(func() { s.feed(q) })
	}
	return q
}

func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// feed keeps a stream to one peer and writes its queue to it.
func (s *streams) feed(q *peerQueue) {
	wait := redialMin
	for s.n.ctx.Err() == nil {
		if s.feedOnce(q) {
			wait = redialMin
		}
		if s.n.ctx.Err() != nil {
			return
		}
		q.drop()
		s.n.inbox.call(func() {
			s.n.unreachable(q.to)
			s.n.peerLost(q.to)
		})
		select {
		case <-s.n.ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, redialMax)
	}
}

// feedOnce opens a stream and uses it until it breaks; worked tells whether
// anything was sent.
func (s *streams) feedOnce(q *peerQueue) (worked bool) {
	conn, err := s.n.cfg.Conn(q.to)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithCancel(s.n.ctx)
	defer cancel()
	stream, err := cellpb.NewStorageClient(conn).Raft(ctx)
	if err != nil {
		return false
	}
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() { // nothing is answered; reading tells when it breaks
		defer cancel()
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	})
	first := string(s.n.cfg.Self)
	for {
		b := q.take()
		if b == nil {
			select {
			case <-ctx.Done():
				return worked
			case <-q.wake:
			}
			continue
		}
		b.From, first = first, ""
		if err := stream.Send(b); err != nil {
			return worked
		}
		worked = true
	}
}

// take is the next batch to write, nil if there is none.
func (q *peerQueue) take() *cellpb.RaftBatch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages) == 0 && !q.alive && len(q.quiet) == 0 && len(q.joint) == 0 {
		return nil
	}
	size, count := 0, 0
	for count < len(q.messages) && size < batchBytes {
		size += len(q.messages[count].Message)
		count++
	}
	b := &cellpb.RaftBatch{Messages: q.messages[:count:count], Alive: q.alive, Joint: q.joint}
	q.messages = q.messages[count:]
	q.bytes -= size
	if q.alive {
		b.Rules = q.rules
	}
	q.alive, q.joint = false, nil
	if len(q.messages) == 0 { // a group rests after what was said before
		q.messages = nil
		b.Quiet, q.quiet = q.quiet, nil
	}
	return b
}

// drop empties the queue of a peer that cannot be reached. A rest it was to be
// told of is void: the peer counts as lost and its groups wake.
func (q *peerQueue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.messages, q.quiet, q.joint, q.bytes, q.alive = nil, nil, nil, 0, false
}

// Snapshot implements Transport.
func (s *streams) Snapshot(ctx context.Context, to proto.NodeID) (SnapshotStream, error) {
	conn, err := s.n.cfg.Conn(to)
	if err != nil {
		return nil, err
	}
	return cellpb.NewStorageClient(conn).Snapshot(ctx)
}

func marshalMessage(m *raftpb.Message) ([]byte, error) { return pb.Marshal(m) }

// RaftStream is the receiver's end of a Storage.Raft stream.
type RaftStream interface {
	Context() context.Context
	Recv() (*cellpb.RaftBatch, error)
}

// HandleRaft takes in what another node says until its stream ends. The end
// wakes the quiet groups that rest on that node. Streams last as long as both
// nodes: end a gRPC server that serves them with Stop, not GracefulStop.
func (n *Node) HandleRaft(stream RaftStream) error {
	var from proto.NodeID
	defer func() {
		if from != "" {
			n.inbox.call(func() { n.peerLost(from) })
		}
	}()
	for {
		b, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the sender's end, or a broken stream: both are its business
		}
		if from == "" {
			from = proto.NodeID(b.GetFrom())
		}
		if from == "" {
			return proto.Errorf(proto.CodeBadFrame, "the first batch does not name its node")
		}
		if n.ctx.Err() != nil {
			return stopped()
		}
		if err := n.Receive(from, b); err != nil {
			return err
		}
	}
}

// Receive takes in one batch of another node. It does not wait: what does not
// fit is dropped, and Raft sends it again. An error names what is malformed;
// nothing of the batch is taken then.
func (n *Node) Receive(from proto.NodeID, b *cellpb.RaftBatch) error {
	items := make([]received, 0, len(b.GetMessages())+len(b.GetQuiet())+1)
	bytes := 0
	for _, m := range b.GetMessages() {
		msg := new(raftpb.Message)
		if err := pb.Unmarshal(m.GetMessage(), msg); err != nil {
			return proto.Errorf(proto.CodeBadFrame, "raft message of range %d: %v", m.GetRange(), err)
		}
		if msg.GetFrom() != m.GetFromReplica() || msg.GetTo() != m.GetToReplica() || !fromOthers(msg) {
			return proto.Errorf(proto.CodeBadFrame, "raft message of range %d has a wrong type or address", m.GetRange())
		}
		bytes += len(m.GetMessage())
		items = append(items, received{
			from: from, rng: proto.RangeID(m.GetRange()), to: msg.GetTo(), msg: msg,
		})
	}
	for _, q := range b.GetQuiet() {
		items = append(items, received{from: from, rng: proto.RangeID(q.GetRange()), quiet: q})
	}
	items = append(items, receiveJoint(from, b.GetJoint())...)
	if b.GetAlive() {
		items = append(items, received{from: from, alive: true, rules: b.GetRules()})
	}
	n.metrics.received.Add(float64(len(items)))
	n.metrics.dropped.Add(float64(n.inbox.receive(items, bytes)))
	return nil
}

// fromOthers tells which messages may come in this way: not the local ones,
// not proposals (nobody forwards them) and not snapshots (they have a stream
// of their own).
func fromOthers(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp,
		raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
		return m.GetFrom() != 0 && m.GetTo() != 0
	}
	return false
}
