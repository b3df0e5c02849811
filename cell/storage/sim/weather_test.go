package sim

import (
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/waggle-im/waggle/proto"
)

// disturb lets something go wrong, now and then.
func (w *world) disturb() {
	tick := momentsPerTick * len(w.nodes)
	if w.rng.IntN(8*tick) != 0 {
		return
	}
	n := pick(w, w.nodes)
	what := w.rng.IntN(13)
	w.note("weather", what, n.index)
	switch what {
	case 0:
		w.weather = weather{loss: pick(w, []int{0, 0, 5, 25}), dup: pick(w, []int{0, 5, 30}), slow: pick(w, []int{0, 2, 10})}
	case 1: // a node alone
		w.net.cut = map[[2]int]bool{}
		for _, m := range w.nodes {
			if m != n {
				w.net.cut[[2]int{n.index, m.index}], w.net.cut[[2]int{m.index, n.index}] = true, true
			}
		}
	case 2: // it hears nobody, or nobody hears it
		w.net.cut = map[[2]int]bool{}
		hears := w.chance(50)
		for _, m := range w.nodes {
			if m == n {
				continue
			}
			if hears {
				w.net.cut[[2]int{n.index, m.index}] = true
			} else {
				w.net.cut[[2]int{m.index, n.index}] = true
			}
		}
	case 3: // two halves
		w.net.cut = map[[2]int]bool{}
		for i := range w.nodes {
			for j := range w.nodes {
				if (i <= n.index) != (j <= n.index) {
					w.net.cut[[2]int{i, j}] = true
				}
			}
		}
	case 4:
		w.net.cut = nil
	case 5: // the power of one machine, between rounds or in the middle of one
		if w.chance(50) && n.rep != nil {
			n.cutAt = 1 + w.rng.IntN(20)
		} else if n.rep != nil {
			n.crash(n.synced(), w.rng.IntN(60))
		}
	case 6: // all replicas of a range at once
		w.crash(w.holders(pick(w, w.ranges)))
	case 7: // the process, the page cache lives on
		if n.rep != nil {
			// Dice of its own: it casts them once for each file and block there is.
			dice := rand.New(rand.NewPCG(w.opt.seed, uint64(w.moment)))
			disk := n.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: dice})
			n.crash(disk, w.rng.IntN(40))
		}
	case 8:
		n.skewMs = pick(w, []int64{0, -50 * 60_000, 60_000, 3 * 24 * 3_600_000})
		if w.chance(5) {
			n.skewMs = 8 * 24 * 3_600_000 // ids of before are too old, and forgotten
		}
	case 9: // stopped and continued
		n.stalledUntil = w.moment + w.rng.IntN(40*tick)
	case 10:
		if n.rep != nil {
			w.flush(n)
		}
	case 11: // the host has died: the leader makes another
		w.regrant(pick(w, w.ranges))
	case 12: // the whole site
		w.crash(w.nodes)
	}
}

// crash takes the power from nodes at once.
func (w *world) crash(nodes []*node) {
	disks := make([]*vfs.MemFS, len(nodes))
	for i, n := range nodes {
		disks[i] = n.synced()
	}
	for i, n := range nodes {
		n.crash(disks[i], w.rng.IntN(10))
	}
}

func (w *world) flush(n *node) {
	if err := n.state.Flush(); err != nil {
		w.t.Fatal(err)
	}
	if err := n.log.Flush(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) regrant(r proto.RangeID) {
	n := w.leader(r)
	if n == nil || len(w.hosts[r]) == 0 {
		return
	}
	_, term, _ := n.rep.Leader(r)
	if h := w.hosts[r][len(w.hosts[r])-1]; h.term == term {
		w.grant(n, r, term, h.number+1)
	}
}

// heal ends all that went wrong.
func (w *world) heal() {
	w.note("healed")
	w.healed = w.moment
	w.calm, w.weather, w.net.cut, w.late = true, weather{}, nil, nil
	for _, n := range w.nodes {
		n.downUntil, n.stalledUntil, n.cutAt, n.skewMs = 0, 0, 0, 0
	}
	w.mover.heal()
}
