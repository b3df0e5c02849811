package rescue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// recoverEpochs and recoverVersions are by how much a recovery raises the
	// epoch and the version that the replica's log ends with.
	recoverEpochs   = 2
	recoverVersions = 1000
	// leaderGone is how long a replica may go on believing in a leader that
	// does not answer: twenty ticks of an election, and as many until its own
	// candidacy fails.
	leaderGone = 3 * time.Second
	// recoverTimeout bounds the recovery of one replica, which opens it anew.
	recoverTimeout = 30 * time.Second
)

// Recover leaves a range whose majority is lost to one replica in a cell: of
// those that answer, the one whose log goes farthest. dry only says which, and
// what may be missing then.
//
// Errors: [proto.CodeConflict] while the range has a leader, or when no node
// of the cell has a replica to go on with; [proto.CodeBadRequest];
// [proto.CodeUnavailable].
func (r *Rescue) Recover(ctx context.Context, id proto.RangeID, cell proto.CellID, dry bool) (*controlpb.RecoverRangeReply, error) {
	replicas, err := r.leaderless(ctx, id, cell)
	if err != nil {
		return nil, err
	}
	c := choose(r.cluster.View(), replicas, cell)
	if c.best == nil {
		return nil, proto.Errorf(proto.CodeConflict, "no node of cell %s that answers has a sound replica of range %d: start its nodes, or name another cell", cell, id)
	}
	reply := c.reply(id, cell)
	if dry {
		return reply, nil
	}
	if err := r.mark(ctx, id); err != nil {
		return nil, err
	}
	callCtx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	got, err := r.nodes.Recover(callCtx, c.node, &cellpb.RecoverReplicaRequest{Range: uint64(id), Version: c.best.Descriptor_.Version, Cell: string(cell)})
	if code := proto.CodeOf(err); code == proto.CodeForbidden || code == proto.CodeStaleVersion {
		return nil, proto.Errorf(proto.CodeConflict, "range %d has changed meanwhile: %v", id, err)
	}
	if err != nil {
		return nil, err
	}
	c.outcome(reply, got.Descriptor_)
	return reply, r.publish(ctx, got.Descriptor_)
}

// leaderless is what the nodes say of a range that has no leader.
func (r *Rescue) leaderless(ctx context.Context, id proto.RangeID, cell proto.CellID) (map[proto.NodeID]*cellpb.ReplicaStatus, error) {
	for began := time.Now(); ; sleep(ctx, leaderGone/10) {
		v := r.cluster.View()
		switch {
		case v.Freeze() != "":
			return nil, proto.Errorf(proto.CodeConflict, "placement is frozen, see `waggle status`: `waggle ranges reconcile` comes first")
		case v.Ranges[id] == nil:
			return nil, proto.Errorf(proto.CodeBadRequest, "there is no range %d: `waggle ranges ls` lists them", id)
		case v.Cells[cell] == nil:
			return nil, proto.Errorf(proto.CodeUnknownCell, "there is no cell %.40q: see `waggle cells ls`", string(cell))
		}
		replicas := held(r.ask(ctx, v, []uint64{uint64(id)}), id)
		led := ""
		for node, st := range replicas {
			if st.Leading {
				return nil, proto.Errorf(proto.CodeConflict, "range %d is led by node %s: it needs no recovery", id, node)
			}
			if st.Leader != "" {
				led = st.Leader
			}
		}
		if led == "" {
			return replicas, ctx.Err()
		}
		if time.Since(began) > leaderGone || ctx.Err() != nil {
			return nil, proto.Errorf(proto.CodeConflict, "a replica of range %d follows node %s: the range has a leader", id, led)
		}
	}
}

// choice is what a range is recovered from.
type choice struct {
	node     proto.NodeID
	best     *cellpb.ReplicaStatus
	newest   *cellpb.Descriptor
	answered map[uint64]*cellpb.ReplicaStatus // with a log, by replica
}

func choose(v *controlclient.View, replicas map[proto.NodeID]*cellpb.ReplicaStatus, cell proto.CellID) choice {
	c := choice{answered: map[uint64]*cellpb.ReplicaStatus{}}
	nodes := make([]proto.NodeID, 0, len(replicas))
	for node := range replicas {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	for _, node := range nodes {
		st := replicas[node]
		if st.Empty || st.Problem != "" {
			continue
		}
		c.answered[st.Replica] = st
		if st.Descriptor_.NewerThan(c.newest) {
			c.newest = st.Descriptor_
		}
		if v.Nodes[node].Record.GetCell() == string(cell) && (c.best == nil || ahead(st, c.best)) {
			c.node, c.best = node, st
		}
	}
	return c
}

// ahead tells whether a's log goes farther than b's, as raft compares them.
func ahead(a, b *cellpb.ReplicaStatus) bool {
	return cmp.Or(cmp.Compare(a.LastTerm, b.LastTerm), cmp.Compare(a.LastIndex, b.LastIndex)) > 0
}

// The two sides of a joint configuration. In a simple one both are its voters.
func outgoing(r *cellpb.Replica) bool { return !r.Learner && !r.Incoming }
func incoming(r *cellpb.Replica) bool { return !r.Learner && !r.Outgoing }

// majority tells whether a majority of a side has answered and the chosen log
// goes as far as all of theirs. Then it holds whatever was committed with that
// side's votes.
func (c choice) majority(side func(*cellpb.Replica) bool) bool {
	voters, answered := 0, 0
	for _, rep := range c.newest.GetReplicas() {
		if !side(rep) {
			continue
		}
		voters++
		if st := c.answered[rep.Id]; st != nil {
			if ahead(st, c.best) {
				return false
			}
			answered++
		}
	}
	return answered > voters/2
}

// missing says why acknowledged entries may be missing afterwards; empty: none
// are. left tells that the chosen log leaves the joint configuration, or that
// it may: from then on the incoming side decides alone.
func (c choice) missing(left bool) string {
	joint := c.newest.Joint()
	switch {
	case joint && c.majority(incoming):
	case c.majority(outgoing) && !left:
	case c.majority(outgoing) && joint:
		return "the range was changing owner, and the new owner may have acknowledged what its lost replicas alone held"
	case c.majority(outgoing):
		return "the range's replicas were being changed, and the new ones may have acknowledged what they alone held"
	default:
		return "less than a majority of the range's voters answers with a log that goes no farther than the one to go on with"
	}
	return ""
}

func (c choice) reply(id proto.RangeID, cell proto.CellID) *controlpb.RecoverRangeReply {
	d := c.best.Descriptor_
	out := &controlpb.RecoverRangeReply{
		Range: uint64(id), Cell: string(cell), Epoch: d.Epoch + recoverEpochs, Node: string(c.node),
		LastTerm: c.best.LastTerm, LastIndex: c.best.LastIndex,
	}
	// What is not applied yet may hold a leave.
	out.Why = c.missing(c.best.LastIndex > c.best.Applied)
	out.MayMiss = out.Why != ""
	for _, rep := range c.newest.GetReplicas() {
		row := &controlpb.RangeReplica{Id: rep.Id, Node: rep.Node}
		if c.answered[rep.Id] != nil {
			out.Answered = append(out.Answered, row)
		} else {
			out.Silent = append(out.Silent, row)
		}
	}
	return out
}

// outcome tells what came of it: the end of the log is applied now, so it
// shows whether it held a change.
func (c choice) outcome(reply *controlpb.RecoverRangeReply, d *cellpb.Descriptor) {
	before := c.newest
	left := d.Version != before.Version+recoverVersions
	if before.Joint() && before.NextCell != "" {
		left = d.Epoch != before.Epoch+recoverEpochs // leaving raises the epoch
	}
	reply.Epoch, reply.Why = d.Epoch, c.missing(left)
	reply.MayMiss = reply.Why != ""
}

// mark notes that the range's epoch rises without a move.
func (r *Rescue) mark(ctx context.Context, id proto.RangeID) error {
	return r.change(ctx, id, func(rec *controlpb.RangeRecord) bool {
		rec.Recovering = true
		return true
	})
}

// publish writes the route that a descriptor stands for, unless a newer one
// stands there.
func (r *Rescue) publish(ctx context.Context, d *cellpb.Descriptor) error {
	return r.change(ctx, proto.RangeID(d.Range), func(rec *controlpb.RangeRecord) bool { return route(rec, d) })
}

// route makes a record that of a descriptor; false: it is a newer one.
func route(rec *controlpb.RangeRecord, d *cellpb.Descriptor) bool {
	if rec.Epoch > d.Epoch {
		return false
	}
	rec.Cell, rec.Epoch, rec.Recovering, rec.Replicas = d.Cell, d.Epoch, false, nil
	for _, rep := range d.Replicas {
		if outgoing(rep) {
			rec.Replicas = append(rec.Replicas, &controlpb.RangeReplica{Id: rep.Id, Node: rep.Node})
		}
	}
	slices.SortFunc(rec.Replicas, func(a, b *controlpb.RangeReplica) int { return cmp.Compare(a.Id, b.Id) })
	return true
}

// change changes a row of the route table, unless change says no.
func (r *Rescue) change(ctx context.Context, id proto.RangeID, change func(*controlpb.RangeRecord) bool) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	key := controlclient.RangeKey(id)
	for range tries {
		got, err := r.cluster.Etcd().Get(ctx, key)
		if err != nil {
			return unavailable(err)
		}
		if len(got.Kvs) == 0 {
			return proto.Errorf(proto.CodeBadRequest, "there is no range %d", id)
		}
		rec := &controlpb.RangeRecord{}
		if err := pb.Unmarshal(got.Kvs[0].Value, rec); err != nil {
			return fmt.Errorf("rescue: %s: %w", key, err)
		}
		if !change(rec) {
			return nil
		}
		value, err := pb.Marshal(rec)
		if err != nil {
			return fmt.Errorf("rescue: %w", err)
		}
		reply, err := r.cluster.Etcd().Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(key, string(value))).Commit()
		if err != nil {
			return unavailable(err)
		}
		if reply.Succeeded {
			return nil
		}
	}
	return proto.Errorf(proto.CodeUnavailable, "range %d changes too often just now: try again", id)
}

func unavailable(err error) error {
	return proto.Errorf(proto.CodeUnavailable, "etcd does not answer (%v): try again", strings.TrimSpace(err.Error()))
}
