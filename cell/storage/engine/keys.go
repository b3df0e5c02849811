package engine

import (
	"bytes"
	"encoding/binary"

	"github.com/waggle-im/waggle/proto"
)

// State keys. Numbers are big endian, so that keys sort as numbers do.
//
// Per entity, in the range's entity span:
//
//	entity(8) 'A'                           UpdateLog      the user's log: incarnation, trimmed
//	entity(8) 'C' peer(8)                   Contact
//	entity(8) 'D' device                    Device
//	entity(8) 'E' peer(8) seq(8)            StoredEvent    events of a thread this entity owns
//	entity(8) 'F' number(8)                 StoredFile
//	entity(8) 'H' peer(8)                   ThreadHeader
//	entity(8) 'I' client_msg_id(16) from(8) SentRow        by time: the id begins with it
//	entity(8) 'L' number(8)                 StoredLive
//	entity(8) 'M'                           LiveBook       the user's livestreams
//	entity(8) 'P'                           Profile
//	entity(8) 'Q'                           FileUsage      what the user's files take
//	entity(8) 'R' number(8) low(8) high(8) seq(8)   a message that carries the file
//	entity(8) 'T' low(8) high(8)            JoinedThread   threads the entity takes part in
//	entity(8) 'U' pts(8)                    StoredUpdate
//
// peer is the other user of a direct thread, 0 in a group's thread.
//
// Per range, in its local span. Entity id 0 is never given, so keys that begin
// with eight zero bytes are free for it:
//
//	0(8) range(8) 'a'                       RangeState     applied index, running hash, clock, grant
//	0(8) range(8) 'd'                       Descriptor
//	0(8) range(8) 'k' account_key           UserInfo       who was created for an account: the id
//	0(8) range(8) 'm'                       RangeMeta      incarnation
//	0(8) range(8) 'n' source(8)             number(8) incarnation(16)   last row counted of a channel to here
//	0(8) range(8) 'o' dest(8) number(8)     ChannelRow     channel from here
//	0(8) range(8) 'q' dest(8)               number(8)      channel from here: rows up to number are trimmed
//	0(8) range(8) 'w' user(8)               DirectFromRow  who may write to a user of another range
//
// The layout can never change; a new table takes a new tag.
const (
	TagUpdateLog = 'A'
	TagContact   = 'C'
	TagDevice    = 'D'
	TagEvent     = 'E'
	TagHeader    = 'H'
	TagSent      = 'I'
	TagProfile   = 'P'
	TagFile      = 'F'
	TagFileUsage = 'Q'
	TagFileSent  = 'R'
	TagLive      = 'L'
	TagLiveBook  = 'M'
	TagThread    = 'T'
	TagUpdate    = 'U'

	tagRangeState     = 'a'
	tagDescriptor     = 'd'
	tagAccountKey     = 'k'
	tagMeta           = 'm'
	tagChannelIn      = 'n'
	tagChannelOut     = 'o'
	tagChannelTrimmed = 'q'
	tagDirectFrom     = 'w'
)

// Span is the keys from Start up to, not including, End.
type Span struct{ Start, End []byte }

// Has tells whether key is in the span.
func (s Span) Has(key []byte) bool {
	return bytes.Compare(key, s.Start) >= 0 && bytes.Compare(key, s.End) < 0
}

// Spans are the two spans of a range: its entities, then its local records.
func Spans(r proto.RangeID) []Span {
	return []Span{EntitySpan(r), {Start: localKey(r, 0), End: localKey(r+1, 0)}}
}

// EntitySpan is the span of a range's entities.
func EntitySpan(r proto.RangeID) Span {
	end := binary.BigEndian.AppendUint64(nil, uint64(r.Last())+1)
	if r == proto.RangeIDMax {
		end = []byte{255, 255, 255, 255, 255, 255, 255, 255, 255}
	}
	return Span{Start: binary.BigEndian.AppendUint64(nil, uint64(r.First())), End: end}
}

func localKey(r proto.RangeID, tag byte) []byte {
	k := make([]byte, 8, 40)
	k = binary.BigEndian.AppendUint64(k, uint64(r))
	if tag != 0 {
		k = append(k, tag)
	}
	return k
}

// AllLocal is the span of the local records of all ranges.
func AllLocal() Span {
	return Span{Start: make([]byte, 8), End: binary.BigEndian.AppendUint64(nil, 1)}
}

// RangeOfLocalKey tells which range a local key belongs to.
func RangeOfLocalKey(key []byte) (proto.RangeID, bool) {
	if len(key) < 17 || binary.BigEndian.Uint64(key) != 0 {
		return 0, false
	}
	return proto.RangeID(binary.BigEndian.Uint64(key[8:])), true
}

// RangeStateKey holds the RangeState.
func RangeStateKey(r proto.RangeID) []byte { return localKey(r, tagRangeState) }

// DescriptorKey holds the Descriptor.
func DescriptorKey(r proto.RangeID) []byte { return localKey(r, tagDescriptor) }

// MetaKey holds the RangeMeta.
func MetaKey(r proto.RangeID) []byte { return localKey(r, tagMeta) }

// AccountKeyKey holds the entity created for an account key.
func AccountKeyKey(r proto.RangeID, account []byte) []byte {
	return append(localKey(r, tagAccountKey), account...)
}

// ChannelInKey holds the last row counted of the channel source → r.
func ChannelInKey(r, source proto.RangeID) []byte {
	return binary.BigEndian.AppendUint64(localKey(r, tagChannelIn), uint64(source))
}

// ChannelOutSpan is all rows of all channels from r.
func ChannelOutSpan(r proto.RangeID) Span {
	return Span{Start: localKey(r, tagChannelOut), End: localKey(r, tagChannelOut+1)}
}

// ChannelOutKey holds row number of the channel r → dest.
func ChannelOutKey(r, dest proto.RangeID, number uint64) []byte {
	k := binary.BigEndian.AppendUint64(localKey(r, tagChannelOut), uint64(dest))
	return binary.BigEndian.AppendUint64(k, number)
}

// ParseChannelOutKey is the inverse of [ChannelOutKey], without the range.
func ParseChannelOutKey(key []byte) (dest proto.RangeID, number uint64, ok bool) {
	if len(key) != 33 || key[16] != tagChannelOut {
		return 0, 0, false
	}
	return proto.RangeID(binary.BigEndian.Uint64(key[17:])), binary.BigEndian.Uint64(key[25:]), true
}

// ChannelTrimmedKey holds the number up to which the channel r → dest is
// trimmed.
func ChannelTrimmedKey(r, dest proto.RangeID) []byte {
	return binary.BigEndian.AppendUint64(localKey(r, tagChannelTrimmed), uint64(dest))
}

// EntityKey begins every key of one table of an entity.
func EntityKey(id proto.EntityID, tag byte) []byte {
	k := make([]byte, 0, 40)
	k = binary.BigEndian.AppendUint64(k, uint64(id))
	return append(k, tag)
}

// TableSpan is one table of an entity.
func TableSpan(id proto.EntityID, tag byte) Span {
	return Span{Start: EntityKey(id, tag), End: EntityKey(id, tag+1)}
}

// DeviceKey holds a Device.
func DeviceKey(user proto.EntityID, device string) []byte {
	return append(EntityKey(user, TagDevice), device...)
}

// ContactKey holds what user and peer are to each other, as user sees it.
func ContactKey(user, peer proto.EntityID) []byte {
	return binary.BigEndian.AppendUint64(EntityKey(user, TagContact), uint64(peer))
}

// DirectFromKey holds what range r knows of who may write to a user of
// another range.
func DirectFromKey(r proto.RangeID, user proto.EntityID) []byte {
	return binary.BigEndian.AppendUint64(localKey(r, tagDirectFrom), uint64(user))
}

// threadKey begins the keys of one thread in a table of its owner.
func threadKey(t proto.ThreadID, tag byte) []byte {
	owner := t.Owner()
	peer := proto.EntityID(0)
	if t.Direct() {
		peer = t.Peer(owner)
	}
	return binary.BigEndian.AppendUint64(EntityKey(owner, tag), uint64(peer))
}

// EventKey holds the event seq of a thread.
func EventKey(t proto.ThreadID, seq proto.Seq) []byte {
	return binary.BigEndian.AppendUint64(threadKey(t, TagEvent), uint64(seq))
}

// EventSpan is the events of a thread from first up to, not including, end.
func EventSpan(t proto.ThreadID, first, end proto.Seq) Span {
	return Span{Start: EventKey(t, first), End: EventKey(t, end)}
}

// HeaderKey holds a ThreadHeader.
func HeaderKey(t proto.ThreadID) []byte { return threadKey(t, TagHeader) }

// SentKey holds the SentRow of a client message id.
func SentKey(owner proto.EntityID, id proto.ClientMsgID, from proto.EntityID) []byte {
	return binary.BigEndian.AppendUint64(append(EntityKey(owner, TagSent), id[:]...), uint64(from))
}

// ThreadKey holds a user's JoinedThread.
func ThreadKey(user proto.EntityID, t proto.ThreadID) []byte {
	k := binary.BigEndian.AppendUint64(EntityKey(user, TagThread), uint64(t.Low))
	return binary.BigEndian.AppendUint64(k, uint64(t.High))
}

// ParseThreadKey is the inverse of [ThreadKey], without the user.
func ParseThreadKey(key []byte) (proto.ThreadID, bool) {
	if len(key) != 25 || key[8] != TagThread {
		return proto.ThreadID{}, false
	}
	return proto.ThreadID{
		Low:  proto.EntityID(binary.BigEndian.Uint64(key[9:])),
		High: proto.EntityID(binary.BigEndian.Uint64(key[17:])),
	}, true
}

// FileKey holds a user's StoredFile.
func FileKey(user proto.EntityID, number uint64) []byte {
	return binary.BigEndian.AppendUint64(EntityKey(user, TagFile), number)
}

// FileSentKey says that a message carries a user's file.
func FileSentKey(user proto.EntityID, number uint64, t proto.ThreadID, seq proto.Seq) []byte {
	k := binary.BigEndian.AppendUint64(EntityKey(user, TagFileSent), number)
	k = binary.BigEndian.AppendUint64(k, uint64(t.Low))
	k = binary.BigEndian.AppendUint64(k, uint64(t.High))
	return binary.BigEndian.AppendUint64(k, uint64(seq))
}

// FileSentSpan is the messages that carry a user's file.
func FileSentSpan(user proto.EntityID, number uint64) Span {
	start := binary.BigEndian.AppendUint64(EntityKey(user, TagFileSent), number)
	if number == ^uint64(0) {
		return Span{Start: start, End: EntityKey(user, TagFileSent+1)}
	}
	return Span{Start: start, End: binary.BigEndian.AppendUint64(EntityKey(user, TagFileSent), number+1)}
}

// ParseFileSentKey is the inverse of [FileSentKey], without the user and the
// number.
func ParseFileSentKey(key []byte) (t proto.ThreadID, seq proto.Seq, ok bool) {
	if len(key) != 41 || key[8] != TagFileSent {
		return proto.ThreadID{}, 0, false
	}
	t.Low = proto.EntityID(binary.BigEndian.Uint64(key[17:]))
	t.High = proto.EntityID(binary.BigEndian.Uint64(key[25:]))
	return t, proto.Seq(binary.BigEndian.Uint64(key[33:])), true
}

// LiveKey holds a user's StoredLive.
func LiveKey(user proto.EntityID, number uint64) []byte {
	return binary.BigEndian.AppendUint64(EntityKey(user, TagLive), number)
}

// UpdateKey holds a StoredUpdate.
func UpdateKey(user proto.EntityID, pts proto.Pts) []byte {
	return binary.BigEndian.AppendUint64(EntityKey(user, TagUpdate), uint64(pts))
}

// LastNumber is the big-endian number that ends key: the pts of an update
// key, the seq of an event key.
func LastNumber(key []byte) uint64 {
	if len(key) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key[len(key)-8:])
}
