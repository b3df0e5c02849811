package mover

import (
	"testing"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/sharding/move"
)

// The view may show a route that was published after a round decided to publish
// it, or a later one: the row is neither written twice nor set back.
func TestPublishesOnceAndNeverSetsBack(t *testing.T) {
	w := newWorld(t)
	term := w.mover().begin(w.take())
	s := move.Begin(toC2(0))
	publish := func(epoch proto.Epoch) error {
		return term.call(s, move.Effect{Kind: move.Publish, Route: move.Route{
			Cell: "c2", Epoch: epoch, Voters: []move.Member{{ID: 4, Node: "c2-n1"}},
		}})(t.Context())
	}
	written := func() int64 {
		got, err := w.client.Etcd().Get(t.Context(), controlclient.RangeKey(1))
		if err != nil {
			t.Fatal(err)
		}
		return got.Kvs[0].Version
	}
	before := written()
	if err := publish(2); err != nil {
		t.Fatal(err)
	}
	w.eventually("the view shows it", func(v *controlclient.View) bool { return v.Ranges[1].Epoch == 2 })
	if err := publish(2); err != nil {
		t.Errorf("what stands there already: %v", err)
	}
	if err := publish(1); proto.CodeOf(err) != proto.CodeStaleEpoch {
		t.Errorf("an older route: %v", err)
	}
	if n := written() - before; n != 1 {
		t.Errorf("the row was written %d times, not once", n)
	}
}
