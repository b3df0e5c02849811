package sim

import (
	"fmt"
	"strings"

	"github.com/zeebo/xxh3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/cell/storage/replica"
	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// judge watches a run and says what is wrong with it.
type judge struct {
	rec     *history.Recorder
	found   []string
	logs    map[proto.RangeID]*rangeLog
	leaders map[leadership]int
	created map[proto.RangeID]int
	owns    map[proto.RangeID]*ownership
	removed map[place]uint64        // the greatest replica id that a node has deleted
	timeMs  map[proto.RangeID]int64 // of the range's clock
}

// rangeLog is what a range's replicas have applied, by index from 1. Its
// grant is an independent account of who may propose.
type rangeLog struct {
	entries []appliedEntry
	term    uint64 // of the grant
	number  uint64
}

type appliedEntry struct {
	term      uint64
	data, out uint64 // hashes
}

type leadership struct {
	rng  proto.RangeID
	term uint64
}

const violationsMax = 20

func newJudge() *judge {
	return &judge{
		logs: map[proto.RangeID]*rangeLog{}, leaders: map[leadership]int{}, created: map[proto.RangeID]int{},
		owns: map[proto.RangeID]*ownership{}, removed: map[place]uint64{}, timeMs: map[proto.RangeID]int64{},
	}
}

func (j *judge) violate(format string, args ...any) {
	if len(j.found) < violationsMax {
		j.found = append(j.found, fmt.Sprintf(format, args...))
	}
}

// leads: one leader per term.
func (j *judge) leads(r proto.RangeID, term uint64, n *node) {
	key := leadership{r, term}
	if first, ok := j.leaders[key]; ok && first != n.index {
		j.violate("I7: range %s has two leaders in term %d: n%d and %s", r, term, first+1, n.id)
	}
	j.leaders[key] = n.index
}

// watched tells the judge what a replica applies.
type watched struct {
	replica.Machine
	n     *node
	rng   proto.RangeID
	rules uint32 // as of the last Commit; 0: there was none
}

func (m *watched) Apply(index, term uint64, data []byte) *cellpb.Applied {
	out := m.Machine.Apply(index, term, data)
	m.n.w.judge.applied(m, index, term, data, out)
	return out
}

func (m *watched) Commit() error {
	err := m.Machine.Commit()
	if err == nil {
		index, _ := m.Applied()
		m.n.w.judge.rec.Hash(history.Hash{Range: m.rng, Replica: proto.ReplicaID(m.n.index + 1), Index: index, Hash: m.State().GetRunningHash()})
		m.n.w.judge.committed(m, index)
		if rules := m.State().GetRules(); rules != m.rules && m.rules != 0 {
			m.n.w.count("rules raised")
		}
		m.rules = m.State().GetRules()
	}
	return err
}

// applied compares one replica's entry with the first one's, or is the first.
func (j *judge) applied(m *watched, index, term uint64, data []byte, out *cellpb.Applied) {
	l := j.logs[m.rng]
	if l == nil {
		l = &rangeLog{entries: make([]appliedEntry, state.FirstIndex)} // so far nothing is in the log
		j.logs[m.rng] = l
	}
	raw, err := pb.Marshal(out)
	if err != nil {
		m.n.w.t.Fatal(err)
	}
	e := appliedEntry{term: term, data: xxh3.Hash(data), out: xxh3.Hash(raw)}
	switch have := uint64(len(l.entries)); {
	case index > have+1:
		j.violate("range %s on %s applies entry %d, nobody %d", m.rng, m.n.id, index, have+1)
	case index <= have:
		first := l.entries[index-1]
		if first.term != e.term || first.data != e.data {
			j.violate("I1: range %s has two entries %d: of term %d and, on %s, of term %d", m.rng, index, first.term, m.n.id, term)
		} else if first.out != e.out {
			j.violate("I10: range %s entry %d gives another result on %s", m.rng, index, m.n.id)
		}
	default:
		l.entries = append(l.entries, e)
		j.fences(m, l, index, term, data, out)
	}
}

// fences holds applying to the epoch and to the grant (I8).
func (j *judge) fences(m *watched, l *rangeLog, index, term uint64, data []byte, out *cellpb.Applied) {
	e := new(cellpb.Entry)
	if len(data) == 0 || pb.Unmarshal(data, e) != nil {
		return
	}
	j.timeMs[m.rng] = max(j.timeMs[m.rng], e.TimeMs)
	done := 0
	for _, r := range out.GetResults() {
		if r.Code == 0 {
			done++
		}
	}
	switch {
	case done == 0:
	case e.Epoch != j.owns[m.rng].epoch:
		j.violate("I8: range %s entry %d of epoch %d is accepted at epoch %d", m.rng, index, e.Epoch, j.owns[m.rng].epoch)
	case e.Grant != nil && (e.Grant.Term != l.term || e.Grant.Number != l.number || e.Grant.Term != term):
		j.violate("I8: range %s entry %d of grant %d.%d is accepted in term %d under grant %d.%d",
			m.rng, index, e.Grant.Term, e.Grant.Number, term, l.term, l.number)
	}
	for i, c := range e.Commands {
		if g := c.GetGrantHost(); g != nil && e.Grant == nil && e.Epoch == j.owns[m.rng].epoch {
			l.term, l.number = term, g.Number
			j.granted(m, index, g)
		}
		if change := c.GetChangeReplicas(); change != nil && out.Results[i].Code == 0 {
			j.changed(m, index, change)
		}
	}
}

// settle lets everything come to its end: outboxes empty, channels empty,
// replicas equal.
func (w *world) settle() {
	if len(w.judge.found) > 0 {
		return
	}
	w.until("everything settled", func() bool {
		w.chatter()
		w.mover.tend()
		tick := momentsPerTick * len(w.nodes)
		if w.moment%(100*tick) == 0 {
			w.compare()
		}
		return w.moment%tick == 0 && w.settled() == ""
	})
	w.note("settled")
	w.trace.settleTicks = (w.moment - w.healed) / (momentsPerTick * len(w.nodes))
	if len(w.judge.found) == 0 {
		return
	}
	if !strings.HasPrefix(w.judge.found[0], "I12") {
		return
	}
	w.judge.violate("unsettled: %s", w.settled())
	for _, r := range w.ranges {
		if w.leader(r) == nil {
			return
		}
	}
	w.inspect() // it may say why
}

func (w *world) settled() string {
	for _, d := range w.people {
		if len(d.outbox) > 0 {
			return fmt.Sprintf("device %s of user %s has %d sends left", d.name, d.user, len(d.outbox))
		}
	}
	for _, r := range w.ranges {
		n := w.leader(r)
		if n == nil {
			return fmt.Sprintf("range %s has no leader", r)
		}
		at := n.status(r)
		for _, peer := range w.holders(r) {
			if peer.rep == nil {
				return fmt.Sprintf("node %s is down", peer.id)
			}
			if s := peer.status(r); s.Empty || s.Applied != at.Applied || s.Committed != s.Applied {
				return fmt.Sprintf("range %s is at %d on %s and at %d on %s", r, at.Applied, n.id, s.Applied, peer.id)
			}
		}
		rows := 0
		eachRow(w.t, n.state, engine.ChannelOutSpan(r), func(_, _ []byte) { rows++ })
		if rows > 0 {
			return fmt.Sprintf("range %s has %d rows on its channels", r, rows)
		}
	}
	return w.mover.unsettled()
}

// compare holds replicas at one applied index to one hash and to equal keys.
func (w *world) compare() {
	for _, r := range w.ranges {
		var first *node
		for _, n := range w.holders(r) {
			switch {
			case n.rep == nil || n.status(r).Empty:
			case first == nil:
				first = n
			case n.status(r).Applied != first.status(r).Applied:
			case n.status(r).RunningHash != first.status(r).RunningHash:
				w.judge.violate("I10: running hashes of range %s differ between %s and %s", r, first.id, n.id)
			case n.digest(r) != first.digest(r):
				w.judge.violate("I10: range %s holds different keys on %s and on %s at entry %d", r, first.id, n.id, n.status(r).Applied)
			}
		}
	}
}

// inspect joins what people saw with what is stored in the end.
func (w *world) inspect() {
	w.compare()
	w.mover.inspect()
	for _, r := range w.ranges {
		lead := w.leader(r)
		for _, n := range w.holders(r) {
			d := n.status(r).Descriptor
			w.rec.Owner(history.Owner{Observer: string(n.id), Range: r, Epoch: proto.Epoch(d.GetEpoch()), Cell: proto.CellID(d.GetCell())})
		}
		w.recordThreads(r, lead)
	}
	for _, d := range w.people {
		w.finish(d)
	}
	for _, v := range history.Check(w.rec.History()) {
		w.judge.violate("%s", v)
	}
}

// recordThreads gives the threads a range owns to the history.
func (w *world) recordThreads(r proto.RangeID, n *node) {
	reader := state.NewReader(n.state, r)
	seen := map[string]bool{}
	for _, p := range w.rec.History().Posted {
		thread, err := proto.ParseThreadID(p.Thread)
		if err != nil || thread.OwnerRange() != r || seen[p.Thread] {
			continue
		}
		seen[p.Thread] = true
		for after, more := uint64(0), true; more; {
			q := &cellpb.ReadThread{Thread: p.Thread, User: uint64(p.Device.User), After: after, Limit: proto.PageMax}
			if after == 0 {
				q.After, q.Before = 0, proto.PageMax+1 // from the first on
			}
			res, err := reader.Read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Thread{Thread: q}})
			if err != nil {
				w.t.Fatal(err)
			}
			for i, e := range res.GetEvents().GetEvents() {
				after = res.Events.Refs[i].Seq
				w.rec.Stored(eventOf(p.Thread, after, e))
			}
			more = len(res.GetEvents().GetEvents()) > 0
		}
	}
}

// finish reads a device's log to its end.
func (w *world) finish(d *device) {
	reader := state.NewReader(w.leader(d.user.Range()).state, d.user.Range())
	var end proto.Pts
	for range 10_000 {
		res, err := reader.Read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: &cellpb.ReadUpdates{
			User: uint64(d.user), After: uint64(d.pts), Limit: proto.PageMax, Incarnation: incarnation(d.user.Range()),
		}}})
		if err != nil {
			w.t.Fatal(err)
		}
		if res.Trimmed {
			w.judge.violate("I6: user %d has seen update %d, and his log ends at %d", d.user, d.pts, res.Pts)
			return
		}
		for _, u := range res.Updates {
			d.take(u)
		}
		if end = proto.Pts(res.Pts); d.pts >= end || len(res.Updates) == 0 {
			break
		}
	}
	for _, l := range d.lacking {
		if e := w.storedEvent(l); e != nil {
			d.BodyReceived(l.pts, e)
		}
	}
	d.Settled(end)
}

func (w *world) storedEvent(l lackingBody) *clientpb.Event {
	thread, err := proto.ParseThreadID(l.thread)
	if err != nil {
		w.t.Fatal(err)
	}
	r := thread.OwnerRange()
	res, err := state.NewReader(w.leader(r).state, r).Read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Events{
		Events: &cellpb.ReadEvents{Refs: []*cellpb.EventRef{{Thread: l.thread, Seq: l.seq}}},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(res.GetEvents().GetEvents()) == 0 {
		return nil
	}
	return eventOf(l.thread, l.seq, res.Events.Events[0])
}
