package controlclient

import (
	"path/filepath"
	"testing"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// What this process, one before it, or another node has seen of etcd tells that
// it went back, until a reconciliation that came after.
func TestFreeze(t *testing.T) {
	with := func(v *View, revision int64, reconciled uint64) *View {
		d := newDraft(v)
		d.Revision, d.Reconciled = 0, reconciled
		return d.finish(revision)
	}
	node := func(v *View, alive bool, seen int64, reconciled uint64) *View {
		out := *v
		out.Nodes = map[proto.NodeID]Node{"n1": {ID: "n1", Alive: alive, Record: &controlpb.NodeRecord{SeenRevision: seen, Reconciled: reconciled}}}
		return &out
	}
	first := with(&View{}, 100, 0)
	restored := with(first, 60, 0)
	reconciled := with(restored, 70, 1)
	cache := filepath.Join(t.TempDir(), "cache")
	if err := saveCache(cache, first); err != nil {
		t.Fatal(err)
	}
	cached, err := loadCache(cache)
	if err != nil {
		t.Fatal(err)
	}
	for what, one := range map[string]struct {
		v    *View
		want bool
	}{
		"at first":                      {first, false},
		"going on":                      {with(first, 101, 0), false},
		"gone back":                     {restored, true},
		"a later process, gone on":      {with(cached, 101, 0), false},
		"a later process, gone back":    {with(cached, 60, 0), true},
		"from disk alone":               {cached, false},
		"reconciled":                    {reconciled, false},
		"reconciled and going on":       {with(reconciled, 71, 1), false},
		"gone back again":               {with(with(reconciled, 90, 1), 80, 1), true},
		"gone back behind the mending":  {with(reconciled, 200, 0), true},
		"another has seen more":         {node(first, true, 101, 0), true},
		"another has seen as much":      {node(first, true, 100, 0), false},
		"another that is gone":          {node(first, false, 101, 0), false},
		"another, before the mending":   {node(reconciled, true, 101, 0), false},
		"another, since the mending":    {node(reconciled, true, 71, 1), true},
		"another, of a mending unknown": {node(reconciled, true, 10, 2), true},
	} {
		if got := one.v.Freeze() != ""; got != one.want {
			t.Errorf("%s: frozen %t (%s)", what, got, one.v.Freeze())
		}
	}
	frozen := *first
	frozen.Frozen = &controlpb.FrozenRecord{Reason: "because"}
	if frozen.Freeze() != "because" {
		t.Error(frozen.Freeze())
	}
}
