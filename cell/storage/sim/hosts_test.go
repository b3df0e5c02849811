package sim

import (
	"cmp"
	"slices"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// host passes commands on under one grant, as long as anybody sends to it.
type host struct {
	w            *world
	node         *node // it runs beside the leader that granted it
	life         int
	rng          proto.RangeID
	epoch        uint64 // of the range when it was granted
	term, number uint64
	waiting      []request
}

// request is one command on its way, and who hears of its result. The answer
// may come never, late, or twice.
type request struct {
	cmd   *cellpb.Command
	reply func(*cellpb.Result, *cellpb.Applied)
}

// lateEntry is an entry that somebody still holds, to propose it long after.
type lateEntry struct {
	rng   proto.RangeID
	entry *cellpb.Entry
}

const (
	hostsKept   = 4
	waitingMax  = 64
	commandsMax = 8
	lateMax     = 200
)

// grant has a new leader make a host, if its cell owns the range as far as it
// knows.
func (w *world) grant(n *node, r proto.RangeID, term, number uint64) {
	d, held := n.rep.Descriptor(r)
	epoch := d.GetEpoch()
	switch own := string(n.cell); {
	case held && d.GetCell() == own:
	case held && d.GetNextCell() == own:
		epoch++ // it follows the entry that makes it so
	default:
		delete(n.granting, r)
		return // DescriptorChanged comes back here
	}
	n.granting[r] = term
	e := &cellpb.Entry{Range: uint64(r), Epoch: epoch, TimeMs: w.nowMs() + n.skewMs, Commands: []*cellpb.Command{
		{Body: &cellpb.Command_GrantHost{GrantHost: &cellpb.GrantHost{Number: number, Node: string(n.id)}}},
	}}
	if w.mover != nil && w.chance(10) {
		w.keepLate(r, e)
	}
	life := n.life
	w.propose(n, r, e, func(a *cellpb.Applied, err error) {
		if n.life != life || n.rep == nil {
			return
		}
		if err == nil && len(a.GetResults()) == 1 && a.Results[0].Code == 0 {
			w.note("granted", r, term, number, n.index)
			hosts := append(w.hosts[r], &host{w: w, node: n, life: life, rng: r, epoch: epoch, term: term, number: number})
			// A leader may hear of its grant when the next one has granted.
			slices.SortFunc(hosts, func(a, b *host) int { return cmp.Or(cmp.Compare(a.term, b.term), cmp.Compare(a.number, b.number)) })
			w.hosts[r] = hosts[max(0, len(hosts)-hostsKept):]
			return
		}
		if _, now, leading := n.rep.Leader(r); leading && now == term {
			w.grant(n, r, term, number+1)
		}
	})
}

// propose asks a node; done runs on the simulation's goroutine.
func (w *world) propose(n *node, r proto.RangeID, e *cellpb.Entry, done func(*cellpb.Applied, error)) {
	w.ids++
	number := w.ids
	done = n.open(r, e, done)
	n.rep.Propose(r, e, func(a *cellpb.Applied, err error) {
		if err == nil && n.cutDisk != nil {
			return // said after the power went
		}
		w.later(number, func() { done(a, err) })
	})
}

// request sends a command to a host of r, seldom to one of the past.
func (w *world) request(from int, r proto.RangeID, cmd *cellpb.Command, reply func(*cellpb.Result, *cellpb.Applied)) {
	hosts := w.hosts[r]
	if len(hosts) == 0 {
		return
	}
	h := hosts[len(hosts)-1]
	if !w.calm && w.chance(4) {
		h = pick(w, hosts)
	}
	w.send(from, h.node.index, func() {
		if len(h.waiting) < waitingMax {
			h.waiting = append(h.waiting, request{cmd, reply})
		}
	})
}

// work has a host propose what waits, in one entry.
func (h *host) work() {
	if len(h.waiting) == 0 {
		return
	}
	w, n := h.w, h.node
	batch := h.waiting[:min(len(h.waiting), commandsMax)]
	h.waiting = h.waiting[len(batch):]
	if n.life != h.life || w.chance(20) {
		n = w.leader(h.rng) // it has slept, or was told of another leader
	}
	if n == nil || n.rep == nil {
		return
	}
	e := &cellpb.Entry{
		Range: uint64(h.rng), Epoch: h.epoch, TimeMs: w.nowMs() + n.skewMs, Grant: &cellpb.GrantRef{Term: h.term, Number: h.number},
	}
	for _, r := range batch {
		e.Commands = append(e.Commands, r.cmd)
	}
	if w.chance(10) {
		w.keepLate(h.rng, e)
	}
	from := n.index
	if w.opt.fault.ackBeforeCommit && !w.calm {
		if out := n.foresee(h.rng, e); out != nil {
			for i, r := range batch {
				r.answer(w, from, out.Results[i], out)
			}
		}
	}
	w.propose(n, h.rng, e, func(a *cellpb.Applied, err error) {
		if err != nil {
			return // whoever asked asks again
		}
		w.note("applied", h.rng, len(a.GetResults()))
		for i, r := range batch {
			r.answer(w, from, a.Results[i], a)
		}
	})
}

// answer sends a result back over the network.
func (r request) answer(w *world, from int, res *cellpb.Result, a *cellpb.Applied) {
	if r.reply == nil {
		return
	}
	w.send(from, outside, func() { r.reply(res, a) })
}

// keepLate remembers an entry, as it is, under an epoch of the past, or under
// a grant of the past.
func (w *world) keepLate(r proto.RangeID, e *cellpb.Entry) {
	c := pb.CloneOf(e)
	if w.chance(40) {
		c.Epoch = c.Epoch - 1 + 2*uint64(w.rng.IntN(2))
	}
	w.late = append(w.late, lateEntry{r, c})
	w.late = w.late[max(0, len(w.late)-lateMax):]
}

// wakeLate proposes an entry of long ago, at whoever leads now.
func (w *world) wakeLate() {
	if len(w.late) == 0 {
		return
	}
	l := pick(w, w.late)
	n := w.leader(l.rng)
	if n == nil {
		return
	}
	e := pb.CloneOf(l.entry)
	epoch := w.judge.owns[l.rng].epoch
	switch {
	case e.Grant == nil && e.Epoch >= epoch:
		return // a leader's own: nobody but itself could say it again
	case e.Grant != nil && e.Epoch != epoch && len(w.hosts[l.rng]) > 0:
		// A grant in order, so that the epoch alone is judged.
		hosts := w.hosts[l.rng]
		h := hosts[len(hosts)-1]
		e.Grant = &cellpb.GrantRef{Term: h.term, Number: h.number}
	}
	w.propose(n, l.rng, e, func(a *cellpb.Applied, err error) {
		for _, res := range a.GetResults() {
			if refusedByFence(res.Code) {
				w.count("late refused")
			}
		}
	})
}

// read asks the leader of r, which must be sure that it leads.
func (w *world) read(r proto.RangeID, q *cellpb.LeadRead, done func(*cellpb.ReadResult)) {
	n := w.leader(r)
	if n == nil {
		return
	}
	life := n.life
	w.ids++
	number := w.ids
	n.rep.Read(r, func(err error) {
		w.later(number, func() {
			if err != nil || n.rep == nil || n.life != life {
				return
			}
			res, err := state.NewReader(n.state, r).Read(q)
			if err != nil {
				w.judge.violate("reading range %s on %s: %v", r, n.id, err)
				return
			}
			w.send(n.index, outside, func() { done(res) })
		})
	})
}

// relay carries rows of a channel from its source, and trims what was
// counted. It remembers nothing: a restart of it would change nothing.
func (w *world) relay(source proto.RangeID) {
	w.read(source, &cellpb.LeadRead{Body: &cellpb.LeadRead_ChannelHeads{ChannelHeads: &cellpb.ReadChannelHeads{}}}, func(res *cellpb.ReadResult) {
		for _, head := range res.ChannelHeads {
			w.relayTo(source, head)
		}
	})
}

func (w *world) relayTo(source proto.RangeID, head *cellpb.ChannelHead) {
	dest := proto.RangeID(head.Dest)
	q := &cellpb.ReadChannel{Dest: head.Dest, After: head.First - 1, Limit: uint32(1 + w.rng.IntN(20))}
	if !w.calm && w.chance(10) {
		q.After += uint64(w.rng.IntN(3)) // a gap: must not be taken
	}
	w.read(source, &cellpb.LeadRead{Body: &cellpb.LeadRead_Channel{Channel: q}}, func(res *cellpb.ReadResult) {
		w.deliverRows(source, dest, res.ChannelRows)
	})
}

func (w *world) deliverRows(source, dest proto.RangeID, rows []*cellpb.ChannelRow) {
	if len(rows) == 0 {
		return
	}
	take := &cellpb.Command{Body: &cellpb.Command_TakeChannelRows{TakeChannelRows: &cellpb.ChannelRows{
		Source: uint64(source), Incarnation: incarnation(source), Rows: rows,
	}}}
	from := w.holders(source)[0].index
	w.request(from, dest, take, func(res *cellpb.Result, a *cellpb.Applied) {
		w.push(a)
		if res.Code == 0 && res.Counted > rows[len(rows)-1].Number {
			w.count("rows offered again")
		}
		if res.Code != 0 || res.Counted == 0 {
			return
		}
		trim := &cellpb.Command{Body: &cellpb.Command_TrimChannel{TrimChannel: &cellpb.TrimChannel{Dest: uint64(dest), Counted: res.Counted}}}
		w.request(w.holders(dest)[0].index, source, trim, func(res *cellpb.Result, _ *cellpb.Applied) {
			if !refusedByFence(res.Code) && res.Code != 0 {
				w.judge.violate("I2: range %s counted %d rows of range %s, more than there are: %s", dest, trim.GetTrimChannel().Counted, source, res.Message)
			}
		})
	})
}

func refusedByFence(code uint32) bool {
	return code == uint32(proto.CodeStaleGrant) || code == uint32(proto.CodeStaleEpoch)
}
