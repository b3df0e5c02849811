// Package outqueue is a bounded queue in front of a stream: any goroutine
// puts, one drains in batches that grow with load. Nothing waits for a timer:
// an item put into an idle queue goes out alone and at once.
package outqueue

import (
	"context"
	"sync"
)

// Limits bounds a queue. Sizes are in whatever unit the caller counts.
type Limits struct {
	Size       int // of all that waits
	BatchItems int // of one batch
	BatchSize  int // of one batch; the item that passes it still goes along
}

// Queue is a queue of items with sizes. Use [New].
type Queue[T any] struct {
	limits Limits
	wake   chan struct{}

	mu    sync.Mutex // guards the fields below
	items []T
	sizes []int
	size  int
}

// New makes an empty queue.
func New[T any](limits Limits) *Queue[T] {
	return &Queue[T]{limits: limits, wake: make(chan struct{}, 1)}
}

// Put adds an item; false means that the queue is full and it was not added.
func (q *Queue[T]) Put(item T, size int) bool {
	q.mu.Lock()
	if q.size+size > q.limits.Size {
		q.mu.Unlock()
		return false
	}
	q.items = append(q.items, item)
	q.sizes = append(q.sizes, size)
	q.size += size
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// Drain sends what was put, in order, until ctx ends or send fails. Items
// that wait then stay.
func (q *Queue[T]) Drain(ctx context.Context, send func([]T) error) error {
	for {
		for batch := q.take(); batch != nil; batch = q.take() {
			if err := send(batch); err != nil {
				return err
			}
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *Queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil
	}
	n, size := 0, 0
	for n < len(q.items) && n < q.limits.BatchItems && size < q.limits.BatchSize {
		size += q.sizes[n]
		n++
	}
	batch := q.items[:n:n]
	q.size -= size
	if n == len(q.items) {
		q.items, q.sizes = nil, q.sizes[:0]
	} else {
		q.items, q.sizes = q.items[n:], append(q.sizes[:0], q.sizes[n:]...)
	}
	return batch
}
