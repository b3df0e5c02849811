package sharding

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/waggle-im/waggle/proto"
)

func drawRoutes(t *rapid.T) []Route {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Route {
		r := Route{Range: proto.RangeID(rapid.Uint64Max(9).Draw(t, "range")), Epoch: proto.Epoch(rapid.Uint64Range(1, 5).Draw(t, "epoch"))}
		r.Cell = proto.CellID(fmt.Sprint("c", rapid.IntRange(1, 3).Draw(t, "cell")))
		r.Nodes = []proto.NodeID{proto.NodeID(fmt.Sprint("n", rapid.IntRange(1, 9).Draw(t, "node"))), "n0"}[:rapid.IntRange(0, 2).Draw(t, "nodes")]
		return r
	}), 0, 40).Draw(t, "routes")
}

func same(a, b Route) bool {
	return a.Range == b.Range && a.Cell == b.Cell && a.Epoch == b.Epoch && slices.Equal(a.Nodes, b.Nodes)
}

// A map agrees with a plain one, whatever is put in and in which portions, and
// no earlier map ever changes.
func TestMapAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		model := map[proto.RangeID]Route{}
		var m *Map
		type version struct {
			m      *Map
			routes []Route
		}
		var versions []version
		for range rapid.IntRange(1, 6).Draw(t, "portions") {
			routes := drawRoutes(t)
			for _, r := range routes {
				if old, ok := model[r.Range]; !ok || r.Epoch >= old.Epoch {
					model[r.Range] = r
				}
			}
			m = m.With(routes...)
			if m.Len() != len(model) {
				t.Fatalf("%d routes, want %d", m.Len(), len(model))
			}
			for r := range proto.RangeID(12) {
				have, ok := m.Lookup(r)
				want, known := model[r]
				if ok != known || ok && !same(have, want) {
					t.Fatalf("range %s: %v %v, want %v %v", r, have, ok, want, known)
				}
			}
			all := slices.Collect(m.All())
			if !slices.IsSortedFunc(all, func(a, b Route) int { return cmp.Compare(a.Range, b.Range) }) || len(all) != len(model) {
				t.Fatalf("walked %v", all)
			}
			versions = append(versions, version{m, all})
		}
		for i, v := range versions {
			if !slices.EqualFunc(slices.Collect(v.m.All()), v.routes, same) {
				t.Fatalf("version %d has changed", i)
			}
		}
	})
}

func TestOwnershipNeverGoesBack(t *testing.T) {
	m := New([]Route{{Range: 1, Cell: "c2", Epoch: 5}})
	m = m.With(Route{Range: 1, Cell: "c1", Epoch: 4})
	if r, _ := m.Lookup(1); r.Cell != "c2" || r.Epoch != 5 {
		t.Errorf("range 1 went back to %v", r)
	}
	m = m.With(Route{Range: 1, Cell: "c3", Epoch: 6}, Route{Range: 1, Cell: "c1", Epoch: 4})
	if r, _ := m.Lookup(1); r.Cell != "c3" {
		t.Errorf("an older route of the same portion won: %v", r)
	}
}

func TestEmptyMaps(t *testing.T) {
	for name, m := range map[string]*Map{"nil": nil, "zero": {}, "new": New(nil)} {
		if _, ok := m.Lookup(0); ok || m.Len() != 0 {
			t.Errorf("%s: holds something", name)
		}
		for r := range m.All() {
			t.Errorf("%s: walked %v", name, r)
		}
	}
	m := New([]Route{{Range: 1, Epoch: 1}, {Range: 2, Epoch: 1}})
	for range m.All() {
		break // must not go on
	}
	if m.With() != m {
		t.Error("putting nothing in made another map")
	}
}

// What no range has any more is not kept, however long it goes on.
func TestListsOfNodesAreForgotten(t *testing.T) {
	var routes []Route
	for r := range proto.RangeID(10) {
		routes = append(routes, Route{Range: r, Cell: "c1", Epoch: 1, Nodes: []proto.NodeID{"n1", "n2"}})
	}
	m := New(routes)
	if len(m.lists) != 1 || len(m.cells) != 1 {
		t.Errorf("%d lists and %d cells of ranges that are alike", len(m.lists), len(m.cells))
	}
	for i := range 5000 {
		m = m.With(Route{Range: proto.RangeID(i % 10), Cell: proto.CellID(fmt.Sprint("c", i)), Epoch: proto.Epoch(i + 2), Nodes: []proto.NodeID{proto.NodeID(fmt.Sprint("n", i))}})
	}
	if len(m.lists) > 20+spare+1 || len(m.cells) > 20+spare+1 || m.Len() != 10 {
		t.Errorf("%d lists and %d cells of %d ranges", len(m.lists), len(m.cells), m.Len())
	}
}

func BenchmarkWith(b *testing.B) {
	var routes []Route
	for i := range 100_000 {
		cell := fmt.Sprint("c", i%10_000)
		routes = append(routes, Route{Range: proto.RangeID(i), Cell: proto.CellID(cell), Epoch: 1, Nodes: []proto.NodeID{proto.NodeID(cell + "-n1")}})
	}
	m := New(routes)
	for i := 0; b.Loop(); i++ {
		m.With(Route{Range: proto.RangeID(i % 100_000), Cell: "c1", Epoch: 2, Nodes: []proto.NodeID{"c1-n1"}})
	}
}

func BenchmarkLookup(b *testing.B) {
	routes := make([]Route, 100_000)
	for i := range routes {
		routes[i] = Route{Range: proto.RangeID(i * 3), Cell: "c1", Epoch: 1}
	}
	m := New(routes)
	for i := 0; b.Loop(); i++ {
		m.Lookup(proto.RangeID(i % 300_000))
	}
}
