package mover

import (
	"context"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/sharding/move"
)

// waits waits until a move says that it waits for this.
func (w *world) waits(id, what string) {
	w.t.Helper()
	w.eventually("move "+id+" waits for "+what, func(v *controlclient.View) bool {
		return strings.Contains(v.Moves[id].GetWait(), what)
	})
}

// A node that does not know the range's rules gets no replica of it, whether
// they were raised before it was asked to make one or after; the move says so,
// and can be cancelled or goes on when the node does know them.
func TestANodeOfTheReleaseBeforeGetsNoReplica(t *testing.T) {
	for name, late := range map[string]bool{"raised before": false, "raised between": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := w.model
			m.rules, m.knows = 2, map[proto.NodeID]uint32{}
			for _, n := range []proto.NodeID{"c1-n1", "c1-n2", "c1-n3", "c2-n1", "c2-n2", "c2-n3"} {
				m.knows[n] = 2
			}
			m.knows["c2-n2"] = 1
			if late {
				m.rules = 1
				m.after = func(_ context.Context, call string) error {
					m.mu.Lock()
					defer m.mu.Unlock()
					if strings.HasPrefix(call, "create") && strings.HasSuffix(call, "c2-n2") {
						m.rules = 2
					}
					return nil
				}
			}
			w.serve(w.mover())
			id := w.submit(toC2(0))
			w.waits(id, "c2-n2")
			w.waits(id, "rules 2")
			if _, err := NewBook(w.client.Etcd()).Cancel(t.Context(), id, false); err != nil {
				t.Fatal(err)
			}
			w.reaches(id, move.Cancelled)
			w.expect(1, atHome)
			m.mu.Lock()
			m.knows["c2-n2"] = 2
			m.mu.Unlock()
			w.reaches(w.submit(toC2(0)), move.Done)
			w.expect(1, moved)
		})
	}
}
