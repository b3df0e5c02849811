package state

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// model is what two ranges should be: threads as plain lists, and a network
// between them that loses, doubles and reorders deliveries.
type model struct {
	t       *rapid.T
	rigs    [2]*rig
	users   [2][]proto.EntityID
	threads map[proto.ThreadID][]proto.ClientMsgID
	sent    map[proto.ClientMsgID]modelSend
	flying  []flight
	counted [2]uint64 // what range i counted of the other's channel
	trimmed [2]uint64 // of the channel from range i

	confirmed map[proto.EntityID]uint64 // by any device
	read      map[joinedKey]uint64      // by whom, what
}

type modelSend struct {
	*cellpb.AppendMessage
	thread proto.ThreadID
	seq    uint64
	timeMs int64
}

type flight struct {
	to   int
	rows []*cellpb.ChannelRow
}

func (m *model) draw(n int, label string) int { return rapid.IntRange(0, n-1).Draw(m.t, label) }

func (m *model) expect(r *cellpb.Result, code proto.Code, what string) {
	m.t.Helper()
	if proto.Code(r.Code) != code {
		m.t.Fatalf("%s: answered %s (%s), want %s", what, proto.Code(r.Code), r.Message, code)
	}
}

// send appends a message that was never sent.
func (m *model) send() {
	all := append(slices.Clone(m.users[0]), m.users[1]...)
	from, to := all[m.draw(len(all), "from")], all[m.draw(len(all), "to")]
	if from == to {
		return
	}
	thread := proto.DirectThread(from, to)
	b := m.rigs[thread.OwnerRange()-1]
	c := message(thread, from, b.id(time.Duration(m.draw(3, "minutes")-1)*time.Minute))
	if list := m.threads[thread]; len(list) > 0 && m.draw(2, "after") == 0 {
		if last := m.sent[list[len(list)-1]]; last.From == c.From && last.timeMs > b.nowMs-proto.ClientMsgIDPast.Milliseconds()+time.Hour.Milliseconds() {
			c.After = last.ClientMsgId
		}
	}
	r := b.do(appendCommand(c))
	m.expect(r, proto.CodeOK, "send")
	id := proto.ClientMsgID(c.ClientMsgId)
	m.threads[thread] = append(m.threads[thread], id)
	m.sent[id] = modelSend{AppendMessage: c, thread: thread, seq: r.Seq, timeMs: r.TimeMs}
	if want := uint64(len(m.threads[thread])); r.Seq != want || r.Repeated {
		m.t.Fatalf("thread %s: seq %d given (repeated: %v), want %d", thread, r.Seq, r.Repeated, want)
	}
}

// resend repeats any earlier send: the same place, or too old, never stored
// again.
func (m *model) resend() {
	var all []proto.ThreadID
	for t := range m.threads {
		all = append(all, t)
	}
	if len(all) == 0 {
		return
	}
	slices.SortFunc(all, func(a, b proto.ThreadID) int { return int(int64(a.Low+a.High*7) - int64(b.Low+b.High*7)) })
	list := m.threads[all[m.draw(len(all), "thread")]]
	s := m.sent[list[m.draw(len(list), "message")]]
	b := m.rigs[s.thread.OwnerRange()-1]
	r := b.do(appendCommand(s.AppendMessage))
	if proto.Code(r.Code) == proto.CodeMessageTooOld && time.UnixMilli(b.nowMs).Sub(proto.ClientMsgID(s.ClientMsgId).Time()) > proto.ClientMsgIDPast {
		return
	}
	m.expect(r, proto.CodeOK, "resend")
	if !r.Repeated || r.Seq != s.seq || r.TimeMs != s.timeMs {
		m.t.Fatalf("resent: %v, want seq %d at %d again", r, s.seq, s.timeMs)
	}
}

// refusedSends are sends that must change nothing.
func (m *model) refusedSends() {
	thread, ok := threadOwnedBy(1, m.users[0], append(slices.Clone(m.users[0]), m.users[1]...))
	if !ok {
		return
	}
	b := m.rigs[0]
	unknown := b.id(0)
	noAfter := message(thread, thread.Low, b.id(0))
	noAfter.After = unknown[:]
	m.expect(b.do(appendCommand(noAfter)), proto.CodeAfterUnknown, "after an unknown message")
	m.expect(b.send(thread, thread.Low, b.id(-proto.ClientMsgIDPast-time.Millisecond)), proto.CodeMessageTooOld, "too old")
	m.expect(b.send(thread, thread.Low, b.id(proto.ClientMsgIDFuture+time.Millisecond)), proto.CodeMessageTooOld, "too new")
	stale := b.granted(appendCommand(message(thread, thread.Low, b.id(0))))
	stale.Epoch++
	m.expect(b.entry(stale).Results[0], proto.CodeStaleEpoch, "another epoch")
	stale = b.granted(appendCommand(message(thread, thread.Low, b.id(0))))
	stale.Grant.Number--
	m.expect(b.entry(stale).Results[0], proto.CodeStaleGrant, "an earlier grant")
}

// offer puts rows of a channel into the network, from any place still kept.
func (m *model) offer(from int) {
	to := 1 - from
	after := m.trimmed[from] + uint64(m.draw(6, "after"))
	rows := m.rigs[from].channelRows(proto.RangeID(to+1), after, uint32(1+m.draw(5, "limit")))
	if len(rows) > 0 {
		m.flying = append(m.flying, flight{to, rows})
	}
}

func (m *model) land() {
	if len(m.flying) == 0 {
		return
	}
	i := m.draw(len(m.flying), "flight")
	f := m.flying[i]
	if m.draw(3, "stays") > 0 { // otherwise it will come again
		m.flying = slices.Delete(m.flying, i, i+1)
	}
	if m.draw(5, "lost") == 0 {
		return
	}
	m.deliver(f)
}

func (m *model) deliver(f flight) {
	want := m.counted[f.to]
	for _, row := range f.rows {
		if row.Number == want+1 {
			want++
		}
	}
	r := m.rigs[f.to].do(takeRows(proto.RangeID(2-f.to), f.rows))
	m.expect(r, proto.CodeOK, "take")
	if r.Counted != want {
		m.t.Fatalf("rows %d … taken: counted %d, want %d", f.rows[0].Number, r.Counted, want)
	}
	m.counted[f.to] = want
}

func (m *model) trim(from int) {
	up := m.counted[1-from]
	r := m.rigs[from].do(&cellpb.Command{Body: &cellpb.Command_TrimChannel{TrimChannel: &cellpb.TrimChannel{Dest: uint64(2 - from), Counted: up}}})
	m.expect(r, proto.CodeOK, "trim")
	m.trimmed[from] = up
}

func (m *model) step() {
	i := m.draw(2, "range")
	b := m.rigs[i]
	switch m.draw(16, "action") {
	case 0:
		if len(m.users[i]) < 4 {
			m.users[i] = append(m.users[i], m.addUser(b))
		}
	case 13, 14:
		m.confirm(i)
	case 15:
		m.markRead(i)
	case 1, 2, 3, 4:
		m.send()
	case 5:
		m.resend()
	case 6:
		m.refusedSends()
	case 7, 8:
		m.offer(i)
	case 9:
		m.land()
	case 10:
		m.trim(i)
	case 11:
		m.disturb(b)
	case 12:
		m.passTime()
	}
}

func (m *model) disturb(b *rig) {
	switch m.draw(4, "disturbance") {
	case 0:
		b.term++
		b.newGrant()
	case 1:
		b.manual = !b.manual
	case 2:
		b.restart(m.draw(2, "crash") == 0)
	case 3:
		b.commit()
		b.m.forgetCaches()
	}
}

// passTime lets the two ranges' clocks go on together, by days now and then.
func (m *model) passTime() {
	step := []int64{1, 60_000, 30 * 3600_000}[m.draw(3, "time")]
	m.rigs[0].nowMs, m.rigs[1].nowMs = m.rigs[0].nowMs+step, m.rigs[1].nowMs+step
}

// settle delivers everything, then compares logs and threads.
func (m *model) settle() {
	m.deliverAll()
	for i, b := range m.rigs {
		for _, user := range m.users[i] {
			m.checkUser(b, user)
		}
	}
}

// deliverAll goes on until nothing is under way: what arrives may send more.
func (m *model) deliverAll() {
	for idle := 0; idle < 2; {
		for from := range m.rigs {
			rows := m.rigs[from].channelRows(proto.RangeID(2-from), m.counted[1-from], 100)
			if idle++; len(rows) > 0 {
				m.deliver(flight{1 - from, rows})
				idle = 0
			}
		}
	}
}

func (m *model) checkUser(b *rig, user proto.EntityID) {
	have := b.updates(user)
	next := map[string]int{}
	for _, ref := range have {
		next[ref]++
	}
	total := 0
	for thread, list := range m.threads {
		if !thread.Has(user) {
			continue
		}
		total += len(list)
		at := -1
		for seq := range list {
			ref := fmt.Sprintf("%s#%d", thread, seq+1)
			i := slices.Index(have, ref)
			if next[ref] != 1 || i < at {
				m.t.Fatalf("user %s: %s is logged %d times, at %d after %d", user, ref, next[ref], i, at)
			}
			at = i
		}
		row := b.threadRow(user, thread)
		if row.GetLastSeq() != uint64(len(list)) || row.GetMessages() != uint64(len(list)) {
			m.t.Fatalf("user %s, thread %s: row %v, want %d messages", user, thread, row, len(list))
		}
	}
	if messages := len(have) - m.checkMarks(b, user, have); messages != total {
		m.t.Fatalf("user %s has %d messages in his log, want %d", user, messages, total)
	}
}

func TestMachinesAgreeWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			t: t, threads: map[proto.ThreadID][]proto.ClientMsgID{}, sent: map[proto.ClientMsgID]modelSend{},
			confirmed: map[proto.EntityID]uint64{}, read: map[joinedKey]uint64{},
		}
		for i := range m.rigs {
			b := newRig(t, proto.RangeID(i+1))
			m.rigs[i] = b
			defer func() { b.close() }()
			m.users[i] = []proto.EntityID{m.addUser(b), m.addUser(b)}
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			m.step()
		}
		m.settle()
		for _, b := range m.rigs {
			checkBatching(t, b)
		}
	})
}

// checkBatching applies a rig's log again, committed otherwise: one entry per
// commit, all in one, and with restarts and crashes in between. Running hash
// and stored state must not depend on it.
func checkBatching(t *rapid.T, b *rig) {
	b.commit()
	hash, state := b.m.RunningHash(), digest(t, b.db, b.rng)
	for _, way := range []string{"one by one", "all at once", "at random, with restarts"} {
		other := bare(t, b.rng)
		other.log = b.log
		for i, e := range b.log {
			other.m.Apply(e.index, e.term, e.data)
			switch {
			case way == "one by one":
				other.commit()
			case way == "at random, with restarts":
				if rapid.IntRange(0, 4).Draw(t, "commit") > 0 {
					break
				}
				other.commit()
				if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
					other.log = b.log[:i+1]
					other.restart(rapid.Bool().Draw(t, "crash"))
				}
			}
		}
		other.commit()
		if other.m.RunningHash() != hash {
			t.Fatalf("range %s applied %s has another running hash", b.rng, way)
		}
		if digest(t, other.db, b.rng) != state {
			t.Fatalf("range %s applied %s has another state", b.rng, way)
		}
		other.close()
	}
}
