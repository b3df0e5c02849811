package replica

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// proposal is one entry on its way. It is finished exactly once: by whoever
// takes it out of the group's pending map, or before it came there.
//
//	admitted ──refused by Raft──► finished, certainly not appended
//	   │ appended at (index, term)
//	   ▼
//	pending ──(index, term) applied──► finished, with what applying gave
//	   ├─another entry applied at index─► finished, overwritten
//	   └─leadership lost for an election timeout, or node stopped─► finished, unknown
type proposal struct {
	g           *group
	data        []byte
	index, term uint64                 // once appended
	own         bool                   // the leader's own: goes through on a full disk too
	change      *cellpb.ChangeReplicas // set: a membership change
	done        func(*cellpb.Applied, error)
}

// admit takes a place in the group's limits, or says why not.
func (g *group) admit(bytes int, cfg *Config) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.pub.failed != nil:
		return failedError(g.rng, g.pub.failed)
	case !g.pub.leading:
		return notLeader(g.rng, g.pub.leader)
	case g.admitted >= cfg.ProposalsMax, g.admittedBytes+bytes > cfg.ProposalBytesMax && g.admitted > 0:
		return proto.Errorf(proto.CodeOverloaded, "range %s has %d proposals waiting for its disk: ask again later", g.rng, g.admitted)
	}
	g.admitted++
	g.admittedBytes += bytes
	return nil
}

// finish gives the place back and reports. Not under any lock.
func (p *proposal) finish(a *cellpb.Applied, err error) {
	g := p.g
	g.mu.Lock()
	g.admitted--
	g.admittedBytes -= len(p.data)
	g.mu.Unlock()
	p.done(a, err)
}

// appended files p under its place in the log. A proposal filed there before
// was overwritten, which is known from this moment.
func (g *group) appended(p *proposal) {
	g.mu.Lock()
	old := g.pending[p.index]
	g.pending[p.index] = p
	g.mu.Unlock()
	if old != nil {
		old.finish(nil, overwritten(g.rng))
	}
}

// hasPending tells whether a proposal waits for being applied.
func (g *group) hasPending() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.pending) > 0
}

// takePending removes the pending proposals that which selects.
func (g *group) takePending(which func(*proposal) bool) []*proposal {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*proposal
	for i, p := range g.pending {
		if which(p) {
			delete(g.pending, i)
			out = append(out, p)
		}
	}
	return out
}

// readWait is a read whose index is known and not applied yet.
type readWait struct {
	index uint64
	done  func(error)
}

// awaitApplied calls done once index is applied here.
func (g *group) awaitApplied(index uint64, waiters []func(error)) {
	g.mu.Lock()
	ready := g.pub.applied >= index
	failed := g.pub.failed
	if !ready && failed == nil {
		for _, done := range waiters {
			g.readWaits = append(g.readWaits, readWait{index: index, done: done})
		}
	}
	g.mu.Unlock()
	if !ready && failed == nil {
		return
	}
	for _, done := range waiters {
		if ready {
			done(nil)
		} else {
			done(failedError(g.rng, failed))
		}
	}
}

func notLeader(r proto.RangeID, leader proto.NodeID) error {
	if leader == "" {
		return proto.Errorf(proto.CodeNotLeader, "range %s has no leader just now: ask again later", r)
	}
	return proto.Errorf(proto.CodeNotLeader, "range %s is led by node %s: go there", r, leader)
}

func overwritten(r proto.RangeID) error {
	return proto.Errorf(proto.CodeUnavailable, "range %s changed leader and the entry was replaced: send it again with the same id", r)
}

func outcomeUnknown(r proto.RangeID) error {
	return proto.Errorf(proto.CodeUnavailable, "range %s changed leader before the entry was seen applied: send it again with the same id", r)
}

func stopped() error {
	return proto.Errorf(proto.CodeUnavailable, "this node is shutting down: ask another one")
}

func failedError(r proto.RangeID, err error) error {
	if pebble.IsCorruptionError(err) {
		return proto.Errorf(proto.CodeCorrupt, "this node's replica of range %s has stopped, its data is damaged (%v): replace the replica", r, err)
	}
	return proto.Errorf(proto.CodeUnavailable, "this node's replica of range %s has stopped (%v): replace the replica or restart the node", r, err)
}
