package filelock

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestOneAtATime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "lock")
	unlock, err := Lock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 3*retryEvery)
	defer cancel()
	if _, err := Lock(short, file); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	var inside, n atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			unlock, err := Lock(t.Context(), file)
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if at := inside.Add(1); at != 1 {
				t.Errorf("%d at once", at)
			}
			runtime.Gosched()
			inside.Add(-1)
			n.Add(1)
		})
	}
	if wg.Wait(); n.Load() != 8 {
		t.Errorf("%d got the lock", n.Load())
	}
}
