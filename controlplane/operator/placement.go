package operator

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/audit"
	"github.com/waggle-im/waggle/controlplane/planner"
	"github.com/waggle-im/waggle/controlplane/topology"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// audit notes what somebody asked for and what came of it. A line that cannot
// be written stops nobody: it is in the log then.
func (s *Service) audit(ctx context.Context, who, verb, arguments string, failure error) {
	line := &controlpb.AuditRecord{Who: who, Verb: verb, Arguments: arguments}
	if err := audit.Write(ctx, s.Cluster.Etcd(), line, failure); err != nil {
		s.Logger.Warn("not in the audit log", "who", who, "verb", verb, "arguments", arguments, "failure", failure, "err", err)
	}
}

// auditShown is how many lines are read where no limit is given.
const auditShown = 100

// ListAudit reads the newest lines of the audit log.
func (s *Service) ListAudit(ctx context.Context, req *controlpb.ListAuditRequest) (*controlpb.ListAuditReply, error) {
	limit := int64(req.Limit)
	if limit == 0 {
		limit = auditShown
	}
	records, err := audit.Read(ctx, s.Cluster.Etcd(), min(limit, audit.LinesMax))
	return &controlpb.ListAuditReply{Records: records}, controlclient.ToStatus(err)
}

// planned are plans as they are shown.
func planned(b *planner.Board, plans []move.Plan) []*controlpb.PlannedMove {
	out := []*controlpb.PlannedMove{}
	for _, p := range plans {
		out = append(out, &controlpb.PlannedMove{
			Range: uint64(p.Range), From: string(p.From), To: string(p.To), Reason: p.Reason, Bytes: b.Bytes[p.Range] * uint64(len(p.Add)),
		})
	}
	return out
}

// DrainCell marks a cell, whose ranges the elected control plane then moves
// away. With DryRun it only says where they would go.
func (s *Service) DrainCell(ctx context.Context, req *controlpb.DrainCellRequest) (*controlpb.DrainReply, error) {
	reply, err := s.drainCell(ctx, req)
	if !req.DryRun {
		s.audit(ctx, req.By, "cells drain", fmt.Sprintf("%s rate %d", req.Cell, req.RateBytesPerS), err)
	}
	return reply, controlclient.ToStatus(err)
}

func (s *Service) drainCell(ctx context.Context, req *controlpb.DrainCellRequest) (*controlpb.DrainReply, error) {
	b, cell := s.board(ctx), proto.CellID(req.Cell)
	if b.View.Cells[cell] == nil {
		return nil, proto.Errorf(proto.CodeUnknownCell, "there is no cell %.40q: see `waggle cells ls`", req.Cell)
	}
	headroom, nodes := map[proto.CellID]float64{}, b.View.ByCell()
	for id, rec := range b.View.Cells {
		headroom[id] = topology.Headroom(rec, nodes[id])
	}
	left := uint64(len(b.Owned(cell))) + leaving(b, func(m *controlpb.MoveRecord) bool {
		return m.From == req.Cell && m.To != req.Cell && b.View.Ranges[proto.RangeID(m.Range)].GetCell() != req.Cell
	})
	plans, problems := b.DrainCell(cell, headroom, math.MaxInt)
	if len(problems) > 0 {
		return nil, problems[0]
	}
	reply := &controlpb.DrainReply{Moves: planned(b, plans), Left: left}
	if req.DryRun {
		return reply, nil
	}
	return reply, topology.ChangeCell(ctx, s.Cluster.Etcd(), cell, func(rec *controlpb.CellRecord) error {
		rec.State, rec.DrainRateBytesPerS = planner.Draining, req.RateBytesPerS
		return nil
	})
}

// leaving counts ranges that have moved and whose old replicas are still there.
func leaving(b *planner.Board, which func(*controlpb.MoveRecord) bool) (n uint64) {
	for _, m := range b.View.Moves {
		if !move.Phase(m.State).Over() && which(m) {
			n++
		}
	}
	return n
}

// DrainNode marks a node, whose replicas the elected control plane then moves
// to others of its cell. With DryRun it only says which.
func (s *Service) DrainNode(ctx context.Context, req *controlpb.DrainNodeRequest) (*controlpb.DrainReply, error) {
	reply, err := s.drainNode(ctx, req)
	if !req.DryRun {
		verb := "nodes drain"
		if req.Replace {
			verb = "nodes replace"
		}
		s.audit(ctx, req.By, verb, fmt.Sprintf("%s rate %d", req.Node, req.RateBytesPerS), err)
	}
	return reply, controlclient.ToStatus(err)
}

func (s *Service) drainNode(ctx context.Context, req *controlpb.DrainNodeRequest) (*controlpb.DrainReply, error) {
	b, node := s.board(ctx), proto.NodeID(req.Node)
	n, known := b.View.Nodes[node]
	switch {
	case !known || n.Record.GetCell() == "":
		return nil, proto.Errorf(proto.CodeBadRequest, "there is no node of a cell %.40q: see `waggle nodes ls`", req.Node)
	case !n.Alive && !req.Replace:
		return nil, proto.Errorf(proto.CodeConflict, "node %s is gone: `waggle nodes replace %s` replaces what it held", node, node)
	}
	held := b.Ranges(node)
	left := uint64(len(held)) + leaving(b, func(m *controlpb.MoveRecord) bool {
		return !slices.Contains(held, proto.RangeID(m.Range)) && slices.ContainsFunc(m.Drop, func(r *controlpb.RangeReplica) bool { return r.Node == req.Node })
	})
	plans, problems := b.DrainNode(node, req.Replace, math.MaxInt)
	if len(problems) > 0 {
		return nil, problems[0]
	}
	reply := &controlpb.DrainReply{Moves: planned(b, plans), Left: left}
	if req.DryRun {
		return reply, nil
	}
	return reply, topology.ChangeCell(ctx, s.Cluster.Etcd(), proto.CellID(n.Record.Cell), func(rec *controlpb.CellRecord) error {
		rec.NodeDrains = append(slices.DeleteFunc(rec.NodeDrains, func(d *controlpb.NodeDrain) bool { return d.Node == req.Node }),
			&controlpb.NodeDrain{Node: req.Node, RateBytesPerS: req.RateBytesPerS, Replace: req.Replace})
		return nil
	})
}

// RemoveCell forgets a cell that was drained and whose nodes are stopped. In
// an embedded cluster it has them stopped.
func (s *Service) RemoveCell(ctx context.Context, req *controlpb.RemoveCellRequest) (*controlpb.RemoveCellReply, error) {
	err := s.removeCell(ctx, proto.CellID(req.Cell), req.DryRun)
	if !req.DryRun {
		s.audit(ctx, req.By, "cells remove", req.Cell, err)
	}
	return &controlpb.RemoveCellReply{}, controlclient.ToStatus(err)
}

// filesLeft refuses while contents of files lie on a cell's own disks: those of
// people who have moved follow them by and by.
func (s *Service) filesLeft(ctx context.Context, cell proto.CellID) error {
	for _, n := range s.Cluster.View().InCell(cell) {
		if !n.Alive || !n.Has("resource") {
			continue
		}
		conn, err := s.Dialer.Conn(n.ID)
		if err != nil {
			return err
		}
		// The ranges are not of interest: none has this number.
		reply, err := cellpb.NewNodeClient(conn).Ranges(ctx, &cellpb.RangesRequest{CountFiles: true, Ranges: []uint64{math.MaxUint64}})
		if err != nil {
			return proto.Errorf(proto.CodeUnavailable, "node %s does not say whether it still stores files: try again", n.ID)
		}
		if reply.Files > 0 {
			return proto.Errorf(proto.CodeConflict, "node %s still stores %d files, which are being sent after their owners: try again in a minute", n.ID, reply.Files)
		}
	}
	return nil
}

func (s *Service) removeCell(ctx context.Context, cell proto.CellID, dry bool) error {
	if err := topology.MayRemoveCell(s.Cluster.View(), cell); err != nil {
		return err
	}
	if err := s.filesLeft(ctx, cell); err != nil {
		return err
	}
	if s.Mode == ModeEmbedded {
		if dry {
			return nil
		}
		if err := topology.StopCell(ctx, s.Cluster.Etcd(), s.Cluster.View(), cell); err != nil {
			return err
		}
		for alive := true; alive; {
			changed := s.Cluster.Changed()
			alive = slices.ContainsFunc(s.Cluster.View().InCell(cell), func(n controlclient.Node) bool { return n.Alive })
			if !alive {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return proto.Errorf(proto.CodeUnavailable, "the nodes of cell %s have not stopped yet: try again", cell)
			}
		}
	}
	return topology.RemoveCell(ctx, s.Cluster.Etcd(), s.Cluster.View(), cell, dry)
}
