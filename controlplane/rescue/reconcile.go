package rescue

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/topology"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// withoutIDs is by how many range ids the next one is raised for every
	// node that was left out, which may know of ranges that nobody else does:
	// more than a cell opens in an hour of registrations at full rate.
	withoutIDs = 1024
	// rowsAtOnce bounds the rows of one transaction of etcd, which takes 128
	// operations.
	rowsAtOnce = 100
)

// Reconcile rebuilds the route table from the descriptors of all nodes, of
// which the one with the highest epoch, then version, is right, raises the
// counters of range ids and of moves above all that was ever given, and lets
// placement go on. dry only lists what would change. Doing it again changes
// nothing.
//
// Errors: [proto.CodeConflict] while a storage node that is not named in
// without does not answer; [proto.CodeUnavailable].
func (r *Rescue) Reconcile(ctx context.Context, without []string, dry bool) (*controlpb.ReconcileReply, error) {
	v := r.cluster.View()
	answers := r.ask(ctx, v, nil)
	var silent []string
	for _, n := range v.ByRole("storage") {
		if _, ok := answers[n.ID]; !ok && !slices.Contains(without, string(n.ID)) {
			silent = append(silent, string(n.ID))
		}
	}
	if len(silent) > 0 {
		slices.Sort(silent)
		return nil, proto.Errorf(proto.CodeConflict, "nodes %s do not answer, and may know newer routes than all others: start them, or leave them out with --without, if they are lost for ever", strings.Join(silent, " "))
	}
	newest, next := collect(answers)
	table, err := r.table(ctx)
	if err != nil {
		return nil, err
	}
	next.ranges = max(next.ranges, table.next.ranges) + uint64(len(without))*withoutIDs
	next.moves = max(next.moves, table.next.moves)
	reply := &controlpb.ReconcileReply{NextRange: next.ranges}
	changed := r.compare(newest, table, reply)
	if dry {
		return reply, nil
	}
	if err := r.addCells(ctx, v, newest); err != nil {
		return nil, err
	}
	return reply, r.write(ctx, v, changed, next)
}

// compare are the rows that the descriptors make different, listed in reply.
func (r *Rescue) compare(newest map[proto.RangeID]known, table table, reply *controlpb.ReconcileReply) (changed []row) {
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		old := table.rows[id]
		was := old.record
		if was == nil {
			// It takes users until the keeper sees how full it is.
			was = &controlpb.RangeRecord{Range: uint64(id), Created: true, Open: true}
		}
		now := pb.CloneOf(was)
		if !route(now, newest[id].descriptor) || old.record != nil && pb.Equal(now, was) {
			continue
		}
		if len(now.Incarnation) == 0 {
			now.Incarnation = newest[id].incarnation
		}
		change := &controlpb.RouteChange{Range: uint64(id), OldCell: was.Cell, OldEpoch: was.Epoch, Cell: now.Cell, Epoch: now.Epoch}
		for _, rep := range now.Replicas {
			change.Voters = append(change.Voters, rep.Node)
		}
		reply.Changes = append(reply.Changes, change)
		changed = append(changed, row{record: now, modified: old.modified})
	}
	return changed
}

// addCells registers cells that own ranges and are not known any more, with as
// many replicas as their ranges have.
func (r *Rescue) addCells(ctx context.Context, v *controlclient.View, newest map[proto.RangeID]known) error {
	replicas := map[proto.CellID]uint32{}
	for _, k := range newest {
		if cell := proto.CellID(k.descriptor.Cell); v.Cells[cell] == nil {
			replicas[cell] = max(replicas[cell], 1)
			if len(k.descriptor.Replicas) >= 3 {
				replicas[cell] = 3
			}
		}
	}
	for _, cell := range slices.Sorted(maps.Keys(replicas)) {
		if err := topology.AddCell(ctx, r.cluster.Etcd(), cell, replicas[cell]); err != nil {
			return err
		}
	}
	return nil
}

// known is a range as the nodes know it.
type known struct {
	descriptor  *cellpb.Descriptor // the newest
	incarnation []byte
}

// counters are the next numbers to give.
type counters struct{ ranges, moves uint64 }

// collect puts together what the nodes say.
func collect(answers map[proto.NodeID][]*cellpb.ReplicaStatus) (newest map[proto.RangeID]known, next counters) {
	newest = map[proto.RangeID]known{}
	for _, replicas := range answers {
		for _, st := range replicas {
			d := st.GetDescriptor_()
			if d == nil {
				continue
			}
			id := proto.RangeID(d.Range)
			k := newest[id]
			if d.NewerThan(k.descriptor) && len(d.Replicas) > 0 {
				k.descriptor = d
			}
			if len(st.Incarnation) > 0 {
				k.incarnation = st.Incarnation
			}
			if k.descriptor != nil {
				newest[id] = k
			}
			next.ranges = max(next.ranges, d.Range+1)
			if n, err := strconv.ParseUint(strings.TrimPrefix(d.Move, "m"), 10, 64); err == nil {
				next.moves = max(next.moves, n+1)
			}
		}
	}
	return newest, next
}

// row is one of the route table, with etcd's revision of it; 0: it is missing.
type row struct {
	record   *controlpb.RangeRecord
	modified int64
}

// table is what etcd has.
type table struct {
	rows map[proto.RangeID]row
	next counters
}

// table reads etcd itself: the view keeps the rows that a restore has lost.
func (r *Rescue) table(ctx context.Context) (table, error) {
	out := table{rows: map[proto.RangeID]row{}}
	for key, end := controlclient.RangePrefix, clientv3.GetPrefixRangeEnd(controlclient.RangePrefix); ; {
		got, err := r.get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(10_000))
		if err != nil {
			return out, err
		}
		for _, kv := range got.Kvs {
			rec := &controlpb.RangeRecord{}
			if err := pb.Unmarshal(kv.Value, rec); err != nil {
				return out, fmt.Errorf("rescue: %s: %w", kv.Key, err)
			}
			out.rows[proto.RangeID(rec.Range)] = row{rec, kv.ModRevision}
			out.next.ranges = max(out.next.ranges, rec.Range+1)
		}
		if !got.More {
			break
		}
		key = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
	}
	for key, n := range map[string]*uint64{controlclient.NextRangeKey: &out.next.ranges, controlclient.NextMoveKey: &out.next.moves} {
		got, err := r.get(ctx, key)
		if err != nil {
			return out, err
		}
		if len(got.Kvs) > 0 {
			given, err := strconv.ParseUint(string(got.Kvs[0].Value), 10, 64)
			if err != nil {
				return out, fmt.Errorf("rescue: %s in etcd is not a number: restore it: %w", key, err)
			}
			*n = max(*n, given)
		}
	}
	return out, nil
}

func (r *Rescue) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	got, err := r.cluster.Etcd().Get(ctx, key, opts...)
	if err != nil {
		return nil, unavailable(err)
	}
	return got, nil
}

// write writes the rows, then in one transaction the counters and the end of
// the freeze: broken off in between, all stays frozen. Nobody else writes rows
// meanwhile.
func (r *Rescue) write(ctx context.Context, v *controlclient.View, rows []row, next counters) error {
	for batch := range slices.Chunk(rows, rowsAtOnce) {
		var ops []clientv3.Op
		var conds []clientv3.Cmp
		for _, one := range batch {
			value, err := pb.Marshal(one.record)
			if err != nil {
				return fmt.Errorf("rescue: %w", err)
			}
			key := controlclient.RangeKey(proto.RangeID(one.record.Range))
			ops = append(ops, clientv3.OpPut(key, string(value)))
			conds = append(conds, clientv3.Compare(clientv3.ModRevision(key), "=", one.modified))
		}
		if err := r.commit(ctx, ops, conds); err != nil {
			return err
		}
	}
	ops := []clientv3.Op{clientv3.OpPut(controlclient.NextRangeKey, strconv.FormatUint(next.ranges, 10))}
	if next.moves > 0 {
		ops = append(ops, clientv3.OpPut(controlclient.NextMoveKey, strconv.FormatUint(next.moves, 10)))
	}
	if v.Freeze() != "" {
		// Above all that anybody has seen, so that it ends the freeze for all.
		seen := max(v.Reconciled, v.SeenReconciled)
		for _, n := range v.Nodes {
			seen = max(seen, n.Record.GetReconciled())
		}
		ops = append(ops, clientv3.OpDelete(controlclient.FrozenKey), clientv3.OpPut(controlclient.ReconciledKey, strconv.FormatUint(seen+1, 10)))
	}
	return r.commit(ctx, ops, nil)
}

func (r *Rescue) commit(ctx context.Context, ops []clientv3.Op, conds []clientv3.Cmp) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := r.cluster.Etcd().Txn(ctx).If(conds...).Then(ops...).Commit()
	switch {
	case err != nil:
		return unavailable(err)
	case !reply.Succeeded:
		return proto.Errorf(proto.CodeUnavailable, "the route table has just been changed: try again")
	}
	return nil
}
