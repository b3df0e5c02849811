package proto

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// EntityID names a user or a group. There is one id space for both; 0 is
// never given.
type EntityID uint64

// String is the id in decimal, as it stands in JSON.
func (id EntityID) String() string { return strconv.FormatUint(uint64(id), 10) }

// Range is the range that owns id.
func (id EntityID) Range() RangeID { return RangeID(id / RangeEntities) }

// ParseEntityID reads a decimal id.
func ParseEntityID(s string) (EntityID, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not an id (a decimal number, at least 1)", s)
	}
	return EntityID(n), nil
}

// RangeEntities is the number of consecutive entity ids in a range.
const RangeEntities = 4096

// RangeID is the first entity id of a range divided by [RangeEntities].
type RangeID uint64

// RangeIDMax is the highest range: its last entity is the highest EntityID.
const RangeIDMax = RangeID(1<<64/RangeEntities - 1)

// String is the id in decimal.
func (r RangeID) String() string { return strconv.FormatUint(uint64(r), 10) }

// First is the lowest entity id of r that can be given.
func (r RangeID) First() EntityID { return max(1, EntityID(r)*RangeEntities) }

// Last is the highest entity id of r.
func (r RangeID) Last() EntityID { return EntityID(r)*RangeEntities + RangeEntities - 1 }

// Contains tells whether r owns id.
func (r RangeID) Contains(id EntityID) bool { return id != 0 && id.Range() == r }

// Epoch is the version of one range's ownership. It grows by one each time
// the owner changes and is never reused. The first is 1.
type Epoch uint64

// Seq numbers the events of a thread, dense from 1.
type Seq uint64

// Pts numbers the updates of a user's log, dense from 1.
type Pts uint64

// ReplicaID names one copy of a range; never reused within the range.
type ReplicaID uint64

// CellID names a cell, as in "c1".
type CellID string

// NodeID names a process of the cluster, as in "c1-n1" or "e1".
type NodeID string

// ClientMsgID is a UUIDv7 chosen by the client for one message. Sending the
// same one again gives the same message back.
type ClientMsgID [16]byte

// NewClientMsgID makes an id at now, which should be the server's time.
func NewClientMsgID(now time.Time) ClientMsgID {
	var id ClientMsgID
	u := uuid.New()
	copy(id[:], u[:])
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli())<<16)
	copy(id[:6], ms[:6])
	id[6] = id[6]&0x0f | 0x70
	return id
}

// ClientMsgIDFromBytes checks that b is a UUIDv7.
func ClientMsgIDFromBytes(b []byte) (ClientMsgID, error) {
	var id ClientMsgID
	if len(b) != len(id) || b[6]>>4 != 7 || b[8]>>6 != 2 {
		return id, fmt.Errorf("client_msg_id must be a UUIDv7 of 16 bytes")
	}
	copy(id[:], b)
	return id, nil
}

// Time is the time inside the id, to the millisecond.
func (id ClientMsgID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16))
}

// String is the id in the usual form with dashes.
func (id ClientMsgID) String() string { return uuid.UUID(id).String() }

// ThreadID names a conversation. It is comparable. The zero value names none.
type ThreadID struct {
	// Low and High are the two users of a direct thread, Low < High.
	// In a group Low is 0 and High is the group.
	Low, High EntityID
}

// DirectThread is the thread of two different users, in any order.
func DirectThread(a, b EntityID) ThreadID { return ThreadID{Low: min(a, b), High: max(a, b)} }

// GroupThread is the thread of a group.
func GroupThread(group EntityID) ThreadID { return ThreadID{High: group} }

// ParseThreadID reads "d/17/4242" or "g/90001".
func ParseThreadID(s string) (ThreadID, error) {
	bad := func() (ThreadID, error) {
		return ThreadID{}, fmt.Errorf("%q is not a thread (d/SMALLER/LARGER or g/GROUP)", s)
	}
	kind, rest, ok := strings.Cut(s, "/")
	if !ok {
		return bad()
	}
	switch kind {
	case "g":
		group, err := parseCanonical(rest)
		if err != nil {
			return bad()
		}
		return GroupThread(group), nil
	case "d":
		l, h, ok := strings.Cut(rest, "/")
		if !ok {
			return bad()
		}
		low, err1 := parseCanonical(l)
		high, err2 := parseCanonical(h)
		if err1 != nil || err2 != nil || low >= high {
			return bad()
		}
		return ThreadID{Low: low, High: high}, nil
	}
	return bad()
}

// parseCanonical refuses other spellings of an id ("017", "+17"), so that a
// thread has one name only.
func parseCanonical(s string) (EntityID, error) {
	id, err := ParseEntityID(s)
	if err == nil && id.String() != s {
		err = fmt.Errorf("%q is not written as usual", s)
	}
	return id, err
}

// String is the thread's name on the wire.
func (t ThreadID) String() string {
	if t.Direct() {
		return "d/" + t.Low.String() + "/" + t.High.String()
	}
	return "g/" + t.High.String()
}

// Direct tells a direct thread from a group.
func (t ThreadID) Direct() bool { return t.Low != 0 }

// Has tells whether user is one of the two users of a direct thread.
func (t ThreadID) Has(user EntityID) bool {
	return t.Direct() && (user == t.Low || user == t.High)
}

// Peer is the other user of a direct thread.
func (t ThreadID) Peer(user EntityID) EntityID {
	if user == t.Low {
		return t.High
	}
	return t.Low
}

// Owner is the entity under whose id the thread is stored: the group, or one
// of the two users of a direct thread, by the lowest bit of
// splitmix64(splitmix64(smaller) + larger), 0 meaning the smaller.
//
// The rule is part of the stored format: it can never change.
func (t ThreadID) Owner() EntityID {
	if !t.Direct() {
		return t.High
	}
	if splitmix64(splitmix64(uint64(t.Low))+uint64(t.High))&1 == 0 {
		return t.Low
	}
	return t.High
}

// OwnerRange is the range that orders the thread.
func (t ThreadID) OwnerRange() RangeID { return t.Owner().Range() }

// splitmix64 is the output function of Steele, Lea and Flood, "Fast
// splittable pseudorandom number generators", 2014. A plain XOR of
// neighbouring ids is nearly constant and would give one side everything.
func splitmix64(x uint64) uint64 {
	z := x + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
