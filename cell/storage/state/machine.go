package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/zeebo/xxh3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// FirstIndex and FirstTerm are where the log of a new range begins. They are
// above nothing, so that a replica that comes later, and has nothing, is
// always sent a snapshot: the first state is not in the log.
const (
	FirstIndex = 1
	FirstTerm  = 1
)

// cacheRows bounds each of a machine's caches; a full one is emptied. A row
// takes under 200 bytes and a range has 4,096 entities, most of them idle.
const cacheRows = 8192

// Machine applies the entries of one range. One goroutine applies; reading
// goes through [Reader] and needs no lock.
type Machine struct {
	rng     proto.RangeID
	db      *pebble.DB
	meta    *cellpb.RangeMeta
	release Release

	// As of the last Commit.
	committed *cellpb.RangeState
	desc      *cellpb.Descriptor

	// Of the batch being built.
	state   *cellpb.RangeState
	newDesc *cellpb.Descriptor // never changed in place
	batch   *pebble.Batch
	dirty   map[string][]byte // point reads see what the batch will write
	gone    []engine.Span     // and not what it will remove
	err     error             // the first error of reading; Commit returns it

	users    map[proto.EntityID]*userCounters
	threads  map[proto.ThreadID]*threadCounters
	joined   map[joinedKey]*cellpb.JoinedThread
	sent     map[proto.EntityID]*proto.ClientMsgID // the greatest id stored under each owner
	channels map[proto.RangeID]*channelCounters
	directs  map[proto.EntityID]*cellpb.DirectFromRow // of users of other ranges

	longTails []*userCounters // above tailMax in the batch being built

	buf []byte // scratch for marshalling
}

type userCounters struct {
	exists bool
	pts    proto.Pts // the newest
	log    *cellpb.UpdateLog

	// The messages of others above tailFrom and above what was delivered. All
	// rows of the batch being built are among them, for those no iterator sees.
	tail     []tailRow
	tailFrom proto.Pts

	directFrom clientpb.DirectFrom // of the profile
	changed    uint64
}

type threadCounters struct {
	exists   bool // has a header
	header   *cellpb.ThreadHeader
	seq      proto.Seq
	messages uint64
}

type joinedKey struct {
	user   proto.EntityID
	thread proto.ThreadID
}

type channelCounters struct{ trimmed, last uint64 }

// open reads the state of a range.
func open(db *pebble.DB, r proto.RangeID) (*Machine, error) {
	m := &Machine{
		rng: r, db: db,
		meta: new(cellpb.RangeMeta), committed: new(cellpb.RangeState), desc: new(cellpb.Descriptor),
		dirty: map[string][]byte{},
	}
	m.forgetCaches()
	for _, part := range []struct {
		key  []byte
		into pb.Message
	}{
		{engine.MetaKey(r), m.meta},
		{engine.DescriptorKey(r), m.desc},
		{engine.RangeStateKey(r), m.committed},
	} {
		if found, err := read(db, part.key, part.into); err != nil || !found {
			if err == nil {
				err = errors.New("a local record is missing")
			}
			return nil, fmt.Errorf("state: open range %s: %w", r, err)
		}
	}
	if m.committed.Format > proto.StateFormat {
		return nil, fmt.Errorf("state: range %s has format %d, this binary knows up to %d: run a newer release",
			r, m.committed.Format, proto.StateFormat)
	}
	m.state, m.newDesc = pb.CloneOf(m.committed), m.desc
	return m, nil
}

// create writes the first state of a range and syncs it.
func create(db *pebble.DB, d *cellpb.Descriptor, incarnation []byte, rules uint32) error {
	r := proto.RangeID(d.Range)
	have := new(cellpb.RangeMeta)
	found, err := read(db, engine.MetaKey(r), have)
	if err != nil {
		return fmt.Errorf("state: create range %s: %w", r, err)
	}
	if found {
		if string(have.Incarnation) != string(incarnation) {
			return fmt.Errorf("state: create range %s: it exists here with another incarnation", r)
		}
		return nil
	}
	b := db.NewBatch()
	defer b.Close()
	for _, span := range engine.Spans(r) { // nothing of a former self may remain
		if err := b.DeleteRange(span.Start, span.End, nil); err != nil {
			return fmt.Errorf("state: create range %s: %w", r, err)
		}
	}
	for _, part := range []struct {
		key   []byte
		value pb.Message
	}{
		{engine.MetaKey(r), &cellpb.RangeMeta{Incarnation: incarnation}},
		{engine.DescriptorKey(r), d},
		{engine.RangeStateKey(r), &cellpb.RangeState{
			AppliedIndex: FirstIndex, AppliedTerm: FirstTerm, Format: proto.StateFormat, Rules: rules, NextEntity: uint64(r.First()),
		}},
	} {
		v, err := codec.Marshal(part.value)
		if err == nil {
			err = b.Set(part.key, v, nil)
		}
		if err != nil {
			return fmt.Errorf("state: create range %s: %w", r, err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("state: create range %s: %w", r, err)
	}
	return nil
}

// Ranges lists the ranges present in db.
func Ranges(db *pebble.DB) ([]proto.RangeID, error) {
	all := engine.AllLocal()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: all.Start, UpperBound: all.End})
	if err != nil {
		return nil, fmt.Errorf("state: list ranges: %w", err)
	}
	defer it.Close()
	var out []proto.RangeID
	for ok := it.First(); ok; {
		r, isLocal := engine.RangeOfLocalKey(it.Key())
		if !isLocal {
			ok = it.Next()
			continue
		}
		out = append(out, r)
		ok = it.SeekGE(engine.Spans(r)[1].End)
	}
	return out, it.Error()
}

// Applied is the last committed entry.
func (m *Machine) Applied() (index, term uint64) {
	return m.committed.AppliedIndex, m.committed.AppliedTerm
}

// Descriptor is the descriptor as of the last Commit; not to be changed.
func (m *Machine) Descriptor() *cellpb.Descriptor { return m.desc }

// State is the range's own record as of the last Commit; not to be changed.
func (m *Machine) State() *cellpb.RangeState { return m.committed }

// RunningHash covers every entry up to the last committed one.
func (m *Machine) RunningHash() uint64 { return m.committed.RunningHash }

// Incarnation names this life of the range's logs, threads and channels.
func (m *Machine) Incarnation() []byte { return m.meta.Incarnation }

// Apply adds the effects of one entry to the batch being built. It returns
// nil for Raft's own empty entries.
func (m *Machine) Apply(index, term uint64, data []byte) *cellpb.Applied {
	if m.batch == nil {
		m.batch = m.db.NewBatch()
	}
	before := m.batch.Len()
	var out *cellpb.Applied
	if len(data) > 0 {
		entry := new(cellpb.Entry)
		if err := codec.Unmarshal(data, entry); err != nil {
			// Every replica reads the same bytes, so all refuse alike.
			out = &cellpb.Applied{}
		} else {
			out = m.applyEntry(term, entry)
		}
	}
	m.state.AppliedIndex, m.state.AppliedTerm = index, term
	m.state.RunningHash = extend(m.state.RunningHash, index, term, m.batch.Repr()[before:])
	return out
}

// extend folds one entry's writes into the running hash.
func extend(hash, index, term uint64, writes []byte) uint64 {
	var head [24]byte
	binary.BigEndian.PutUint64(head[:], hash)
	binary.BigEndian.PutUint64(head[8:], index)
	binary.BigEndian.PutUint64(head[16:], term)
	return xxh3.HashSeed(writes, xxh3.Hash(head[:]))
}

// Commit writes the batch being built, with the applied index. It does not
// sync: what a crash takes is applied again from the log. After an error the
// machine must not be used any more.
func (m *Machine) Commit() error {
	if m.batch == nil {
		return nil
	}
	if m.err != nil {
		return fmt.Errorf("state: apply to range %s: %w", m.rng, m.err)
	}
	m.put(engine.RangeStateKey(m.rng), m.state)
	if err := m.db.Apply(m.batch, pebble.NoSync); err != nil {
		return fmt.Errorf("state: commit range %s at %d: %w", m.rng, m.state.AppliedIndex, err)
	}
	_ = m.batch.Close()
	m.batch = nil
	m.committed, m.desc = pb.CloneOf(m.state), m.newDesc
	clear(m.dirty)
	m.gone = nil
	m.dropLongTails()
	if len(m.users) > cacheRows || len(m.threads) > cacheRows || len(m.sent) > cacheRows || len(m.joined) > cacheRows || len(m.channels) > cacheRows || len(m.directs) > cacheRows {
		m.forgetCaches()
	}
	return nil
}

func (m *Machine) forgetCaches() {
	m.users = map[proto.EntityID]*userCounters{}
	m.threads = map[proto.ThreadID]*threadCounters{}
	m.joined = map[joinedKey]*cellpb.JoinedThread{}
	m.sent = map[proto.EntityID]*proto.ClientMsgID{}
	m.channels = map[proto.RangeID]*channelCounters{}
	m.directs = map[proto.EntityID]*cellpb.DirectFromRow{}
}

// read gets key from r into v and tells whether it exists.
func read(r pebble.Reader, key []byte, v pb.Message) (bool, error) {
	raw, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer closer.Close()
	if err := codec.Unmarshal(raw, v); err != nil {
		return false, fmt.Errorf("value of key %x: %w: %w", key, err, pebble.ErrCorruption)
	}
	return true, nil
}

// decode reads the row an iterator stands on. A row that cannot be read is
// damaged, whatever its block's checksum says.
func decode(it *pebble.Iterator, v pb.Message) error {
	raw, err := it.ValueAndErr()
	if err != nil {
		return err
	}
	if err := codec.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("value of key %x: %w: %w", it.Key(), err, pebble.ErrCorruption)
	}
	return nil
}

// get reads a row as the batch being built will leave it.
func (m *Machine) get(key []byte, v pb.Message) bool {
	if raw, ok := m.dirty[string(key)]; ok {
		if raw == nil {
			return false
		}
		if err := codec.Unmarshal(raw, v); err != nil {
			m.fail(err)
		}
		return true
	}
	for _, span := range m.gone {
		if span.Has(key) {
			return false
		}
	}
	found, err := read(m.db, key, v)
	m.fail(err)
	return found
}

// fail keeps the first error; Commit returns it, so that nothing built on a
// failed read is written.
func (m *Machine) fail(err error) {
	if err != nil && m.err == nil {
		m.err = err
	}
}

// put writes a row that a later command may read by key.
func (m *Machine) put(key []byte, v pb.Message) {
	raw, err := codec.Marshal(v)
	if err != nil {
		m.fail(err)
		return
	}
	m.putRaw(key, raw)
}

func (m *Machine) putRaw(key, raw []byte) {
	m.dirty[string(key)] = raw
	m.fail(m.batch.Set(key, raw, nil))
}

// removeRange deletes the rows of a span that later commands may read by key.
// A command of the same batch must not read them any more, as one of the next
// batch does not: where batches are cut differs between replicas.
func (m *Machine) removeRange(span engine.Span) {
	for key := range m.dirty {
		if span.Has([]byte(key)) {
			m.dirty[key] = nil
		}
	}
	m.gone = append(m.gone, span)
	m.fail(m.batch.DeleteRange(span.Start, span.End, nil))
}

// remove deletes a row that a later command may read by key.
func (m *Machine) remove(key []byte) {
	m.dirty[string(key)] = nil
	m.fail(m.batch.Delete(key, nil))
}

// appendRow writes a row that applying finds by counter, never by key.
func (m *Machine) appendRow(key []byte, v pb.Message) {
	var err error
	if m.buf, err = codec.Append(m.buf[:0], v); err != nil {
		m.fail(err)
		return
	}
	m.fail(m.batch.Set(key, m.buf, nil))
}

// newIter walks a span of the committed state.
func (m *Machine) newIter(span engine.Span) (*pebble.Iterator, error) {
	return m.db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
}

// lastKey is the greatest key of a span in the committed state, nil if none.
// Callers keep what they learn in a cache, which holds the batch's own rows.
func (m *Machine) lastKey(span engine.Span, visit func(key, value []byte)) {
	it, err := m.newIter(span)
	if err != nil {
		m.fail(err)
		return
	}
	defer it.Close()
	if it.Last() {
		visit(it.Key(), it.Value())
	}
	m.fail(it.Error())
}
