package rebalance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding/move"
)

// fake is a cluster in which a move takes as long as it is told.
type fake struct {
	took    time.Duration
	p99     func(cell proto.CellID, since time.Duration) time.Duration // 0: nobody writes, -1: nobody answers
	began   time.Time
	moves   map[string]*controlpb.MoveRecord
	started map[string]time.Time
	most    int // moves under way at a time
}

func (f *fake) Sends(_ context.Context, seconds int) Sends {
	out := Sends{}
	for _, cell := range []proto.CellID{"c1", "c2", "c3"} {
		p99 := f.p99(cell, time.Since(f.began))
		if p99 < 0 {
			continue
		}
		counts := make([]uint64, latency.Classes)
		if p99 > 0 {
			counts[latency.Class(p99)] += uint64(10 * seconds)
			counts[latency.Class(p99/2)] += uint64(400 * seconds)
		}
		out[cell] = counts
	}
	return out
}

func (f *fake) Submit(_ context.Context, p move.Plan) (*controlpb.MoveRecord, error) {
	if p.Range == 99 {
		return nil, proto.Errorf(proto.CodeUnavailable, "etcd does not answer")
	}
	if p.Range == 50 {
		return nil, proto.Errorf(proto.CodeConflict, "is being moved already")
	}
	rec := &controlpb.MoveRecord{Move: fmt.Sprintf("m%d", len(f.moves)+1), Range: uint64(p.Range), From: string(p.From), To: string(p.To), State: string(move.Planned)}
	f.moves[rec.Move], f.started[rec.Move] = rec, time.Now()
	under := 0
	for id := range f.moves {
		if !move.Phase(f.Move(id).State).Settled() {
			under++
		}
	}
	f.most = max(f.most, under)
	return rec, nil
}

func (f *fake) Move(id string) *controlpb.MoveRecord {
	rec := f.moves[id]
	if !move.Phase(rec.State).Over() && time.Since(f.started[id]) > f.took {
		rec.State = string(move.Done)
	}
	return rec
}

func (f *fake) Cancel(_ context.Context, id string) error {
	if f.moves[id].Range%2 == 0 {
		return proto.Errorf(proto.CodeConflict, "move %s is joint", id)
	}
	f.moves[id].State = string(move.Cancelled)
	return nil
}

func plans(ranges ...proto.RangeID) (out []move.Plan) {
	for _, r := range ranges {
		out = append(out, move.Plan{Range: r, From: "c1", To: "c2"})
	}
	return out
}

// try runs in the time of a bubble.
func try(ctx context.Context, t *testing.T, f *fake, atOnce int, p []move.Plan) (out Outcome, told []string, took time.Duration, err error) {
	t.Helper()
	f.began, f.moves, f.started = time.Now(), map[string]*controlpb.MoveRecord{}, map[string]time.Time{}
	out, err = Run(ctx, Config{Cluster: f, AtOnce: atOnce, Told: func(rec *controlpb.MoveRecord) {
		told = append(told, rec.Move+" "+rec.State)
	}}, p)
	return out, told, time.Since(f.began), err
}

func steady(d time.Duration) func(proto.CellID, time.Duration) time.Duration {
	return func(proto.CellID, time.Duration) time.Duration { return d }
}

func TestWithoutASlowCellItFinishes(t *testing.T) {
	for name, p99 := range map[string]func(proto.CellID, time.Duration) time.Duration{
		"steady": steady(30 * time.Millisecond), "slow all the time": steady(2 * time.Second), "nobody writes": steady(0),
		// Below 50 ms nobody minds three times of next to nothing.
		"a little": func(_ proto.CellID, d time.Duration) time.Duration {
			if d == 0 {
				return time.Millisecond
			}
			return 40 * time.Millisecond
		},
		"in bursts of 3 s": func(_ proto.CellID, d time.Duration) time.Duration {
			if d%(6*time.Second) > 3*time.Second {
				return time.Second
			}
			return 10 * time.Millisecond
		},
		"a cell that has nothing to do with it": func(cell proto.CellID, d time.Duration) time.Duration {
			if cell == "c3" && d > 0 {
				return 5 * time.Second
			}
			return 10 * time.Millisecond
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{took: 10 * time.Second, p99: p99}
			out, told, took, err := try(t.Context(), t, f, 2, plans(1, 2, 50, 3, 4, 5))
			if err != nil || out != (Outcome{Moved: 5}) || f.most != 2 {
				t.Errorf("%s: %+v %v, %d at a time", name, out, err, f.most)
			}
			if len(told) != 10 || took < 30*time.Second || took > 35*time.Second {
				t.Errorf("%s: told %v, in %v", name, told, took)
			}
		})
	}
}

func TestASlowCellStopsIt(t *testing.T) {
	for name, c := range map[string]struct {
		p99 func(proto.CellID, time.Duration) time.Duration
		why []string
	}{
		"the source": {func(cell proto.CellID, d time.Duration) time.Duration {
			if cell == "c1" && d > 2*time.Second {
				return 400 * time.Millisecond
			}
			return 20 * time.Millisecond
		}, []string{"cell c1", "for 5s", "before"}},
		"the target": {func(cell proto.CellID, d time.Duration) time.Duration {
			if cell == "c2" && d > 2*time.Second {
				return 90 * time.Millisecond
			}
			return 20 * time.Millisecond
		}, []string{"cell c2"}},
		"no answers": {func(cell proto.CellID, d time.Duration) time.Duration {
			if cell == "c2" && d > 2*time.Second {
				return -1
			}
			return 20 * time.Millisecond
		}, []string{"no chat node of cell c2"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{took: 20 * time.Second, p99: c.p99}
			out, told, took, err := try(t.Context(), t, f, 2, plans(1, 2, 3, 4, 5))
			// Range 1 was being copied; range 2 was too far and is made.
			if err != nil || out.Moved != 1 || out.Cancelled != 1 || len(told) != 4 {
				t.Errorf("%s: %+v %v, told %v", name, out, err, told)
			}
			for _, want := range c.why {
				if !strings.Contains(out.Stopped, want) {
					t.Errorf("%s: stopped because %q, which lacks %q", name, out.Stopped, want)
				}
			}
			if took < 20*time.Second || took > 22*time.Second {
				t.Errorf("%s: took %v", name, took)
			}
		})
	}
}

// Whoever asked is gone, or a move cannot be started: what is copied is
// cancelled all the same.
func TestWhatWasStartedIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		f := &fake{took: time.Hour, p99: steady(time.Millisecond)}
		out, _, _, err := try(ctx, t, f, 1, plans(1, 3))
		if !errors.Is(err, context.DeadlineExceeded) || out.Cancelled != 1 || out.Stopped == "" {
			t.Errorf("%+v %v", out, err)
		}
		out, _, _, err = try(t.Context(), t, f, 3, plans(1, 3, 99))
		if proto.CodeOf(err) != proto.CodeUnavailable || out.Cancelled != 2 {
			t.Errorf("%+v %v", out, err)
		}
		f.took = time.Hour
		out, _, took, _ := try(t.Context(), t, f, 3, plans(2, 99)) // one that cannot be cancelled is not waited for for ever
		if out.Cancelled != 0 || took > time.Minute {
			t.Errorf("%+v in %v", out, took)
		}
	})
}
