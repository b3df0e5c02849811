package replica

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/proto"
)

// logModel is what a logStore should hold.
type logModel struct {
	truncated place
	terms     []uint64 // of the entries after truncated
}

func (m *logModel) last() uint64 { return m.truncated.index + uint64(len(m.terms)) }

func (m *logModel) check(t *rapid.T, s *logStore) {
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	if first != m.truncated.index+1 || last != m.last() {
		t.Fatalf("log is [%d, %d], want [%d, %d]", first, last, m.truncated.index+1, m.last())
	}
	if term, err := s.Term(m.truncated.index); err != nil || term != m.truncated.term {
		t.Fatalf("term of the cut is %d, %v", term, err)
	}
	if _, err := s.Term(last + 1); !errors.Is(err, raft.ErrUnavailable) {
		t.Fatalf("term beyond the end: %v", err)
	}
	for range min(4, len(m.terms)) {
		i := rapid.IntRange(0, len(m.terms)-1).Draw(t, "i")
		want := m.terms[i]
		if term, err := s.Term(first + uint64(i)); err != nil || term != want {
			t.Fatalf("term of %d is %d, %v, want %d", first+uint64(i), term, err, want)
		}
	}
	if len(m.terms) == 0 {
		return
	}
	lo := rapid.Uint64Range(first, last).Draw(t, "lo")
	hi := rapid.Uint64Range(lo+1, last+1).Draw(t, "hi")
	size := rapid.SampledFrom([]uint64{0, 500, 1 << 40}).Draw(t, "size")
	got, err := s.Entries(lo, hi, size)
	if err != nil || len(got) == 0 || size == 1<<40 && uint64(len(got)) != hi-lo {
		t.Fatalf("entries [%d, %d): %d, %v", lo, hi, len(got), err)
	}
	for i, e := range got {
		index := lo + uint64(i)
		term := m.terms[index-first]
		if e.GetIndex() != index || e.GetTerm() != term || string(e.GetData()) != fmt.Sprintf("%d/%d", index, term) {
			t.Fatalf("entry %d is %v", index, e)
		}
	}
}

// The log behaves like a list, whatever is in memory and whatever is on disk.
func TestLogStoreAgainstAModel(t *testing.T) {
	db := openDB(t, vfs.NewMem(), "log")
	defer db.Close()
	next := proto.RangeID(4)
	rapid.Check(t, func(t *rapid.T) {
		next += 2 // untouched ranges: the deletes of others cost time
		r, neighbour := next, next+1
		cache := rapid.SampledFrom([]int{1, 300, 1 << 20}).Draw(t, "cache")
		write := func(f func(b *pebble.Batch)) {
			b := db.NewBatch()
			defer b.Close()
			f(b)
			if err := b.Commit(pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		other := &logStore{rng: neighbour, db: db, cacheMax: 1}
		s := &logStore{rng: r, db: db, cacheMax: cache}
		m := &logModel{truncated: place{index: 10, term: 1}}
		write(func(b *pebble.Batch) { s.reset(b, m.truncated); other.reset(b, place{index: 3, term: 1}) })
		term := uint64(1)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				term += uint64(rapid.IntRange(0, 1).Draw(t, "new term"))
				from := rapid.Uint64Range(m.truncated.index+1, m.last()+1).Draw(t, "from")
				m.terms = m.terms[:from-m.truncated.index-1]
				var entries []*raftpb.Entry
				for i := range uint64(rapid.IntRange(1, 6).Draw(t, "count")) {
					entries = append(entries, &raftpb.Entry{
						Index: new(from + i), Term: new(term), Data: fmt.Appendf(nil, "%d/%d", from+i, term),
					})
					m.terms = append(m.terms, term)
				}
				write(func(b *pebble.Batch) { s.append(b, entries) })
			},
			"truncate": func(t *rapid.T) {
				if len(m.terms) == 0 {
					t.Skip()
				}
				n := rapid.IntRange(1, len(m.terms)).Draw(t, "n")
				to := place{index: m.truncated.index + uint64(n), term: m.terms[n-1]}
				m.truncated, m.terms = to, m.terms[n:]
				write(func(b *pebble.Batch) { s.truncate(b, to) })
			},
			"reset": func(t *rapid.T) {
				m.truncated, m.terms = place{index: m.last() + 7, term: term}, nil
				write(func(b *pebble.Batch) { s.reset(b, m.truncated) })
			},
			"forget cache": func(*rapid.T) { s.forgetCache() },
			"reopen": func(t *rapid.T) {
				var found bool
				var err error
				if s, found, err = openLogStore(db, r, cache); err != nil || !found {
					t.Fatal(found, err)
				}
			},
			"": func(t *rapid.T) {
				m.check(t, s)
				if o, found, err := openLogStore(db, neighbour, 1); err != nil || !found || o.last.index != 3 {
					t.Fatalf("the neighbour's log changed: %v %v", found, err)
				}
			},
		})
	})
}

// Whatever stands in a record is decoded or refused, and nothing else.
func FuzzRecords(f *testing.F) {
	f.Add(identity{stage: stageCreated, replica: 3, tombstone: 2, incarnation: []byte("x")}.encode())
	f.Add(place{index: 1, term: 2}.encode())
	f.Add(encodeHardState(&raftpb.HardState{Term: new(uint64(7))}))
	f.Add(encodeEntry(&raftpb.Entry{Term: new(uint64(3)), Data: []byte("data")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := decodeIdentity(b); err == nil && string(id.encode()) != string(b) {
			t.Errorf("identity %x became %x", b, id.encode())
		}
		if p, err := decodePlace(b); err == nil && string(p.encode()) != string(b) {
			t.Errorf("place %x became %x", b, p.encode())
		}
		if h, err := decodeHardState(b); err == nil && string(encodeHardState(h)) != string(b) {
			t.Errorf("hard state %x became %x", b, encodeHardState(h))
		}
		if e, err := decodeEntry(4, b); err == nil && string(encodeEntry(e)) != string(b) {
			t.Errorf("entry %x became %x", b, encodeEntry(e))
		}
	})
}
