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

// StateOf is the state of the cell that has these nodes.
func StateOf(nodes []controlclient.Node) CellState {
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
