package topology

import (
	"context"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

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

// CreateReplica makes a node's replica of a range. Repeatable.
func (c *NodeCalls) CreateReplica(ctx context.Context, node proto.NodeID, req *cellpb.CreateReplicaRequest) error {
	conn, err := c.dialer.Conn(node)
	if err != nil {
		return err
	}
	// A node is known a moment before its port answers.
	_, err = cellpb.NewStorageClient(conn).CreateReplica(ctx, req, grpc.WaitForReady(true))
	return err
}

// Held reports on a node's replicas.
func (c *NodeCalls) Held(ctx context.Context, node proto.NodeID) ([]*cellpb.ReplicaStatus, error) {
	conn, err := c.dialer.Conn(node)
	if err != nil {
		return nil, err
	}
	reply, err := cellpb.NewNodeClient(conn).Ranges(ctx, &cellpb.RangesRequest{})
	if err != nil {
		return nil, err
	}
	return reply.Replicas, nil
}
