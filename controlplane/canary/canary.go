package canary

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/mover"
	"github.com/waggle-im/waggle/controlplane/planner"
	"github.com/waggle-im/waggle/controlplane/topology/seat"
	waggle "github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

const (
	// notYet is the pause while there is no range, or nowhere to move it.
	notYet = time.Second
	// moveTimeout is how long one move may take; the range is nearly empty.
	moveTimeout = 5 * time.Minute
	// requestTimeout bounds one request to etcd.
	requestTimeout = 3 * time.Second
	// by is who asks for its moves.
	by = "canary"
)

// Cluster is what the canary needs of controlclient.Client.
type Cluster interface {
	View() *controlclient.View
	Changed() <-chan struct{}
	Etcd() *clientv3.Client
}

// Ranges reaches a range; cellclient.Relay is one.
type Ranges interface {
	Do(ctx context.Context, r waggle.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error)
}

// Users makes a user in a range; the same key gets the same one again.
type Users interface {
	CreateUser(ctx context.Context, r waggle.RangeID, key [16]byte, name string) (waggle.EntityID, error)
}

// Config is what a [Canary] works with.
type Config struct {
	Cluster Cluster
	Ranges  Ranges
	Users   Users
	Every   time.Duration // from the end of one round to the beginning of the next
	Logger  *slog.Logger
}

// Canary makes the rounds while its control plane is elected.
type Canary struct{ Config }

// New makes one. It starts nothing.
func New(c Config) *Canary { return &Canary{c} }

// Serve makes rounds until ctx ends. It is for topology.Keeper.Beside.
func (c *Canary) Serve(ctx context.Context, _ *seat.Seat) error {
	for ctx.Err() == nil {
		rec := c.last(ctx)
		wait := notYet
		switch since := time.Since(time.UnixMilli(rec.LastMs)); {
		case rec.LastMs != 0 && since < c.Every:
			wait = min(c.Every-since, c.Every)
		default:
			if r, from, to := c.choose(); r != 0 {
				c.note(ctx, rec, c.round(ctx, r, from, to))
				continue
			}
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
	return nil
}

// last is what was noted of the last round.
func (c *Canary) last(ctx context.Context) *controlpb.CanaryRecord {
	rec, err := Read(ctx, c.Cluster.Etcd())
	if err != nil || rec == nil {
		rec = new(controlpb.CanaryRecord)
	}
	return rec
}

// Read is what was noted of the last round; nil: there was none.
func Read(ctx context.Context, etcd *clientv3.Client) (*controlpb.CanaryRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	got, err := etcd.Get(ctx, controlclient.CanaryKey)
	if err != nil || len(got.Kvs) == 0 {
		return nil, err
	}
	rec := new(controlpb.CanaryRecord)
	if err := proto.Unmarshal(got.Kvs[0].Value, rec); err != nil {
		return nil, fmt.Errorf("canary: %s: %w", controlclient.CanaryKey, err)
	}
	return rec, nil
}

// choose is the range that is to be moved, where it is and the next cell, by
// name, that can take it; 0: there is none.
func (c *Canary) choose() (r waggle.RangeID, from, to waggle.CellID) {
	v := c.Cluster.View()
	for _, id := range slices.Sorted(maps.Keys(v.Ranges)) {
		rec := v.Ranges[id]
		if !rec.Canary || !rec.Created || v.Freeze() != "" {
			continue
		}
		from = waggle.CellID(rec.Cell)
		cells := slices.Sorted(maps.Keys(v.Cells))
		at, _ := slices.BinarySearch(cells, from)
		for i := range cells {
			to = cells[(at+1+i)%len(cells)]
			if to == from {
				continue
			}
			if _, err := planner.NewBoard(v, nil).To(id, to); err == nil {
				return id, from, to
			}
		}
	}
	return 0, "", ""
}

// outcome is what a round found.
type outcome struct {
	r       waggle.RangeID
	sent    []sent
	slowest time.Duration
	err     error
}

// note stores what a round found.
func (c *Canary) note(ctx context.Context, rec *controlpb.CanaryRecord, o *outcome) {
	if ctx.Err() != nil {
		return // it was interrupted, and says nothing
	}
	rec.Range, rec.LastMs, rec.SlowestUs, rec.Messages, rec.Error = uint64(o.r), time.Now().UnixMilli(), o.slowest.Microseconds(), uint64(len(o.sent)), ""
	rec.Rounds++
	if o.err != nil {
		rec.Failures++
		rec.Error = o.err.Error()
		c.Logger.Error("the canary's round went wrong", "range", o.r, "err", o.err)
	} else {
		c.Logger.Info("the canary has gone to another cell and back", "range", o.r, "messages", rec.Messages, "slowest", o.slowest)
	}
	value, err := proto.Marshal(rec)
	if err == nil {
		putCtx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		_, err = c.Cluster.Etcd().Put(putCtx, controlclient.CanaryKey, string(value))
	}
	if err != nil {
		c.Logger.Warn("what the canary found is not noted", "err", err)
	}
}

// round moves the range there and back while somebody writes, and reads what
// was written.
func (c *Canary) round(ctx context.Context, r waggle.RangeID, from, to waggle.CellID) *outcome {
	o := &outcome{r: r}
	w, err := c.newWriter(ctx, r, o)
	if err != nil {
		o.err = err
		return o
	}
	for _, step := range []struct{ from, to waggle.CellID }{{from, to}, {to, from}} {
		if o.err = c.move(ctx, w, step.from, step.to); o.err != nil {
			return o
		}
		if o.err = w.check(ctx); o.err != nil {
			o.err = fmt.Errorf("after the move to %s: %w", step.to, o.err)
			return o
		}
	}
	return o
}

// move moves the range once and writes until that is over.
func (c *Canary) move(ctx context.Context, w *writer, from, to waggle.CellID) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	id := ""
	for {
		changed := c.Cluster.Changed()
		v := c.Cluster.View()
		switch rec := v.Moves[id]; {
		case id == "" && v.Ranges[w.r].GetCell() == string(from): // as the last move is seen to have left it
			p, err := planner.NewBoard(v, nil).To(w.r, to)
			if err == nil {
				p.By, p.Reason, p.Started = by, "moved for trying", time.Now()
				var submitted *controlpb.MoveRecord
				if submitted, err = mover.NewBook(c.Cluster.Etcd()).Submit(ctx, p); err == nil {
					id = submitted.Move
				}
			}
			if err != nil && waggle.CodeOf(err) != waggle.CodeConflict {
				return fmt.Errorf("the move to %s was not started: %w", to, err)
			}
		case rec.GetState() == string(move.Cancelled):
			return fmt.Errorf("the move to %s was cancelled: %s", to, rec.Cause)
		case rec.GetState() == string(move.Done):
			return nil
		}
		if err := w.write(ctx); err != nil {
			return fmt.Errorf("while it moved to %s: %w", to, err)
		}
		pause := time.NewTimer(writeInterval)
		select {
		case <-pause.C:
		case <-changed:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("the move to %s (%s) is not done after %s", to, id, moveTimeout)
		}
		pause.Stop()
	}
}
