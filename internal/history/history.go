package history

import (
	"github.com/zeebo/xxh3"

	"github.com/waggle-im/waggle/proto"
)

// TextHash stands for a message's text; 0 means that the text is not known.
type TextHash uint64

// HashText is the hash of a text, never 0.
func HashText(text string) TextHash { return TextHash(max(1, xxh3.HashString(text))) }

// Device names one device of one user.
type Device struct {
	User proto.EntityID
	Name string
}

// Posted is a message that a program put into its outbox. The slice holds
// them by order of posting.
type Posted struct {
	Number uint64 // unique in the history
	Device Device
	Run    uint32 // of the device's program: an outbox does not outlive it
	Thread string
	Text   TextHash
}

// Acked is the server's answer to the post of that number.
type Acked struct {
	Number uint64
	Seq    proto.Seq
	TimeMs int64 // Unix milliseconds
	ID     proto.ClientMsgID
}

// Failed is a post that its program gave up. It may have been stored.
type Failed struct {
	Number uint64
	Error  string
}

// Seen is one thing a device was told. The slice holds the ones of one device
// by order of their arrival.
type Seen struct {
	Device Device
	Kind   SeenKind
	Pts    proto.Pts
	// Placed and Resynced only: the life of the update log Pts counts in.
	Incarnation string
	// Update and Body only. Text is 0 where the body was missing. Thread is
	// empty for an update that is no event of a thread, such as a mark.
	Thread string
	Seq    proto.Seq
	ID     proto.ClientMsgID
	Text   TextHash
}

// SeenKind says what a device was told.
type SeenKind uint8

// The kinds of what is seen.
const (
	Update   SeenKind = iota // an update of the log
	Body                     // the text that an earlier update lacked
	Placed                   // connected: updates after Pts follow
	Resynced                 // told that updates up to Pts are to be read elsewhere
)

// Settled says that a device stayed connected until everything was quiet, and
// that the server's newest update then was Pts.
type Settled struct {
	Device Device
	Pts    proto.Pts
}

// Stored is one row of a thread, as the servers hold it in the end.
type Stored struct {
	Thread string
	Seq    proto.Seq
	From   proto.EntityID
	TimeMs int64 // Unix milliseconds
	ID     proto.ClientMsgID
	Text   TextHash
}

// Owner is what an observer (a node, a watch) believed about a range. The
// slice holds those of one observer by order.
type Owner struct {
	Observer string
	Range    proto.RangeID
	Epoch    proto.Epoch
	Cell     proto.CellID
}

// Hash is a replica's running hash at an applied index.
type Hash struct {
	Range   proto.RangeID
	Replica proto.ReplicaID
	Index   uint64
	Hash    uint64
}

// History is everything known of a run. The zero value is an empty one.
type History struct {
	Posted  []Posted
	Acked   []Acked
	Failed  []Failed
	Seen    []Seen
	Settled []Settled
	Stored  []Stored
	Owners  []Owner
	Hashes  []Hash
}

// Merge joins the histories of several recorders. Where a device appears in
// more than one of them, they must be given in the order of time.
func Merge(parts ...History) History {
	var out History
	var numbers uint64
	var runs uint32
	for _, h := range parts {
		nextNumber, nextRun := numbers, runs
		for _, p := range h.Posted {
			p.Number += numbers
			p.Run += runs
			nextNumber, nextRun = max(nextNumber, p.Number), max(nextRun, p.Run)
			out.Posted = append(out.Posted, p)
		}
		for _, a := range h.Acked {
			a.Number += numbers
			nextNumber = max(nextNumber, a.Number)
			out.Acked = append(out.Acked, a)
		}
		for _, f := range h.Failed {
			f.Number += numbers
			nextNumber = max(nextNumber, f.Number)
			out.Failed = append(out.Failed, f)
		}
		out.Seen = append(out.Seen, h.Seen...)
		out.Settled = append(out.Settled, h.Settled...)
		out.Stored = append(out.Stored, h.Stored...)
		out.Owners = append(out.Owners, h.Owners...)
		out.Hashes = append(out.Hashes, h.Hashes...)
		numbers, runs = nextNumber+1, nextRun+1
	}
	return out
}
