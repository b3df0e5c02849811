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

// summaryAge is how long loads are not looked at again.
const summaryAge = 200 * time.Millisecond

// Viewer gives the cluster as last heard of; controlclient.Client is one.
type Viewer interface {
	View() *controlclient.View
}

// Chooser chooses the range of each new user. It is safe for concurrent use
// and waits for nothing.
type Chooser struct {
	viewer Viewer
	now    func() time.Time

	mu      sync.Mutex // guards the fields below
	summary *summary
	cells   map[proto.CellID]*cellTally
	full    map[proto.RangeID]time.Time
}

// cellTally is what the chooser did in one cell.
type cellTally struct {
	next     int    // rotates over the open ranges
	reported uint64 // users, as the cell's nodes said
	// placed counts users placed since reported last changed, so that a
	// thousand people registering within a second do not all count as none.
	placed uint64
}

// summary is what placing needs of a view. Making it is one pass over nodes
// and ranges; it serves every placement for a while.
type summary struct {
	view  *controlclient.View
	made  time.Time
	cells map[proto.CellID]*cellSummary
}

type cellSummary struct {
	open     []proto.RangeID // ascending
	active   bool
	headroom float64 // in whole steps of headroomStep
	users    uint64
}

// NewChooser makes a chooser.
func NewChooser(viewer Viewer) *Chooser {
	return &Chooser{viewer: viewer, now: time.Now, cells: map[proto.CellID]*cellTally{}, full: map[proto.RangeID]time.Time{}}
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
	sum := c.summarize(v)
	if cell == "" {
		if cell = c.best(sum); cell == "" {
			return 0, proto.Errorf(proto.CodeNotReady, "no cell takes new users just now: see `waggle cells ls`")
		}
	} else if _, ok := v.Cells[cell]; !ok {
		return 0, proto.Errorf(proto.CodeUnknownCell, "there is no cell %.40q: see `waggle cells ls`", string(cell))
	}
	open := c.takes(sum.cells[cell])
	if len(open) == 0 {
		if draining(v.Cells[cell]) {
			return 0, proto.Errorf(proto.CodeConflict, "cell %s is being drained and takes no new users", cell)
		}
		return 0, proto.Errorf(proto.CodeNotReady, "cell %s takes no new users just now, its ranges are being opened: see `waggle cells ls`", cell)
	}
	t := c.tally(cell, sum.cells[cell])
	t.next++
	t.placed++
	return open[(t.next-1)%len(open)], nil
}

// CellOf is the cell that owns a range, as far as known.
func (c *Chooser) CellOf(r proto.RangeID) (proto.CellID, bool) {
	route, ok := c.viewer.View().Routes.Lookup(r)
	return route.Cell, ok
}

// summarize looks at v anew when ranges changed, and otherwise, because loads
// change all the time, once per summaryAge.
func (c *Chooser) summarize(v *controlclient.View) *summary {
	now := c.now()
	if s := c.summary; s != nil && (s.view == v || s.view.Routes == v.Routes && now.Sub(s.made) < summaryAge) {
		return s
	}
	s := &summary{view: v, made: now, cells: map[proto.CellID]*cellSummary{}}
	nodes := v.ByCell()
	for cell, rec := range v.Cells {
		s.cells[cell] = &cellSummary{
			active:   StateOf(rec, nodes[cell]) == CellActive,
			headroom: math.Ceil(Headroom(rec, nodes[cell]) / headroomStep),
			users:    users(nodes[cell]),
		}
	}
	for id, rec := range v.Ranges {
		if sum := s.cells[proto.CellID(rec.Cell)]; sum != nil && rec.Open && rec.Created && !draining(v.Cells[proto.CellID(rec.Cell)]) {
			sum.open = append(sum.open, id)
		}
	}
	for _, sum := range s.cells {
		slices.Sort(sum.open)
	}
	for r, until := range c.full {
		if now.After(until) {
			delete(c.full, r)
		}
	}
	c.summary = s
	return s
}

// takes are the open ranges that have not just refused a user.
func (c *Chooser) takes(sum *cellSummary) []proto.RangeID {
	if sum == nil || len(c.full) == 0 {
		return sum.ranges()
	}
	now := c.now()
	return slices.DeleteFunc(slices.Clone(sum.open), func(r proto.RangeID) bool {
		until, full := c.full[r]
		return full && now.Before(until)
	})
}

func (s *cellSummary) ranges() []proto.RangeID {
	if s == nil {
		return nil
	}
	return s.open
}

// best is the cell new users go to: among those with a range that takes them,
// one that has nodes alive before one that has none.
func (c *Chooser) best(s *summary) (best proto.CellID) {
	better := func(cell proto.CellID) bool {
		if best == "" {
			return true
		}
		a, b := s.cells[cell], s.cells[best]
		if a.active != b.active {
			return a.active
		}
		return cmp.Or(
			cmp.Compare(b.headroom, a.headroom),
			cmp.Compare(c.usersOf(cell, a), c.usersOf(best, b)),
			cmp.Compare(cell, best),
		) < 0
	}
	for cell, sum := range s.cells {
		if len(c.takes(sum)) > 0 && better(cell) {
			best = cell
		}
	}
	return best
}

func (c *Chooser) usersOf(cell proto.CellID, sum *cellSummary) uint64 {
	t := c.tally(cell, sum)
	return t.reported + t.placed
}

func (c *Chooser) tally(cell proto.CellID, sum *cellSummary) *cellTally {
	t := c.cells[cell]
	if t == nil {
		t = &cellTally{}
		c.cells[cell] = t
	}
	if t.reported != sum.users {
		t.reported, t.placed = sum.users, 0
	}
	return t
}
