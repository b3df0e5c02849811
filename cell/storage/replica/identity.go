package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/waggle-im/waggle/proto"
)

// Keys of the log store, numbers in big endian:
//
//	range(8) 'd'            tombstone: the descriptor that did not name this node any more
//	range(8) 'e' index(8)   entry: type(1) term(8) data
//	range(8) 'g'            a snapshot being installed
//	range(8) 'h'            hard state: term(8) vote(8) commit(8)
//	range(8) 'i'            identity of this node's replica
//	range(8) 't'            truncated: index(8) term(8) of the last entry cut off
const (
	tagTombstone = 'd'
	tagEntry     = 'e'
	tagInstall   = 'g'
	tagHardState = 'h'
	tagIdentity  = 'i'
	tagTruncated = 't'
)

func logKey(r proto.RangeID, tag byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 17), uint64(r)), tag)
}

func entryKey(r proto.RangeID, index uint64) []byte {
	return binary.BigEndian.AppendUint64(logKey(r, tagEntry), index)
}

// identity says which replica of a range this node holds. It is written before
// the state and completed after it, so that a lost half is noticed: a replica
// that forgot its votes must never come back under the same id.
type identity struct {
	stage       stage
	replica     uint64 // held here; 0: none
	tombstone   uint64 // the lowest replica id still allowed
	incarnation []byte
}

// stage is where a replica is in its life:
//
//	(none) ──► creating ──► created ──► removing ──► (none, with a tombstone)
//	   └─────► empty ──snapshot──┘        ▲
//	             └────────────────────────┘
//	created ──► recovering ──► created
type stage byte

const (
	stageCreating stage = 0 // its state may be half written
	stageCreated  stage = 1
	stageEmpty    stage = 2 // it has no state before its first snapshot
	stageRemoving stage = 3 // its state may be half deleted
	// It is the one voter of its log, under a new id that the descriptor does
	// not name yet.
	stageRecovering stage = 4
)

const identityFormat = 1

func (i identity) encode() []byte {
	b := []byte{identityFormat, byte(i.stage)}
	b = binary.BigEndian.AppendUint64(b, i.replica)
	b = binary.BigEndian.AppendUint64(b, i.tombstone)
	return append(b, i.incarnation...)
}

func decodeIdentity(b []byte) (identity, error) {
	if len(b) < 18 || b[0] != identityFormat || b[1] > byte(stageRecovering) {
		return identity{}, errors.New("the identity record is damaged or of a newer release")
	}
	return identity{
		stage:       stage(b[1]),
		replica:     binary.BigEndian.Uint64(b[2:]),
		tombstone:   binary.BigEndian.Uint64(b[10:]),
		incarnation: append([]byte(nil), b[18:]...),
	}, nil
}

func readIdentity(db *pebble.DB, r proto.RangeID) (identity, bool, error) {
	v, found, err := get(db, logKey(r, tagIdentity))
	if err != nil || !found {
		return identity{}, false, err
	}
	id, err := decodeIdentity(v)
	if err != nil {
		return identity{}, false, fmt.Errorf("replica: range %s: %w", r, err)
	}
	return id, true, nil
}

// identities lists every range with an identity record.
func identities(db *pebble.DB) (map[proto.RangeID]identity, error) {
	it, err := db.NewIter(nil)
	if err != nil {
		return nil, fmt.Errorf("replica: list the log store: %w", err)
	}
	defer it.Close()
	out := map[proto.RangeID]identity{}
	for ok := it.First(); ok; {
		if len(it.Key()) < 9 {
			ok = it.Next()
			continue
		}
		r := proto.RangeID(binary.BigEndian.Uint64(it.Key()))
		id, found, err := readIdentity(db, r)
		if err != nil {
			return nil, err
		}
		if found {
			out[r] = id
		}
		ok = it.SeekGE(logKey(r, 0xff))
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("replica: list the log store: %w", err)
	}
	return out, nil
}

// get copies a value out of the store.
func get(db pebble.Reader, key []byte) ([]byte, bool, error) {
	v, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("replica: read key %x: %w", key, err)
	}
	defer closer.Close()
	return append([]byte(nil), v...), true, nil
}

// place is a position in a log.
type place struct{ index, term uint64 }

func (p place) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, p.index), p.term)
}

func decodePlace(b []byte) (place, error) {
	if len(b) != 16 {
		return place{}, errors.New("the truncation record is damaged")
	}
	return place{index: binary.BigEndian.Uint64(b), term: binary.BigEndian.Uint64(b[8:])}, nil
}

func encodeHardState(h *raftpb.HardState) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 24), h.GetTerm())
	b = binary.BigEndian.AppendUint64(b, h.GetVote())
	return binary.BigEndian.AppendUint64(b, h.GetCommit())
}

func decodeHardState(b []byte) (*raftpb.HardState, error) {
	if len(b) != 24 {
		return nil, errors.New("the hard state is damaged")
	}
	return &raftpb.HardState{
		Term:   new(binary.BigEndian.Uint64(b)),
		Vote:   new(binary.BigEndian.Uint64(b[8:])),
		Commit: new(binary.BigEndian.Uint64(b[16:])),
	}, nil
}

func encodeEntry(e *raftpb.Entry) []byte {
	b := append(make([]byte, 0, 9+len(e.GetData())), byte(e.GetType()))
	b = binary.BigEndian.AppendUint64(b, e.GetTerm())
	return append(b, e.GetData()...)
}

func decodeEntry(index uint64, b []byte) (*raftpb.Entry, error) {
	if len(b) < 9 || b[0] > byte(raftpb.EntryConfChangeV2) {
		return nil, fmt.Errorf("entry %d is damaged", index)
	}
	e := &raftpb.Entry{
		Type:  raftpb.EntryType(b[0]).Enum(),
		Term:  new(binary.BigEndian.Uint64(b[1:])),
		Index: new(index),
	}
	if len(b) > 9 {
		e.Data = append([]byte(nil), b[9:]...)
	}
	return e, nil
}
