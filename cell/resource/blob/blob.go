package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrNotFound says that there is no blob of that name.
var ErrNotFound = errors.New("blob: not found")

// NameBytesMax bounds a name.
const NameBytesMax = 100

// Store keeps blobs. Names are of letters, digits and dashes; others are
// refused, so that no name can be a path.
type Store interface {
	// Put takes a file, which must be synced and on the disk of the store's
	// staging. When it returns nil the blob is durable and the file is gone;
	// after an error the blob may or may not be there, and Put can be called
	// again. A blob of that name is replaced.
	Put(ctx context.Context, name, file string) error
	// Open reads a blob from offset on. ErrNotFound.
	Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error)
	// Size is the length of a blob in bytes. ErrNotFound.
	Size(ctx context.Context, name string) (int64, error)
	// Remove removes a blob durably; one that is not there is no error.
	Remove(ctx context.Context, name string) error
	// List visits every blob, in no order. One that is put or removed
	// meanwhile may be visited or not.
	List(ctx context.Context, visit func(Entry) error) error
}

// Entry is a blob as [Store.List] finds it.
type Entry struct {
	Name     string
	Modified time.Time // when it was put
}

func checkName(name string) error {
	if name == "" || len(name) > NameBytesMax {
		return fmt.Errorf("blob: %q is not a name", name)
	}
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return fmt.Errorf("blob: %q is not a name", name)
		}
	}
	return nil
}
