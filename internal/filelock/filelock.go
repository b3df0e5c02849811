// Package filelock lets one process at a time work on what a file stands for.
// The operating system frees the lock of a process that has died.
package filelock

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// retryEvery is how soon a lock that another process holds is tried again.
const retryEvery = 20 * time.Millisecond

// Lock locks file, which is made when it is missing, waiting until ctx ends.
// The file stays when the lock is freed: removing it could free it for two.
func Lock(ctx context.Context, file string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	for {
		locked, err := tryLock(f)
		if locked {
			return func() { _ = f.Close() }, nil // closing frees it
		}
		if err == nil {
			select {
			case <-time.After(retryEvery):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
}
