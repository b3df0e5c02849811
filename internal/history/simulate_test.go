package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// world is a chat without faults, whose clients retry, lose answers, connect
// again and resynchronise. Its history must be accepted whatever the dice say.
type world struct {
	rec     *Recorder
	dice    func(n int) int // 0 … n-1
	threads map[string][]*clientpb.Event
	logs    map[proto.EntityID][]*clientpb.Event
	devices []*simDevice
	clock   time.Time
	ids     uint64
}

type simDevice struct {
	*DeviceRecorder
	user    proto.EntityID
	pts     int
	outbox  []*simPost // posted and not acknowledged, by order
	lacking []lackingBody
}

type simPost struct {
	Post
	thread, text string
	id           proto.ClientMsgID
}

type lackingBody struct {
	pts   proto.Pts
	event *clientpb.Event
}

func newWorld(users, devices int, dice func(int) int) *world {
	w := &world{
		rec: NewRecorder(), dice: dice, threads: map[string][]*clientpb.Event{}, logs: map[proto.EntityID][]*clientpb.Event{},
		clock: time.UnixMilli(1_700_000_000_000),
	}
	for u := range users {
		for d := range devices {
			id := proto.EntityID(100 + u)
			w.devices = append(w.devices, &simDevice{DeviceRecorder: w.rec.Device(id, fmt.Sprint("d", d)), user: id})
		}
	}
	return w
}

func (w *world) nextID() proto.ClientMsgID {
	w.ids++
	id := proto.NewClientMsgID(w.clock)
	binary.BigEndian.PutUint64(id[8:], w.ids|1<<63)
	return id
}

func (w *world) post(d *simDevice) {
	peer := w.devices[w.dice(len(w.devices))].user
	if peer == d.user {
		return
	}
	p := &simPost{thread: proto.DirectThread(d.user, peer).String(), id: w.nextID()}
	p.text = fmt.Sprintf("text %d", w.ids)
	p.Post = d.Posted(p.thread, p.text)
	d.outbox = append(d.outbox, p)
}

// store is what the server does with a send, the first time it comes.
func (w *world) store(d *simDevice, p *simPost) *clientpb.Event {
	for _, e := range w.threads[p.thread] {
		if proto.ClientMsgID(e.ClientMsgId) == p.id {
			return e
		}
	}
	w.clock = w.clock.Add(time.Duration(w.dice(3)) * time.Millisecond)
	e := &clientpb.Event{
		Thread: p.thread, Seq: uint64(len(w.threads[p.thread]) + 1), From: uint64(d.user), TimeMs: w.clock.UnixMilli(),
		ClientMsgId: p.id[:], Body: &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: p.text}},
	}
	w.threads[p.thread] = append(w.threads[p.thread], e)
	thread, _ := proto.ParseThreadID(p.thread)
	for _, user := range []proto.EntityID{thread.Low, thread.High} {
		w.logs[user] = append(w.logs[user], e)
	}
	return e
}

// deliver sends the oldest post; the answer may be lost, the send repeated.
func (w *world) deliver(d *simDevice, answered bool) {
	if len(d.outbox) == 0 {
		return
	}
	p := d.outbox[0]
	e := w.store(d, p)
	if !answered {
		return
	}
	d.outbox = d.outbox[1:]
	p.Acked(proto.Seq(e.Seq), time.UnixMilli(e.TimeMs), p.id)
}

func (w *world) receive(d *simDevice, withoutBody bool) {
	log := w.logs[d.user]
	if d.pts == len(log) {
		return
	}
	e := log[d.pts]
	d.pts++
	if withoutBody {
		bare := &clientpb.Event{Thread: e.Thread, Seq: e.Seq, From: e.From, ClientMsgId: e.ClientMsgId, BodyMissing: true}
		d.Received(proto.Pts(d.pts), bare)
		d.lacking = append(d.lacking, lackingBody{proto.Pts(d.pts), e})
		return
	}
	d.Received(proto.Pts(d.pts), e)
}

// restart is a new run of the device's program: it has lost its outbox and
// knows some earlier place.
func (w *world) restart(d *simDevice) {
	for _, p := range d.outbox {
		p.Failed(errors.New("the program ended"))
	}
	d.outbox = nil
	d.DeviceRecorder = w.rec.Device(d.user, d.device.Name)
	d.pts -= w.dice(min(d.pts, 3) + 1)
	d.Placed(nil, proto.Pts(d.pts))
}

// resync puts the device anywhere, with its consent.
func (w *world) resync(d *simDevice) {
	d.pts = w.dice(len(w.logs[d.user]) + 1)
	d.Resynced(nil, proto.Pts(d.pts))
}

func (w *world) step() {
	d := w.devices[w.dice(len(w.devices))]
	switch w.dice(12) {
	case 0, 1, 2:
		w.post(d)
	case 3, 4, 5:
		w.deliver(d, true)
	case 6:
		w.deliver(d, false)
	case 7, 8:
		w.receive(d, false)
	case 9:
		w.receive(d, true)
	case 10:
		w.restart(d)
	case 11:
		if w.dice(4) == 0 {
			w.resync(d)
		}
	}
}

// finish lets everything become quiet and takes the servers' side.
func (w *world) finish() History {
	for _, d := range w.devices {
		for len(d.outbox) > 0 && w.dice(4) > 0 {
			w.deliver(d, true)
		}
	}
	for _, d := range w.devices {
		for d.pts < len(w.logs[d.user]) {
			w.receive(d, false)
		}
		for _, l := range d.lacking {
			d.BodyReceived(l.pts, l.event)
		}
		d.Settled(proto.Pts(d.pts))
	}
	for _, events := range w.threads {
		w.rec.Stored(events...)
	}
	for epoch := range proto.Epoch(3) {
		for _, node := range []string{"e1", "c1-n1"} {
			w.rec.Owner(Owner{Observer: node, Range: 1, Epoch: epoch + 1, Cell: proto.CellID(fmt.Sprint("c", epoch+1))})
		}
	}
	for index := range uint64(3) {
		for replica := range proto.ReplicaID(3) {
			w.rec.Hash(Hash{Range: 1, Replica: replica + 1, Index: index + 1, Hash: index * 7})
		}
	}
	return w.rec.History()
}
