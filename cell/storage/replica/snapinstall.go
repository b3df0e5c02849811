package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Installing replaces a range's two spans. They cannot be replaced by one
// call, so a note in the log store makes the whole repeatable:
//
//	tables synced ─► note synced ─► spans replaced ─► log reset and note removed, synced
//	                    └─ a crash from here on: the next start does the rest again
//
// Nothing of the range is read or answered between the note and its removal.

// installNote names what is being installed.
type installNote struct {
	Index, Term uint64
	Dir         string
	Files       [][]string
}

// offer tells Raft of a received snapshot. The round that follows either
// installs it or throws it away.
func (n *Node) offer(g *group, in *incoming, m *raftpb.Message, from proto.NodeID) {
	n.heard(from)
	if g.failed || g.installing || g.offered != nil {
		in.done <- errUnused
		return
	}
	g.offered = in
	n.step(g, m)
}

// discardUnused throws an offered snapshot away that Raft did not take.
func (n *Node) discardUnused(g *group) {
	if g.offered != nil {
		g.offered.done <- errUnused
		g.offered = nil
	}
}

// install has the group's worker replace the state, behind everything it was
// given to apply. m is Raft's write that waits for it.
func (n *Node) install(g *group, m *raftpb.Message) {
	in := g.offered
	g.offered = nil
	if in == nil || m == nil || in.at.index != m.GetSnapshot().GetMetadata().GetIndex() {
		n.fail(g, fmt.Errorf("replica: raft took a snapshot of range %s that was not received", g.rng))
		return
	}
	g.installing = true
	g.installs.Add(1)
	n.workers.submit(g, func() {
		err := n.replaceState(g, in)
		n.inbox.call(func() { n.stateReplaced(g, m, in, err) })
	})
}

// replaceState runs on the group's worker.
func (n *Node) replaceState(g *group, in *incoming) error {
	note, err := json.Marshal(installNote{Index: in.at.index, Term: in.at.term, Dir: in.dir, Files: in.files})
	if err != nil {
		return err
	}
	if err := n.cfg.Log.Set(logKey(g.rng, tagInstall), note, n.cfg.SyncWrites); err != nil {
		return fmt.Errorf("replica: range %s: %w", g.rng, err)
	}
	if err := n.ingest(g.rng, in.files); err != nil {
		return err
	}
	if c, ok := g.machine.(io.Closer); ok { // none, if the replica was empty
		_ = c.Close()
	}
	m, err := n.cfg.Machines.Open(g.rng)
	if err != nil {
		return err
	}
	if index, term := m.Applied(); (place{index: index, term: term}) != in.at {
		return fmt.Errorf("replica: range %s is at entry %d after a snapshot of %d: %w", g.rng, index, in.at.index, pebble.ErrCorruption)
	}
	g.machine = m
	return nil
}

// ingest replaces the range's spans by the tables.
func (n *Node) ingest(r proto.RangeID, files [][]string) error {
	for i, span := range engine.Spans(r) {
		if err := n.ingestSpan(span, files[i]); err != nil {
			return fmt.Errorf("replica: replace the state of range %s: %w", r, err)
		}
	}
	return nil
}

// ingestSpan replaces one span. Tables that are gone were taken over before a
// crash: Pebble removes them when the ingest is durable.
func (n *Node) ingestSpan(span engine.Span, files []string) error {
	keys := pebble.KeyRange{Start: span.Start, End: span.End}
	if len(files) == 0 {
		return n.cfg.State.Excise(context.Background(), keys)
	}
	for _, path := range files {
		if _, err := n.cfg.FS.Stat(path); err != nil {
			if oserror.IsNotExist(err) {
				return nil
			}
			return err
		}
	}
	_, err := n.cfg.State.IngestAndExcise(context.Background(), files, nil, nil, keys)
	return err
}

// stateReplaced completes an install on the loop.
func (n *Node) stateReplaced(g *group, m *raftpb.Message, in *incoming, err error) {
	if g.failed {
		in.done <- failedError(g.rng, g.pub.failed)
		return
	}
	if err == nil {
		err = n.resetLog(g, m, in)
	}
	if err != nil {
		n.fail(g, err)
		in.done <- err
		return
	}
	g.installing, g.empty = false, false
	old := g.desc
	g.desc = g.machine.Descriptor()
	g.setNodes(g.desc)
	g.store.conf = m.GetSnapshot().GetMetadata().GetConfState()
	n.learnPeers(g)
	if err := g.checkConf(); err != nil {
		n.fail(g, err)
		in.done <- err
		return
	}
	g.mu.Lock()
	g.pub.desc, g.pub.hash, g.pub.rules = g.desc, g.machine.State().GetRunningHash(), g.machine.State().GetRules()
	g.pub.applied, g.pub.appTerm, g.pub.empty = in.at.index, in.at.term, false
	g.mu.Unlock()
	g.publish()
	for _, p := range g.takePending(func(p *proposal) bool { return p.index <= in.at.index }) {
		p.finish(nil, outcomeUnknown(g.rng))
	}
	var late outbox
	n.afterWrite(g, m.GetResponses(), &late)
	n.flush(&late)
	n.metrics.snapshotsInstalled.Inc()
	_ = n.cfg.FS.RemoveAll(in.dir)
	in.done <- nil
	n.touch(g)
	n.descriptorChanged(g, old)
}

func (n *Node) resetLog(g *group, m *raftpb.Message, in *incoming) error {
	b := n.cfg.Log.NewBatch()
	defer b.Close()
	g.store.reset(b, in.at)
	n.writeTo(b, g, m)
	if g.empty {
		id, _, err := readIdentity(n.cfg.Log, g.rng)
		if err != nil {
			return err
		}
		id.stage = stageCreated
		g.store.set(b, tagIdentity, id.encode())
	}
	g.store.keep(b.Delete(logKey(g.rng, tagInstall), nil))
	if g.store.err != nil {
		return g.store.err
	}
	if err := b.Commit(n.cfg.SyncWrites); err != nil {
		return fmt.Errorf("replica: reset the log of range %s: %w", g.rng, err)
	}
	return nil
}

// readNote reads the note of an install that a crash broke off.
func (n *Node) readNote(r proto.RangeID) (*installNote, error) {
	raw, found, err := get(n.cfg.Log, logKey(r, tagInstall))
	if err != nil || !found {
		return nil, err
	}
	note := new(installNote)
	if err := json.Unmarshal(raw, note); err != nil || len(note.Files) != len(engine.Spans(r)) {
		return nil, fmt.Errorf("replica: the install note of range %s is damaged: %w", r, pebble.ErrCorruption)
	}
	return note, nil
}

// redoInstall does again what a crash may have left half done, and tells
// whether there was anything.
func (n *Node) redoInstall(r proto.RangeID, id identity) (done bool, err error) {
	note, err := n.readNote(r)
	if err != nil || note == nil {
		return false, err
	}
	if err := n.ingest(r, note.Files); err != nil {
		return false, err
	}
	state := new(cellpb.RangeState)
	if err := getProto(n.cfg.State, engine.RangeStateKey(r), state); err != nil {
		return false, err
	}
	if state.GetAppliedIndex() != note.Index {
		return false, fmt.Errorf("replica: range %s is at entry %d and the snapshot being installed was of %d: %w",
			r, state.GetAppliedIndex(), note.Index, pebble.ErrCorruption)
	}
	s, found, err := openLogStore(n.cfg.Log, r, n.cfg.CacheBytes)
	if err == nil && !found {
		err = fmt.Errorf("replica: the log of range %s is lost: %w", r, pebble.ErrCorruption)
	}
	if err != nil {
		return false, err
	}
	b := n.cfg.Log.NewBatch()
	defer b.Close()
	s.reset(b, place{index: note.Index, term: note.Term})
	id.stage = stageCreated
	s.set(b, tagIdentity, id.encode())
	s.keep(b.Delete(logKey(r, tagInstall), nil))
	if s.err != nil {
		return false, s.err
	}
	if err := b.Commit(n.cfg.SyncWrites); err != nil {
		return false, fmt.Errorf("replica: reset the log of range %s: %w", r, err)
	}
	_ = n.cfg.FS.RemoveAll(note.Dir)
	return true, nil
}

// cleanSnapshotDir removes what was received and never noted.
func (n *Node) cleanSnapshotDir(ranges []proto.RangeID) error {
	dir := n.cfg.SnapshotDir
	if dir == "" {
		return nil
	}
	fs := n.cfg.FS
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	// Received tables must outlast a crash, so must the way to them.
	parent := fs.PathDir(dir)
	if parent == "" {
		parent = "."
	}
	if err := syncDirs(fs, parent); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, r := range ranges {
		if note, err := n.readNote(r); err == nil && note != nil {
			keep[note.Dir] = true
		}
	}
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("replica: list %s: %w", dir, err)
	}
	for _, name := range names {
		if path := fs.PathJoin(dir, name); !keep[path] {
			if err := fs.RemoveAll(path); err != nil {
				return fmt.Errorf("replica: clean %s: %w", dir, err)
			}
		}
	}
	return nil
}
