package mover

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/sharding/move"
)

// A move writes etcd a bounded number of times; the log says how often and how
// large a range's row is. What is waited for is written once a second at most.
func TestScaleWritesPerMove(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	stop := w.serve(w.mover())
	before, err := w.client.Etcd().Get(ctx, controlclient.NextMoveKey)
	if err != nil {
		t.Fatal(err)
	}
	began := w.now()
	id := w.submit(toC2(0))
	w.reaches(id, move.Done)
	took := w.now().Sub(began)
	stop()
	var versions, rows int64
	for key, n := range map[string]*int64{controlclient.MoveKey(id): &versions, controlclient.RangeKey(1): &rows} {
		got, err := w.client.Etcd().Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		*n = got.Kvs[0].Version
		t.Logf("%s: %d bytes, written %d times", key, len(key)+len(got.Kvs[0].Value), got.Kvs[0].Version)
	}
	t.Logf("the whole took %s of the model's time; etcd went from revision %d", took.Round(time.Millisecond), before.Header.Revision)
	// Its nine states, three replicas made and added, three removed twice, and
	// a wait a second.
	if most := int64(9+6+6) + int64(took/waitInterval); versions > most || rows != 2 {
		t.Errorf("the move's record was written %d times, the row %d times; expected at most %d and 2", versions, rows, most)
	}
	all, err := w.client.Etcd().Get(ctx, controlclient.Prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || all.Count > 40 {
		t.Errorf("%d keys (%v)", all.Count, err)
	}
}
