package operator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/mover"
	"github.com/waggle-im/waggle/controlplane/planner"
	"github.com/waggle-im/waggle/controlplane/rebalance"
	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// Rebalance plans moves that even out the cells' load.
func (s *Service) Rebalance(ctx context.Context, req *controlpb.RebalanceRequest) (*controlpb.RebalanceReply, error) {
	if req.Apply {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeUnsupported, "a rebalance is only planned here: use the waggle of this release to have it made"))
	}
	b, plans := s.planRebalance(ctx, int(req.Moves))
	return &controlpb.RebalanceReply{Moves: planned(b, plans)}, nil
}

// planRebalance plans from what nodes have measured in the last seconds.
func (s *Service) planRebalance(ctx context.Context, most int) (*planner.Board, []move.Plan) {
	v := s.Cluster.View()
	rs := s.ask(ctx, v)
	seen := rs.loads()
	bytes, loads := map[proto.RangeID]uint64{}, map[proto.RangeID]planner.RangeLoad{}
	for id, r := range rs.ranges() {
		bytes[id] = r.bytes
		loads[id] = planner.RangeLoad{Bytes: r.bytes, Sessions: seen[id].GetSessions(), Messages: seen[id].GetMessages()}
	}
	b := planner.NewBoard(v, bytes)
	return b, b.Rebalance(loads, most)
}

// RunRebalance plans moves that even out the cells' load and makes them, until
// they are made, people notice, or the call ends.
func (s *Service) RunRebalance(req *controlpb.RunRebalanceRequest, stream grpc.ServerStreamingServer[controlpb.RebalanceProgress]) error {
	ctx := stream.Context()
	if req.LatencyFactor < 0 || req.LatencyFloorMs < 0 || req.LatencyForMs < 0 {
		return controlclient.ToStatus(proto.Errorf(proto.CodeBadRequest, "the limits of latency are not below 0"))
	}
	_, plans := s.planRebalance(ctx, int(req.Moves))
	atOnce := int(req.AtOnce)
	if atOnce == 0 {
		atOnce = rebalance.AtOnceDefault
	}
	for i := range plans {
		plans[i].By = req.By
		if req.BytesPerS > 0 {
			plans[i].Rate = max(1, req.BytesPerS/uint64(atOnce*max(1, len(plans[i].Add))))
		}
	}
	s.audit(ctx, req.By, "ranges rebalance", fmt.Sprintf("%d moves, %d at a time, %d bytes/s", len(plans), atOnce, req.BytesPerS), nil)
	out, err := rebalance.Run(ctx, rebalance.Config{
		Cluster: rebalanced{s}, AtOnce: atOnce,
		Limits: rebalance.Limits{
			Factor: req.LatencyFactor, Floor: time.Duration(req.LatencyFloorMs) * time.Millisecond, For: time.Duration(req.LatencyForMs) * time.Millisecond,
		},
		Told: func(rec *controlpb.MoveRecord) {
			_ = stream.Send(&controlpb.RebalanceProgress{Move: moveStatus(rec, nil)}) // it fails when ctx has ended
		},
	}, plans)
	made := fmt.Sprintf("%d of %d moves made, %d cancelled", out.Moved, len(plans), out.Cancelled)
	failure := err
	if out.Stopped != "" {
		failure = fmt.Errorf("stopped: %s", out.Stopped)
	}
	s.audit(context.WithoutCancel(ctx), req.By, "ranges rebalance ended", made, failure)
	if err != nil {
		return controlclient.ToStatus(err)
	}
	return stream.Send(&controlpb.RebalanceProgress{
		Done: true, Stopped: out.Stopped, Planned: uint32(len(plans)), Moved: uint32(out.Moved), Cancelled: uint32(out.Cancelled),
	})
}

// rebalanced is the cluster as a rebalance sees it.
type rebalanced struct{ s *Service }

// Submit implements rebalance.Cluster.
func (r rebalanced) Submit(ctx context.Context, p move.Plan) (*controlpb.MoveRecord, error) {
	return mover.NewBook(r.s.Cluster.Etcd()).Submit(ctx, p)
}

// Move implements rebalance.Cluster.
func (r rebalanced) Move(id string) *controlpb.MoveRecord { return r.s.Cluster.View().Moves[id] }

// Cancel implements rebalance.Cluster.
func (r rebalanced) Cancel(ctx context.Context, id string) error {
	_, err := mover.NewBook(r.s.Cluster.Etcd()).Cancel(ctx, id, false)
	return err
}

// Sends implements rebalance.Cluster: it asks every live chat node.
func (r rebalanced) Sends(ctx context.Context, seconds int) rebalance.Sends {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := rebalance.Sends{}
	var mu sync.Mutex // guards out
	var wg sync.WaitGroup
	slots := make(chan struct{}, asksAtOnce)
	for _, n := range r.s.Cluster.View().ByRole("chat") {
		if !n.Alive {
			continue
		}
		slots <- struct{}{} // freed within askTimeout
		wg.Go(func() {
			defer func() { <-slots }()
			conn, err := r.s.Dialer.Conn(n.ID)
			if err != nil {
				return
			}
			got, err := cellpb.NewNodeClient(conn).Sessions(ctx, &cellpb.SessionsRequest{LoadSeconds: uint32(seconds)})
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			cell := proto.CellID(n.Record.GetCell())
			out[cell] = latency.Add(out[cell], got.Sends)
		})
	}
	wg.Wait()
	return out
}
