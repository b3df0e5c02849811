package cell

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/cell/resource"
	"github.com/waggle-im/waggle/cell/resource/files"
	"github.com/waggle-im/waggle/cell/resource/live"
	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/proto"
)

// The roles of a cell node.
const (
	RoleChat     = "chat"
	RoleStorage  = "storage"
	RoleResource = "resource"
)

// Who may write to whom in direct threads, beside what each user decides.
const (
	DirectFromAnyone  = "anyone"
	DirectFromFriends = "friends"
)

// Config is what an operator sets of a cell node.
type Config struct {
	Node              proto.NodeID
	Cell              proto.CellID
	Roles             []string // of RoleChat, RoleStorage, RoleResource; empty: all
	DataDir           string
	Engine            engine.Config
	MessagesPerSecond int           // each user's sends; default 100, negative: no limit
	MessagesBurst     int           // default 500
	PresenceRefresh   time.Duration // how often it is said again who is online; default 10 s
	DirectFrom        string        // who may write to whom: DirectFromAnyone (default, also empty) or DirectFromFriends
	Rules             uint32        // take part in no newer rules version; 0: all this release knows
	Files             files.Config  // Node, Cell and Dir are set by New
	Live              live.Config   // Dir is set by New
}

// Has tells whether the node has a role.
func (c Config) Has(role string) bool { return len(c.Roles) == 0 || slices.Contains(c.Roles, role) }

// Validate says what is missing or wrong.
func (c Config) Validate() error {
	switch {
	case c.Node == "":
		return errors.New("cell: the node has no name")
	case c.Cell == "":
		return fmt.Errorf("cell: node %s names no cell", c.Node)
	case c.DataDir == "" && (c.Has(RoleStorage) || c.Has(RoleResource)):
		return fmt.Errorf("cell: node %s has the storage or the resource role and no data directory", c.Node)
	}
	if d := c.DirectFrom; d != "" && d != DirectFromAnyone && d != DirectFromFriends {
		return fmt.Errorf("cell: node %s: chat.direct_from is %q: know %s and %s", c.Node, d, DirectFromAnyone, DirectFromFriends)
	}
	for _, role := range c.Roles {
		if role != RoleChat && role != RoleStorage && role != RoleResource {
			return fmt.Errorf("cell: node %s has the unknown role %q: know %s, %s and %s", c.Node, role, RoleChat, RoleStorage, RoleResource)
		}
	}
	return nil
}

// Deps are what a node stands on. Logger, Registerer and the TLS parts may be
// nil (no TLS, for tests).
type Deps struct {
	Cluster       *controlclient.Client
	Listener      net.Listener       // for gRPC; closed by Run
	Files         net.Listener       // of the resource role, closed by Run; nil: the node serves no files
	FilesTLS      *tls.Config        // of Files
	Live          resource.LivePorts // of the resource role; closed by Run
	ServerOptions []grpc.ServerOption
	ClientTLS     func(proto.NodeID) *tls.Config
	Gate          *giveway.Gate // where files give way to messages; nil: they do not
	Logger        *slog.Logger
	Registerer    prometheus.Registerer
}

// directory is what cellclient needs; controlclient.Client has it.
var _ cellclient.Directory = (*controlclient.Client)(nil)
