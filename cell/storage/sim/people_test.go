package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const usersPerRange = 2

// device is a person's program: it sends until it is told, and reads.
type device struct {
	*history.DeviceRecorder
	w       *world
	user    proto.EntityID
	name    string
	outbox  []*post // posted and not over, by order
	last    map[string]proto.ClientMsgID
	idMs    int64 // the time of its ids is never below
	pts     proto.Pts
	lacking []lackingBody
}

type post struct {
	history.Post
	thread    proto.ThreadID
	text      string
	id, after proto.ClientMsgID
	chained   bool // has an after
	over      bool
	dead      bool // of a run of the program that is over
	next      int  // moment of the next try
}

type lackingBody struct {
	pts    proto.Pts
	thread string
	seq    uint64
}

func incarnation(r proto.RangeID) []byte { return fmt.Appendf(nil, "incarnation-%04d", r) }

// populate creates the users, in fair weather, and their devices.
func (w *world) populate() {
	missing := len(w.ranges) * usersPerRange
	for _, r := range w.ranges {
		for i := range usersPerRange {
			key := fmt.Appendf(nil, "account-%04d-%03d", r, i)
			user := r.First() + proto.EntityID(i)
			w.keepAsking(r, &cellpb.Command{Body: &cellpb.Command_CreateUser{
				CreateUser: &cellpb.CreateUser{AccountKey: key, Name: fmt.Sprintf("user %d", user)},
			}}, func() bool { return i == 0 || w.userCount(r) == i }, func(*cellpb.Result) { missing-- })
			for d := range 1 + i {
				name := fmt.Sprint("d", d)
				w.people = append(w.people, &device{
					DeviceRecorder: w.rec.Device(user, name), w: w, user: user, name: name, last: map[string]proto.ClientMsgID{},
				})
			}
		}
	}
	w.until("users", func() bool { return missing == 0 })
	for _, d := range w.people {
		d.Placed(incarnation(d.user.Range()), 0)
	}
}

func (w *world) userCount(r proto.RangeID) int { return w.judge.created[r] }

// keepAsking repeats a command until it is done. Only in fair weather.
func (w *world) keepAsking(r proto.RangeID, cmd *cellpb.Command, ready func() bool, done func(*cellpb.Result)) {
	over := false
	var again func()
	again = func() {
		if over {
			return
		}
		if ready() {
			w.request(outside, r, cmd, func(res *cellpb.Result, _ *cellpb.Applied) {
				if !over && res.Code == 0 {
					over = true
					w.judge.created[r]++
					done(res)
				}
			})
		}
		w.net.number++
		w.net.flying = append(w.net.flying, &packet{
			due: w.moment + 4*momentsPerTick*len(w.nodes), number: w.net.number, from: outside, to: outside, deliver: again,
		})
	}
	again()
}

// until lets time pass in fair weather.
func (w *world) until(what string, cond func() bool) {
	end := w.moment + settleTicks*momentsPerTick*len(w.nodes)
	for !cond() && len(w.judge.found) == 0 {
		if w.moment >= end {
			w.judge.violate("I12: not within %d ticks: %s", settleTicks, what)
			return
		}
		w.workHosts()
		w.next()
	}
}

func (w *world) workHosts() {
	for _, r := range w.ranges {
		if w.rng.IntN(8) == 0 {
			for _, h := range w.hosts[r] {
				h.work()
			}
		}
	}
}

// live lets people, hosts and relays do something.
func (w *world) live() {
	w.workHosts()
	if w.chance(6) {
		pick(w, w.people).post()
	}
	if w.chance(4) {
		pick(w, w.people).mingle()
	}
	w.chatter()
	if w.chance(2) {
		w.wakeLate()
	}
}

// chatter is what goes on after the last post too.
func (w *world) chatter() {
	if w.chance(25) {
		pick(w, w.people).send()
	}
	if w.chance(6) {
		pick(w, w.people).readUpdates()
	}
	if w.chance(6) {
		w.relay(pick(w, w.ranges))
	}
}

// post writes to one of a few people near and far.
func (d *device) post() {
	w := d.w
	peer := pick(w, w.people).user
	if w.chance(60) { // the same ones again, so that threads grow
		r := w.ranges[(int(d.user.Range())+w.rng.IntN(2))%len(w.ranges)]
		peer = r.First() + proto.EntityID(w.rng.IntN(usersPerRange))
	}
	if peer == d.user || len(d.outbox) >= 12 {
		return
	}
	thread := proto.DirectThread(d.user, peer)
	p := &post{thread: thread, id: d.newID()}
	p.text = fmt.Sprintf("text %d of %d.%s", w.ids, d.user, d.name)
	p.after, p.chained = d.last[thread.String()]
	p.Post = d.Posted(thread.String(), p.text)
	d.last[thread.String()] = p.id
	d.outbox = append(d.outbox, p)
}

func (d *device) newID() proto.ClientMsgID {
	w := d.w
	w.ids++
	var id proto.ClientMsgID
	binary.BigEndian.PutUint64(id[:8], uint64(max(w.nowMs(), d.idMs))<<16|0x7000)
	binary.BigEndian.PutUint64(id[8:], w.ids|1<<63)
	return id
}

// send sends what is due of the outbox.
func (d *device) send() {
	for _, p := range d.outbox {
		if d.w.moment >= p.next && !p.over {
			p.next = d.w.moment + (5+d.w.rng.IntN(40))*momentsPerTick*len(d.w.nodes)
			d.try(p)
		}
	}
}

func (d *device) try(p *post) {
	c := &cellpb.AppendMessage{
		Thread: p.thread.String(), From: uint64(d.user), ClientMsgId: p.id[:], Text: &cellpb.TextBody{Text: p.text}, Device: d.name,
	}
	if p.chained {
		c.After = p.after[:]
	}
	cmd := &cellpb.Command{Body: &cellpb.Command_AppendMessage{AppendMessage: c}}
	d.w.request(outside, p.thread.OwnerRange(), cmd, func(res *cellpb.Result, a *cellpb.Applied) { d.answered(p, res, a) })
}

func (d *device) answered(p *post, res *cellpb.Result, a *cellpb.Applied) {
	w := d.w
	w.note("answer", d.user, p.id.String(), res.Code, res.Seq)
	w.push(a)
	if p.dead {
		return // the program that would have heard it is none any more
	}
	switch proto.Code(res.Code) {
	case 0:
		w.count("acknowledged")
		if res.Repeated {
			w.count("acknowledged again")
		}
		p.Acked(proto.Seq(res.Seq), time.UnixMilli(res.TimeMs), p.id) // also again: it must be the same
		if !p.over {
			p.over = true
			d.forget(p)
		}
	case proto.CodeAfterUnknown, proto.CodeStaleGrant, proto.CodeStaleEpoch, proto.CodeOverloaded:
	case proto.CodeMessageTooOld:
		if !p.over {
			d.giveUp(max(d.idMs, w.judge.timeMs[p.thread.OwnerRange()]))
		}
	default:
		w.judge.violate("a send of %d to %s is refused: %d %s", d.user, p.thread, res.Code, res.Message)
	}
}

func (d *device) forget(p *post) {
	for i, have := range d.outbox {
		if have == p {
			d.outbox = append(d.outbox[:i:i], d.outbox[i+1:]...)
			return
		}
	}
}

// giveUp begins a new run of the program, with an empty outbox and the
// server's time.
func (d *device) giveUp(timeMs int64) {
	for _, p := range d.outbox {
		p.over, p.dead = true, true
		p.Failed(errors.New("too old"))
	}
	d.outbox, d.last, d.idMs = nil, map[string]proto.ClientMsgID{}, timeMs
	d.DeviceRecorder = d.w.rec.Device(d.user, d.name)
}

// push shows devices what applying logged, where it is the next they lack.
func (w *world) push(a *cellpb.Applied) {
	for _, u := range a.GetUpdates() {
		for _, d := range w.people {
			if uint64(d.user) == u.User && !w.chance(w.loss) {
				d.take(u)
			}
		}
	}
}

// take shows an update to a device, if it is the next.
func (d *device) take(u *cellpb.LoggedUpdate) {
	if proto.Pts(u.Pts) != d.pts+1 {
		return
	}
	d.pts++
	if u.Update.Body != nil { // a mark, a contact
		d.w.note("seen", d.user, d.name, u.Pts)
		d.w.count("updates beside messages")
		d.Received(d.pts, nil)
		return
	}
	event := &clientpb.Event{Thread: u.Update.Thread, Seq: u.Update.Seq}
	if u.Event == nil {
		event.BodyMissing = true
		d.lacking = append(d.lacking, lackingBody{d.pts, u.Update.Thread, u.Update.Seq})
	} else {
		event = eventOf(u.Update.Thread, u.Update.Seq, u.Event)
	}
	d.w.note("seen", d.user, d.name, u.Pts, u.Update.Thread, u.Update.Seq)
	d.Received(d.pts, event)
}

func eventOf(thread string, seq uint64, e *cellpb.StoredEvent) *clientpb.Event {
	return &clientpb.Event{
		Thread: thread, Seq: seq, From: e.From, TimeMs: e.TimeMs, ClientMsgId: e.ClientMsgId,
		Body: &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: e.GetText().GetText()}},
	}
}

// readUpdates reads on from where the device is, and the bodies it lacks.
func (d *device) readUpdates() {
	w := d.w
	q := &cellpb.ReadUpdates{User: uint64(d.user), After: uint64(d.pts), Limit: uint32(1 + w.rng.IntN(50)), Incarnation: incarnation(d.user.Range())}
	w.read(d.user.Range(), &cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: q}}, func(res *cellpb.ReadResult) {
		if res.Trimmed {
			w.judge.violate("I6: user %d has seen update %d, and his log ends at %d", d.user, q.After, res.Pts)
			return
		}
		for _, u := range res.Updates {
			d.take(u)
		}
	})
	if len(d.lacking) > 0 {
		d.readBody(d.lacking[0])
	}
}

func (d *device) readBody(l lackingBody) {
	thread, err := proto.ParseThreadID(l.thread)
	if err != nil {
		d.w.t.Fatal(err)
	}
	q := &cellpb.ReadEvents{Refs: []*cellpb.EventRef{{Thread: l.thread, Seq: l.seq}}}
	d.w.read(thread.OwnerRange(), &cellpb.LeadRead{Body: &cellpb.LeadRead_Events{Events: q}}, func(res *cellpb.ReadResult) {
		if len(d.lacking) == 0 || d.lacking[0] != l {
			return
		}
		if len(res.GetEvents().GetEvents()) == 0 {
			d.w.judge.violate("I9: user %d was told of %s#%d, which is not stored", d.user, l.thread, l.seq)
			return
		}
		d.lacking = d.lacking[1:]
		d.BodyReceived(l.pts, eventOf(l.thread, l.seq, res.Events.Events[0]))
	})
}
