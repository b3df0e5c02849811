package controlclient

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// lookAround asks a view all that nodes ask one.
func lookAround(v *View) {
	for _, n := range v.ByRole("storage") {
		_ = v.Nodes[n.ID]
	}
	for cell := range v.ByCell() {
		_ = v.InCell(cell)
	}
	for kid := range v.Keys {
		_, _ = v.publicKey(kid)
	}
	for route := range v.Routes.All() {
		_, _ = v.Routes.Lookup(route.Range)
	}
}

func fuzzPairs(t testing.TB) []pair {
	t.Helper()
	marshal := func(m proto.Message) []byte {
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	return []pair{
		{CellKey("c1"), marshal(&controlpb.CellRecord{})},
		{NodeKey("n1"), marshal(&controlpb.NodeRecord{Cell: "c1", Roles: []string{"storage"}, Addr: "127.0.0.1:1"})},
		{AliveKey("n1"), marshal(&controlpb.NodeRecord{Cell: "c1", Load: &controlpb.Load{Ranges: 1}})},
		{RangeKey(1), marshal(&controlpb.RangeRecord{Range: 1, Cell: "c1", Epoch: 2, Replicas: []*controlpb.RangeReplica{{Id: 1, Node: "n1"}}})},
		{MoveKey("m1"), marshal(&controlpb.MoveRecord{Move: "m1", Range: 1, State: "seeding"})},
		{KeyKey("k"), marshal(&controlpb.KeyRecord{PublicKey: make([]byte, 32)})},
	}
}

// Whatever stands in etcd, a node keeps what it knew, and ownership never goes
// back.
func FuzzEtcdValue(f *testing.F) {
	for _, p := range fuzzPairs(f) {
		f.Add(p.Key, p.Value)
	}
	f.Add(RangePrefix+"zz", []byte{})
	f.Add(RangePrefix, []byte{1})
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		known := newDraft(&View{})
		for _, p := range fuzzPairs(t) {
			if err := known.put(p.Key, p.Value); err != nil {
				t.Fatal(err)
			}
		}
		before := known.finish(1)
		d := newDraft(before)
		refused := d.put(key, value) != nil
		_ = newDraft(before).relist([]pair{{key, value}})
		after := d.finish(2)
		lookAround(after)
		route, ok := after.Routes.Lookup(1)
		if !ok || route.Epoch < 2 {
			t.Errorf("range 1 went from epoch 2 to %v", route)
		}
		if refused && len(after.Nodes) != len(before.Nodes) {
			t.Error("a refused value changed the view")
		}
		d = newDraft(after)
		d.remove(key)
		lookAround(d.finish(3))
	})
}

// Whatever stands in the copy on disk is taken whole or not at all.
func FuzzCacheFile(f *testing.F) {
	d := newDraft(&View{})
	for _, p := range fuzzPairs(f) {
		if err := d.put(p.Key, p.Value); err != nil {
			f.Fatal(err)
		}
	}
	file := filepath.Join(f.TempDir(), "cluster.json")
	if err := saveCache(file, d.finish(1)); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add([]byte(`{"format":1,"sum":"0","pairs":[{"key":"/waggle/ranges/zz","value":null}]}`), true)
	f.Add([]byte(`{"format":2}`), false)
	f.Fuzz(func(t *testing.T, raw []byte, mend bool) {
		if mend { // else little passes the checksum
			var c cacheFile
			if json.Unmarshal(raw, &c) != nil {
				t.Skip()
			}
			c.Format, c.Sum = cacheFormat, checksum(c.Pairs)
			var err error
			if raw, err = json.Marshal(c); err != nil {
				t.Skip()
			}
		}
		file := filepath.Join(t.TempDir(), "cluster.json")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := loadCache(file)
		lookAround(v)
		if err != nil && (len(v.Nodes) > 0 || v.Routes.Len() > 0) {
			t.Errorf("part of a damaged copy is used: %v", err)
		}
	})
}

// A bit flipped anywhere in the copy on disk is found and named, and nothing
// of the copy is used.
func TestAFlippedBitInTheCopyIsNamed(t *testing.T) {
	d := newDraft(&View{})
	for _, p := range fuzzPairs(t) {
		if err := d.put(p.Key, p.Value); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "cluster.json")
	if err := saveCache(file, d.finish(1)); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := loadCache(file)
	if err != nil || want.Routes.Len() != 1 {
		t.Fatal(err)
	}
	for at := range good {
		for _, bad := range [][]byte{append(append([]byte(nil), good[:at]...), append([]byte{good[at] ^ 0x10}, good[at+1:]...)...), good[:at]} {
			if err := os.WriteFile(file, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			v, err := loadCache(file)
			if err != nil {
				if v.Routes.Len() != 0 || len(v.Nodes) != 0 {
					t.Fatalf("byte %d: part of a damaged copy is used", at)
				}
				continue
			}
			for id, n := range want.Nodes {
				if !proto.Equal(n.Record, v.Nodes[id].Record) {
					t.Fatalf("byte %d: node %s became %v", at, id, v.Nodes[id].Record)
				}
			}
			if route, _ := v.Routes.Lookup(waggle.RangeID(1)); route.Epoch != 2 || route.Cell != "c1" {
				t.Fatalf("byte %d: the route became %v", at, route)
			}
		}
	}
}
