// Package rescue is what operators do about ranges when something is wrong:
// compare their replicas ([Rescue.Verify]), go on with one replica when the
// majority is lost ([Rescue.Recover]), and rebuild the route table from the
// nodes' descriptors when etcd was restored from a backup ([Rescue.Reconcile]).
package rescue

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"golang.org/x/sync/errgroup"
)

const (
	// askTimeout bounds one question to a node.
	askTimeout = time.Second
	// asksAtOnce bounds the questions under way.
	asksAtOnce = 64
	// requestTimeout bounds one request to etcd.
	requestTimeout = 3 * time.Second
	// tries bounds the repetitions when somebody else wrote in between.
	tries = 10
)

// Cluster is what a rescue needs of controlclient.Client.
type Cluster interface {
	View() *controlclient.View
	Changed() <-chan struct{}
	Etcd() *clientv3.Client
}

// Nodes calls storage nodes; mover.NodeCalls is one. Errors are of the
// registry.
type Nodes interface {
	// Ranges reports on a node's replicas of the ranges; of all for none.
	Ranges(ctx context.Context, node proto.NodeID, ranges []uint64) ([]*cellpb.ReplicaStatus, error)
	// Digest digests a node's replica at an index.
	Digest(ctx context.Context, node proto.NodeID, req *cellpb.DigestRangeRequest) (*cellpb.DigestRangeReply, error)
	// Recover makes a node's replica the only one of its range.
	Recover(ctx context.Context, node proto.NodeID, req *cellpb.RecoverReplicaRequest) (*cellpb.RecoverReplicaReply, error)
}

// Rescue does it.
type Rescue struct {
	cluster Cluster
	nodes   Nodes
}

// New makes one. It starts nothing.
func New(c Cluster, n Nodes) *Rescue { return &Rescue{cluster: c, nodes: n} }

// ask asks all storage nodes, those believed gone too, for their replicas of
// the ranges, of all for none. A node that does not answer is left out.
func (r *Rescue) ask(ctx context.Context, v *controlclient.View, ranges []uint64) map[proto.NodeID][]*cellpb.ReplicaStatus {
	out := map[proto.NodeID][]*cellpb.ReplicaStatus{}
	var mu sync.Mutex // guards out
	var g errgroup.Group
	g.SetLimit(asksAtOnce)
	for _, n := range v.ByRole("storage") {
		g.Go(func() error {
			callCtx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			got, err := r.nodes.Ranges(callCtx, n.ID, ranges)
			if err != nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			out[n.ID] = got
			return nil
		})
	}
	_ = g.Wait()
	return out
}

// held are the replicas of one range by node.
func held(answers map[proto.NodeID][]*cellpb.ReplicaStatus, r proto.RangeID) map[proto.NodeID]*cellpb.ReplicaStatus {
	out := map[proto.NodeID]*cellpb.ReplicaStatus{}
	for node, replicas := range answers {
		for _, st := range replicas {
			if st.GetDescriptor_().GetRange() == uint64(r) {
				out[node] = st
			}
		}
	}
	return out
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
