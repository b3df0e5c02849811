package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/zeebo/xxh3"
	"go.etcd.io/raft/v3/raftpb"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// listMachine is a list of texts: each command appends one and is answered
// with its place. It stores under the real keys, so snapshots carry it.
type listMachine struct {
	db      *pebble.DB
	rng     proto.RangeID
	desc    *cellpb.Descriptor // as of the last Commit
	newDesc *cellpb.Descriptor
	state   *cellpb.RangeState // as of the last Commit
	next    *cellpb.RangeState // of the batch being built
	batch   *pebble.Batch
	failing func(r proto.RangeID) error // nil: never
}

func listKey(r proto.RangeID, n uint64) []byte {
	k := binary.BigEndian.AppendUint64(nil, uint64(r.First()))
	return binary.BigEndian.AppendUint64(append(k, 'x'), n)
}

func (m *listMachine) Applied() (index, term uint64) {
	return m.state.GetAppliedIndex(), m.state.GetAppliedTerm()
}

func (m *listMachine) Apply(index, term uint64, data []byte) *cellpb.Applied {
	if m.batch == nil {
		m.batch = m.db.NewBatch()
		m.next, m.newDesc = pb.CloneOf(m.state), m.desc
	}
	before := m.batch.Len()
	var out *cellpb.Applied
	if len(data) > 0 {
		e := new(cellpb.Entry)
		if err := pb.Unmarshal(data, e); err != nil {
			panic(err)
		}
		out = &cellpb.Applied{}
		for _, c := range e.GetCommands() {
			if r := c.GetRecoverRange(); r != nil {
				out.Results = append(out.Results, m.alone(r))
				continue
			}
			if change := c.GetChangeReplicas(); change != nil {
				out.Results = append(out.Results, m.change(change))
				continue
			}
			if c.GetSetRules() != nil {
				m.next.Rules = c.GetSetRules().GetVersion()
				out.Results = append(out.Results, &cellpb.Result{})
				continue
			}
			m.next.NextEntity++ // the length of the list
			text := c.GetAppendMessage().GetText().GetText()
			if err := m.batch.Set(listKey(m.rng, m.next.GetNextEntity()), []byte(text), nil); err != nil {
				panic(err)
			}
			out.Results = append(out.Results, &cellpb.Result{Seq: m.next.GetNextEntity()})
		}
	}
	m.next.AppliedIndex, m.next.AppliedTerm = index, term
	var head [24]byte
	binary.BigEndian.PutUint64(head[:], m.next.GetRunningHash())
	binary.BigEndian.PutUint64(head[8:], index)
	binary.BigEndian.PutUint64(head[16:], term)
	m.next.RunningHash = xxh3.HashSeed(m.batch.Repr()[before:], xxh3.Hash(head[:]))
	return out
}

func (m *listMachine) Commit() error {
	if m.failing != nil {
		if err := m.failing(m.rng); err != nil {
			return err
		}
	}
	raw, err := pb.Marshal(m.next)
	if err != nil {
		return err
	}
	if err := m.batch.Set(engine.RangeStateKey(m.rng), raw, nil); err != nil {
		return err
	}
	if err := m.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	_ = m.batch.Close()
	m.batch, m.state, m.desc = nil, m.next, m.newDesc
	return nil
}

// change changes replicas as the real machine does.
func (m *listMachine) change(c *cellpb.ChangeReplicas) *cellpb.Result {
	d, refusal := state.ChangedDescriptor(m.newDesc, c)
	if refusal != nil {
		return &cellpb.Result{Code: uint32(refusal.Code), Message: refusal.Message}
	}
	raw, err := pb.Marshal(d)
	if err == nil {
		err = m.batch.Set(engine.DescriptorKey(m.rng), raw, nil)
	}
	if err != nil {
		panic(err)
	}
	m.newDesc = d
	return &cellpb.Result{}
}

func (m *listMachine) Descriptor() *cellpb.Descriptor { return m.desc }
func (m *listMachine) State() *cellpb.RangeState      { return m.state }

type listMachines struct {
	db      *pebble.DB
	failing func(r proto.RangeID) error
}

func (ms *listMachines) Open(r proto.RangeID) (Machine, error) {
	m := &listMachine{db: ms.db, rng: r, desc: new(cellpb.Descriptor), state: new(cellpb.RangeState), failing: ms.failing}
	if err := getProto(ms.db, engine.DescriptorKey(r), m.desc); err != nil {
		return nil, err
	}
	if err := getProto(ms.db, engine.RangeStateKey(r), m.state); err != nil {
		return nil, err
	}
	return m, nil
}

func (ms *listMachines) Create(d *cellpb.Descriptor, _ []byte, rules uint32) (Machine, error) {
	r := proto.RangeID(d.GetRange())
	if m, err := ms.Open(r); err == nil {
		return m, nil
	}
	raw, err := pb.Marshal(d)
	if err != nil {
		return nil, err
	}
	first, err := pb.Marshal(&cellpb.RangeState{AppliedIndex: state.FirstIndex, AppliedTerm: state.FirstTerm, Rules: rules})
	if err != nil {
		return nil, err
	}
	b := ms.db.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(engine.DescriptorKey(r), raw, nil), b.Set(engine.RangeStateKey(r), first, nil), b.Commit(pebble.Sync)); err != nil {
		return nil, err
	}
	return ms.Open(r)
}

func (ms *listMachines) Ranges() ([]proto.RangeID, error) {
	all := engine.AllLocal()
	it, err := ms.db.NewIter(&pebble.IterOptions{LowerBound: all.Start, UpperBound: all.End})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []proto.RangeID
	for ok := it.First(); ok; ok = it.Next() {
		if r, local := engine.RangeOfLocalKey(it.Key()); local && (len(out) == 0 || out[len(out)-1] != r) {
			out = append(out, r)
		}
	}
	return out, it.Error()
}

// list reads a range's texts, in order, and fails on a gap.
func list(db *pebble.DB, r proto.RangeID) ([]string, error) {
	span := engine.EntitySpan(r)
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []string
	for ok := it.First(); ok; ok = it.Next() {
		if want := listKey(r, uint64(len(out)+1)); string(it.Key()) != string(want) {
			return nil, fmt.Errorf("key %x where %x should be", it.Key(), want)
		}
		out = append(out, string(it.Value()))
	}
	return out, it.Error()
}

func textEntry(r proto.RangeID, texts ...string) *cellpb.Entry {
	e := &cellpb.Entry{Range: uint64(r), Epoch: 1, Grant: &cellpb.GrantRef{Term: 1, Number: 1}}
	for _, text := range texts {
		e.Commands = append(e.Commands, &cellpb.Command{Body: &cellpb.Command_AppendMessage{
			AppendMessage: &cellpb.AppendMessage{Text: &cellpb.TextBody{Text: text}},
		}})
	}
	return e
}

func heartbeat(from, to uint64) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(from), To: new(to), Term: new(uint64(1))}
}

func proposalMessage(from, to uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: new(from), To: new(to), Entries: []*raftpb.Entry{{Data: []byte("x")}},
	}
}

func keysIn(t *testing.T, db *pebble.DB, start, end []byte) (out []string) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		out = append(out, string(it.Key()))
	}
	return out
}

// alone recovers as the real machine does.
func (m *listMachine) alone(c *cellpb.RecoverRange) *cellpb.Result {
	d := pb.CloneOf(m.newDesc)
	d.Replicas, d.NextReplica = []*cellpb.Replica{{Id: c.Replica, Node: c.Node}}, c.Replica+1
	d.Cell, d.NextCell = c.Cell, ""
	d.Epoch += 2
	d.Version += 1000
	raw, err := pb.Marshal(d)
	if err == nil {
		err = m.batch.Set(engine.DescriptorKey(m.rng), raw, nil)
	}
	if err != nil {
		panic(err)
	}
	m.newDesc = d
	return &cellpb.Result{}
}
