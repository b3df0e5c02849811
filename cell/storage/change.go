package storage

import (
	"context"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// ChangeRange implements the RPC: it proposes one change of a range's replicas
// and answers when it is applied here. Without an answer the outcome is
// unknown; the descriptor tells.
func (s *Server) ChangeRange(ctx context.Context, req *cellpb.ChangeRangeRequest) (*cellpb.ChangeRangeReply, error) {
	r := proto.RangeID(req.GetRange())
	done := make(chan error, 1)
	s.service.node.ProposeChange(r, req.GetChange(), func(_ *cellpb.Applied, err error) { done <- err })
	select {
	case err := <-done:
		if err != nil {
			return nil, controlclient.ToStatus(err)
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &cellpb.ChangeRangeReply{Descriptor_: s.service.descriptor(r)}, nil
}

// DigestRange implements the RPC.
func (s *Server) DigestRange(ctx context.Context, req *cellpb.DigestRangeRequest) (*cellpb.DigestRangeReply, error) {
	reply, err := s.service.node.Digest(ctx, proto.RangeID(req.GetRange()), req.GetIndex())
	return reply, controlclient.ToStatus(err)
}

// RecoverReplica implements the RPC.
func (s *Server) RecoverReplica(ctx context.Context, req *cellpb.RecoverReplicaRequest) (*cellpb.RecoverReplicaReply, error) {
	if req.GetCell() != string(s.service.cfg.Cell) {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeBadRequest, "node %s is of cell %s, not %.40q", s.service.cfg.Self, s.service.cfg.Cell, req.GetCell()))
	}
	d, err := s.service.node.Recover(ctx, proto.RangeID(req.GetRange()), req.GetVersion())
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	return &cellpb.RecoverReplicaReply{Descriptor_: d}, nil
}

// RemoveReplica implements the RPC.
func (s *Server) RemoveReplica(ctx context.Context, req *cellpb.RemoveReplicaRequest) (*cellpb.RemoveReplicaReply, error) {
	if req.GetRange() == 0 || req.GetRange() != req.GetDescriptor_().GetRange() {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeBadRequest,
			"range %d is to be removed and the descriptor is of range %d", req.GetRange(), req.GetDescriptor_().GetRange()))
	}
	if err := s.service.node.Remove(ctx, req.GetDescriptor_(), req.GetBelow()); err != nil {
		return nil, controlclient.ToStatus(err)
	}
	return &cellpb.RemoveReplicaReply{}, nil
}
