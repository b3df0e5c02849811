package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/waggle-im/waggle/proto"
)

// logStore is one range's log: raft.Storage for reading, batches for writing.
// The loop owns it. Writes change it when they enter the batch; the loop lets
// Raft look only after the batch is committed.
type logStore struct {
	rng       proto.RangeID
	db        *pebble.DB
	cacheMax  int
	truncated place // the last entry cut off
	last      place
	bytes     int64 // of the entries kept, roughly
	hard      *raftpb.HardState
	hardLate  bool   // its commit index is newer than what was written
	lateSince uint64 // tick of the first such
	conf      *raftpb.ConfState

	// cache holds the newest entries: cache[i] has index last.index-len+1+i.
	cache      []*raftpb.Entry
	cacheBytes int

	// snapshot makes the metadata of a snapshot to send.
	snapshot func() (*raftpb.Snapshot, error)
	// err is the first error of reading; Raft panics on it and the group
	// reports this one.
	err error
}

// openLogStore reads a range's log; found is false when it has none.
func openLogStore(db *pebble.DB, r proto.RangeID, cacheMax int) (s *logStore, found bool, err error) {
	s = &logStore{rng: r, db: db, cacheMax: cacheMax}
	raw, found, err := get(db, logKey(r, tagTruncated))
	if err != nil || !found {
		return nil, false, err
	}
	if s.truncated, err = decodePlace(raw); err != nil {
		return nil, false, fmt.Errorf("replica: log of range %s: %w", r, err)
	}
	raw, found, err = get(db, logKey(r, tagHardState))
	if err == nil && found {
		s.hard, err = decodeHardState(raw)
	}
	if err != nil {
		return nil, false, fmt.Errorf("replica: log of range %s: %w", r, err)
	}
	s.last = s.truncated
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: entryKey(r, s.truncated.index+1), UpperBound: logKey(r, tagEntry+1)})
	if err != nil {
		return nil, false, fmt.Errorf("replica: log of range %s: %w", r, err)
	}
	defer it.Close()
	if it.Last() {
		s.last.index = binary.BigEndian.Uint64(it.Key()[9:])
		e, err := decodeEntry(s.last.index, it.Value())
		if err != nil {
			return nil, false, fmt.Errorf("replica: log of range %s: %w", r, err)
		}
		s.last.term = e.GetTerm()
		first := it.First()
		if !first || binary.BigEndian.Uint64(it.Key()[9:]) != s.truncated.index+1 {
			return nil, false, fmt.Errorf("replica: log of range %s has a gap after %d: %w", r, s.truncated.index, pebble.ErrCorruption)
		}
		if s.bytes, err = countBytes(it, s.truncated.index+1); err != nil {
			return nil, false, fmt.Errorf("replica: log of range %s: %w", r, err)
		}
	}
	return s, true, it.Error()
}

// countBytes sums the entries from where it stands, which has the index next,
// and looks for gaps. Logs are short: what is applied and held by followers is
// cut off every few seconds.
func countBytes(it *pebble.Iterator, next uint64) (sum int64, err error) {
	for ok := true; ok; ok = it.Next() {
		if have := binary.BigEndian.Uint64(it.Key()[9:]); have != next {
			return 0, fmt.Errorf("entry %d follows %d: %w", have, next-1, pebble.ErrCorruption)
		}
		next++
		sum += int64(len(it.Value()))
	}
	return sum, it.Error()
}

func (s *logStore) set(b *pebble.Batch, tag byte, value []byte) {
	s.keep(b.Set(logKey(s.rng, tag), value, nil))
}

// keep remembers the first error.
func (s *logStore) keep(err error) {
	if err != nil && s.err == nil {
		s.err = err
	}
}

// setHard adds a hard state to b.
func (s *logStore) setHard(b *pebble.Batch, h *raftpb.HardState) {
	s.hard = h
	s.writeHard(b)
}

func (s *logStore) writeHard(b *pebble.Batch) {
	s.hardLate = false
	s.set(b, tagHardState, encodeHardState(s.hard))
}

// append adds entries to b; they replace what the log has from the first of
// them on.
func (s *logStore) append(b *pebble.Batch, entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	first := entries[0].GetIndex()
	final := entries[len(entries)-1]
	if final.GetIndex() < s.last.index {
		s.keep(b.DeleteRange(entryKey(s.rng, final.GetIndex()+1), entryKey(s.rng, s.last.index+1), nil))
	}
	s.dropFrom(first)
	for _, e := range entries {
		v := encodeEntry(e)
		s.keep(b.Set(entryKey(s.rng, e.GetIndex()), v, nil))
		s.bytes += int64(len(v))
		s.cache = append(s.cache, e)
		s.cacheBytes += entryBytes(e)
	}
	s.last = place{index: final.GetIndex(), term: final.GetTerm()}
	s.trimCache()
}

// dropFrom forgets cached entries from index on.
func (s *logStore) dropFrom(index uint64) {
	keep := len(s.cache) - int(s.last.index+1-min(index, s.last.index+1))
	if keep < 0 {
		keep = 0
	}
	for _, e := range s.cache[keep:] {
		s.cacheBytes -= entryBytes(e)
	}
	clear(s.cache[keep:])
	s.cache = s.cache[:keep]
}

func (s *logStore) trimCache() {
	cut := 0
	for cut < len(s.cache)-1 && s.cacheBytes > s.cacheMax {
		s.cacheBytes -= entryBytes(s.cache[cut])
		cut++
	}
	s.cutCache(cut)
}

func (s *logStore) cutCache(n int) {
	if n == 0 {
		return
	}
	// A copy, so that the dropped entries and their array can go.
	s.cache = append([]*raftpb.Entry(nil), s.cache[n:]...)
}

func (s *logStore) forgetCache() {
	s.cache, s.cacheBytes = nil, 0
}

func entryBytes(e *raftpb.Entry) int { return len(e.GetData()) + 96 }

func (s *logStore) cacheFirst() uint64 { return s.last.index + 1 - uint64(len(s.cache)) }

// truncate adds the removal of everything up to to.
func (s *logStore) truncate(b *pebble.Batch, to place) {
	kept := s.last.index - s.truncated.index
	s.keep(b.DeleteRange(entryKey(s.rng, s.truncated.index+1), entryKey(s.rng, to.index+1), nil))
	s.set(b, tagTruncated, to.encode())
	if first := s.cacheFirst(); to.index >= first {
		cut := int(to.index - first + 1)
		for _, e := range s.cache[:cut] {
			s.cacheBytes -= entryBytes(e)
		}
		s.cutCache(cut)
	}
	s.bytes = int64(float64(s.bytes) * float64(s.last.index-to.index) / float64(max(kept, 1)))
	s.truncated = to
}

// reset adds the removal of the whole log: the state is at to.
func (s *logStore) reset(b *pebble.Batch, to place) {
	s.keep(b.DeleteRange(entryKey(s.rng, 0), logKey(s.rng, tagEntry+1), nil))
	s.set(b, tagTruncated, to.encode())
	s.truncated, s.last, s.bytes = to, to, 0
	s.forgetCache()
	s.setHard(b, &raftpb.HardState{Term: new(max(s.hard.GetTerm(), to.term)), Vote: new(s.hard.GetVote()), Commit: new(to.index)})
}

// InitialState implements raft.Storage.
func (s *logStore) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return s.hard, s.conf, nil
}

// FirstIndex implements raft.Storage.
func (s *logStore) FirstIndex() (uint64, error) { return s.truncated.index + 1, nil }

// LastIndex implements raft.Storage.
func (s *logStore) LastIndex() (uint64, error) { return s.last.index, nil }

// Snapshot implements raft.Storage.
func (s *logStore) Snapshot() (*raftpb.Snapshot, error) { return s.snapshot() }

// Term implements raft.Storage.
func (s *logStore) Term(i uint64) (uint64, error) {
	switch {
	case i == s.truncated.index:
		return s.truncated.term, nil
	case i < s.truncated.index:
		return 0, raft.ErrCompacted
	case i > s.last.index:
		return 0, raft.ErrUnavailable
	case i == s.last.index:
		return s.last.term, nil
	}
	if first := s.cacheFirst(); i >= first {
		return s.cache[i-first].GetTerm(), nil
	}
	raw, found, err := get(s.db, entryKey(s.rng, i))
	if err == nil && !found {
		err = fmt.Errorf("replica: log of range %s lacks entry %d: %w", s.rng, i, pebble.ErrCorruption)
	}
	if err != nil {
		s.keep(err)
		return 0, err
	}
	e, err := decodeEntry(i, raw)
	s.keep(err)
	return e.GetTerm(), err
}

// Entries implements raft.Storage.
func (s *logStore) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= s.truncated.index {
		return nil, raft.ErrCompacted
	}
	if hi > s.last.index+1 {
		return nil, raft.ErrUnavailable
	}
	var out []*raftpb.Entry
	var size uint64
	fits := func(e *raftpb.Entry) bool {
		size += uint64(entryBytes(e))
		if len(out) > 0 && size > maxSize {
			return false
		}
		out = append(out, e)
		return true
	}
	first := s.cacheFirst()
	if lo < first {
		full, err := s.readEntries(lo, min(hi, first), fits)
		if err != nil || full {
			s.keep(err)
			return out, err
		}
	}
	for i := max(lo, first); i < hi; i++ {
		if !fits(s.cache[i-first]) {
			break
		}
	}
	return out, nil
}

// readEntries visits [lo, hi) on disk; full tells that the visitor had enough.
func (s *logStore) readEntries(lo, hi uint64, visit func(*raftpb.Entry) bool) (full bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(s.rng, lo), UpperBound: entryKey(s.rng, hi)})
	if err != nil {
		return false, fmt.Errorf("replica: log of range %s: %w", s.rng, err)
	}
	defer it.Close()
	next := lo
	for ok := it.First(); ok; ok = it.Next() {
		if binary.BigEndian.Uint64(it.Key()[9:]) != next {
			break
		}
		e, err := decodeEntry(next, it.Value())
		if err != nil {
			return false, fmt.Errorf("replica: log of range %s: %w: %w", s.rng, err, pebble.ErrCorruption)
		}
		if !visit(e) {
			return true, nil
		}
		next++
	}
	if err := it.Error(); err != nil {
		return false, fmt.Errorf("replica: log of range %s: %w", s.rng, err)
	}
	if next != hi {
		return false, fmt.Errorf("replica: log of range %s lacks entry %d: %w", s.rng, next, pebble.ErrCorruption)
	}
	return false, nil
}
