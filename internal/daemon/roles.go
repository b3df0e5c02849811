package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/cell"
	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane"
	"github.com/waggle-im/waggle/edge"
	"github.com/waggle-im/waggle/edge/gateway"
	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/session"
	"github.com/waggle-im/waggle/internal/admin"
	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/embedetcd"
	"github.com/waggle-im/waggle/internal/version"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// openTimeout bounds the opening of the accounts database.
	openTimeout = 10 * time.Second
	// registerRetry is the pause between tries to register configured cells.
	registerRetry = 100 * time.Millisecond
)

func newEtcd(cfg Config, env Env) (*Daemon, error) {
	c := embedetcd.Config{
		Dir: cfg.DataDir, ClientAddr: cfg.EtcdServer.Client, PeerAddr: cfg.EtcdServer.Peer,
		CertFile: cfg.EtcdServer.Cert, KeyFile: cfg.EtcdServer.Key, CAFile: cfg.EtcdServer.CA,
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	cluster, err := announceEtcd(cfg, env)
	if err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	return &Daemon{
		name:  cfg.Node,
		close: cluster.Close,
		checks: func() []admin.Check {
			check := admin.Check{Name: "etcd"}
			select {
			case <-ready:
			default:
				check.Err = errors.New("starting")
			}
			return []admin.Check{check}
		},
		run: func(ctx context.Context) error {
			server, err := embedetcd.Start(ctx, c)
			if err != nil {
				return err
			}
			defer server.Close()
			close(ready)
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return cluster.Run(ctx) })
			g.Go(func() error {
				select {
				case err := <-server.Err():
					return err
				case <-ctx.Done():
					return nil
				}
			})
			return errors.Join(g.Wait(), cluster.Close())
		},
	}, nil
}

// announceEtcd makes the client by which an embedded etcd lists itself among
// the nodes.
func announceEtcd(cfg Config, env Env) (*controlclient.Client, error) {
	etcdTLS, err := etcdClientTLS(cfg.Etcd)
	if err != nil {
		return nil, err
	}
	return controlclient.New(controlclient.Config{
		Endpoints: cfg.Etcd.Endpoints, TLS: etcdTLS, Logger: env.Logger,
		Self: &controlpb.NodeRecord{
			Node: cfg.Node, Roles: []string{RoleEtcd}, Addr: cfg.EtcdServer.Client, Admin: env.Admin,
			Pid: int64(os.Getpid()), Version: version.Commit(), StartedMs: time.Now().UnixMilli(),
		},
	})
}

func newControlPlane(ctx context.Context, cfg Config, env Env) (*Daemon, error) {
	m, err := newMember(cfg, env, &controlpb.NodeRecord{Roles: []string{RoleControlPlane}})
	if err != nil {
		return nil, err
	}
	lostAfter, err := cfg.Placement.lostAfter()
	every, canaryErr := cfg.Placement.canary()
	if err = errors.Join(err, canaryErr); err != nil {
		return nil, errors.Join(err, m.close())
	}
	relay := cellclient.NewRelay(proto.NodeID(cfg.Node), m.dialer, m.locator, nil)
	openCtx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	cp, err := controlplane.New(openCtx, controlplane.Config{
		Node: proto.NodeID(cfg.Node), DataDir: cfg.DataDir, Database: cfg.ControlPlane.Database,
		Replicas: cfg.ControlPlane.Replicas, Cluster: cfg.Cluster, Mode: cfg.Mode, Version: version.Commit(),
		Policy: cfg.Sessions.Policy, LostAfter: lostAfter, Canary: every,
		Redis: cfg.ControlPlane.Redis, SMTP: cfg.ControlPlane.SMTP, MailFrom: cfg.ControlPlane.MailFrom,
	}, controlplane.Deps{
		Cluster: m.cluster, Dialer: m.dialer, Ranges: relay, Logger: env.Logger,
		Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"node": cfg.Node}, env.registry),
	})
	if err != nil {
		relay.Close()
		return nil, errors.Join(err, m.close())
	}
	closeAll := func() error {
		relay.Close()
		return errors.Join(cp.Close(), m.close())
	}
	server := grpc.NewServer(m.serverOptions()...)
	cp.RegisterAccounts(server)
	return &Daemon{
		name: cfg.Node, close: closeAll, cluster: m.cluster, operator: cp.RegisterOperator,
		checks: func() []admin.Check {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return []admin.Check{m.check(), {Name: "accounts", Err: cp.Ready(ctx)}}
		},
		run: func(ctx context.Context) error {
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return m.cluster.Run(ctx) })
			g.Go(func() error { return cp.Run(ctx) })
			g.Go(func() error { return server.Serve(m.listener) })
			g.Go(func() error { registerCells(ctx, cp, cfg.ControlPlane.Cells); return nil })
			g.Go(func() error { <-ctx.Done(); server.Stop(); return nil })
			err := g.Wait()
			return errors.Join(err, closeAll())
		},
	}, nil
}

// registerCells registers the configured cells, again and again until it has
// succeeded: etcd may come later.
func registerCells(ctx context.Context, cp *controlplane.ControlPlane, cells []string) {
	for _, cell := range cells {
		for ctx.Err() == nil {
			_, err := cp.OperatorServer().AddCell(ctx, &controlpb.AddCellRequest{Cell: cell})
			if err == nil {
				break
			}
			select {
			case <-time.After(registerRetry):
			case <-ctx.Done():
			}
		}
	}
}

func newCell(ctx context.Context, cfg Config, env Env) (*Daemon, error) {
	roles := cfg.Cell.Roles
	if len(roles) == 0 {
		roles = []string{cell.RoleChat, cell.RoleStorage, cell.RoleResource}
	}
	record := &controlpb.NodeRecord{Cell: cfg.Cell.Name, Roles: roles, Rules: uint32(cmp.Or(cfg.Cell.RulesMax, proto.RulesVersion))}
	filesListener, err := listenFiles(cfg, record)
	if err != nil {
		return nil, err
	}
	lives, err := listenLive(ctx, cfg, record)
	if err != nil {
		return nil, errors.Join(err, closeUnused(filesListener))
	}
	m, err := newMember(cfg, env, record)
	if err != nil {
		return nil, errors.Join(err, closeUnused(filesListener), lives.Close())
	}
	node, err := cell.New(cell.Config{
		Node: proto.NodeID(cfg.Node), Cell: proto.CellID(cfg.Cell.Name), Roles: roles, DataDir: cfg.DataDir,
		Engine: engine.Config{
			CacheBytes: cfg.Cell.CacheBytes, MemtableBytes: cfg.Cell.MemtableBytes, DiskSpareBytes: cfg.Cell.DiskSpareBytes,
		},
		MessagesPerSecond: cfg.Cell.MessagesPerSecond, MessagesBurst: cfg.Cell.MessagesBurst, PresenceRefresh: time.Duration(cfg.Cell.PresenceRefreshMs) * time.Millisecond, DirectFrom: cfg.Chat.DirectFrom, Rules: uint32(cfg.Cell.RulesMax),
		Files: filesConfig(cfg.Files), Live: liveConfig(cfg.Live),
	}, cell.Deps{
		Files: filesListener, FilesTLS: m.certs.ServerTLS(), Live: lives,
		Cluster: m.cluster, Listener: m.listener, ServerOptions: m.serverOptions(), ClientTLS: m.certs.ClientTLS,
		Gate: env.Gate, Logger: env.Logger, Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"node": cfg.Node}, env.registry),
	})
	if err != nil {
		return nil, errors.Join(err, m.close(), closeUnused(filesListener), lives.Close())
	}
	m.setLoad(node.Load)
	return &Daemon{
		name: cfg.Node, cluster: m.cluster,
		close:  func() error { return errors.Join(node.Close(), m.close()) },
		checks: func() []admin.Check { return []admin.Check{m.check()} },
		run: func(ctx context.Context) error {
			// It says that it is leaving while it gives away what it leads.
			clusterCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return m.cluster.Run(clusterCtx) })
			g.Go(func() error {
				defer stop()
				return node.Run(ctx)
			})
			err := g.Wait()
			_ = m.close() // the listener is closed by the node already
			return err
		},
	}, nil
}

func newEdge(cfg Config, env Env) (*Daemon, error) {
	web, err := certs.LoadWeb(cfg.Edge.Cert, cfg.Edge.Key)
	if err != nil {
		return nil, err
	}
	record := &controlpb.NodeRecord{Roles: []string{RoleEdge}, Tcp: cfg.Edge.Advertise}
	if record.Tcp == "" {
		record.Tcp = cfg.Edge.Listen
	}
	record.Quic, record.Plain = record.Tcp, cfg.Edge.plain()
	m, err := newMember(cfg, env, record)
	if err != nil {
		return nil, err
	}
	proxies, err := gateway.ParseProxies(cfg.Limits.TrustedProxies)
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	resetKey, err := ensureResetKey(filepath.Join(cfg.DataDir, "quic-reset.key"))
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	proxy := cellclient.NewFilesProxy(m.cluster, m.certs.ClientTLS)
	e, err := edge.New(edge.Config{ExemptLoopback: cfg.Edge.ExemptLoopback, DrainRate: cfg.Edge.DrainRate, TrustedProxies: proxies, Session: session.Config{
		MessagesUnderWayMax: cfg.Edge.MessagesUnderWay, MessagesOverloadedMax: cfg.Edge.MessagesOverloaded,
	}, Listen: listen.Config{
		Addr: cfg.Edge.Listen, PlaintextAddr: cfg.Edge.Plaintext, ExemptLoopback: cfg.Edge.ExemptLoopback,
		StatelessResetKey: resetKey, SlowWriterTimeout: time.Duration(cfg.Edge.SlowReaderSeconds) * time.Second,
	}}, edge.Deps{
		Node: proto.NodeID(cfg.Node), Directory: m.cluster, Dialer: m.dialer, Locator: m.locator, Keys: m.cluster,
		Accounts: controlclient.NewAccounts(m.cluster, m.dialer), TLS: web.TLS(),
		Alternatives: func() []session.Alternative { return otherEdges(m.cluster, cfg.Node) },
		Leaving:      m.cluster.SetLeaving,
		Files:        m.cluster, FilesProxy: proxy,
		Gate: env.Gate, Log: env.Logger, Metrics: prometheus.WrapRegistererWith(prometheus.Labels{"node": cfg.Node}, env.registry),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the client address %s: %w", cfg.Edge.Listen, err), m.close())
	}
	m.setLoad(func() *controlpb.Load { return &controlpb.Load{Sessions: uint64(e.Sessions())} })
	return &Daemon{
		name: cfg.Node, cluster: m.cluster,
		close:  func() error { return errors.Join(e.Close(), m.close()) },
		checks: func() []admin.Check { return []admin.Check{m.check()} },
		run: func(ctx context.Context) error {
			// Sessions are said goodbye to while the routes still stand.
			clusterCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return m.cluster.Run(clusterCtx) })
			g.Go(func() error { followOrders(ctx, m.cluster, proto.NodeID(cfg.Node), e); return nil })
			g.Go(func() error {
				defer stop()
				return e.Run(ctx)
			})
			err := g.Wait()
			proxy.Close()
			_ = m.close()
			return err
		},
	}, nil
}

// ensureResetKey loads the key of QUIC's stateless resets, or makes it.
func ensureResetKey(file string) ([]byte, error) {
	key, err := os.ReadFile(file)
	if err == nil && len(key) == 32 {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("QUIC reset key: %w", err)
	}
	key = make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("QUIC reset key: %w", err)
	}
	if err := atomicfile.Write(file, key, 0o600); err != nil {
		return nil, fmt.Errorf("QUIC reset key: %w", err)
	}
	return key, nil
}

// otherEdges are the other edges that are alive and take sessions.
func otherEdges(c *controlclient.Client, self string) []session.Alternative {
	v := c.View()
	var out []session.Alternative
	for _, n := range v.ByRole(RoleEdge) {
		if n.Alive && !v.Leaving(n.ID) && n.Record.GetNode() != self && n.Record.GetTcp() != "" {
			out = append(out, session.Alternative{Addr: n.Record.GetTcp(), Plain: n.Record.GetPlain(), Sessions: n.Record.GetLoad().GetSessions()})
		}
	}
	return out
}

// followOrders has e emptied while operators want that.
func followOrders(ctx context.Context, c *controlclient.Client, self proto.NodeID, e *edge.Edge) {
	draining := false
	for {
		changed := c.Changed()
		if wanted := c.View().Edges[self].GetDrain(); wanted != draining {
			draining = wanted
			e.SetDraining(draining)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
