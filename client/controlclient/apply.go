package controlclient

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding"
)

// put takes in one key's value. Keys of a newer release are skipped.
func (d *draft) put(key string, value []byte) error {
	if err := d.putRecord(key, value); err != nil {
		return fmt.Errorf("controlclient: %s: %w", key, err)
	}
	return nil
}

func (d *draft) putRecord(key string, value []byte) error {
	switch {
	case strings.HasPrefix(key, CellPrefix):
		rec := &controlpb.CellRecord{}
		if err := proto.Unmarshal(value, rec); err != nil {
			return err
		}
		d.cells()[waggle.CellID(key[len(CellPrefix):])] = rec
		d.lasting = true
	case strings.HasPrefix(key, NodePrefix):
		return d.putNode(waggle.NodeID(key[len(NodePrefix):]), value, false)
	case strings.HasPrefix(key, AlivePrefix):
		return d.putNode(waggle.NodeID(key[len(AlivePrefix):]), value, true)
	case strings.HasPrefix(key, RangePrefix):
		return d.putRange(key, value)
	case strings.HasPrefix(key, KeyPrefix):
		rec := &controlpb.KeyRecord{}
		if err := proto.Unmarshal(value, rec); err != nil {
			return err
		}
		d.keys()[key[len(KeyPrefix):]] = rec
		d.lasting = true
	case key == FrozenKey:
		rec := &controlpb.FrozenRecord{}
		if err := proto.Unmarshal(value, rec); err != nil {
			return err
		}
		d.Frozen = rec
	case key == ReconciledKey:
		n, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return err
		}
		d.Reconciled, d.lasting = n, true
	case strings.HasPrefix(key, MovePrefix):
		rec := &controlpb.MoveRecord{}
		if err := proto.Unmarshal(value, rec); err != nil {
			return err
		}
		d.moves()[key[len(MovePrefix):]] = rec
	case strings.HasPrefix(key, EdgePrefix):
		rec := &controlpb.EdgeRecord{}
		if err := proto.Unmarshal(value, rec); err != nil {
			return err
		}
		d.edges()[waggle.NodeID(key[len(EdgePrefix):])] = rec
		d.lasting = true
	}
	return nil
}

// putNode takes in a node's lasting record, or the one under its lease, which
// alone carries a load and says that the node is leaving.
func (d *draft) putNode(id waggle.NodeID, value []byte, leased bool) error {
	rec := &controlpb.NodeRecord{}
	if err := proto.Unmarshal(value, rec); err != nil {
		return err
	}
	nodes := d.nodeMap()
	old, known := nodes[id]
	if !leased && known {
		rec.Load, rec.Leaving = old.Record.GetLoad(), old.Record.GetLeaving()
		rec.SeenRevision, rec.Reconciled = old.Record.GetSeenRevision(), old.Record.GetReconciled()
	}
	if !known || !sameButLoad(old.Record, rec) {
		d.lasting = true
	}
	nodes[id] = Node{ID: id, Record: rec, Alive: leased || old.Alive}
	return nil
}

func sameButLoad(a, b *controlpb.NodeRecord) bool {
	x := proto.CloneOf(a)
	x.Load, x.Leaving, x.SeenRevision, x.Reconciled = b.Load, b.Leaving, b.SeenRevision, b.Reconciled
	return proto.Equal(x, b)
}

func (d *draft) putRange(key string, value []byte) error {
	id, err := parseRangeKey(key)
	if err != nil {
		return err
	}
	rec := &controlpb.RangeRecord{}
	if err := proto.Unmarshal(value, rec); err != nil {
		return err
	}
	if rec.Range != uint64(id) {
		return fmt.Errorf("the record is of range %d", rec.Range)
	}
	if old, ok := d.Ranges[id]; ok && old.Epoch > rec.Epoch {
		return nil // etcd was restored from a backup: ownership never goes back
	}
	d.ranges()[id] = rec
	route := sharding.Route{Range: id, Cell: waggle.CellID(rec.Cell), Epoch: waggle.Epoch(rec.Epoch)}
	for _, r := range rec.Replicas {
		route.Nodes = append(route.Nodes, waggle.NodeID(r.Node))
	}
	d.routes = append(d.routes, route)
	d.lasting = true
	return nil
}

// remove takes in the deletion of a key. A lease that ended marks its node
// gone; a node removed by an operator is forgotten. Ranges are never removed.
func (d *draft) remove(key string) {
	switch {
	case strings.HasPrefix(key, CellPrefix):
		delete(d.cells(), waggle.CellID(key[len(CellPrefix):]))
		d.lasting = true
	case strings.HasPrefix(key, NodePrefix):
		delete(d.nodeMap(), waggle.NodeID(key[len(NodePrefix):]))
		d.lasting = true
	case strings.HasPrefix(key, AlivePrefix):
		id := waggle.NodeID(key[len(AlivePrefix):])
		if n, ok := d.Nodes[id]; ok {
			n.Alive = false
			if n.Record.GetLeaving() { // it has left: what is said of it from now on is new
				n.Record = proto.CloneOf(n.Record)
				n.Record.Leaving = false
			}
			d.nodeMap()[id] = n
		}
	case strings.HasPrefix(key, KeyPrefix):
		delete(d.keys(), key[len(KeyPrefix):])
		d.lasting = true
	case strings.HasPrefix(key, MovePrefix):
		delete(d.moves(), key[len(MovePrefix):])
	case strings.HasPrefix(key, EdgePrefix):
		delete(d.edges(), waggle.NodeID(key[len(EdgePrefix):]))
		d.lasting = true
	case key == FrozenKey:
		d.Frozen = nil
	case key == ReconciledKey:
		d.Reconciled = 0
	}
}

// relist compares a full listing with what is known. What the listing lacks
// is treated as deleted, but for addresses and routes: those stay, because an
// etcd that lost its data must not take them from running nodes.
func (d *draft) relist(pairs []pair) (errs []error) {
	listed := make(map[string]bool, len(pairs))
	for _, p := range pairs {
		listed[p.Key] = true
	}
	for _, key := range []string{FrozenKey, ReconciledKey} {
		if !listed[key] {
			d.remove(key)
		}
	}
	for id := range d.Cells {
		if !listed[CellKey(id)] {
			d.remove(CellKey(id))
		}
	}
	for kid := range d.Keys {
		if !listed[KeyKey(kid)] {
			d.remove(KeyKey(kid))
		}
	}
	for id := range d.Edges {
		if !listed[EdgeKey(id)] {
			d.remove(EdgeKey(id))
		}
	}
	for id := range d.Moves {
		if !listed[MoveKey(id)] {
			d.remove(MoveKey(id))
		}
	}
	for id := range d.Nodes {
		if !listed[AliveKey(id)] {
			d.remove(AliveKey(id))
		}
	}
	for _, p := range pairs {
		if err := d.put(p.Key, p.Value); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// pairs is the view as keys and values, for the copy on disk. Loads and who
// is alive are left out: they are old by the time anybody reads them.
func (v *View) pairs() ([]pair, error) {
	var out []pair
	add := func(key string, m proto.Message) error {
		value, err := proto.Marshal(m)
		out = append(out, pair{Key: key, Value: value})
		return err
	}
	for id, rec := range v.Cells {
		if err := add(CellKey(id), rec); err != nil {
			return nil, err
		}
	}
	for id, n := range v.Nodes {
		rec := proto.CloneOf(n.Record)
		rec.Load, rec.Leaving, rec.SeenRevision, rec.Reconciled = nil, false, 0, 0
		if err := add(NodeKey(id), rec); err != nil {
			return nil, err
		}
	}
	for id, rec := range v.Edges {
		if err := add(EdgeKey(id), rec); err != nil {
			return nil, err
		}
	}
	for id, rec := range v.Ranges {
		if err := add(RangeKey(id), rec); err != nil {
			return nil, err
		}
	}
	for kid, rec := range v.Keys {
		if err := add(KeyKey(kid), rec); err != nil {
			return nil, err
		}
	}
	return out, nil
}
