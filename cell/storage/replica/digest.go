package replica

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/zeebo/xxh3"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// digestsMax bounds the digests of one range that are waited for.
const digestsMax = 8

type digested struct {
	reply *cellpb.DigestRangeReply
	err   error
}

// Digest digests both spans of this node's replica as of one applied index,
// which all replicas are asked for alike. A leader fills its log with empty
// entries until the index is reached.
//
// Errors: [proto.CodeNotReady] when the index is applied already: ask for a
// later one; [proto.CodeOverloaded]; those of reading.
func (n *Node) Digest(ctx context.Context, r proto.RangeID, index uint64) (*cellpb.DigestRangeReply, error) {
	g, err := n.group(r)
	if err != nil {
		return nil, err
	}
	done := make(chan digested, 1)
	if err := g.askDigest(index, done); err != nil {
		return nil, err
	}
	n.fill(ctx, g, index)
	select {
	case d := <-done:
		return d.reply, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.ctx.Done():
		return nil, stopped()
	}
}

func (g *group) askDigest(index uint64, done chan digested) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.pub.failed != nil:
		return failedError(g.rng, g.pub.failed)
	case g.pub.empty:
		return proto.Errorf(proto.CodeNotReady, "the replica of range %s has nothing yet", g.rng)
	case index <= g.pub.applied:
		return proto.Errorf(proto.CodeNotReady, "range %s is past entry %d already: ask for a later one", g.rng, index)
	case len(g.digests) >= digestsMax:
		return proto.Errorf(proto.CodeOverloaded, "range %s is being digested %d times", g.rng, len(g.digests))
	}
	if g.digests == nil {
		g.digests = map[uint64][]chan digested{}
	}
	g.digests[index] = append(g.digests[index], done)
	return nil
}

// fill proposes empty entries while the replica leads and index is not reached.
func (n *Node) fill(ctx context.Context, g *group, index uint64) {
	for ctx.Err() == nil {
		g.mu.Lock()
		missing, leading := int(index)-int(g.pub.applied), g.pub.leading
		g.mu.Unlock()
		if missing <= 0 || !leading {
			return
		}
		last := make(chan error, 1)
		for i := range missing {
			n.Propose(g.rng, &cellpb.Entry{Range: uint64(g.rng)}, func(_ *cellpb.Applied, err error) {
				if i == missing-1 {
					last <- err
				}
			})
		}
		select {
		case <-last:
		case <-ctx.Done():
		case <-n.ctx.Done():
			return
		}
	}
}

func (g *group) digestsAt(index uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.digests[index]) > 0
}

// takeDigest begins the digests of an index that was just applied, and ends
// those that were overtaken, as by a snapshot. On the group's worker.
func (n *Node) takeDigest(g *group, index uint64) {
	var waiting, late []chan digested
	g.mu.Lock()
	for at, chans := range g.digests {
		switch {
		case at == index:
			waiting = chans
		case at < index:
			late = append(late, chans...)
		default:
			continue
		}
		delete(g.digests, at)
	}
	g.mu.Unlock()
	for _, done := range late {
		done <- digested{err: proto.Errorf(proto.CodeNotReady, "range %s went past the entry by a snapshot: ask for a later one", g.rng)}
	}
	if len(waiting) == 0 {
		return
	}
	snap := n.cfg.State.NewSnapshot()
	n.wg.Go(func() {
		reply, err := digestSpans(snap, g.rng)
		err = errors.Join(err, snap.Close())
		if pebble.IsCorruptionError(err) {
			n.Damaged(g.rng, err) // it read all there is, and met what nobody had read
		}
		for _, done := range waiting {
			done <- digested{reply, err}
		}
	})
}

func digestSpans(snap *pebble.Snapshot, r proto.RangeID) (*cellpb.DigestRangeReply, error) {
	h, out := xxh3.New(), new(cellpb.DigestRangeReply)
	var length [4]byte
	for _, span := range engine.Spans(r) {
		it, err := snap.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
		if err != nil {
			return nil, err
		}
		for ok := it.First(); ok; ok = it.Next() {
			for _, part := range [][]byte{it.Key(), it.Value()} {
				binary.BigEndian.PutUint32(length[:], uint32(len(part)))
				_, _ = h.Write(length[:])
				_, _ = h.Write(part)
				out.Bytes += uint64(len(part))
			}
			out.Keys++
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return nil, err
		}
	}
	out.Digest = h.Sum64()
	return out, nil
}
