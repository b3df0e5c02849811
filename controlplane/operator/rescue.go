package operator

import (
	"context"
	"fmt"
	"strings"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/mover"
	"github.com/waggle-im/waggle/controlplane/rescue"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

func (s *Service) rescue() *rescue.Rescue {
	return rescue.New(s.Cluster, mover.NewNodeCalls(s.Dialer))
}

// VerifyRange digests every replica of a range at one applied index.
func (s *Service) VerifyRange(ctx context.Context, req *controlpb.VerifyRangeRequest) (*controlpb.VerifyRangeReply, error) {
	reply, err := s.rescue().Verify(ctx, proto.RangeID(req.Range))
	return reply, controlclient.ToStatus(err)
}

// RecoverRange leaves a range that has lost its majority to one replica.
func (s *Service) RecoverRange(ctx context.Context, req *controlpb.RecoverRangeRequest) (*controlpb.RecoverRangeReply, error) {
	reply, err := s.rescue().Recover(ctx, proto.RangeID(req.Range), proto.CellID(req.Cell), req.DryRun)
	if !req.DryRun {
		arguments := fmt.Sprintf("range %d in %s", req.Range, req.Cell)
		if reply != nil {
			arguments += fmt.Sprintf(", from node %s at term %d, entry %d, epoch %d", reply.Node, reply.LastTerm, reply.LastIndex, reply.Epoch)
		}
		if reply.GetMayMiss() {
			arguments += "; acknowledged entries may be missing"
		}
		s.audit(ctx, req.By, "ranges recover", arguments, err)
	}
	return reply, controlclient.ToStatus(err)
}

// Reconcile rebuilds the route table from the nodes' descriptors.
func (s *Service) Reconcile(ctx context.Context, req *controlpb.ReconcileRequest) (*controlpb.ReconcileReply, error) {
	reply, err := s.rescue().Reconcile(ctx, req.Without, req.DryRun)
	if !req.DryRun {
		s.audit(ctx, req.By, "ranges reconcile", fmt.Sprintf("%d rows changed, without %q", len(reply.GetChanges()), strings.Join(req.Without, " ")), err)
	}
	return reply, controlclient.ToStatus(err)
}
