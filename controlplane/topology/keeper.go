package topology

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/topology/seat"
	waggle "github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// roundInterval is the pause between two looks when nothing changes.
	roundInterval = time.Second
	// settle joins changes that come together, such as the loads of many
	// nodes, into one look.
	settle = 20 * time.Millisecond
	// createTimeout bounds making one replica.
	createTimeout = 5 * time.Second
	// createsAtOnce bounds the replicas being made at the same time.
	createsAtOnce = 16
	// firstRange is the first range opened: range 0 would hold id 0.
	firstRange = 1
)

// Cluster is what the keeper needs of controlclient.Client.
type Cluster interface {
	View() *controlclient.View
	Changed() <-chan struct{}
	WaitSynced(ctx context.Context) error
	Etcd() *clientv3.Client
}

// Nodes calls the nodes of cells.
type Nodes interface {
	// CreateReplica makes a node's replica of a range. Repeatable.
	CreateReplica(ctx context.Context, node waggle.NodeID, req *cellpb.CreateReplicaRequest) error
	// Held reports on a node's replicas.
	Held(ctx context.Context, node waggle.NodeID) ([]*cellpb.ReplicaStatus, error)
}

// Keeper keeps enough ranges open in every cell while its control plane is
// the elected one.
type Keeper struct {
	cluster Cluster
	nodes   Nodes
	name    string // of this control plane
	log     *slog.Logger
	elected atomic.Bool
	canary  bool
	beside  []func(context.Context, *seat.Seat) error
}

// NewKeeper makes the keeper of the control plane of that name.
func NewKeeper(cluster Cluster, nodes Nodes, name string, log *slog.Logger) *Keeper {
	return &Keeper{cluster: cluster, nodes: nodes, name: name, log: log}
}

// Beside makes work run during every term, besides opening ranges. It is to
// return when its context ends, which it does when the seat is lost, and ends
// the term if it returns earlier. Call it before Run.
func (k *Keeper) Beside(work func(context.Context, *seat.Seat) error) {
	k.beside = append(k.beside, work)
}

// Canary has a range opened for trying moves on. Call it before Run.
func (k *Keeper) Canary() { k.canary = true }

// Elected tells whether this control plane is the one that changes placement,
// as far as it knows.
func (k *Keeper) Elected() bool { return k.elected.Load() }

// Run stands for election, and does the work while elected, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := k.term(ctx); err != nil && ctx.Err() == nil {
			k.log.Debug("not elected, or no longer", "err", err)
			pause(ctx, roundInterval/2)
		}
	}
	return nil
}

// term is one time of being elected, from the candidacy on.
func (k *Keeper) term(ctx context.Context) error {
	st, err := seat.Campaign(ctx, k.cluster.Etcd(), k.name)
	if err != nil {
		return err
	}
	defer st.Leave()
	k.elected.Store(true)
	defer k.elected.Store(false)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-st.Lost():
			return errors.New("topology: the seat is lost")
		case <-ctx.Done():
			return nil
		}
	})
	k.log.Info("elected to change placement", "node", k.name)
	g.Go(func() error {
		if err := k.cluster.WaitSynced(ctx); err != nil {
			return err
		}
		for _, work := range k.beside {
			g.Go(func() error { return work(ctx, st) })
		}
		return k.keep(ctx, st)
	})
	return g.Wait()
}

// keep opens ranges until ctx ends.
func (k *Keeper) keep(ctx context.Context, st *seat.Seat) error {
	var counted time.Time
	known := knowledge{entities: map[waggle.RangeID]uint64{}, epochs: map[waggle.RangeID]waggle.Epoch{}}
	for ctx.Err() == nil {
		changed := k.cluster.Changed()
		if time.Since(counted) >= roundInterval {
			k.count(ctx, known)
			counted = time.Now()
		}
		again, err := k.round(ctx, st, known)
		if err != nil && ctx.Err() == nil {
			k.log.Warn("opening ranges is not finished", "err", err)
			pause(ctx, roundInterval)
		}
		if again {
			continue
		}
		wait := time.NewTimer(roundInterval)
		select {
		case <-changed:
			pause(ctx, settle)
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
	return ctx.Err()
}

// count asks every live storage node what it knows.
func (k *Keeper) count(ctx context.Context, known knowledge) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answers := make(chan []*cellpb.ReplicaStatus)
	var g errgroup.Group
	g.SetLimit(createsAtOnce)
	go func() {
		for _, n := range k.cluster.View().ByRole("storage") {
			if n.Alive {
				g.Go(func() error {
					if held, err := k.nodes.Held(ctx, n.ID); err == nil {
						answers <- held
					}
					return nil
				})
			}
		}
		_ = g.Wait()
		close(answers)
	}()
	clear(known.epochs)
	for held := range answers {
		for _, st := range held {
			known.take(st)
		}
	}
}

// round does what one plan says. again means that it wrote records and the
// view, once it shows them, is to be looked at anew at once.
func (k *Keeper) round(ctx context.Context, st *seat.Seat, known knowledge) (again bool, err error) {
	v := k.cluster.View()
	if reason := cmp.Or(v.Freeze(), known.ahead(v)); reason != "" {
		return false, k.freeze(ctx, st, v, reason)
	}
	p := planRound(v, known.entities)
	if k.canary && len(p.open) == 0 { // after those that people wait for
		if rec := planCanary(v); rec != nil {
			p.open = append(p.open, rec)
		}
	}
	if len(p.open) > 0 {
		revision, err := k.writePlanned(ctx, st, p.open)
		if err != nil {
			return false, err
		}
		return true, k.waitView(ctx, revision)
	}
	created, failed := k.makeReplicas(ctx, v, p.finish)
	for _, rec := range p.close {
		closed := proto.CloneOf(rec)
		closed.Open = false
		created = append(created, closed)
	}
	if len(created) > 0 {
		revision, err := k.replace(ctx, st, v, created)
		if err != nil {
			return false, errors.Join(err, failed)
		}
		return true, errors.Join(k.waitView(ctx, revision), failed)
	}
	return false, failed
}

// waitView waits until the view shows what was written at revision.
func (k *Keeper) waitView(ctx context.Context, revision int64) error {
	for {
		changed := k.cluster.Changed()
		if k.cluster.View().Revision >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// writePlanned gives the records their ids, which are never given again, and
// writes them, all or none.
func (k *Keeper) writePlanned(ctx context.Context, st *seat.Seat, recs []*controlpb.RangeRecord) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	etcd := k.cluster.Etcd()
	known := k.cluster.View().Revision // before etcd is asked: the view goes on meanwhile
	got, err := etcd.Get(ctx, controlclient.NextRangeKey)
	if err != nil {
		return 0, fmt.Errorf("topology: next range: %w", err)
	}
	if got.Header.Revision < known {
		return 0, fmt.Errorf("topology: etcd is at revision %d and was at %d: it was restored from a backup", got.Header.Revision, known)
	}
	next, modified := uint64(firstRange), int64(0)
	if len(got.Kvs) > 0 {
		modified = got.Kvs[0].ModRevision
		if next, err = strconv.ParseUint(string(got.Kvs[0].Value), 10, 64); err != nil {
			return 0, fmt.Errorf("topology: %s in etcd is not a number: restore it: %w", controlclient.NextRangeKey, err)
		}
	}
	var ops []clientv3.Op
	for _, rec := range recs {
		if waggle.RangeID(next) > waggle.RangeIDMax {
			return 0, errors.New("topology: every range id is given")
		}
		rec.Range = next
		next++
		put, err := putRecord(rec)
		if err != nil {
			return 0, err
		}
		ops = append(ops, put)
	}
	ops = append(ops, clientv3.OpPut(controlclient.NextRangeKey, strconv.FormatUint(next, 10)))
	return st.Commit(ctx, ops, clientv3.Compare(clientv3.ModRevision(controlclient.NextRangeKey), "=", modified))
}

func putRecord(rec *controlpb.RangeRecord) (clientv3.Op, error) {
	value, err := proto.Marshal(rec)
	if err != nil {
		return clientv3.Op{}, fmt.Errorf("topology: %w", err)
	}
	return clientv3.OpPut(controlclient.RangeKey(waggle.RangeID(rec.Range)), string(value)), nil
}

// makeReplicas makes the replicas of planned ranges and returns the records
// of those that are complete, marked created.
func (k *Keeper) makeReplicas(ctx context.Context, v *controlclient.View, recs []*controlpb.RangeRecord) (created []*controlpb.RangeRecord, failed error) {
	// One with a dead node waits for it; others have been planned instead.
	recs = slices.DeleteFunc(slices.Clone(recs), func(rec *controlpb.RangeRecord) bool { return !allAlive(v, rec) })
	recs = recs[:min(len(recs), newPerRound)] // the rest is for the next round
	errs := make([]error, len(recs))
	var g errgroup.Group
	g.SetLimit(createsAtOnce)
	for i, rec := range recs {
		g.Go(func() error {
			errs[i] = k.makeRange(ctx, rec)
			return nil
		})
	}
	_ = g.Wait()
	for i, rec := range recs {
		if errs[i] != nil {
			failed = errors.Join(failed, errs[i])
			continue
		}
		done := proto.CloneOf(rec)
		done.Created = true
		created = append(created, done)
	}
	return created, failed
}

func (k *Keeper) makeRange(ctx context.Context, rec *controlpb.RangeRecord) error {
	desc := &cellpb.Descriptor{
		Range: rec.Range, Cell: rec.Cell, Epoch: rec.Epoch, NextReplica: uint64(len(rec.Replicas)) + 1, Version: 1,
	}
	for _, r := range rec.Replicas {
		desc.Replicas = append(desc.Replicas, &cellpb.Replica{Id: r.Id, Node: r.Node})
	}
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	var g errgroup.Group
	for _, r := range rec.Replicas {
		g.Go(func() error {
			req := &cellpb.CreateReplicaRequest{Descriptor_: desc, Replica: r.Id, Incarnation: rec.Incarnation, Rules: rec.Rules}
			if err := k.nodes.CreateReplica(ctx, waggle.NodeID(r.Node), req); err != nil {
				return fmt.Errorf("topology: make replica %d of range %d on %s: %w", r.Id, rec.Range, r.Node, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// replace writes changed records, provided that nobody changed them since the
// view.
func (k *Keeper) replace(ctx context.Context, st *seat.Seat, v *controlclient.View, recs []*controlpb.RangeRecord) (revision int64, err error) {
	recs = recs[:min(len(recs), newPerRound)]
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var ops []clientv3.Op
	var conds []clientv3.Cmp
	for _, rec := range recs {
		put, err := putRecord(rec)
		if err != nil {
			return 0, err
		}
		ops = append(ops, put)
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(controlclient.RangeKey(waggle.RangeID(rec.Range))), "<", v.Revision+1))
	}
	return st.Commit(ctx, ops, conds...)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
