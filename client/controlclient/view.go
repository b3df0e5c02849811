package controlclient

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding"
)

// Node is one node as last heard of.
type Node struct {
	ID     proto.NodeID
	Record *controlpb.NodeRecord // with its last load
	Alive  bool                  // its lease stood when etcd was last heard
}

// Has tells whether the node has a role, as in "storage" or "edge".
func (n Node) Has(role string) bool { return slices.Contains(n.Record.GetRoles(), role) }

// View is the cluster at one moment. It is shared: nothing in it may be
// changed.
type View struct {
	// Revision is etcd's when this was true; 0: from the copy on disk.
	Revision int64
	Routes   *sharding.Map
	Cells    map[proto.CellID]*controlpb.CellRecord
	Nodes    map[proto.NodeID]Node
	Ranges   map[proto.RangeID]*controlpb.RangeRecord
	Keys     map[string]*controlpb.KeyRecord
	// Moves are the moves of ranges by name, those that are over too for a
	// while. They are not in the copy on disk.
	Moves map[string]*controlpb.MoveRecord
	// Edges are what operators asked of edges; those missing are to serve.
	Edges map[proto.NodeID]*controlpb.EdgeRecord
	// Frozen stands while nothing may be placed; see [View.Freeze].
	Frozen *controlpb.FrozenRecord
	// Reconciled is how often the route table was rebuilt.
	Reconciled uint64
	// SeenRevision is the highest revision of etcd that this process, or one
	// before it by the copy on disk, has seen since the SeenReconciled-th time.
	SeenRevision   int64
	SeenReconciled uint64
}

// Leaving tells whether a node is about to stop or, an edge, is emptied:
// nobody is to be sent to it.
func (v *View) Leaving(id proto.NodeID) bool {
	return v.Edges[id].GetDrain() || v.Nodes[id].Record.GetLeaving()
}

// Freeze says why nothing may be placed: etcd knows less than it once did, as
// after its restore from a backup, and would give anew what is given. Empty: it
// may.
func (v *View) Freeze() string {
	switch {
	case v.Frozen != nil:
		return v.Frozen.Reason
	case v.WentBack():
		return fmt.Sprintf("etcd is at revision %d, and was at %d before", v.Revision, v.SeenRevision)
	}
	for _, n := range v.Nodes {
		if n.Alive && v.behind(n.Record.GetReconciled(), n.Record.GetSeenRevision()) {
			return fmt.Sprintf("etcd is at revision %d, and node %s has seen it at %d", v.Revision, n.ID, n.Record.GetSeenRevision())
		}
	}
	return ""
}

// WentBack tells whether this process has seen etcd at a later revision.
func (v *View) WentBack() bool { return v.behind(v.SeenReconciled, v.SeenRevision) }

// behind tells whether etcd knows less than somebody who has seen that
// revision since its reconciled-th reconciliation.
func (v *View) behind(reconciled uint64, revision int64) bool {
	return v.Revision != 0 && (reconciled > v.Reconciled || reconciled == v.Reconciled && revision > v.Revision)
}

// ByRole lists the nodes of a role, those believed alive first, then by name.
func (v *View) ByRole(role string) []Node {
	return v.nodes(func(n Node) bool { return n.Has(role) })
}

// InCell lists the nodes of a cell, those believed alive first, then by name.
func (v *View) InCell(cell proto.CellID) []Node {
	return v.nodes(func(n Node) bool { return n.Record.GetCell() == string(cell) })
}

// ByCell groups the nodes of all cells; those of one are sorted as by
// [View.InCell]. It is one pass over all nodes: whoever looks at many cells
// calls it once.
func (v *View) ByCell() map[proto.CellID][]Node {
	out := map[proto.CellID][]Node{}
	for _, n := range v.Nodes {
		if cell := proto.CellID(n.Record.GetCell()); cell != "" {
			out[cell] = append(out[cell], n)
		}
	}
	for _, nodes := range out {
		slices.SortFunc(nodes, aliveFirst)
	}
	return out
}

func (v *View) nodes(want func(Node) bool) []Node {
	var found []Node
	for _, n := range v.Nodes {
		if want(n) {
			found = append(found, n)
		}
	}
	slices.SortFunc(found, aliveFirst)
	return found
}

func aliveFirst(a, b Node) int {
	if a.Alive != b.Alive {
		if a.Alive {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.ID, b.ID)
}

// publicKey is the key of an id.
func (v *View) publicKey(kid string) (ed25519.PublicKey, bool) {
	k, ok := v.Keys[kid]
	if !ok || len(k.PublicKey) != ed25519.PublicKeySize {
		return nil, false
	}
	return ed25519.PublicKey(k.PublicKey), true
}

// draft is a view being made: the maps are copied when first written, so that
// a change of one node's load does not copy a hundred thousand ranges.
type draft struct {
	View
	ownCells, ownNodes, ownRanges, ownKeys, ownMoves, ownEdges bool
	routes                                                     []sharding.Route
	// lasting is set by changes worth writing to disk; loads are not.
	lasting bool
}

func newDraft(v *View) *draft { return &draft{View: *v} }

func own[M ~map[K]V, K comparable, V any](m *M, owned *bool) M {
	if !*owned {
		*m = maps.Clone(*m)
		if *m == nil {
			*m = M{}
		}
		*owned = true
	}
	return *m
}

func (d *draft) cells() map[proto.CellID]*controlpb.CellRecord { return own(&d.Cells, &d.ownCells) }
func (d *draft) nodeMap() map[proto.NodeID]Node                { return own(&d.Nodes, &d.ownNodes) }
func (d *draft) ranges() map[proto.RangeID]*controlpb.RangeRecord {
	return own(&d.Ranges, &d.ownRanges)
}
func (d *draft) keys() map[string]*controlpb.KeyRecord { return own(&d.Keys, &d.ownKeys) }

func (d *draft) moves() map[string]*controlpb.MoveRecord { return own(&d.Moves, &d.ownMoves) }

func (d *draft) edges() map[proto.NodeID]*controlpb.EdgeRecord { return own(&d.Edges, &d.ownEdges) }

func (d *draft) finish(revision int64) *View {
	if len(d.routes) > 0 {
		d.Routes = d.Routes.With(d.routes...)
	}
	d.Revision = max(d.Revision, revision)
	switch {
	case d.Reconciled > d.SeenReconciled:
		d.SeenReconciled, d.SeenRevision = d.Reconciled, d.Revision
	case d.Reconciled == d.SeenReconciled:
		d.SeenRevision = max(d.SeenRevision, d.Revision)
	}
	v := d.View
	return &v
}
