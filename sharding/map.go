package sharding

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/waggle-im/waggle/proto"
)

// Route says who owns a range.
type Route struct {
	Range proto.RangeID
	Cell  proto.CellID
	Epoch proto.Epoch
	Nodes []proto.NodeID // hold replicas, as far as known; not to be changed
}

// Map is an immutable set of routes, at most one per range. The zero value
// and nil are empty maps. It costs 24 bytes per range, 16 per cell, and 24 and
// 16 per node for each list of nodes that one range or many have.
type Map struct {
	routes []packed // by range, ascending
	cells  []proto.CellID
	lists  [][]proto.NodeID // each of them at most once
}

// packed is a route with its cell and nodes by their places in the map.
type packed struct {
	rng         proto.RangeID
	epoch       proto.Epoch
	cell, nodes uint32
}

// New makes a map. Of two routes of one range the one with the higher epoch
// stays.
func New(routes []Route) *Map { return (*Map)(nil).With(routes...) }

// Len is the number of ranges.
func (m *Map) Len() int {
	if m == nil {
		return 0
	}
	return len(m.routes)
}

// Lookup finds the route of a range.
func (m *Map) Lookup(r proto.RangeID) (Route, bool) {
	if m == nil {
		return Route{}, false
	}
	// By hand: it is half as long as with a function that compares.
	low, high := 0, len(m.routes)
	for low < high {
		if middle := int(uint(low+high) >> 1); m.routes[middle].rng < r {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(m.routes) || m.routes[low].rng != r {
		return Route{}, false
	}
	return m.unpack(m.routes[low]), true
}

func (m *Map) unpack(p packed) Route {
	return Route{Range: p.rng, Cell: m.cells[p.cell], Epoch: p.epoch, Nodes: m.lists[p.nodes]}
}

// All walks the routes by ascending range.
func (m *Map) All() iter.Seq[Route] {
	return func(yield func(Route) bool) {
		if m == nil {
			return
		}
		for _, p := range m.routes {
			if !yield(m.unpack(p)) {
				return
			}
		}
	}
}

// With is m with routes put in. A route of a lower epoch than m knows is
// ignored: ownership never goes back. At an equal epoch the owner cannot
// differ; the later nodes replace the earlier ones.
func (m *Map) With(routes ...Route) *Map {
	added := slices.DeleteFunc(newest(routes), func(r Route) bool {
		old, ok := m.Lookup(r.Range)
		return ok && old.Epoch > r.Epoch
	})
	if m == nil {
		m = &Map{}
	} else if len(added) == 0 {
		return m
	}
	t := newTables(m, len(added))
	next := make([]packed, 0, len(m.routes)+len(added))
	rest := m.routes
	for _, r := range added {
		i, found := slices.BinarySearchFunc(rest, r.Range, func(p packed, id proto.RangeID) int { return cmp.Compare(p.rng, id) })
		next = append(next, rest[:i]...)
		if rest = rest[i:]; found {
			rest = rest[1:]
		}
		next = append(next, packed{rng: r.Range, epoch: r.Epoch, cell: t.cell(r.Cell), nodes: t.list(r.Nodes)})
	}
	out := &Map{routes: append(next, rest...), cells: t.cells, lists: t.lists}
	if out.wasteful() {
		return New(slices.Collect(out.All()))
	}
	return out
}

// newest are the routes by range, of several of one range the one that counts.
func newest(routes []Route) []Route {
	order := make([]int, len(routes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := &routes[i], &routes[j]
		return cmp.Or(cmp.Compare(a.Range, b.Range), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(i, j))
	})
	out := make([]Route, 0, len(routes))
	for _, i := range order {
		if n := len(out); n > 0 && out[n-1].Range == routes[i].Range {
			out = out[:n-1]
		}
		out = append(out, routes[i])
	}
	return out
}

// spare is how many lists of nodes may be kept that no range has any more,
// beyond as many as there are others.
const spare = 64

// wasteful tells whether most lists of nodes belong to no range any more.
func (m *Map) wasteful() bool {
	if len(m.lists) <= spare {
		return false
	}
	used, count := make([]bool, len(m.lists)), 0
	for _, p := range m.routes {
		if !used[p.nodes] {
			used[p.nodes] = true
			count++
		}
	}
	return len(m.lists) > 2*count+spare
}

// tables are those of a map being made. What its predecessor has keeps its
// place.
type tables struct {
	cells  []proto.CellID
	lists  [][]proto.NodeID
	byCell map[proto.CellID]uint32
	byList map[string]uint32 // nil: few routes are put in, and looking is cheaper
}

// indexAbove is how many routes are worth making an index for.
const indexAbove = 16

func newTables(m *Map, added int) *tables {
	// Clipped: another map made of m may have more behind.
	t := &tables{cells: slices.Clip(m.cells), lists: slices.Clip(m.lists)}
	if added <= indexAbove {
		return t
	}
	t.byCell, t.byList = map[proto.CellID]uint32{}, map[string]uint32{}
	for i, c := range t.cells {
		t.byCell[c] = uint32(i)
	}
	for i, l := range t.lists {
		t.byList[listKey(l)] = uint32(i)
	}
	return t
}

func listKey(nodes []proto.NodeID) string {
	var b strings.Builder
	for _, n := range nodes {
		b.WriteString(string(n))
		b.WriteByte(0)
	}
	return b.String()
}

// cell is the place of a cell.
func (t *tables) cell(c proto.CellID) uint32 {
	i, known := t.byCell[c]
	if t.byCell == nil {
		at := slices.Index(t.cells, c)
		i, known = uint32(at), at >= 0
	}
	if known {
		return i
	}
	i = uint32(len(t.cells))
	t.cells = append(t.cells, c)
	if t.byCell != nil {
		t.byCell[c] = i
	}
	return i
}

// list is the place of a list of nodes.
func (t *tables) list(nodes []proto.NodeID) uint32 {
	var key string
	var i uint32
	var known bool
	if t.byList == nil {
		at := slices.IndexFunc(t.lists, func(l []proto.NodeID) bool { return slices.Equal(l, nodes) })
		i, known = uint32(at), at >= 0
	} else {
		key = listKey(nodes)
		i, known = t.byList[key]
	}
	if known {
		return i
	}
	i = uint32(len(t.lists))
	t.lists = append(t.lists, slices.Clip(slices.Clone(nodes)))
	if t.byList != nil {
		t.byList[key] = i
	}
	return i
}
