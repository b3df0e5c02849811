package topology

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// SessionsMaxDefault is a cell's limit when its record names none: what
	// one middling machine carries.
	SessionsMaxDefault = 100_000
	// BytesMaxDefault is a cell's limit of stored bytes when its record names
	// none.
	BytesMaxDefault = 1 << 40
	// headroomStep is the difference of headroom that counts when cells are
	// compared. Finer ones are noise of load reports a second old.
	headroomStep = 0.1
	// requestTimeout bounds one request to etcd.
	requestTimeout = 3 * time.Second
	cellNameMax    = 32
)

// CellState says whether a cell can take ranges.
type CellState string

// The states of a cell.
const (
	// CellWaiting: none of its storage nodes is alive.
	CellWaiting CellState = "waiting"
	// CellActive: at least one storage node is alive.
	CellActive CellState = "active"
	// CellDraining: its ranges are moved away, and it gets no new ones.
	CellDraining CellState = "draining"
	// CellRemoving: drained, and whoever runs its nodes is to stop them.
	CellRemoving CellState = "removing"
)

// ValidateCell checks a cell's name.
func ValidateCell(cell waggle.CellID) error {
	ok := cell != "" && len(cell) <= cellNameMax
	for i, r := range cell {
		ok = ok && (r >= 'a' && r <= 'z' || i > 0 && (r >= '0' && r <= '9' || r == '-'))
	}
	if !ok {
		return waggle.Errorf(waggle.CodeBadRequest, "%.40q is not a name for a cell: 1 to %d of a-z, 0-9 and -, starting with a letter", string(cell), cellNameMax)
	}
	return nil
}

// AddCell registers a cell whose new ranges have that many voters, 1 or 3.
// Adding one again changes nothing.
//
// Errors: [waggle.CodeBadRequest]; [waggle.CodeUnavailable] when etcd does not
// answer.
func AddCell(ctx context.Context, etcd *clientv3.Client, cell waggle.CellID, replicas uint32) error {
	if err := ValidateCell(cell); err != nil {
		return err
	}
	if replicas != 1 && replicas != 3 {
		return waggle.Errorf(waggle.CodeBadRequest, "a cell has 1 or 3 replicas per range, not %d", replicas)
	}
	value, err := proto.Marshal(&controlpb.CellRecord{
		Cell: string(cell), AddedMs: time.Now().UnixMilli(), Replicas: replicas,
		MaxSessions: SessionsMaxDefault, MaxBytes: BytesMaxDefault,
	})
	if err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	key := controlclient.CellKey(cell)
	_, err = etcd.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value))).Commit()
	if err != nil {
		return waggle.Errorf(waggle.CodeUnavailable, "cell %s is not added, etcd does not answer: try again", cell)
	}
	return nil
}

// ChangeCell changes a cell's record. An error of change is returned as it is,
// and nothing is written then.
//
// Errors: [waggle.CodeUnknownCell]; [waggle.CodeUnavailable] when etcd does not
// answer.
func ChangeCell(ctx context.Context, etcd *clientv3.Client, cell waggle.CellID, change func(*controlpb.CellRecord) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	key := controlclient.CellKey(cell)
	for ctx.Err() == nil {
		got, err := etcd.Get(ctx, key)
		if err != nil {
			break
		}
		if len(got.Kvs) == 0 {
			return waggle.Errorf(waggle.CodeUnknownCell, "there is no cell %.40q: see `waggle cells ls`", string(cell))
		}
		rec := &controlpb.CellRecord{}
		if err := proto.Unmarshal(got.Kvs[0].Value, rec); err != nil {
			return fmt.Errorf("topology: %s: %w", key, err)
		}
		if err := change(rec); err != nil {
			return err
		}
		value, err := proto.Marshal(rec)
		if err != nil {
			return fmt.Errorf("topology: %w", err)
		}
		reply, err := etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(key, string(value))).Commit()
		if err != nil {
			break
		}
		if reply.Succeeded {
			return nil
		}
	}
	return waggle.Errorf(waggle.CodeUnavailable, "cell %s is not changed, etcd does not answer: try again", cell)
}

// RemoveCell forgets a cell that is drained, with the lasting records of its
// nodes.
//
// Errors: [waggle.CodeConflict] when the cell is not drained, or still has
// ranges or live nodes in the view; [waggle.CodeUnknownCell];
// [waggle.CodeUnavailable].
func RemoveCell(ctx context.Context, etcd *clientv3.Client, v *controlclient.View, cell waggle.CellID, dry bool) error {
	if err := MayRemoveCell(v, cell); err != nil {
		return err
	}
	conds := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(controlclient.CellKey(cell)), "<", v.Revision+1)}
	ops := []clientv3.Op{clientv3.OpDelete(controlclient.CellKey(cell))}
	for _, n := range v.InCell(cell) {
		if n.Alive {
			return waggle.Errorf(waggle.CodeConflict, "node %s of cell %s is alive: stop it first", n.ID, cell)
		}
		ops = append(ops, clientv3.OpDelete(controlclient.NodeKey(n.ID)))
	}
	if dry {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := etcd.Txn(ctx).If(conds...).Then(ops...).Commit()
	if err != nil {
		return waggle.Errorf(waggle.CodeUnavailable, "cell %s is not removed, etcd does not answer: try again", cell)
	}
	if !reply.Succeeded {
		return waggle.Errorf(waggle.CodeUnavailable, "cell %s has just been changed: try again", cell)
	}
	return nil
}

// MayRemoveCell tells whether nothing is left in a cell but its nodes.
//
// Errors: [waggle.CodeUnknownCell]; [waggle.CodeConflict] saying what is left.
func MayRemoveCell(v *controlclient.View, cell waggle.CellID) error {
	rec := v.Cells[cell]
	if rec == nil {
		return waggle.Errorf(waggle.CodeUnknownCell, "there is no cell %.40q: see `waggle cells ls`", string(cell))
	}
	if s := CellState(rec.State); s != CellDraining && s != CellRemoving {
		return waggle.Errorf(waggle.CodeConflict, "cell %s is in use: `waggle cells drain %s` first", cell, cell)
	}
	for id, r := range v.Ranges {
		if r.Cell == string(cell) {
			return waggle.Errorf(waggle.CodeConflict, "cell %s still has range %d: `waggle cells drain %s --wait` ends when it has none", cell, id, cell)
		}
	}
	for id, m := range v.Moves {
		if over := m.State == "done" || m.State == "cancelled"; !over && (m.From == string(cell) || m.To == string(cell)) {
			return waggle.Errorf(waggle.CodeConflict, "move %s still concerns cell %s: see `waggle moves show %s`", id, cell, id)
		}
	}
	return nil
}

// StopCell marks a drained cell as one whose nodes are to be stopped, where
// somebody follows that: an embedded cluster does.
//
// Errors: as those of [RemoveCell], but for nodes that are alive.
func StopCell(ctx context.Context, etcd *clientv3.Client, v *controlclient.View, cell waggle.CellID) error {
	if err := MayRemoveCell(v, cell); err != nil {
		return err
	}
	rec := proto.CloneOf(v.Cells[cell])
	rec.State = string(CellRemoving)
	value, err := proto.Marshal(rec)
	if err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	key := controlclient.CellKey(cell)
	reply, err := etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "<", v.Revision+1)).Then(clientv3.OpPut(key, string(value))).Commit()
	if err != nil || !reply.Succeeded {
		return waggle.Errorf(waggle.CodeUnavailable, "cell %s is not removed, it has just been changed or etcd does not answer: try again", cell)
	}
	return nil
}

// StateOf is the state of the cell of that record with these nodes.
func StateOf(rec *controlpb.CellRecord, nodes []controlclient.Node) CellState {
	if s := CellState(rec.GetState()); s == CellDraining || s == CellRemoving {
		return s
	}
	if len(liveStorage(nodes)) > 0 {
		return CellActive
	}
	return CellWaiting
}

// liveStorage are the storage nodes among nodes believed alive.
func liveStorage(nodes []controlclient.Node) []controlclient.Node {
	var alive []controlclient.Node
	for _, n := range nodes {
		if n.Alive && n.Has("storage") {
			alive = append(alive, n)
		}
	}
	return alive
}

// Headroom of the cell of that record with these nodes: the smallest of
// 1 − used/limit over sessions, bytes and CPU (the mean of its nodes), from
// the live nodes' last reports; at least 0.
func Headroom(rec *controlpb.CellRecord, nodes []controlclient.Node) float64 {
	var sessions, bytes, cpu, alive float64
	for _, n := range nodes {
		if n.Alive {
			alive++
			sessions += float64(n.Record.GetLoad().GetSessions())
			bytes += float64(n.Record.GetLoad().GetBytes())
			cpu += n.Record.GetLoad().GetCpu()
		}
	}
	if alive == 0 {
		return 0
	}
	return max(0, min(
		1-sessions/limit(rec.GetMaxSessions(), SessionsMaxDefault),
		1-bytes/limit(rec.GetMaxBytes(), BytesMaxDefault),
		1-cpu/alive,
	))
}

func limit(stated uint64, fallback float64) float64 {
	if stated == 0 {
		return fallback
	}
	return float64(stated)
}

// users of the cell that has these nodes, as they last reported for the
// ranges they lead.
func users(nodes []controlclient.Node) (n uint64) {
	for _, node := range nodes {
		if node.Alive {
			n += node.Record.GetLoad().GetUsers()
		}
	}
	return n
}
