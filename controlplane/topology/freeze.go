package topology

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/topology/seat"
	waggle "github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// knowledge is what the storage nodes have said.
type knowledge struct {
	entities map[waggle.RangeID]uint64       // ids given, as far as ever known
	epochs   map[waggle.RangeID]waggle.Epoch // the highest of each range, last time
}

func (k knowledge) take(st *cellpb.ReplicaStatus) {
	d := st.GetDescriptor_()
	if d == nil {
		return
	}
	r := waggle.RangeID(d.Range)
	k.epochs[r] = max(k.epochs[r], waggle.Epoch(d.Epoch))
	if st.Leading {
		k.entities[r] = max(k.entities[r], st.Entities) // ids are never taken back
	}
}

// ahead says which range the nodes know at a higher epoch than the route table
// in the view, which is to be newer than what they said, although it is neither
// being moved nor recovered. Empty: none.
func (k knowledge) ahead(v *controlclient.View) string {
	var moved map[waggle.RangeID]bool
	for r, epoch := range k.epochs {
		rec := v.Ranges[r]
		if rec != nil && (waggle.Epoch(rec.Epoch) >= epoch || rec.Recovering) {
			continue
		}
		if moved == nil {
			moved = map[waggle.RangeID]bool{}
			for _, m := range v.Moves {
				if !move.Phase(m.State).Over() {
					moved[waggle.RangeID(m.Range)] = true
				}
			}
		}
		switch {
		case rec == nil:
			return fmt.Sprintf("a node has range %d, and the route table does not", r)
		case !moved[r]:
			return fmt.Sprintf("a node knows range %d at epoch %d, and the route table at %d", r, epoch, rec.Epoch)
		}
	}
	return ""
}

// freeze keeps everybody from placing anything until an operator has
// reconciled, also those who do not see what this one has seen.
func (k *Keeper) freeze(ctx context.Context, st *seat.Seat, v *controlclient.View, reason string) error {
	if v.Frozen != nil {
		return nil
	}
	value, err := proto.Marshal(&controlpb.FrozenRecord{Reason: reason, SinceMs: time.Now().UnixMilli()})
	if err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	k.log.Error("placement is frozen until `waggle ranges reconcile`: etcd seems to have been restored from a backup", "reason", reason)
	// A reconciliation that has just ended is not undone by an older look.
	_, err = st.Commit(ctx, []clientv3.Op{clientv3.OpPut(controlclient.FrozenKey, string(value))},
		clientv3.Compare(clientv3.ModRevision(controlclient.ReconciledKey), "<", v.Revision+1))
	return err
}
