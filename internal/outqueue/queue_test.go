package outqueue

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errStop = errors.New("stop")

// Whatever is put and refused, what was taken comes out once, in order, in
// batches within their bounds, and the room is given back.
func TestQueueKeepsOrderAndBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{
			Size:       rapid.IntRange(1, 50).Draw(t, "size"),
			BatchItems: rapid.IntRange(1, 10).Draw(t, "items"),
			BatchSize:  rapid.IntRange(1, 20).Draw(t, "batch"),
		}
		type item struct{ number, size int }
		q := New[item](limits)
		var waiting []item
		used, next := 0, 0
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "put") > 0 {
				it := item{next, rapid.IntRange(0, 12).Draw(t, "weight")}
				next++
				fits := used+it.size <= limits.Size
				if q.Put(it, it.size) != fits {
					t.Fatalf("an item of %d with %d of %d used: put %v", it.size, used, limits.Size, !fits)
				}
				if fits {
					waiting, used = append(waiting, it), used+it.size
				}
				continue
			}
			batch := q.take()
			if len(batch) > len(waiting) || !slices.Equal(batch, waiting[:len(batch)]) {
				t.Fatalf("took %v of %v", batch, waiting)
			}
			if (len(batch) == 0) != (len(waiting) == 0) || len(batch) > limits.BatchItems {
				t.Fatalf("a batch of %d while %d wait", len(batch), len(waiting))
			}
			size := 0
			for i, it := range batch {
				if size >= limits.BatchSize {
					t.Fatalf("item %d goes along although the batch is full", i)
				}
				size += it.size
			}
			waiting, used = waiting[len(batch):], used-size
		}
	})
}

func TestDrainSendsWhatConcurrentPuttersPut(t *testing.T) {
	const putters, each = 8, 500
	q := New[[2]int](Limits{Size: 64, BatchItems: 16, BatchSize: 1 << 20})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	next := make([]int, putters)
	total := 0
	done := make(chan error, 1)
	go func() {
		done <- q.Drain(ctx, func(batch [][2]int) error {
			for _, it := range batch {
				if next[it[0]] != it[1] {
					t.Errorf("putter %d: %d follows %d", it[0], it[1], next[it[0]]-1)
				}
				next[it[0]]++
				total++
			}
			if total == putters*each {
				cancel()
			}
			return nil
		})
	}()
	var wg sync.WaitGroup
	for p := range putters {
		wg.Go(func() {
			for i := range each {
				for !q.Put([2]int{p, i}, 1) {
					if ctx.Err() != nil {
						return
					}
					runtime.Gosched() // full: what a caller does then is its own rule
				}
			}
		})
	}
	wg.Wait()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("not everything was drained: %v", err)
	}
	if total != putters*each {
		t.Errorf("%d items came out, %d were put", total, putters*each)
	}
}

func TestDrainReturnsWhatSendFailsWith(t *testing.T) {
	q := New[int](Limits{Size: 10, BatchItems: 1, BatchSize: 10})
	q.Put(1, 1)
	q.Put(2, 1)
	sent := 0
	if err := q.Drain(t.Context(), func([]int) error { sent++; return errStop }); !errors.Is(err, errStop) || sent != 1 {
		t.Errorf("%v after %d batches", err, sent)
	}
	// The rest waits for the next one who drains.
	ctx, cancel := context.WithCancel(t.Context())
	if err := q.Drain(ctx, func(batch []int) error {
		if !slices.Equal(batch, []int{2}) {
			t.Errorf("the rest is %v", batch)
		}
		cancel()
		return nil
	}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
