package sim

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/zeebo/xxh3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/cell/storage/replica"
	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// adjusting is a machine that sees each entry as at the descriptor in force,
// which changes within a batch too.
type adjusting struct {
	replica.Machine
	epoch, version uint64
	adjust         func(m *adjusting, e *cellpb.Entry)
}

func adjusted(adjust func(m *adjusting, e *cellpb.Entry)) func(*node, proto.RangeID, *state.Machine) replica.Machine {
	return func(_ *node, _ proto.RangeID, inner *state.Machine) replica.Machine {
		d := inner.Descriptor()
		return &adjusting{Machine: inner, epoch: d.Epoch, version: d.Version, adjust: adjust}
	}
}

func (m *adjusting) Apply(index, term uint64, data []byte) *cellpb.Applied {
	e := new(cellpb.Entry)
	if len(data) == 0 || pb.Unmarshal(data, e) != nil {
		return m.Machine.Apply(index, term, data)
	}
	m.adjust(m, e)
	raw, err := pb.Marshal(e)
	if err != nil {
		panic(err)
	}
	out := m.Machine.Apply(index, term, raw)
	for i, c := range e.Commands {
		if change := c.GetChangeReplicas(); change != nil && out.Results[i].Code == 0 {
			m.version++
			if leave := change.GetLeaveJoint(); leave != nil {
				m.epoch = leave.Epoch
			}
		}
	}
	return out
}

// The epoch fence taken out of applying.
var noEpochFence = fault{
	name: "entries of any epoch", finds: []string{"I8"}, moves: true,
	machine: adjusted(func(m *adjusting, e *cellpb.Entry) { e.Epoch = m.epoch }),
}

// The version fence of changes taken out.
var noVersionFence = fault{
	name: "changes planned on any version", finds: []string{"a change planned on version"}, moves: true,
	machine: adjusted(func(m *adjusting, e *cellpb.Entry) {
		for _, c := range e.Commands {
			if change := c.GetChangeReplicas(); change != nil {
				change.Version = m.version
			}
		}
	}),
}

// The joint configuration is left and the owner stays.
var leaveWithoutOwn = fault{
	name: "leave without own", finds: []string{"I7"}, moves: true,
	machine: adjusted(func(_ *adjusting, e *cellpb.Entry) {
		for _, c := range e.Commands {
			if joint := c.GetChangeReplicas().GetEnterJoint(); joint != nil {
				joint.NextCell = ""
			}
		}
	}),
}

// Leadership given to whoever is to stay, ready or not.
var transferUnready = fault{
	name: "transfer to a replica that has not applied the joint change", finds: []string{"not the joint configuration"}, moves: true, readyEarly: true,
}

// forgeReady tells a leader that everybody has applied what it has.
func (n *node) forgeReady() {
	for _, r := range n.w.ranges {
		d, held := n.rep.Descriptor(r)
		if _, _, leading := n.rep.Leader(r); !held || !leading || !d.Joint() {
			continue
		}
		for _, to := range d.Replicas {
			if to.Incoming {
				note := &cellpb.JointNote{Range: d.Range, Version: d.Version, FromReplica: to.Id, ToReplica: uint64(n.status(r).Replica)}
				if err := n.rep.Receive(proto.NodeID(to.Node), &cellpb.RaftBatch{Joint: []*cellpb.JointNote{note}}); err != nil {
					n.w.t.Fatal(err)
				}
			}
		}
	}
}

// Learners become voters as soon as there are any.
var promoteAnybody = fault{name: "an empty learner promoted", finds: []string{"a voter, wh"}, moves: true, noGate: true}

// The tombstone is gone, and with it which ids were given.
var forgetTombstone = fault{
	name: "replica ids reused", finds: []string{"comes back"}, moves: true,
	afterRemoval: func(n *node, r proto.RangeID) {
		if _, held := n.rep.Descriptor(r); held {
			return
		}
		for _, tag := range []byte{logIdentity, logTombstone} {
			if err := n.log.Delete(append(logPrefix(r), tag), pebble.Sync); err != nil {
				n.w.t.Fatal(err)
			}
		}
	},
}

// A removal by whatever descriptor.
var removeByOlder = fault{
	name: "removal with an older descriptor", finds: []string{"because of version", "one of the range's"}, moves: true,
	beforeRemoval: func(_ *node, d *cellpb.Descriptor) *cellpb.Descriptor {
		d = pb.CloneOf(d)
		d.Version = math.MaxUint64
		return d
	},
}

type keyValue struct{ key, value []byte }

func (n *node) rows(r proto.RangeID) (rows []keyValue) {
	for _, span := range engine.Spans(r) {
		eachRow(n.w.t, n.state, span, func(k, v []byte) { rows = append(rows, keyValue{bytes.Clone(k), bytes.Clone(v)}) })
	}
	return rows
}

// removalKeepsState puts back what a removal has deleted.
func removalKeepsState() fault {
	had := map[place][]keyValue{}
	return fault{
		name: "removal keeps the state", finds: []string{"still holds key"}, moves: true,
		beforeRemoval: func(n *node, d *cellpb.Descriptor) *cellpb.Descriptor {
			if rows := n.rows(proto.RangeID(d.Range)); len(rows) > 0 {
				had[place{n.index, proto.RangeID(d.Range)}] = rows
			}
			return d
		},
		afterRemoval: func(n *node, r proto.RangeID) {
			for _, row := range had[place{n.index, r}] {
				if err := n.state.Set(row.key, row.value, pebble.NoSync); err != nil {
					n.w.t.Fatal(err)
				}
			}
		},
	}
}

// sumOf is the checksum of a chunk (replica's snapsend.go).
func sumOf(pairs []*cellpb.KeyValue) uint64 {
	h := xxh3.New()
	for _, p := range pairs {
		for _, part := range [][]byte{p.Key, p.Value} {
			_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
			_, _ = h.Write(part)
		}
	}
	return h.Sum64()
}

// copyWithoutSent leaves the client message ids out of the copy.
var copyWithoutSent = fault{
	name: "de-duplication left behind", finds: []string{"I2", "I10"}, moves: true,
	chunk: func(r proto.RangeID, c *cellpb.SnapshotChunk) *cellpb.SnapshotChunk {
		for i := range usersPerRange {
			span := engine.TableSpan(r.First()+proto.EntityID(i), engine.TagSent)
			c.Pairs = slices.DeleteFunc(c.Pairs, func(p *cellpb.KeyValue) bool { return span.Has(p.Key) })
		}
		c.Checksum = sumOf(c.Pairs)
		return c
	},
}

// copyForgetsDeletes has a copy bring back what earlier copies of the range
// held and was deleted since.
func copyForgetsDeletes() fault {
	var mu sync.Mutex
	seen := map[proto.RangeID]map[string][]byte{}
	return fault{
		name: "deletes lost while copying", finds: []string{"I10"}, moves: true,
		chunk: func(r proto.RangeID, c *cellpb.SnapshotChunk) *cellpb.SnapshotChunk {
			mu.Lock()
			defer mu.Unlock()
			if seen[r] == nil {
				seen[r] = map[string][]byte{}
			}
			for _, p := range c.Pairs {
				seen[r][string(p.Key)] = p.Value
			}
			var pairs []*cellpb.KeyValue
			for _, span := range engine.Spans(r) {
				var part []*cellpb.KeyValue
				for k, v := range seen[r] {
					if span.Has([]byte(k)) {
						part = append(part, &cellpb.KeyValue{Key: []byte(k), Value: v})
					}
				}
				slices.SortFunc(part, func(a, b *cellpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
				pairs = append(pairs, part...)
			}
			c.Pairs, c.Checksum = pairs, sumOf(pairs)
			return c
		},
	}
}
