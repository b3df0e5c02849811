package mover

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/audit"
	"github.com/waggle-im/waggle/controlplane/planner"
	"github.com/waggle-im/waggle/controlplane/topology"
	"github.com/waggle-im/waggle/controlplane/topology/seat"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

const (
	// careInterval is the pause between two looks at what is to be drained or
	// repaired.
	careInterval = 5 * time.Second
	// plansAhead is how many moves off one node or cell are under way or wait
	// at a time: the next ones are planned on fresher loads.
	plansAhead = 4
	// silentMin is how long a leader must not have heard of a replica for its
	// node to count as silent: as long as a node's lease lasts.
	silentMin = controlclient.LeaseTTL
	// finishedKept is how many moves that are over stay listed.
	finishedKept = 1000
	// fillsAtOnce bounds the ranges that are being given missing replicas: a
	// plan is written after all moves that are under way were read.
	fillsAtOnce = 256
	// straysAtOnce bounds the replicas of no range that a round removes.
	straysAtOnce = 64
	// careBy stands in the records of what nobody asked for.
	careBy = "waggle"
)

// Care drains what is marked for it, repairs what is lost or damaged, and tidies
// up, until ctx ends. It is for topology.Keeper.Beside. It only plans: moves are
// made by Serve.
func (m *Mover) Care(ctx context.Context, st *seat.Seat) error {
	c := &care{Mover: m, seat: st, silent: map[proto.NodeID]time.Time{}}
	interval := m.CareInterval
	if interval == 0 {
		interval = careInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("draining and repairing is held up", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

type care struct {
	*Mover
	seat   *seat.Seat
	silent map[proto.NodeID]time.Time // since when nodes are both without lease and not heard of
}

// seen is what all nodes say of the ranges.
type seen struct {
	leaders map[proto.RangeID]*cellpb.ReplicaStatus // at the newest descriptor
	stopped map[proto.RangeID][]proto.NodeID        // whose replica has a problem
	held    map[proto.NodeID][]*cellpb.ReplicaStatus
	bytes   map[proto.RangeID]uint64
}

func (c *care) round(ctx context.Context) error {
	requestCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	_, err := c.Cluster.Etcd().Get(requestCtx, controlclient.NextMoveKey)
	cancel()
	if err != nil {
		// Every lease may have lapsed meanwhile: silence is counted anew.
		clear(c.silent)
		return err
	}
	if c.Cluster.View().Freeze() != "" {
		return nil
	}
	s := c.sweep(ctx, c.Cluster.View())
	v := c.Cluster.View() // newer than what the nodes said
	b := planner.NewBoard(v, s.bytes)
	var problems []error
	submit := func(p move.Plan) {
		p.By, p.Started = careBy, c.Now()
		if _, err := NewBook(c.Cluster.Etcd()).Submit(ctx, p); err != nil {
			problems = append(problems, err)
		}
	}
	c.drain(ctx, b, submit)
	c.repair(b, s, submit)
	c.removeStray(ctx, s)
	c.removeOrphans(ctx, v, s)
	c.publishRecovered(ctx, v, s)
	return errors.Join(append(problems, c.forget(ctx, v), audit.Trim(ctx, c.Cluster.Etcd(), audit.LinesMax))...)
}

// sweep asks every storage node for all its replicas.
func (c *care) sweep(ctx context.Context, v *controlclient.View) seen {
	s := seen{leaders: map[proto.RangeID]*cellpb.ReplicaStatus{}, stopped: map[proto.RangeID][]proto.NodeID{},
		held: map[proto.NodeID][]*cellpb.ReplicaStatus{}, bytes: map[proto.RangeID]uint64{}}
	var mu sync.Mutex // guards s
	var g errgroup.Group
	g.SetLimit(callsAtOnce)
	for _, n := range v.ByRole("storage") {
		g.Go(func() error {
			callCtx, cancel := context.WithTimeout(ctx, lookTimeout)
			defer cancel()
			replicas, err := c.Nodes.Ranges(callCtx, n.ID, nil)
			if err != nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			s.held[n.ID] = replicas
			for _, st := range replicas {
				if st.Descriptor_ == nil {
					continue
				}
				r := proto.RangeID(st.Descriptor_.Range)
				s.bytes[r] = max(s.bytes[r], st.Bytes)
				if st.Problem != "" {
					s.stopped[r] = append(s.stopped[r], n.ID)
				}
				// After a recovery those that were taken for lost may lead too.
				if old := s.leaders[r]; st.Leading && (st.Descriptor_.NewerThan(old.GetDescriptor_()) ||
					!old.GetDescriptor_().NewerThan(st.Descriptor_) && st.Term >= old.GetTerm()) {
					s.leaders[r] = st
				}
			}
			return nil
		})
	}
	_ = g.Wait()
	return s
}

// drain plans moves off cells and nodes that are marked.
func (c *care) drain(ctx context.Context, b *planner.Board, submit func(move.Plan)) {
	v := b.View
	headroom := map[proto.CellID]float64{}
	nodes := v.ByCell()
	for id, cell := range v.Cells {
		headroom[id] = topology.Headroom(cell, nodes[id])
	}
	for id, cell := range v.Cells {
		if cell.State == planner.Draining {
			plans, problems := b.DrainCell(id, headroom, plansAhead-underWay(v, func(m *controlpb.MoveRecord) bool { return m.From == string(id) && m.To != m.From }))
			c.plan(plans, problems, cell.DrainRateBytesPerS, submit)
		}
		for _, d := range cell.NodeDrains {
			plans, problems := b.DrainNode(proto.NodeID(d.Node), d.Replace, plansAhead-underWay(v, func(m *controlpb.MoveRecord) bool {
				return m.From == m.To && slices.ContainsFunc(m.Drop, func(r *controlpb.RangeReplica) bool { return r.Node == d.Node })
			}))
			c.plan(plans, problems, d.RateBytesPerS, submit)
			if d.Replace && len(b.Ranges(proto.NodeID(d.Node))) == 0 {
				// It is empty: from now on it is as good as a new one.
				err := topology.ChangeCell(ctx, c.Cluster.Etcd(), id, func(rec *controlpb.CellRecord) error {
					rec.NodeDrains = slices.DeleteFunc(rec.NodeDrains, func(x *controlpb.NodeDrain) bool { return x.Node == d.Node && x.Replace })
					return nil
				})
				if err != nil {
					c.log.Warn("a replaced node is still marked", "node", d.Node, "err", err)
				}
			}
		}
	}
}

func (c *care) plan(plans []move.Plan, problems []error, rate uint64, submit func(move.Plan)) {
	for _, p := range plans {
		p.Rate = rate
		submit(p)
	}
	for _, err := range problems {
		c.log.Warn("draining is held up", "err", err)
	}
}

func underWay(v *controlclient.View, which func(*controlpb.MoveRecord) bool) (n int) {
	for _, m := range v.Moves {
		if !move.Phase(m.State).Settled() && which(m) {
			n++
		}
	}
	return n
}

// repair plans replacements for replicas that have stopped and for those of
// lost nodes, one node per cell at a time, and for what is missing after that.
func (c *care) repair(b *planner.Board, s seen, submit func(move.Plan)) {
	for r, nodes := range s.stopped {
		for _, n := range nodes {
			if p, err := b.Off(r, n, true); err == nil {
				p.Reason = "replaces the damaged replica on " + string(n)
				submit(p)
			}
		}
	}
	left := fillsAtOnce - underWay(b.View, func(m *controlpb.MoveRecord) bool { return len(m.Drop) == 0 })
	for r := range b.View.Ranges {
		if left <= 0 {
			break
		}
		if p, ok := b.Fill(r); ok {
			p.Reason = "adds a missing replica"
			submit(p)
			left--
		}
	}
	repaired := map[string]bool{}
	for _, n := range c.lost(b.View, s) {
		cell := b.View.Nodes[n].Record.GetCell()
		if repaired[cell] || len(b.Ranges(n)) == 0 {
			continue
		}
		repaired[cell] = true
		room := plansAhead - underWay(b.View, func(m *controlpb.MoveRecord) bool { return m.From == cell && m.To == cell })
		for _, r := range b.Ranges(n) {
			if room <= 0 {
				break
			}
			if p, err := b.Off(r, n, false); err == nil {
				p.Reason = "replaces the lost node " + string(n)
				submit(p)
				room--
			}
		}
	}
}

// lost are the nodes that have been silent for LostAfter, by name. A node is
// silent when its lease is gone, it does not answer, and every leader that has
// a replica there says that it has not heard of it; at least one must.
func (c *care) lost(v *controlclient.View, s seen) []proto.NodeID {
	heard, silent := map[proto.NodeID]bool{}, map[proto.NodeID]bool{}
	for _, st := range s.leaders {
		for _, p := range st.Progress {
			for _, r := range st.Descriptor_.Replicas {
				if r.Id != p.Replica {
					continue
				}
				if time.Duration(p.HeardMs)*time.Millisecond >= silentMin {
					silent[proto.NodeID(r.Node)] = true
				} else {
					heard[proto.NodeID(r.Node)] = true
				}
			}
		}
	}
	var out []proto.NodeID
	now := c.Now()
	for id, n := range v.Nodes {
		if _, answered := s.held[id]; n.Alive || answered || heard[id] || !silent[id] {
			delete(c.silent, id)
			continue
		}
		if c.silent[id].IsZero() {
			c.silent[id] = now
		}
		if now.Sub(c.silent[id]) >= c.LostAfter {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// removeStray deletes replicas that their range does not name any more, as on a
// node that was away when they were removed, some in every round.
func (c *care) removeStray(ctx context.Context, s seen) {
	var g errgroup.Group
	g.SetLimit(callsAtOnce)
	left := straysAtOnce
	for node, replicas := range s.held {
		for _, st := range replicas {
			r := proto.RangeID(st.GetDescriptor_().GetRange())
			leader := s.leaders[r]
			if left == 0 || leader == nil || !stray(node, st.Replica, leader.Descriptor_) {
				continue
			}
			left--
			g.Go(func() error {
				callCtx, cancel := context.WithTimeout(ctx, effectTimeout)
				defer cancel()
				err := c.Nodes.RemoveReplica(callCtx, node, &cellpb.RemoveReplicaRequest{Range: uint64(r), Descriptor_: leader.Descriptor_, Below: st.Replica + 1})
				c.log.Info("a replica that its range does not name is to be removed", "node", node, "range", r, "replica", st.Replica, "err", err)
				return nil
			})
		}
	}
	_ = g.Wait()
}

// stray tells whether a replica on a node is none of the range, by a leader's
// descriptor d. Ids that d has not given yet may be those of a move that is
// about to add them. An id below is named by d, or never again: so it does not
// matter how old d is. A replica that cannot tell its id is 0.
func stray(node proto.NodeID, id uint64, d *cellpb.Descriptor) bool {
	return id < d.NextReplica && !move.InJoint(d) && !slices.ContainsFunc(d.Replicas, func(x *cellpb.Replica) bool {
		return x.Id == id || id == 0 && x.Node == string(node)
	})
}

// removeOrphans takes learners out of their range that no move explains: its
// record was lost, with the newest part of etcd.
func (c *care) removeOrphans(ctx context.Context, v *controlclient.View, s seen) {
	moved := map[proto.RangeID]bool{}
	for _, m := range v.Moves {
		if !move.Phase(m.State).Over() {
			moved[proto.RangeID(m.Range)] = true
		}
	}
	for r, st := range s.leaders {
		d := st.Descriptor_
		i := slices.IndexFunc(d.Replicas, func(x *cellpb.Replica) bool { return x.Learner })
		if i < 0 || moved[r] || move.InJoint(d) || v.Ranges[r] == nil {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, effectTimeout)
		err := c.Nodes.ChangeRange(callCtx, proto.NodeID(st.Leader), &cellpb.ChangeRangeRequest{Range: uint64(r), Change: &cellpb.ChangeReplicas{
			Version: d.Version, Change: &cellpb.ChangeReplicas_RemoveLearner{RemoveLearner: d.Replicas[i].Id},
		}})
		cancel()
		c.log.Info("a learner of no move is to be removed", "node", d.Replicas[i].Node, "range", r, "replica", d.Replicas[i].Id, "err", err)
	}
}

// publishRecovered writes the routes of ranges that were recovered by somebody
// who did not come to it.
func (c *care) publishRecovered(ctx context.Context, v *controlclient.View, s seen) {
	for r, st := range s.leaders {
		rec, route := v.Ranges[r], move.RouteOf(st.Descriptor_)
		if !rec.GetRecovering() || uint64(route.Epoch) <= rec.Epoch {
			continue
		}
		out := pb.CloneOf(rec)
		out.Cell, out.Epoch, out.Replicas, out.Recovering = string(route.Cell), uint64(route.Epoch), replicas(route.Voters), false
		value, err := pb.Marshal(out)
		if err == nil {
			requestCtx, cancel := context.WithTimeout(ctx, requestTimeout)
			key := controlclient.RangeKey(r)
			_, err = c.seat.Commit(requestCtx, []clientv3.Op{clientv3.OpPut(key, string(value))}, clientv3.Compare(clientv3.ModRevision(key), "<", v.Revision+1))
			cancel()
		}
		c.log.Info("the route of a recovered range is published", "range", r, "err", err)
	}
}

// forget removes the oldest moves that are over.
func (c *care) forget(ctx context.Context, v *controlclient.View) error {
	var over []string
	for id, m := range v.Moves {
		if move.Phase(m.State).Over() {
			over = append(over, id)
		}
	}
	if len(over) <= finishedKept {
		return nil
	}
	slices.SortFunc(over, CompareNames)
	var ops []clientv3.Op
	for _, id := range over[:min(len(over)-finishedKept, 64)] { // etcd takes 128 in one transaction
		ops = append(ops, clientv3.OpDelete(controlclient.MoveKey(id)))
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := c.seat.Commit(ctx, ops)
	return err
}
