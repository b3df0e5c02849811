package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// snapshotFileBytes is where a received table is closed and the next begun.
const snapshotFileBytes = 64 << 20

// incoming is a snapshot that was received whole and checked.
type incoming struct {
	at    place
	dir   string
	files [][]string // per span of engine.Spans
	done  chan error // told once, when it is installed or refused
}

// errUnused: the replica does not need it any more, or it came from a leader
// that is one no longer.
var errUnused = errors.New("the replica has no use for the snapshot")

// receives bounds the snapshots being received: one per range.
type receives struct {
	max int

	mu     sync.Mutex // guards the fields below
	ranges map[proto.RangeID]bool
	count  uint64 // of all, for the names of directories
}

func newReceives(limit int) *receives {
	return &receives{max: limit, ranges: map[proto.RangeID]bool{}}
}

func (s *receives) begin(r proto.RangeID) (number uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ranges[r] || len(s.ranges) >= s.max {
		return 0, false
	}
	s.ranges[r] = true
	s.count++
	return s.count, true
}

func (s *receives) end(r proto.RangeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ranges, r)
}

// SnapshotReceiver is the receiver's end of a Storage.Snapshot stream.
type SnapshotReceiver interface {
	Context() context.Context
	Recv() (*cellpb.SnapshotChunk, error)
	Send(*cellpb.SnapshotAck) error
}

// HandleSnapshot receives one snapshot, has it installed and says what became
// of it. Until it is received whole and found right, nothing here changes.
func (n *Node) HandleSnapshot(stream SnapshotReceiver) error {
	err := n.receiveSnapshot(stream)
	ack := &cellpb.SnapshotAck{Done: err == nil}
	if err != nil {
		ack.Error = fmt.Sprintf("node %s: %v", n.cfg.Self, err)
	}
	return stream.Send(ack)
}

func (n *Node) receiveSnapshot(stream SnapshotReceiver) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	g, msg, err := n.checkHeader(first.GetHeader())
	if err != nil {
		return err
	}
	if err := n.hasSpace(); err != nil {
		return err
	}
	number, ok := n.receives.begin(g.rng)
	if !ok {
		return proto.Errorf(proto.CodeOverloaded, "too many snapshots are being received")
	}
	defer n.receives.end(g.rng)
	fs := n.cfg.FS
	dir := fs.PathJoin(n.cfg.SnapshotDir, fmt.Sprintf("%s-%d-%d", g.rng, msg.GetSnapshot().GetMetadata().GetIndex(), number))
	in, err := n.writeTables(stream, g.rng, dir)
	if err == nil {
		meta := msg.GetSnapshot().GetMetadata()
		if want := (place{index: meta.GetIndex(), term: meta.GetTerm()}); in.at != want {
			err = fmt.Errorf("the snapshot holds entry %d and claims %d", in.at.index, want.index)
		}
	}
	if err == nil {
		from := proto.NodeID(first.GetHeader().GetFrom())
		if !n.inbox.call(func() { n.offer(g, in, msg, from) }) {
			err = stopped()
		}
	}
	if err != nil {
		_ = fs.RemoveAll(dir)
		return err
	}
	select {
	case err = <-in.done:
	case <-n.ctx.Done():
		return stopped() // what is left is cleaned or completed at the next start
	}
	if errors.Is(err, errUnused) {
		_ = fs.RemoveAll(dir)
	}
	return err
}

// checkHeader finds the replica a snapshot is for.
func (n *Node) checkHeader(h *cellpb.SnapshotHeader) (*group, *raftpb.Message, error) {
	if h == nil {
		return nil, nil, proto.Errorf(proto.CodeBadFrame, "the first chunk has no header")
	}
	if n.cfg.SnapshotDir == "" {
		return nil, nil, proto.Errorf(proto.CodeUnsupported, "this node takes no snapshots: it has no directory for them")
	}
	if h.GetFormat() != snapshotFormat {
		return nil, nil, proto.Errorf(proto.CodeUnsupported, "snapshot format %d is not known here: run the same release on both nodes", h.GetFormat())
	}
	g, err := n.group(proto.RangeID(h.GetRange()))
	if err != nil {
		return nil, nil, err
	}
	m := new(raftpb.Message)
	if err := pb.Unmarshal(h.GetMessage(), m); err != nil {
		return nil, nil, proto.Errorf(proto.CodeBadFrame, "snapshot of range %s: %v", g.rng, err)
	}
	if m.GetType() != raftpb.MsgSnap || m.GetTo() != g.id || h.GetToReplica() != g.id || m.GetFrom() != h.GetFromReplica() ||
		m.GetFrom() == 0 || m.GetSnapshot().GetMetadata().GetIndex() == 0 {
		return nil, nil, proto.Errorf(proto.CodeBadFrame, "the snapshot of range %s is not for replica %d", g.rng, g.id)
	}
	return g, m, nil
}

// writeTables writes the chunks of a stream as tables and syncs them.
func (n *Node) writeTables(stream SnapshotReceiver, r proto.RangeID, dir string) (*incoming, error) {
	w := tableWriter{n: n, dir: dir, spans: engine.Spans(r), stateKey: engine.RangeStateKey(r)}
	w.files = make([][]string, len(w.spans))
	if err := n.cfg.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	defer w.abort()
	for {
		chunk, err := stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("replica: the sender of range %s broke off: %w", r, err)
		}
		if pairsChecksum(chunk.GetPairs()) != chunk.GetChecksum() {
			return nil, proto.Errorf(proto.CodeCorrupt, "a chunk of the snapshot of range %s failed its checksum", r)
		}
		for _, p := range chunk.GetPairs() {
			if err := w.add(p.GetKey(), p.GetValue()); err != nil {
				return nil, err
			}
		}
		if chunk.GetLast() {
			break
		}
	}
	if err := w.closeTable(); err != nil {
		return nil, err
	}
	if w.state == nil {
		return nil, proto.Errorf(proto.CodeCorrupt, "the snapshot of range %s has no applied index", r)
	}
	if err := syncDirs(n.cfg.FS, dir, n.cfg.SnapshotDir); err != nil {
		return nil, err
	}
	at := place{index: w.state.GetAppliedIndex(), term: w.state.GetAppliedTerm()}
	return &incoming{at: at, dir: dir, files: w.files, done: make(chan error, 1)}, nil
}

// tableWriter turns ordered pairs into tables, each within one span.
type tableWriter struct {
	n        *Node
	dir      string
	spans    []engine.Span
	stateKey []byte

	span  int
	last  []byte
	open  *sstable.Writer
	files [][]string
	state *cellpb.RangeState
}

func (w *tableWriter) add(key, value []byte) error {
	// The local span comes second and sorts before the entity span: order
	// holds within a span only.
	for w.span < len(w.spans) && !w.within(key) {
		if err := w.closeTable(); err != nil {
			return err
		}
		w.span, w.last = w.span+1, nil
	}
	if w.span == len(w.spans) {
		return proto.Errorf(proto.CodeCorrupt, "the snapshot has a key outside its range")
	}
	if w.last != nil && bytes.Compare(key, w.last) <= 0 {
		return proto.Errorf(proto.CodeCorrupt, "the snapshot's keys are not in order")
	}
	w.last = append(w.last[:0], key...)
	if bytes.Equal(key, w.stateKey) {
		w.state = new(cellpb.RangeState)
		if err := pb.Unmarshal(value, w.state); err != nil {
			return proto.Errorf(proto.CodeCorrupt, "the snapshot's applied index is damaged: %v", err)
		}
	}
	if w.open == nil {
		if err := w.openTable(); err != nil {
			return err
		}
	}
	if err := w.open.Set(key, value); err != nil {
		return fmt.Errorf("replica: write snapshot table: %w", err)
	}
	if w.open.Raw().EstimatedSize() >= snapshotFileBytes {
		return w.closeTable()
	}
	return nil
}

func (w *tableWriter) within(key []byte) bool {
	s := w.spans[w.span]
	return bytes.Compare(key, s.Start) >= 0 && bytes.Compare(key, s.End) < 0
}

func (w *tableWriter) openTable() error {
	fs := w.n.cfg.FS
	path := fs.PathJoin(w.dir, fmt.Sprintf("%d-%d.sst", w.span, len(w.files[w.span])))
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("replica: write snapshot table: %w", err)
	}
	w.open = sstable.NewWriter(objstorageprovider.NewFileWritable(f), sstable.WriterOptions{
		TableFormat: w.n.cfg.State.TableFormat(),
	})
	w.files[w.span] = append(w.files[w.span], path)
	return nil
}

func (w *tableWriter) closeTable() error {
	if w.open == nil {
		return nil
	}
	err := w.open.Close() // syncs the file
	w.open = nil
	if err != nil {
		return fmt.Errorf("replica: write snapshot table: %w", err)
	}
	return nil
}

func (w *tableWriter) abort() { _ = w.closeTable() }

func syncDirs(fs vfs.FS, dirs ...string) error {
	for _, dir := range dirs {
		d, err := fs.OpenDir(dir)
		if err != nil {
			return fmt.Errorf("replica: sync %s: %w", dir, err)
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return fmt.Errorf("replica: sync %s: %w", dir, err)
		}
	}
	return nil
}
