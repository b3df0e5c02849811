package mover

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	waggle "github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding/move"
)

// start does one effect of a move beside the rounds.
func (t *term) start(ctx context.Context, e *entry, f move.Effect) {
	id, do := e.rec.Move, t.call(StateOf(e.rec), f)
	e.doing++
	t.wg.Go(func() {
		callCtx, cancel := context.WithTimeout(ctx, effectTimeout)
		defer cancel()
		err := t.calls.Acquire(callCtx, 1)
		if err == nil {
			err = do(callCtx)
			t.calls.Release(1)
		}
		select {
		case t.results <- result{id, f, err}:
		case <-ctx.Done():
		}
	})
}

// call is what an effect means. What it needs of this mover's knowledge is
// taken now, in the goroutine of the rounds.
func (t *term) call(s move.State, f move.Effect) func(context.Context) error {
	d := t.newest[s.Range]
	v := t.Cluster.View()
	rec := v.Ranges[s.Range]
	switch f.Kind {
	case move.CreateReplica:
		_, leader := t.leader(s.Range)
		req := &cellpb.CreateReplicaRequest{
			Descriptor_: d, Replica: uint64(f.Member.ID), Incarnation: rec.GetIncarnation(), Empty: true, Rules: leader.GetRules(),
		}
		return func(ctx context.Context) error { return t.Nodes.CreateReplica(ctx, f.Member.Node, req) }
	case move.RemoveReplica:
		req := &cellpb.RemoveReplicaRequest{Range: uint64(s.Range), Descriptor_: d, Below: uint64(f.Member.ID) + 1}
		return func(ctx context.Context) error { return t.Nodes.RemoveReplica(ctx, f.Member.Node, req) }
	case move.ChangeRange:
		node, leader := t.leader(s.Range)
		if err := t.supported(s, f.Change.GetAddLearner(), leader); err != nil {
			return func(context.Context) error { return err }
		}
		req := &cellpb.ChangeRangeRequest{Range: uint64(s.Range), Change: f.Change}
		return func(ctx context.Context) error { return t.Nodes.ChangeRange(ctx, node, req) }
	case move.Publish:
		return func(ctx context.Context) error {
			if rec == nil {
				return fmt.Errorf("range %d is not in the route table", s.Range)
			}
			out := proto.CloneOf(rec)
			out.Cell, out.Epoch, out.Replicas = string(f.Route.Cell), uint64(f.Route.Epoch), replicas(f.Route.Voters)
			// The view may have grown since this was decided: what was
			// published then is not written twice, nor over something newer.
			switch {
			case rec.Epoch > out.Epoch:
				return waggle.Errorf(waggle.CodeStaleEpoch, "the route table has epoch %d of range %d, not %d", rec.Epoch, s.Range, out.Epoch)
			case proto.Equal(rec, out):
				return nil
			}
			value, err := proto.Marshal(out)
			if err != nil {
				return err
			}
			key := controlclient.RangeKey(s.Range)
			// rec, whose epoch is not higher, is what stands there.
			_, err = t.seat.Commit(ctx, []clientv3.Op{clientv3.OpPut(key, string(value))}, clientv3.Compare(clientv3.ModRevision(key), "<", v.Revision+1))
			return err
		}
	}
	return func(context.Context) error { return waggle.Errorf(waggle.CodeUnsupported, "%v cannot be done", f.Kind) }
}

// supported refuses to add a learner on a node that does not apply entries by
// the range's rules, which may have been raised since it made its replica: it
// could take no snapshot. An id that is given only to be taken back needs no
// node.
func (t *term) supported(s move.State, learner *cellpb.Replica, leader *cellpb.ReplicaStatus) error {
	if learner == nil || s.Phase != move.Seeding {
		return nil
	}
	node := waggle.NodeID(learner.Node)
	var knows uint32
	if a := t.asked[node]; a != nil {
		knows = a.replicas[s.Range].GetNodeRules()
	}
	if knows >= leader.GetRules() {
		return nil
	}
	return waggle.Errorf(waggle.CodeUnsupported, "range %d is applied by rules %d, node %s knows up to %d: run the newer release there first",
		s.Range, leader.GetRules(), node, max(knows, waggle.FirstRules))
}
