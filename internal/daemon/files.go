package daemon

import (
	"net"
	"slices"
	"time"

	"github.com/waggle-im/waggle/cell"
	"github.com/waggle-im/waggle/cell/resource/files"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// listenFiles opens the port for files of a node that serves them, and puts its
// address into the node's record; nil: it serves none.
func listenFiles(cfg Config, record *controlpb.NodeRecord) (net.Listener, error) {
	if !slices.Contains(record.Roles, cell.RoleResource) {
		return nil, nil
	}
	l, addr, err := listenBeside(cfg, cfg.Files.Listen, cfg.Files.Advertise, "files")
	record.FilesAddr = addr
	return l, err
}

func filesConfig(c FilesConfig) files.Config {
	return files.Config{
		Store: c.Store, KeysFile: c.Keys, QuotaBytes: c.QuotaBytes,
		UserBytesPerSecond: c.UserBytesPerSecond, NodeBytesPerSecond: c.NodeBytesPerSecond,
		Grace: time.Duration(c.GraceHours) * time.Hour, OrphanAge: time.Duration(c.OrphanAgeHours) * time.Hour,
		CollectEvery: time.Duration(c.CollectSeconds) * time.Second, FollowEvery: time.Duration(c.FollowSeconds) * time.Second,
	}
}
