package history

import (
	"fmt"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Recorder gathers a history from any number of goroutines. Use [NewRecorder].
// Each record takes a lock for an append; memory grows by about 100 bytes per
// record until the recorder is dropped.
type Recorder struct {
	mu      sync.Mutex // guards the fields below
	posted  chunks[Posted]
	acked   chunks[Acked]
	failed  chunks[Failed]
	seen    chunks[Seen]
	settled chunks[Settled]
	stored  chunks[Stored]
	owners  chunks[Owner]
	hashes  chunks[Hash]
	numbers uint64
	runs    uint32
	names   map[string]string // threads, so that equal ones share memory
}

// NewRecorder makes an empty recorder.
func NewRecorder() *Recorder { return &Recorder{names: map[string]string{}} }

// History is a copy of what was recorded so far.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return History{
		Posted: r.posted.all(), Acked: r.acked.all(), Failed: r.failed.all(), Seen: r.seen.all(),
		Settled: r.settled.all(), Stored: r.stored.all(), Owners: r.owners.all(), Hashes: r.hashes.all(),
	}
}

func (r *Recorder) internLocked(thread string) string {
	if have, ok := r.names[thread]; ok {
		return have
	}
	r.names[thread] = thread
	return thread
}

// Stored records the rows of a thread, as a server holds them in the end.
func (r *Recorder) Stored(events ...*clientpb.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		s := Stored{
			Thread: r.internLocked(e.Thread), Seq: proto.Seq(e.Seq), From: proto.EntityID(e.From), TimeMs: e.TimeMs,
			Text: textOf(e),
		}
		copy(s.ID[:], e.ClientMsgId)
		r.stored.add(s)
	}
}

// Owner records what an observer believes about a range.
func (r *Recorder) Owner(o Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners.add(o)
}

// Hash records a replica's running hash.
func (r *Recorder) Hash(h Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hashes.add(h)
}

// Device begins the records of one run of a device's program: what an outbox
// lives for. A program that is started again with the device begins a new one.
func (r *Recorder) Device(user proto.EntityID, name string) *DeviceRecorder {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs++
	return &DeviceRecorder{r: r, device: Device{User: user, Name: name}, run: r.runs}
}

// DeviceRecorder records what one run of a device does and sees. Posted must
// be called in the order of posting.
type DeviceRecorder struct {
	r      *Recorder
	device Device
	run    uint32
}

// Post is a message on its way.
type Post struct {
	r      *Recorder
	number uint64
}

// Posted records a message, before it is given to the client's outbox. The
// text must be unlike every other text of the history.
func (d *DeviceRecorder) Posted(thread, text string) Post {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	d.r.numbers++
	d.r.posted.add(Posted{
		Number: d.r.numbers, Device: d.device, Run: d.run, Thread: d.r.internLocked(thread), Text: HashText(text),
	})
	return Post{r: d.r, number: d.r.numbers}
}

// Acked records the server's answer.
func (p Post) Acked(seq proto.Seq, at time.Time, id proto.ClientMsgID) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	p.r.acked.add(Acked{Number: p.number, Seq: seq, TimeMs: at.UnixMilli(), ID: id})
}

// Failed records that the program gave the message up.
func (p Post) Failed(err error) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	p.r.failed.add(Failed{Number: p.number, Error: err.Error()})
}

// Received records an update; e is nil for one that is no event of a thread,
// such as a mark. It fits the client's OnUpdate.
func (d *DeviceRecorder) Received(pts proto.Pts, e *clientpb.Event) { d.event(Update, pts, e) }

// BodyReceived records the event of an update that came without body. It fits
// the client's OnBody.
func (d *DeviceRecorder) BodyReceived(pts proto.Pts, e *clientpb.Event) { d.event(Body, pts, e) }

func (d *DeviceRecorder) event(kind SeenKind, pts proto.Pts, e *clientpb.Event) {
	s := Seen{Device: d.device, Kind: kind, Pts: pts, Seq: proto.Seq(e.GetSeq()), Text: textOf(e)}
	copy(s.ID[:], e.GetClientMsgId())
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	s.Thread = d.r.internLocked(e.GetThread())
	d.r.seen.add(s)
}

// Placed records that updates after pts follow. A run that does not begin at
// the first update of the log must say so before its first Received.
func (d *DeviceRecorder) Placed(incarnation []byte, pts proto.Pts) { d.place(Placed, incarnation, pts) }

// Resynced records that the device was told to resynchronise. It fits the
// client's OnResync.
func (d *DeviceRecorder) Resynced(incarnation []byte, pts proto.Pts) {
	d.place(Resynced, incarnation, pts)
}

func (d *DeviceRecorder) place(kind SeenKind, incarnation []byte, pts proto.Pts) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	d.r.seen.add(Seen{Device: d.device, Kind: kind, Pts: pts, Incarnation: string(incarnation)})
}

// Settled records that the device stayed connected until everything was
// quiet, and the server's newest update of the user.
func (d *DeviceRecorder) Settled(newest proto.Pts) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	d.r.settled.add(Settled{Device: d.device, Pts: newest})
}

func textOf(e *clientpb.Event) TextHash {
	switch {
	case e.GetText() != nil:
		return HashText(e.GetText().GetText())
	case e.GetLocation() != nil:
		l := e.GetLocation()
		return HashText(fmt.Sprint("location ", l.Latitude, l.Longitude, l.Name))
	case e.GetCard() != nil:
		return HashText(fmt.Sprint("card ", e.GetCard().User))
	}
	return 0
}
