package sim

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/cell/storage/replica"
	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// fault is a planted one. The zero value is none. Each is put around the real
// code, which has no switches for it.
type fault struct {
	name string
	// finds is what the judge is to say of it; any of these is right.
	finds []string

	noSync         bool
	machine        func(n *node, r proto.RangeID, inner *state.Machine) replica.Machine
	beforeOpen     func(n *node, r proto.RangeID)
	beforeSnapshot func(n *node, r proto.RangeID)

	ackBeforeCommit bool

	// Of moves.
	moves         bool // it needs ranges that move
	readyEarly    bool
	noGate        bool
	chunk         func(r proto.RangeID, c *cellpb.SnapshotChunk) *cellpb.SnapshotChunk
	raiseAnyway   bool // leaders raise the rules whatever others support
	beforeRemoval func(n *node, d *cellpb.Descriptor) *cellpb.Descriptor
	afterRemoval  func(n *node, r proto.RangeID)
}

// Sync switched off: a vote or an entry that was promised is gone after the
// power was.
var syncOff = fault{name: "sync switched off", finds: []string{"has two entries", "acknowledged as"}, noSync: true}

// acknowledge before commit: the host answers what applying will give, as
// soon as the leader has taken the entry.
var ackBeforeCommit = fault{name: "acknowledge before commit", finds: []string{"acknowledged as"}, ackBeforeCommit: true}

// foresee is what applying e will give, once all that is open is applied.
func (n *node) foresee(r proto.RangeID, e *cellpb.Entry) *cellpb.Applied {
	_, term, leading := n.rep.Leader(r)
	if !leading {
		return nil
	}
	m, err := state.Open(n.state, r)
	if err != nil {
		n.w.t.Fatal(err)
	}
	index, _ := m.Applied()
	var out *cellpb.Applied
	for i, open := range append(n.foreseen[r], e) {
		raw, err := pb.Marshal(open)
		if err != nil {
			n.w.t.Fatal(err)
		}
		out = m.Apply(index+uint64(i)+1, term, raw) // never committed
	}
	out.Updates, out.ChannelRows = nil, nil // only the answer is early
	return out
}

// open keeps e for foresee until it is done.
func (n *node) open(r proto.RangeID, e *cellpb.Entry, done func(*cellpb.Applied, error)) func(*cellpb.Applied, error) {
	if !n.w.opt.fault.ackBeforeCommit {
		return done
	}
	if n.foreseen == nil {
		n.foreseen = map[proto.RangeID][]*cellpb.Entry{}
	}
	n.foreseen[r] = append(n.foreseen[r], e)
	life := n.life
	return func(a *cellpb.Applied, err error) {
		if n.life != life {
			return
		}
		n.foreseen[r] = slices.DeleteFunc(n.foreseen[r], func(o *cellpb.Entry) bool { return o == e })
		done(a, err)
	}
}

// noDedupAfterRestart forgets the client message ids when a replica is opened.
var noDedupAfterRestart = fault{
	name: "skip de-duplication after restart", finds: []string{"I2", "I10"},
	beforeOpen: func(n *node, r proto.RangeID) {
		if n.rep != nil {
			return // not a start: a snapshot was installed
		}
		for i := range usersPerRange {
			span := engine.TableSpan(r.First()+proto.EntityID(i), engine.TagSent)
			if err := n.state.DeleteRange(span.Start, span.End, pebble.NoSync); err != nil {
				n.w.t.Fatal(err)
			}
		}
	},
}

// rewriting is a machine that sees other entries than were committed.
type rewriting struct {
	replica.Machine
	rewrite func(term uint64, e *cellpb.Entry)
}

func (m *rewriting) Apply(index, term uint64, data []byte) *cellpb.Applied {
	e := new(cellpb.Entry)
	if len(data) == 0 || pb.Unmarshal(data, e) != nil {
		return m.Machine.Apply(index, term, data)
	}
	m.rewrite(term, e)
	raw, err := pb.Marshal(e)
	if err != nil {
		panic(err)
	}
	return m.Machine.Apply(index, term, raw)
}

// staleGrant takes every grant for the one in force.
var staleGrant = fault{
	name: "accept a stale grant", finds: []string{"I8"},
	machine: func(n *node, r proto.RangeID, inner *state.Machine) replica.Machine {
		at, err := state.NewReader(n.state, r).State()
		if err != nil {
			n.w.t.Fatal(err)
		}
		grant := &cellpb.GrantRef{Term: at.GrantTerm, Number: at.GrantNumber}
		return &rewriting{inner, func(term uint64, e *cellpb.Entry) {
			if e.Grant != nil && grant.Term == term {
				e.Grant = grant
			}
			for _, c := range e.Commands {
				if g := c.GetGrantHost(); g != nil && e.Grant == nil && e.Epoch == firstEpoch {
					grant = &cellpb.GrantRef{Term: term, Number: g.Number}
				}
			}
		}}
	},
}

// staleEpoch takes every epoch for the one the range is at.
var staleEpoch = fault{
	name: "accept a stale epoch", finds: []string{"I8"},
	machine: func(_ *node, _ proto.RangeID, inner *state.Machine) replica.Machine {
		return &rewriting{inner, func(_ uint64, e *cellpb.Entry) { e.Epoch = firstEpoch }}
	},
}

// countTwice takes rows of a channel that come again as if they were the next.
var countTwice = fault{
	name: "count a channel row twice", finds: []string{"I2"},
	machine: func(n *node, r proto.RangeID, inner *state.Machine) replica.Machine {
		counted := map[uint64]uint64{}
		return &rewriting{inner, func(_ uint64, e *cellpb.Entry) {
			for _, c := range e.Commands {
				take := c.GetTakeChannelRows()
				if take == nil || len(take.Rows) == 0 {
					continue
				}
				at, known := counted[take.Source]
				if !known {
					at = countedOf(n, r, proto.RangeID(take.Source))
				}
				if take.Rows[0].Number <= at {
					for i, row := range take.Rows {
						row.Number = at + uint64(i) + 1
					}
				}
				for _, row := range take.Rows {
					if row.Number == at+1 {
						at++
					}
				}
				counted[take.Source] = at
			}
		}}
	},
}

func countedOf(n *node, r, source proto.RangeID) uint64 {
	v, closer, err := n.state.Get(engine.ChannelInKey(r, source))
	if err != nil {
		return 0
	}
	defer closer.Close()
	return binary.BigEndian.Uint64(v)
}

// mapOrder applies the commands of an entry in another order on each node.
var mapOrder = fault{
	name: "apply in map order", finds: []string{"I10"},
	machine: func(n *node, r proto.RangeID, inner *state.Machine) replica.Machine {
		return &shuffling{Machine: inner, n: n}
	},
}

type shuffling struct {
	replica.Machine
	n *node
}

func (m *shuffling) Apply(index, term uint64, data []byte) *cellpb.Applied {
	e := new(cellpb.Entry)
	if len(data) == 0 || pb.Unmarshal(data, e) != nil || len(e.Commands) < 2 {
		return m.Machine.Apply(index, term, data)
	}
	h := fnv.New64a()
	_, _ = h.Write(data)
	order := rand.New(rand.NewPCG(h.Sum64(), uint64(m.n.index))).Perm(len(e.Commands))
	moved := pb.CloneOf(e)
	for to, from := range order {
		moved.Commands[to] = e.Commands[from]
	}
	raw, err := pb.Marshal(moved)
	if err != nil {
		panic(err)
	}
	out := m.Machine.Apply(index, term, raw)
	results := make([]*cellpb.Result, len(out.Results))
	for to, from := range order {
		results[from] = out.Results[to]
	}
	out.Results = results
	return out
}

// keepOldKeys puts back, after a snapshot was installed, what the replica had
// before and the snapshot has not.
func keepOldKeys() fault {
	type row struct{ key, value []byte }
	had := map[place][]row{}
	return fault{
		name: "keep old keys when a snapshot replaces a span", finds: []string{"I10"},
		beforeSnapshot: func(n *node, r proto.RangeID) {
			var rows []row
			for _, span := range engine.Spans(r) {
				eachRow(n.w.t, n.state, span, func(k, v []byte) { rows = append(rows, row{bytes.Clone(k), bytes.Clone(v)}) })
			}
			had[place{n.index, r}] = rows
		},
		beforeOpen: func(n *node, r proto.RangeID) {
			if n.rep == nil {
				delete(had, place{n.index, r}) // a start, not an install
			}
			for _, old := range had[place{n.index, r}] {
				if _, closer, err := n.state.Get(old.key); err == nil {
					_ = closer.Close()
				} else if err := n.state.Set(old.key, old.value, pebble.NoSync); err != nil {
					n.w.t.Fatal(err)
				}
			}
			delete(had, place{n.index, r})
		},
	}
}
