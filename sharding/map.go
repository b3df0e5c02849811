package sharding

import (
	"iter"
	"slices"

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
// and nil are empty maps. It costs about 48 bytes per range and its nodes'
// slice, which callers may share among ranges.
type Map struct {
	routes []Route // by Range, ascending
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
	i, ok := slices.BinarySearchFunc(m.routes, r, compareRange)
	if !ok {
		return Route{}, false
	}
	return m.routes[i], true
}

func compareRange(route Route, r proto.RangeID) int {
	switch {
	case route.Range < r:
		return -1
	case route.Range > r:
		return 1
	}
	return 0
}

// All walks the routes by ascending range.
func (m *Map) All() iter.Seq[Route] {
	return func(yield func(Route) bool) {
		if m == nil {
			return
		}
		for _, r := range m.routes {
			if !yield(r) {
				return
			}
		}
	}
}

// With is m with routes put in. A route of a lower epoch than m knows is
// ignored: ownership never goes back. At an equal epoch the owner cannot
// differ; the later nodes replace the earlier ones.
func (m *Map) With(routes ...Route) *Map {
	latest := make(map[proto.RangeID]Route, len(routes))
	for _, r := range routes {
		old, ok := latest[r.Range]
		if !ok {
			old, ok = m.Lookup(r.Range)
		}
		if ok && old.Epoch > r.Epoch {
			continue
		}
		latest[r.Range] = r
	}
	if len(latest) == 0 && m != nil {
		return m
	}
	next := make([]Route, 0, m.Len()+len(latest))
	for r := range m.All() {
		if newer, ok := latest[r.Range]; ok {
			r = newer
			delete(latest, r.Range)
		}
		next = append(next, r)
	}
	for _, r := range latest {
		next = append(next, r)
	}
	slices.SortFunc(next, func(a, b Route) int { return compareRange(a, b.Range) })
	return &Map{routes: next}
}
