package topology

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
)

// fullFor is how long a range that refused a user is left out: by then its
// record says so too, or it was said by mistake.
const fullFor = time.Minute

// Viewer gives the cluster as last heard of; controlclient.Client is one.
type Viewer interface {
	View() *controlclient.View
}

// Chooser chooses the range of each new user. It is safe for concurrent use
// and waits for nothing.
type Chooser struct {
	viewer Viewer
	now    func() time.Time

	mu     sync.Mutex // guards the fields below
	placed map[proto.CellID]*tally
	next   map[proto.CellID]int // rotates over the open ranges
	full   map[proto.RangeID]time.Time
}

// tally counts users placed since the cell's report last changed, so that a
// thousand people registering within a second do not all count as none.
type tally struct {
	reported uint64
	since    uint64
}

// NewChooser makes a chooser.
func NewChooser(viewer Viewer) *Chooser {
	return &Chooser{
		viewer: viewer, now: time.Now,
		placed: map[proto.CellID]*tally{}, next: map[proto.CellID]int{}, full: map[proto.RangeID]time.Time{},
	}
}

// Place chooses an open range of cell, or, when cell is empty, of the cell
// with most headroom, ties by fewest users; within a cell in turn. full is a
// range that has just refused a user and is left out for a while; 0: none.
//
// Errors: [proto.CodeUnknownCell]; [proto.CodeNotReady] when no range is open
// (retry later).
func (c *Chooser) Place(cell proto.CellID, full proto.RangeID) (proto.RangeID, error) {
	v := c.viewer.View()
	c.mu.Lock()
	defer c.mu.Unlock()
	if full != 0 {
		c.full[full] = c.now().Add(fullFor)
	}
	open := c.open(v)
	if cell == "" {
		if cell = c.best(v, open); cell == "" {
			return 0, proto.Errorf(proto.CodeNotReady, "no cell takes new users just now: see `waggle cells ls`")
		}
	} else if _, ok := v.Cells[cell]; !ok {
		return 0, proto.Errorf(proto.CodeUnknownCell, "there is no cell %.40q: see `waggle cells ls`", string(cell))
	}
	ranges := open[cell]
	if len(ranges) == 0 {
		return 0, proto.Errorf(proto.CodeNotReady, "cell %s takes no new users just now, its ranges are being opened: see `waggle cells ls`", cell)
	}
	i := c.next[cell]
	c.next[cell] = i + 1
	c.tallyOf(v, cell).since++
	return ranges[i%len(ranges)], nil
}

// CellOf is the cell that owns a range, as far as known.
func (c *Chooser) CellOf(r proto.RangeID) (proto.CellID, bool) {
	route, ok := c.viewer.View().Routes.Lookup(r)
	return route.Cell, ok
}

// open lists the ranges that take users, per cell, ascending.
func (c *Chooser) open(v *controlclient.View) map[proto.CellID][]proto.RangeID {
	now := c.now()
	for r, until := range c.full {
		if now.After(until) {
			delete(c.full, r)
		}
	}
	open := map[proto.CellID][]proto.RangeID{}
	for id, rec := range v.Ranges {
		if _, full := c.full[id]; rec.Open && rec.Created && !full {
			open[proto.CellID(rec.Cell)] = append(open[proto.CellID(rec.Cell)], id)
		}
	}
	for _, ids := range open {
		slices.Sort(ids)
	}
	return open
}

// best is the cell new users go to: among those with an open range, one that
// has nodes alive before one that has none.
func (c *Chooser) best(v *controlclient.View, open map[proto.CellID][]proto.RangeID) proto.CellID {
	type candidate struct {
		cell     proto.CellID
		active   bool
		headroom float64 // in whole steps
		users    uint64
	}
	var all []candidate
	for cell := range v.Cells {
		if len(open[cell]) > 0 {
			t := c.tallyOf(v, cell)
			all = append(all, candidate{cell, StateOf(v, cell) == CellActive, math.Ceil(Headroom(v, cell) / headroomStep), t.reported + t.since})
		}
	}
	if len(all) == 0 {
		return ""
	}
	return slices.MinFunc(all, func(a, b candidate) int {
		if a.active != b.active {
			if a.active {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.headroom, a.headroom), cmp.Compare(a.users, b.users), cmp.Compare(a.cell, b.cell))
	}).cell
}

func (c *Chooser) tallyOf(v *controlclient.View, cell proto.CellID) *tally {
	reported := users(v, cell)
	t := c.placed[cell]
	if t == nil || t.reported != reported {
		t = &tally{reported: reported}
		c.placed[cell] = t
	}
	return t
}
