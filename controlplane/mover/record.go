package mover

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

func members(in []*controlpb.RangeReplica) []move.Member {
	var out []move.Member
	for _, r := range in {
		out = append(out, move.Member{ID: proto.ReplicaID(r.Id), Node: proto.NodeID(r.Node)})
	}
	return out
}

func replicas(in []move.Member) []*controlpb.RangeReplica {
	var out []*controlpb.RangeReplica
	for _, m := range in {
		out = append(out, &controlpb.RangeReplica{Id: uint64(m.ID), Node: string(m.Node)})
	}
	return out
}

// at is a time in Unix milliseconds; 0 is the zero time.
func at(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// StateOf is the move of a record.
func StateOf(r *controlpb.MoveRecord) move.State {
	s := move.State{
		Plan: move.Plan{
			ID: r.Move, Range: proto.RangeID(r.Range), From: proto.CellID(r.From), To: proto.CellID(r.To), Epoch: proto.Epoch(r.Epoch),
			Add: members(r.Add), Drop: members(r.Drop), Standby: time.Duration(r.StandbyMs) * time.Millisecond,
			Rate: r.RateBytesPerS, Started: at(r.StartedMs), By: r.By, Reason: r.Reason,
		},
		Phase: move.Phase(r.State), Since: at(r.SinceMs), Version: r.Version, OwnedEpoch: proto.Epoch(r.OwnedEpoch),
		StandbyUntil: at(r.StandbyUntilMs), Cause: r.Cause, Wait: r.Wait, Pause: time.Duration(r.PauseUs) * time.Microsecond,
	}
	for _, id := range r.Cleared {
		s.Cleared = append(s.Cleared, proto.ReplicaID(id))
	}
	return s
}

// recordOf is the record of a move, without what operators ask for.
func recordOf(s move.State) *controlpb.MoveRecord {
	r := &controlpb.MoveRecord{
		Move: s.ID, Range: uint64(s.Range), From: string(s.From), To: string(s.To), Epoch: uint64(s.Epoch),
		Add: replicas(s.Add), Drop: replicas(s.Drop), StandbyMs: s.Standby.Milliseconds(), RateBytesPerS: s.Rate,
		StartedMs: millis(s.Started), By: s.By, Reason: s.Reason,
		State: string(s.Phase), SinceMs: millis(s.Since), Version: s.Version, OwnedEpoch: uint64(s.OwnedEpoch),
		StandbyUntilMs: millis(s.StandbyUntil), Cause: s.Cause, Wait: s.Wait, PauseUs: s.Pause.Microseconds(),
	}
	for _, id := range s.Cleared {
		r.Cleared = append(r.Cleared, uint64(id))
	}
	return r
}
