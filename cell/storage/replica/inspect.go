package replica

import (
	"bytes"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/cell/storage/engine"
)

// Inspect reads what the replicas of this node have of a stretch of keys in
// which a bad checksum was met, and stops those that cannot be read. It is for
// reads that no replica waits for: a compaction that fails would be tried again
// for ever, and the replica go on until somebody asks for the damaged rows.
func (n *Node) Inspect(damage engine.Span) {
	snap := n.cfg.State.NewSnapshot()
	for _, g := range n.groupsInOrder() {
		for _, span := range engine.Spans(g.rng) {
			part := engine.Span{Start: later(span.Start, damage.Start), End: earlier(span.End, damage.End)}
			if bytes.Compare(part.Start, part.End) >= 0 {
				continue
			}
			if err := readable(snap, part); pebble.IsCorruptionError(err) {
				n.Damaged(g.rng, err)
			}
		}
	}
	if err := snap.Close(); err != nil {
		n.cfg.Logger.Error("a snapshot of the state cannot be closed", "err", err)
	}
}

func later(a, b []byte) []byte {
	if bytes.Compare(a, b) > 0 {
		return a
	}
	return b
}

func earlier(a, b []byte) []byte {
	if bytes.Compare(a, b) < 0 {
		return a
	}
	return b
}

// readable reads a span and keeps nothing.
func readable(snap *pebble.Snapshot, span engine.Span) error {
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		_ = it.Value()
	}
	return errors.Join(it.Error(), it.Close())
}
