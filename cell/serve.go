package cell

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/cell/chat"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// keepaliveMin is how often callers may ping; ours do every 10 s.
	keepaliveMin = 5 * time.Second
	// loadTimeout bounds the asking of our own shards.
	loadTimeout = time.Second
	// leaveTimeout bounds the giving away of leadership before a stop: a
	// transfer takes two messages, and the whole stop has a few seconds.
	leaveTimeout = 1500 * time.Millisecond
)

// chatServer serves the Chat RPCs.
type chatServer struct {
	cellpb.UnimplementedChatServer
	service *chat.Service
}

// Attach implements the RPC.
func (s *chatServer) Attach(stream grpc.BidiStreamingServer[cellpb.EdgeBatch, cellpb.HostBatch]) error {
	return s.service.Attach(stream)
}

// Relay implements the RPC.
func (s *chatServer) Relay(stream grpc.BidiStreamingServer[cellpb.RelayBatch, cellpb.RelayReplyBatch]) error {
	return s.service.RelayStream(stream)
}

// nodeServer serves the Node RPCs.
type nodeServer struct {
	cellpb.UnimplementedNodeServer
	node *Node
}

// Ranges implements the RPC.
func (s *nodeServer) Ranges(ctx context.Context, req *cellpb.RangesRequest) (*cellpb.RangesReply, error) {
	out := new(cellpb.RangesReply)
	switch {
	case s.node.storage == nil:
	case len(req.Ranges) == 0:
		out.Replicas = s.node.storage.Status()
	default:
		var err error
		if out.Replicas, err = s.node.storage.StatusOf(ctx, req.Ranges); err != nil {
			return nil, err
		}
	}
	if req.CountFiles && s.node.resource != nil {
		var err error
		if out.Files, err = s.node.resource.StoredHere(ctx); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Sessions implements the RPC.
func (s *nodeServer) Sessions(ctx context.Context, req *cellpb.SessionsRequest) (*cellpb.SessionsReply, error) {
	if s.node.chat == nil {
		return &cellpb.SessionsReply{}, nil
	}
	return s.node.chat.Sessions(ctx, req)
}
