package mover

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// storageNode answers with what it was asked.
type storageNode struct {
	cellpb.UnimplementedStorageServer
	cellpb.UnimplementedNodeServer
}

func (storageNode) Ranges(_ context.Context, req *cellpb.RangesRequest) (*cellpb.RangesReply, error) {
	reply := &cellpb.RangesReply{}
	for _, r := range req.Ranges {
		reply.Replicas = append(reply.Replicas, &cellpb.ReplicaStatus{Descriptor_: &cellpb.Descriptor{Range: r}})
	}
	return reply, nil
}

func (storageNode) CreateReplica(_ context.Context, req *cellpb.CreateReplicaRequest) (*cellpb.CreateReplicaReply, error) {
	if req.Replica == 1 {
		return nil, errors.New("no room")
	}
	return &cellpb.CreateReplicaReply{}, nil
}

func (storageNode) ChangeRange(context.Context, *cellpb.ChangeRangeRequest) (*cellpb.ChangeRangeReply, error) {
	return nil, controlclient.ToStatus(proto.Errorf(proto.CodeStaleVersion, "version 3 is over"))
}

type dialer struct{ conn *grpc.ClientConn }

func (d dialer) Conn(node proto.NodeID) (*grpc.ClientConn, error) {
	if node != "n1" {
		return nil, proto.Errorf(proto.CodeUnavailable, "node %s is not known", node)
	}
	return d.conn, nil
}

// Errors of nodes keep their code, and name the node where they have none.
func TestNodeCalls(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	cellpb.RegisterStorageServer(g, storageNode{})
	cellpb.RegisterNodeServer(g, storageNode{})
	background(t, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, g.Stop)()
		return g.Serve(l)
	})
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	calls := NewNodeCalls(dialer{conn})
	got, err := calls.Ranges(t.Context(), "n1", []uint64{5, 6})
	if err != nil || len(got) != 2 || got[1].Descriptor_.Range != 6 {
		t.Errorf("%v %v", got, err)
	}
	if err := calls.CreateReplica(t.Context(), "n1", &cellpb.CreateReplicaRequest{Replica: 2}); err != nil {
		t.Error(err)
	}
	err = calls.CreateReplica(t.Context(), "n1", &cellpb.CreateReplicaRequest{Replica: 1})
	if proto.CodeOf(err) != proto.CodeUnavailable || !strings.Contains(err.Error(), "node n1: no room") {
		t.Error(err)
	}
	if err = calls.ChangeRange(t.Context(), "n1", &cellpb.ChangeRangeRequest{}); proto.CodeOf(err) != proto.CodeStaleVersion {
		t.Error(err)
	}
	if err = calls.RemoveReplica(t.Context(), "n2", &cellpb.RemoveReplicaRequest{}); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Error(err)
	}
}
