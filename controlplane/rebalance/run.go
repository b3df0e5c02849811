package rebalance

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

const (
	// AtOnceDefault is how many moves are made at a time: as many as one cell
	// copies.
	AtOnceDefault = 2
	// interval is the pause between two looks.
	interval = 500 * time.Millisecond
	// watchSeconds is how far back a look goes: long enough to hold sends,
	// short enough that what was mended is not seen for long.
	watchSeconds = 2
	// endTimeout bounds the wait for moves that are ended.
	endTimeout = 30 * time.Second
)

// Cluster is where the moves are made.
type Cluster interface {
	// Sends asks the hosts what they counted in the last so many seconds.
	Sends(ctx context.Context, seconds int) Sends
	// Submit starts a move.
	Submit(ctx context.Context, p move.Plan) (*controlpb.MoveRecord, error)
	// Move is a move's record as last seen; nil: not seen yet.
	Move(id string) *controlpb.MoveRecord
	// Cancel ends a move whose range is not changing owner yet.
	Cancel(ctx context.Context, id string) error
}

// Config is what a run works with.
type Config struct {
	Cluster Cluster
	Limits  Limits
	AtOnce  int // moves at a time; 0: AtOnceDefault
	// Told is told of each move that was started or is over.
	Told func(*controlpb.MoveRecord)
}

// Outcome is what a run has done.
type Outcome struct {
	Moved, Cancelled int
	// Stopped says why it ended early; empty: everything was done.
	Stopped string
}

type run struct {
	Config
	guard  *guard
	todo   []move.Plan
	active []*controlpb.MoveRecord
	out    Outcome
}

// Run makes the moves. When people's sends get slow, or ctx ends, nothing
// further is started and what is only being copied is cancelled; what has moved
// stays.
//
// Errors: those of starting a move, and the context's; the outcome counts then
// too.
func Run(ctx context.Context, c Config, plans []move.Plan) (Outcome, error) {
	if c.AtOnce <= 0 {
		c.AtOnce = AtOnceDefault
	}
	r := &run{Config: c, guard: newGuard(c.Limits.WithDefaults(), c.Cluster.Sends(ctx, latency.Seconds)), todo: slices.Clone(plans)}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if r.settle(); len(r.todo) == 0 && len(r.active) == 0 {
			return r.out, nil
		}
		if err := r.start(ctx); err != nil {
			r.out.Stopped = err.Error()
			r.end(ctx)
			return r.out, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.out.Stopped = "nobody waits for it any more"
			r.end(ctx)
			return r.out, ctx.Err()
		}
		sends := c.Cluster.Sends(ctx, watchSeconds)
		if why := r.guard.look(time.Now(), r.touched(), sends); why != "" && ctx.Err() == nil {
			r.out.Stopped = why
			r.end(ctx)
			return r.out, nil
		}
	}
}

// start starts moves as far as that is wanted at a time. A range that was
// moved by somebody else meanwhile is left out.
func (r *run) start(ctx context.Context) error {
	for len(r.todo) > 0 && len(r.active) < r.AtOnce {
		p := r.todo[0]
		r.todo = r.todo[1:]
		p.Started = time.Now()
		rec, err := r.Cluster.Submit(ctx, p)
		if err != nil && proto.CodeOf(err) == proto.CodeConflict {
			continue
		}
		if err != nil {
			return fmt.Errorf("range %d: %w", p.Range, err)
		}
		r.active = append(r.active, rec)
		r.Told(rec)
	}
	return nil
}

// settle takes out the moves that are over.
func (r *run) settle() {
	r.active = slices.DeleteFunc(r.active, func(started *controlpb.MoveRecord) bool {
		rec := r.Cluster.Move(started.Move)
		p := move.Phase(rec.GetState())
		if rec == nil || !p.Settled() {
			return false
		}
		if p == move.Cancelled {
			r.out.Cancelled++
		} else {
			r.out.Moved++
		}
		r.Told(rec)
		return true
	})
}

// touched are the cells of the moves under way.
func (r *run) touched() []proto.CellID {
	var out []proto.CellID
	for _, rec := range r.active {
		out = append(out, proto.CellID(rec.From), proto.CellID(rec.To))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// end cancels what can be and waits until everything is settled.
func (r *run) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	asked := map[string]bool{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if r.settle(); len(r.active) == 0 {
			return
		}
		for _, rec := range r.active {
			if !asked[rec.Move] {
				err := r.Cluster.Cancel(ctx, rec.Move)
				// One that is too far goes on to its end.
				asked[rec.Move] = err == nil || proto.CodeOf(err) == proto.CodeConflict
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
