package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Config is what an operator sets of the files of a node.
type Config struct {
	Node proto.NodeID
	Cell proto.CellID
	// Dir holds uploads under way, keys, and with the disk store the files.
	Dir string
	// Store is where complete files are: empty for this node's disk, or a
	// bucket of the whole cell, see [blob.NewS3].
	Store string
	// KeysFile has the keys of the cell; empty: one of this node alone, made
	// when missing. Nodes that share a bucket need the same.
	KeysFile string
	// QuotaBytes is what the files of one user may take. 0: 32 GiB, two of the
	// greatest files.
	QuotaBytes int64
	// UserBytesPerSecond and NodeBytesPerSecond limit the content that one user,
	// and all together, move up and down. 0: no limit.
	UserBytesPerSecond, NodeBytesPerSecond int64
	// UserTransfers and NodeTransfers limit transfers at once. 0: 32, above what
	// a browser and a phone open; 2,000, with 128 KiB of buffers each.
	UserTransfers, NodeTransfers int
	// Grace is how long a file that was never sent is kept. 0: 7 days, as long
	// as a message may wait in an outbox.
	Grace time.Duration
	// OrphanAge is how old a blob without a file must be to be removed. 0: 24 h.
	OrphanAge time.Duration
	// CollectEvery is the pause between two collections. 0: 1 h, for one walks
	// all blobs.
	CollectEvery time.Duration
	// FollowEvery is the pause between two looks for files whose owners have
	// moved to another cell. 0: 30 s.
	FollowEvery time.Duration
}

// Validate says what is missing or wrong.
func (c Config) Validate() error {
	switch {
	case c.Node == "" || c.Cell == "":
		return errors.New("files: the node or its cell has no name")
	case c.Dir == "":
		return fmt.Errorf("files: node %s has no directory for files", c.Node)
	case c.QuotaBytes < 0 || c.UserBytesPerSecond < 0 || c.NodeBytesPerSecond < 0 || c.UserTransfers < 0 || c.NodeTransfers < 0:
		return errors.New("files: a limit is negative: 0 is the default")
	case c.Grace < 0 || c.OrphanAge < 0 || c.CollectEvery < 0 || c.FollowEvery < 0:
		return errors.New("files: a time is negative: 0 is the default")
	case c.Store != "" && c.KeysFile == "":
		return errors.New("files: a bucket is shared by the nodes of a cell, so their keys must be in a file of all of them: set files.keys")
	}
	return nil
}

func (c Config) withDefaults() Config {
	setDefault(&c.QuotaBytes, 32<<30)
	setDefault(&c.UserTransfers, 32)
	setDefault(&c.NodeTransfers, 2000)
	setDefault(&c.Grace, 7*24*time.Hour)
	setDefault(&c.OrphanAge, 24*time.Hour)
	setDefault(&c.CollectEvery, time.Hour)
	setDefault(&c.FollowEvery, 30*time.Second)
	return c
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Ranges asks ranges, wherever they are hosted: a [cellclient.Relay].
type Ranges interface {
	// Do sends req to the host of rng and waits for the answer.
	Do(ctx context.Context, rng proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error)
}

// Deps are what the files stand on. Log may be nil.
type Deps struct {
	Ranges    Ranges
	Directory cellclient.FilesDirectory
	Proxy     *cellclient.FilesProxy // to other resource nodes; the caller closes it
	Gate      *giveway.Gate          // contents wait there; nil: they do not
	Log       *slog.Logger
}
