package mover

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Nodes calls storage nodes. Errors are of the registry.
type Nodes interface {
	// Ranges reports on a node's replicas of the ranges; of all for none.
	Ranges(ctx context.Context, node proto.NodeID, ranges []uint64) ([]*cellpb.ReplicaStatus, error)
	// CreateReplica makes a node's replica.
	CreateReplica(ctx context.Context, node proto.NodeID, req *cellpb.CreateReplicaRequest) error
	// ChangeRange proposes a change at the leader.
	ChangeRange(ctx context.Context, node proto.NodeID, req *cellpb.ChangeRangeRequest) error
	// RemoveReplica deletes a node's replica.
	RemoveReplica(ctx context.Context, node proto.NodeID, req *cellpb.RemoveReplicaRequest) error
}

// Dialer gives the connection to a node; cellclient.Dialer is one.
type Dialer interface {
	Conn(node proto.NodeID) (*grpc.ClientConn, error)
}

// NodeCalls is [Nodes] over gRPC.
type NodeCalls struct {
	dialer Dialer
}

// NewNodeCalls makes the calls over connections that others keep.
func NewNodeCalls(d Dialer) *NodeCalls { return &NodeCalls{dialer: d} }

// Ranges reports on a node's replicas.
func (c *NodeCalls) Ranges(ctx context.Context, node proto.NodeID, ranges []uint64) ([]*cellpb.ReplicaStatus, error) {
	conn, err := c.dialer.Conn(node)
	if err != nil {
		return nil, err
	}
	reply, err := cellpb.NewNodeClient(conn).Ranges(ctx, &cellpb.RangesRequest{Ranges: ranges})
	return reply.GetReplicas(), explain(node, err)
}

// CreateReplica makes a node's replica.
func (c *NodeCalls) CreateReplica(ctx context.Context, node proto.NodeID, req *cellpb.CreateReplicaRequest) error {
	return c.storage(node, func(s cellpb.StorageClient) error { _, err := s.CreateReplica(ctx, req); return err })
}

// ChangeRange proposes a change at the leader.
func (c *NodeCalls) ChangeRange(ctx context.Context, node proto.NodeID, req *cellpb.ChangeRangeRequest) error {
	return c.storage(node, func(s cellpb.StorageClient) error { _, err := s.ChangeRange(ctx, req); return err })
}

// RemoveReplica deletes a node's replica.
func (c *NodeCalls) RemoveReplica(ctx context.Context, node proto.NodeID, req *cellpb.RemoveReplicaRequest) error {
	return c.storage(node, func(s cellpb.StorageClient) error { _, err := s.RemoveReplica(ctx, req); return err })
}

// Digest digests a node's replica at an index.
func (c *NodeCalls) Digest(ctx context.Context, node proto.NodeID, req *cellpb.DigestRangeRequest) (reply *cellpb.DigestRangeReply, err error) {
	err = c.storage(node, func(s cellpb.StorageClient) error { reply, err = s.DigestRange(ctx, req); return err })
	return reply, err
}

// Recover makes a node's replica the only one of its range.
func (c *NodeCalls) Recover(ctx context.Context, node proto.NodeID, req *cellpb.RecoverReplicaRequest) (reply *cellpb.RecoverReplicaReply, err error) {
	err = c.storage(node, func(s cellpb.StorageClient) error { reply, err = s.RecoverReplica(ctx, req); return err })
	return reply, err
}

func (c *NodeCalls) storage(node proto.NodeID, call func(cellpb.StorageClient) error) error {
	conn, err := c.dialer.Conn(node)
	if err != nil {
		return err
	}
	return explain(node, call(cellpb.NewStorageClient(conn)))
}

// explain is a node's error, with its code where it carries one.
func explain(node proto.NodeID, err error) error {
	if st, ok := status.FromError(err); ok && err != nil && len(st.Details()) == 0 {
		return proto.Errorf(proto.CodeUnavailable, "node %s: %s", node, st.Message())
	}
	return controlclient.FromStatus(err)
}
