package topology

import (
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// A range that nodes know at a higher epoch than the route table freezes
// placement, unless a move or a recovery explains it.
func TestEpochsThatNothingExplains(t *testing.T) {
	for _, one := range []struct {
		what  string
		epoch uint64 // of the descriptor
		rec   *controlpb.RangeRecord
		state move.Phase // of its move, if any
		want  string
	}{
		{"as it should be", 3, &controlpb.RangeRecord{Epoch: 3}, "", ""},
		{"a node is behind", 2, &controlpb.RangeRecord{Epoch: 3}, "", ""},
		{"a node is ahead", 4, &controlpb.RangeRecord{Epoch: 3}, "", "at epoch 4"},
		{"it is being moved", 4, &controlpb.RangeRecord{Epoch: 3}, move.Joint, ""},
		{"it was moved", 4, &controlpb.RangeRecord{Epoch: 3}, move.Done, "at epoch 4"},
		{"it is being recovered", 5, &controlpb.RangeRecord{Epoch: 3, Recovering: true}, "", ""},
		{"it is not in the table", 1, nil, "", "has range 7"},
	} {
		v := &controlclient.View{Ranges: map[proto.RangeID]*controlpb.RangeRecord{}, Moves: map[string]*controlpb.MoveRecord{}}
		if one.rec != nil {
			v.Ranges[7] = one.rec
		}
		if one.state != "" {
			v.Moves["m1"] = &controlpb.MoveRecord{Range: 7, State: string(one.state)}
		}
		k := knowledge{entities: map[proto.RangeID]uint64{}, epochs: map[proto.RangeID]proto.Epoch{}}
		k.take(&cellpb.ReplicaStatus{Descriptor_: &cellpb.Descriptor{Range: 7, Epoch: one.epoch}})
		if got := k.ahead(v); !strings.Contains(got, one.want) || one.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", one.what, got, one.want)
		}
	}
}
