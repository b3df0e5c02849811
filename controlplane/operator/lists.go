package operator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/topology"
	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func cellStatuses(v *controlclient.View, rs reports) []*controlpb.CellStatus {
	out := []*controlpb.CellStatus{}
	byCell := map[string]*controlpb.CellStatus{}
	nodes := v.ByCell()
	for _, cell := range sortedKeys(v.Cells) {
		st := &controlpb.CellStatus{
			Cell: string(cell), State: string(topology.StateOf(v.Cells[cell], nodes[cell])),
			Nodes: uint64(len(nodes[cell])), Headroom: topology.Headroom(v.Cells[cell], nodes[cell]),
		}
		out, byCell[st.Cell] = append(out, st), st
	}
	byRange := rs.ranges()
	for id, rec := range v.Ranges {
		st := byCell[rec.Cell]
		if st == nil || !rec.Created {
			continue
		}
		st.Ranges++
		if r := byRange[id]; r != nil {
			st.Users += r.entities
		}
	}
	return out
}

func state(n controlclient.Node) string {
	if n.Alive {
		return "alive"
	}
	return "gone"
}

func nodeStatuses(v *controlclient.View, rs reports) []*controlpb.NodeStatus {
	out := []*controlpb.NodeStatus{}
	for _, id := range sortedKeys(v.Nodes) {
		n := v.Nodes[id]
		rec, load := n.Record, n.Record.GetLoad()
		st := &controlpb.NodeStatus{
			Node: string(id), Cell: rec.GetCell(), Roles: rec.GetRoles(), Addr: rec.GetAddr(), Admin: rec.GetAdmin(), Pid: rec.GetPid(),
			State: state(n), Ranges: load.GetRanges(), Leaders: load.GetLeaders(), Sessions: load.GetSessions(), Load: load.GetCpu(),
		}
		if r := rs[id]; r.answered {
			st.Ranges, st.Leaders, st.Sessions = uint64(len(r.replicas)), 0, r.sessions
			for _, replica := range r.replicas {
				if replica.Leading {
					st.Leaders++
				}
			}
		}
		out = append(out, st)
	}
	return out
}

func edgeStatuses(v *controlclient.View) []*controlpb.EdgeStatus {
	out := []*controlpb.EdgeStatus{}
	edges := v.ByRole("edge")
	slices.SortFunc(edges, func(a, b controlclient.Node) int { return cmp.Compare(a.ID, b.ID) })
	for _, n := range edges {
		st := state(n)
		if n.Alive && v.Leaving(n.ID) {
			st = "draining"
		}
		out = append(out, &controlpb.EdgeStatus{
			Edge: string(n.ID), Tcp: n.Record.GetTcp(), Quic: n.Record.GetQuic(), Admin: n.Record.GetAdmin(), Pid: n.Record.GetPid(),
			State: st, Sessions: n.Record.GetLoad().GetSessions(), Plain: n.Record.GetPlain(),
		})
	}
	return out
}

func rangeStatuses(v *controlclient.View, rs reports) []*controlpb.RangeStatus {
	byRange, loads := rs.ranges(), rs.loads()
	out := []*controlpb.RangeStatus{}
	moves := map[proto.RangeID]string{} // that are not over
	for _, m := range v.Moves {
		r := proto.RangeID(m.Range)
		// One that stands by waits while the range is moved anew.
		if p := move.Phase(m.State); !p.Over() && (moves[r] == "" || !p.Settled()) {
			moves[r] = m.Move
		}
	}
	for _, id := range sortedKeys(v.Ranges) {
		st := rangeStatus(v.Ranges[id], byRange[id])
		st.Move = moves[id]
		if l := loads[id]; l != nil {
			st.Sessions, st.MessagesPerS = l.Sessions, float64(l.Messages)/latency.Seconds
		}
		out = append(out, st)
	}
	return out
}

// rangeStatus joins a record with what the nodes say, whose descriptor is
// right when it is newer.
func rangeStatus(rec *controlpb.RangeRecord, r *rangeReport) *controlpb.RangeStatus {
	id := proto.RangeID(rec.Range)
	st := &controlpb.RangeStatus{
		Range: rec.Range, Start: uint64(id.First()), End: uint64(id.Last()), Cell: rec.Cell, Epoch: rec.Epoch,
	}
	if r == nil {
		for _, replica := range rec.Replicas {
			st.Voters = append(st.Voters, replica.Node)
		}
		return st
	}
	st.Leader, st.Host, st.Entities, st.Bytes = r.leader, r.host, r.entities, r.bytes
	st.Rules = r.leading.GetRules()
	if r.descriptor.Epoch >= rec.Epoch {
		st.Cell, st.Epoch = r.descriptor.Cell, r.descriptor.Epoch
	}
	for _, replica := range r.descriptor.Replicas {
		if replica.Learner {
			st.Learners = append(st.Learners, replica.Node)
		} else {
			st.Voters = append(st.Voters, replica.Node)
		}
	}
	return st
}

// leaderless counts created ranges that no node says it leads.
func leaderless(v *controlclient.View, rs reports) (n uint64) {
	byRange := rs.ranges()
	for id, rec := range v.Ranges {
		if rec.Created && (byRange[id] == nil || byRange[id].leading == nil) {
			n++
		}
	}
	return n
}

// stoppedShown bounds the replicas named one by one.
const stoppedShown = 5

// stoppedReplicas names the replicas that have stopped themselves, and those
// that a node should hold and does not: somebody has emptied its data
// directory. Neither comes back by itself, and a further loss stops the range.
func stoppedReplicas(v *controlclient.View, rs reports) []string {
	var out []string
	for _, id := range sortedKeys(rs) {
		if !rs[id].answered {
			continue
		}
		held := map[uint64]bool{}
		for _, st := range rs[id].replicas {
			r := st.GetDescriptor_().GetRange()
			held[r] = true
			if st.Problem != "" {
				out = append(out, fmt.Sprintf("node %s: its replica of range %d has stopped: %s", id, r, st.Problem))
			}
		}
		for _, r := range sortedKeys(v.Ranges) {
			for _, rep := range v.Ranges[r].GetReplicas() {
				if v.Ranges[r].Created && rep.Node == string(id) && !held[uint64(r)] {
					out = append(out, fmt.Sprintf("node %s holds no replica of range %d, as it should: its data directory was lost", id, r))
				}
			}
		}
	}
	if more := len(out) - stoppedShown; more > 0 {
		out = append(out[:stoppedShown], fmt.Sprintf("%d more replicas have stopped or are lost", more))
	}
	return out
}

// problems says in words what an operator should look at.
func problems(v *controlclient.View, rs reports) []string {
	out := []string{}
	if reason := v.Freeze(); reason != "" {
		out = append(out, fmt.Sprintf("placement is frozen: %s. etcd was restored from a backup? Start all nodes, then `waggle ranges reconcile --dry-run` and `waggle ranges reconcile`", reason))
	}
	nodes := v.ByCell()
	for _, cell := range sortedKeys(v.Cells) {
		storage := 0
		for _, n := range nodes[cell] {
			if n.Alive && n.Has("storage") {
				storage++
			}
		}
		want := int(max(1, v.Cells[cell].GetReplicas()))
		switch {
		case storage == 0:
			out = append(out, fmt.Sprintf("cell %s has no live storage node: start its nodes", cell))
		case storage < want:
			out = append(out, fmt.Sprintf("cell %s has %d live storage nodes, new ranges need %d: start more", cell, storage, want))
		}
	}
	for _, id := range sortedKeys(v.Nodes) {
		n := v.Nodes[id]
		switch r, asked := rs[id]; {
		case !n.Alive:
			out = append(out, fmt.Sprintf("node %s is gone (last at %s)", id, n.Record.GetAddr()))
		case asked && !r.answered:
			out = append(out, fmt.Sprintf("node %s holds its lease but does not answer at %s", id, n.Record.GetAddr()))
		}
	}
	out = append(out, stoppedReplicas(v, rs)...)
	if n := leaderless(v, rs); n > 0 {
		out = append(out, fmt.Sprintf("%d ranges have no leader: see `waggle ranges ls`", n))
	}
	return out
}
