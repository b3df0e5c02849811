package cell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/waggle-im/waggle/cell/chat"
	"github.com/waggle-im/waggle/cell/resource"
	"github.com/waggle-im/waggle/cell/resource/live/rights"
	"github.com/waggle-im/waggle/cell/storage"
	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// Node is one node of a cell.
type Node struct {
	cfg     Config
	deps    Deps
	logger  *slog.Logger
	dialer  *cellclient.Dialer
	engine  *engine.Engine
	storage *storage.Service // nil without the role
	chat    *chat.Service    // nil without the role
	server  *grpc.Server
	routes  notice // to who hosts what

	resource *resource.Server  // nil without the role
	relay    *cellclient.Relay // of the resource role

	mu     sync.RWMutex // held while the stores are read from outside; guards closed
	closed bool
}

// New opens the node's stores. It starts nothing; a node that is not run
// needs Close.
//
// Errors name the directory and the way out, see [engine.Open].
func New(cfg Config, deps Deps) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	n := &Node{cfg: cfg, deps: deps, logger: deps.Logger.With("node", cfg.Node)}
	n.dialer = cellclient.NewDialer(deps.Cluster, deps.ClientTLS)
	if cfg.Has(RoleStorage) {
		if err := n.openStorage(); err != nil {
			_ = n.dialer.Close()
			return nil, err
		}
	}
	if cfg.Has(RoleChat) {
		accounts := controlclient.NewAccounts(deps.Cluster, n.dialer)
		n.chat = chat.New(chat.Config{
			Self: cfg.Node, Dialer: n.dialer, Locator: cellclient.NewLocator(deps.Cluster, n.dialer),
			FindUser: func(ctx context.Context, name string) (proto.EntityID, string, error) {
				found, err := accounts.FindUser(ctx, &controlpb.FindUserRequest{Name: name})
				return proto.EntityID(found.GetUser()), found.GetName(), err
			},
			FindPeople: func(ctx context.Context, prefix string, limit int) ([]*clientpb.Card, error) {
				found, err := accounts.FindPeople(ctx, &controlpb.FindPeopleRequest{Prefix: prefix, Limit: uint32(limit)})
				cards := make([]*clientpb.Card, len(found.GetPeople()))
				for i, p := range found.GetPeople() {
					cards[i] = &clientpb.Card{User: p.User, Name: p.Name}
				}
				return cards, err
			},
			FriendsOnly:       cfg.DirectFrom == DirectFromFriends,
			MessagesPerSecond: cfg.MessagesPerSecond, MessagesBurst: cfg.MessagesBurst, PresenceRefresh: cfg.PresenceRefresh,
			OnHosting: n.routes.tell, Gate: deps.Gate, Logger: n.logger, Registerer: deps.Registerer,
		})
	}
	if cfg.Has(RoleResource) && deps.Files != nil {
		if err := n.openResource(); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	n.register()
	return n, nil
}

// openResource opens the files. They have a relay of their own: what they ask
// must not wait behind messages.
func (n *Node) openResource() error {
	cfg := resource.Config{Files: n.cfg.Files, Live: n.cfg.Live, Who: rights.Config{
		Node: n.cfg.Node, Cell: n.cfg.Cell, Dir: filepath.Join(n.cfg.DataDir, "live"),
	}}
	cfg.Files.Node, cfg.Files.Cell, cfg.Files.Dir = n.cfg.Node, n.cfg.Cell, filepath.Join(n.cfg.DataDir, "files")
	var local cellclient.LocalHosts
	if n.chat != nil {
		local = n.chat
	}
	n.relay = cellclient.NewRelay(n.cfg.Node, n.dialer, cellclient.NewLocator(n.deps.Cluster, n.dialer), local)
	var err error
	n.resource, err = resource.New(cfg, resource.Deps{
		Listener: n.deps.Files, Live: n.deps.Live, ServerTLS: n.deps.FilesTLS, ClientTLS: n.deps.ClientTLS,
		Ranges: n.relay, Directory: n.deps.Cluster, Gate: n.deps.Gate, Log: n.logger, Registry: n.deps.Registerer,
	})
	return err
}

func (n *Node) openStorage() error {
	var err error
	if n.engine, err = engine.Open(filepath.Clean(n.cfg.DataDir), vfs.Default, n.cfg.Engine, n.logger); err != nil {
		return err
	}
	n.storage, err = storage.New(storage.Config{
		Self: n.cfg.Node, Cell: n.cfg.Cell, Engine: n.engine, Rules: n.cfg.Rules, Conn: n.dialer.Conn, Gate: n.deps.Gate, OnRoutes: n.routes.tell, Logger: n.logger, Registerer: n.deps.Registerer,
	})
	if err != nil {
		return errors.Join(err, n.engine.Close())
	}
	return nil
}

// Close frees a node that is not running.
func (n *Node) Close() error {
	n.mu.Lock() // after whoever reads the stores
	n.closed = true
	n.mu.Unlock()
	if n.relay != nil {
		n.relay.Close()
	}
	err := n.dialer.Close()
	if n.resource != nil {
		err = errors.Join(err, n.resource.Close())
	}
	if n.engine != nil {
		err = errors.Join(err, n.engine.Close())
	}
	return err
}

// register makes the gRPC server with the services of the node's roles.
func (n *Node) register() {
	n.server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(cellclient.MessageBytesMax), grpc.MaxSendMsgSize(cellclient.MessageBytesMax),
		grpc.InitialWindowSize(4 << 20), grpc.InitialConnWindowSize(8 << 20), grpc.ForceServerCodecV2(codec.GRPC()),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMin, PermitWithoutStream: true}),
	}, n.deps.ServerOptions...)...)
	cellpb.RegisterNodeServer(n.server, &nodeServer{node: n})
	if n.storage != nil {
		cellpb.RegisterStorageServer(n.server, storage.NewServer(n.storage))
	}
	if n.chat != nil {
		cellpb.RegisterChatServer(n.server, &chatServer{service: n.chat})
	}
}

// Run serves until stopping ends. Then it gives away what it leads, lets its
// sessions go, finishes what is being written and closes the stores. An error
// means that the node cannot go on: its stores can no longer write, or its port
// is gone.
func (n *Node) Run(stopping context.Context) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stopping))
	defer cancel(nil)
	var hosting, storing sync.WaitGroup
	storageCtx, stopStorage := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStorage()
	if n.storage != nil {
		storing.Go(func() {
			if err := n.storage.Run(storageCtx); err != nil && storageCtx.Err() == nil {
				cancel(fmt.Errorf("cell: node %s: %w", n.cfg.Node, err))
			}
		})
	}
	if n.chat != nil {
		hosting.Go(func() { _ = n.chat.Run(ctx) })
		hosting.Go(func() { n.followLeaders(ctx) })
	}
	if n.resource != nil {
		// Uploads are brought to an end while their ranges are still hosted.
		hosting.Go(func() {
			if err := n.resource.Run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("cell: node %s: %w", n.cfg.Node, err))
			}
		})
	}
	serving := make(chan error, 1)
	go func() { serving <- n.server.Serve(n.deps.Listener) }() // ends by Stop below
	var err error
	select {
	case <-stopping.Done():
		n.leave()
		err = stopping.Err()
		cancel(err)
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-serving:
		cancel(err)
	}
	// Hosts let go of their sessions first, while the streams still stand.
	hosting.Wait()
	n.server.Stop()
	stopStorage()
	storing.Wait()
	if closeErr := n.Close(); closeErr != nil {
		return closeErr
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// leave says that this node is about to stop and gives what it leads to others
// that are not, and hosting with it, for at most leaveTimeout.
func (n *Node) leave() {
	n.deps.Cluster.SetLeaving(true)
	if n.storage == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	left := n.storage.Drain(ctx, func(id proto.NodeID) bool {
		v := n.deps.Cluster.View()
		return v.Nodes[id].Alive && !v.Leaving(id)
	})
	if left > 0 {
		n.logger.Warn("stopping although ranges are still led here: they wait for an election", "ranges", left)
	}
}

// Load is what the node reports of itself.
func (n *Node) Load() *controlpb.Load {
	load := new(controlpb.Load)
	if n.chat != nil {
		ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
		defer cancel()
		if s, err := n.chat.Sessions(ctx, &cellpb.SessionsRequest{}); err == nil {
			load.Sessions = s.Sessions
		}
	}
	n.mu.RLock() // the load is asked for until the node is gone, its stores are closed before
	defer n.mu.RUnlock()
	if n.storage == nil || n.closed {
		return load
	}
	for _, r := range n.storage.Status() {
		load.Ranges++
		if r.Leading {
			load.Leaders++
			load.Users += r.Entities
		}
		load.Bytes += r.Bytes
	}
	return load
}
