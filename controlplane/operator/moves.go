package operator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/mover"
	"github.com/waggle-im/waggle/controlplane/planner"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

const (
	// copyRateGuess is what copying is taken to do when nothing limits it:
	// half of what a plain disk writes in a sequence.
	copyRateGuess = 100 << 20
	// pauseUsual is the longest a sender waits in 99 of 100 moves: the bar
	// that moves are measured against.
	pauseUsual = 100 * time.Millisecond
)

// board is what planning looks at, with sizes as the nodes tell them.
func (s *Service) board(ctx context.Context) *planner.Board {
	v := s.Cluster.View()
	bytes := map[proto.RangeID]uint64{}
	for id, r := range s.ask(ctx, v).ranges() {
		bytes[id] = r.bytes
	}
	return planner.NewBoard(v, bytes)
}

// MoveRange plans a move to another cell, and starts it unless DryRun is set.
func (s *Service) MoveRange(ctx context.Context, req *controlpb.MoveRangeRequest) (*controlpb.MoveRangeReply, error) {
	reply, err := s.moveRange(ctx, req)
	if !req.DryRun {
		standby := time.Duration(req.StandbyMs) * time.Millisecond
		s.audit(ctx, req.By, "ranges move", fmt.Sprintf("range %d to %s, standby %s, rate %d", req.Range, req.To, standby, req.RateBytesPerS), err)
	}
	return reply, controlclient.ToStatus(err)
}

func (s *Service) moveRange(ctx context.Context, req *controlpb.MoveRangeRequest) (*controlpb.MoveRangeReply, error) {
	if req.StandbyMs < 0 {
		return nil, proto.Errorf(proto.CodeBadRequest, "standby: not below 0")
	}
	b := s.board(ctx)
	p, err := b.To(proto.RangeID(req.Range), proto.CellID(req.To))
	if err != nil {
		return nil, err
	}
	p.Standby, p.Rate, p.By, p.Started, p.Reason = time.Duration(req.StandbyMs)*time.Millisecond, req.RateBytesPerS, req.By, time.Now(), "asked for"
	size := b.Bytes[p.Range]
	reply := &controlpb.MoveRangeReply{Estimate: estimate(p, size)}
	if req.DryRun {
		reply.Move = &controlpb.MoveStatus{Range: req.Range, From: string(p.From), To: string(p.To), State: string(move.Planned), Bytes: size}
		return reply, nil
	}
	rec, err := mover.NewBook(s.Cluster.Etcd()).Submit(ctx, p)
	if err != nil {
		return nil, err
	}
	reply.Move = moveStatus(rec, nil)
	reply.Move.Bytes = size
	return reply, nil
}

// estimate is what a move of a range of that size costs.
func estimate(p move.Plan, size uint64) *controlpb.MoveEstimate {
	e := &controlpb.MoveEstimate{Bytes: size * uint64(len(p.Add)), RateBytesPerS: p.Rate, PauseMs: pauseUsual.Milliseconds()}
	rate := p.Rate
	if rate == 0 {
		rate = copyRateGuess
	}
	// One replica is seeded beside the other; the gate is on top.
	e.DurationMs = int64(size*1000/rate) + move.GateTime.Milliseconds()
	for _, m := range p.Add {
		e.Nodes = append(e.Nodes, string(m.Node))
	}
	return e
}

// ListMoves lists moves, the newest last.
func (s *Service) ListMoves(ctx context.Context, req *controlpb.ListMovesRequest) (*controlpb.ListMovesReply, error) {
	moves := s.moveStatuses(ctx, s.Cluster.View(), func(rec *controlpb.MoveRecord) bool {
		return req.Move == "" || rec.Move == req.Move
	})
	if req.Move != "" && len(moves) == 0 {
		return nil, controlclient.ToStatus(proto.Errorf(proto.CodeBadRequest, "there is no move %.40q: `waggle moves ls` lists them", req.Move))
	}
	return &controlpb.ListMovesReply{Moves: moves}, nil
}

// moveStatuses are the moves that are wanted, by number. It asks only the nodes
// that have to do with them, and only of their ranges: whoever watches a move
// asks often.
func (s *Service) moveStatuses(ctx context.Context, v *controlclient.View, want func(*controlpb.MoveRecord) bool) []*controlpb.MoveStatus {
	var moves []*controlpb.MoveRecord
	var nodes []proto.NodeID
	var ranges []uint64
	for _, rec := range v.Moves {
		if !want(rec) {
			continue
		}
		moves, ranges = append(moves, rec), append(ranges, rec.Range)
		for _, r := range slices.Concat(rec.Add, rec.Drop, v.Ranges[proto.RangeID(rec.Range)].GetReplicas()) {
			nodes = append(nodes, proto.NodeID(r.Node))
		}
	}
	byRange := s.askRanges(ctx, v, distinct(nodes), distinct(ranges)).ranges()
	out := []*controlpb.MoveStatus{}
	for _, rec := range moves {
		out = append(out, moveStatus(rec, byRange[proto.RangeID(rec.Range)]))
	}
	slices.SortFunc(out, func(a, b *controlpb.MoveStatus) int { return mover.CompareNames(a.Move, b.Move) })
	return out
}

func distinct[T cmp.Ordered](list []T) []T {
	slices.Sort(list)
	return slices.Compact(list)
}

// moveStatus joins a record with what the range's leader says.
func moveStatus(rec *controlpb.MoveRecord, r *rangeReport) *controlpb.MoveStatus {
	st := &controlpb.MoveStatus{
		Move: rec.Move, Range: rec.Range, From: rec.From, To: rec.To, State: rec.State, PauseMs: float64(rec.PauseUs) / 1000,
		Error: rec.Wait, By: rec.By, Reason: rec.Reason, StartedMs: rec.StartedMs, SinceMs: rec.SinceMs, StandbyUntilMs: rec.StandbyUntilMs,
	}
	if st.Error == "" && move.Phase(rec.State) != move.Done {
		st.Error = rec.Cause
	}
	for _, m := range rec.Add {
		st.Add = append(st.Add, m.Node)
	}
	for _, m := range rec.Drop {
		st.Drop = append(st.Drop, m.Node)
	}
	if r != nil {
		st.Bytes = r.bytes
	}
	switch p := move.Phase(rec.State); {
	case p.Switching() || p == move.Published || p == move.Standby || p == move.Done:
		st.Percent = 100
	case p.Copying() && r != nil && r.leading != nil:
		copied(st, rec, r)
	}
	return st
}

// copied fills in how far copying is: by the bytes of snapshots sent, and for
// replicas that only lack entries, as done.
func copied(st *controlpb.MoveStatus, rec *controlpb.MoveRecord, r *rangeReport) {
	var sum float64
	for _, m := range rec.Add {
		for _, p := range r.leading.Progress {
			if p.Replica != m.Id || m.Id == 0 {
				continue
			}
			st.LagEntries = max(st.LagEntries, p.LagEntries)
			switch {
			case !p.Snapshot && p.LagEntries <= move.LagEntriesMax:
				sum++
			case p.Snapshot && r.bytes > 0:
				sum += min(0.99, float64(p.SnapshotBytes)/float64(r.bytes))
			}
		}
	}
	if len(rec.Add) > 0 {
		st.Percent = 100 * sum / float64(len(rec.Add))
	}
}

// CancelMove ends a move whose range is not changing owner yet.
func (s *Service) CancelMove(ctx context.Context, req *controlpb.MoveRequest) (*controlpb.MoveReply, error) {
	rec, err := mover.NewBook(s.Cluster.Etcd()).Cancel(ctx, req.Move, req.DryRun)
	if !req.DryRun {
		s.audit(ctx, req.By, "moves cancel", req.Move, err)
	}
	return s.moveReply(rec, err)
}

// RevertMove moves a range back to where it was.
func (s *Service) RevertMove(ctx context.Context, req *controlpb.MoveRequest) (*controlpb.MoveReply, error) {
	rec, err := mover.NewBook(s.Cluster.Etcd()).Revert(ctx, req.Move, req.DryRun)
	if !req.DryRun {
		s.audit(ctx, req.By, "moves revert", req.Move, err)
	}
	if err != nil || req.DryRun {
		return s.moveReply(rec, err)
	}
	// The elected one names the move back.
	for {
		changed := s.Cluster.Changed()
		v := s.Cluster.View()
		if now := v.Moves[req.Move]; now.GetRevertedBy() != "" && v.Moves[now.RevertedBy] != nil {
			return s.moveReply(v.Moves[now.RevertedBy], nil)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s.moveReply(nil, proto.Errorf(proto.CodeUnavailable, "move %s is to be reverted, and nobody has begun yet: see `waggle moves ls`", req.Move))
		}
	}
}

func (s *Service) moveReply(rec *controlpb.MoveRecord, err error) (*controlpb.MoveReply, error) {
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	return &controlpb.MoveReply{Move: moveStatus(rec, nil)}, nil
}
