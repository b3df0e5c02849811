package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/admin"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/internal/version"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// Env is what the daemons of one process share.
type Env struct {
	Logger *slog.Logger
	Admin  string        // the process's admin address, for announcing
	Gate   *giveway.Gate // where files give way to messages, run by the caller; nil: they do not

	registry *prometheus.Registry // of this daemon
}

// Daemon is one node, made and not yet running.
type Daemon struct {
	name     string
	registry *prometheus.Registry
	run      func(context.Context) error
	close    func() error
	checks   func() []admin.Check
	operator func(grpc.ServiceRegistrar) // nil: no operator verbs here
	cluster  *controlclient.Client       // nil: etcd
}

// New makes the node that cfg describes. Its ports are open when it returns,
// and nothing runs. A daemon that is not run needs Close.
func New(ctx context.Context, cfg Config, env Env) (*Daemon, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", cfg.Node, err)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	env.Logger = env.Logger.With("node", cfg.Node)
	env.registry = prometheus.NewRegistry()
	d, err := newRole(ctx, cfg, env)
	if err != nil {
		return nil, err
	}
	d.registry = env.registry
	return d, nil
}

func newRole(ctx context.Context, cfg Config, env Env) (*Daemon, error) {
	switch cfg.Role {
	case RoleEtcd:
		return newEtcd(cfg, env)
	case RoleControlPlane:
		return newControlPlane(ctx, cfg, env)
	case RoleCell:
		return newCell(ctx, cfg, env)
	}
	return newEdge(cfg, env)
}

// Run serves until ctx ends, then drains. An error means that the node cannot
// go on.
func (d *Daemon) Run(ctx context.Context) error {
	if err := d.run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	return nil
}

// Close frees a daemon that was not run.
func (d *Daemon) Close() error { return d.close() }

// Name is the node's name.
func (d *Daemon) Name() string { return d.name }

// Checks are the node's conditions of readiness.
func (d *Daemon) Checks() []admin.Check { return d.checks() }

// Metrics are the node's own; those of the process come from [NewRegistry].
func (d *Daemon) Metrics() prometheus.Gatherer { return d.registry }

// Operator is the registration of operator verbs, nil where there are none.
func (d *Daemon) Operator() func(grpc.ServiceRegistrar) { return d.operator }

// Cluster is what the node knows of the cluster, nil for etcd.
func (d *Daemon) Cluster() *controlclient.Client { return d.cluster }

// Serve runs one node in this process, with an admin address of its own,
// until ctx ends.
func Serve(ctx context.Context, cfg Config, logger *slog.Logger) error {
	env := Env{Logger: logger, Gate: giveway.New()}
	var adminListener net.Listener
	if cfg.Admin != "" {
		var err error
		if adminListener, err = Listen(cfg.Admin, "admin"); err != nil {
			return err
		}
		env.Admin = adminListener.Addr().String()
	}
	d, err := New(ctx, cfg, env)
	if err != nil {
		if adminListener != nil {
			_ = adminListener.Close()
		}
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.Run(ctx) })
	g.Go(func() error { return env.Gate.Run(ctx) })
	if adminListener != nil {
		verbs := OperatorServer(d)
		server := admin.New(admin.Config{
			Listener: adminListener, GRPC: func() *grpc.Server { return verbs }, Gatherer: prometheus.Gatherers{NewRegistry(env.Gate), d.Metrics()}, Checks: d.Checks, Logger: logger,
		})
		g.Go(func() error { return server.Run(ctx) })
	}
	return g.Wait()
}

// OperatorServer is the gRPC server of an admin address, nil where d has no
// operator verbs.
func OperatorServer(d *Daemon) *grpc.Server {
	if d.operator == nil {
		return nil
	}
	s := grpc.NewServer()
	d.operator(s)
	return s
}

// NewRegistry makes a registry with the figures of the process: the runtime's
// and those of its gate.
func NewRegistry(gate *giveway.Gate) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), gate)
	return r
}

// Listen opens a TCP port; what names it in the error.
func Listen(addr, what string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the %s address %s cannot be used: stop what uses it or choose another: %w", what, addr, err)
	}
	return l, nil
}

// member is what every node but etcd has: an identity, a gRPC port and a
// connection to etcd.
type member struct {
	certs    *certs.Node
	listener net.Listener
	cluster  *controlclient.Client
	dialer   *cellclient.Dialer
	locator  *cellclient.Locator
	load     atomic.Pointer[func() *controlpb.Load]
}

func newMember(cfg Config, env Env, record *controlpb.NodeRecord) (*member, error) {
	m := new(member)
	var err error
	if m.certs, err = certs.LoadNode(cfg.TLS.Cert, cfg.TLS.Key, cfg.TLS.CA); err != nil {
		return nil, err
	}
	etcdTLS, err := etcdClientTLS(cfg.Etcd)
	if err != nil {
		return nil, err
	}
	if m.listener, err = Listen(cfg.Listen, "gRPC"); err != nil {
		return nil, err
	}
	record.Node = cfg.Node
	record.Addr = cfg.Advertise
	if record.Addr == "" {
		record.Addr = m.listener.Addr().String()
	}
	record.Admin, record.Pid = env.Admin, int64(os.Getpid())
	record.Version, record.StartedMs = version.Commit(), time.Now().UnixMilli()
	m.cluster, err = controlclient.New(controlclient.Config{
		Endpoints: cfg.Etcd.Endpoints, TLS: etcdTLS, CachePath: filepath.Join(cfg.DataDir, "cluster.cache"),
		Self: record, Logger: env.Logger,
		Load: func() *controlpb.Load {
			if load := m.load.Load(); load != nil {
				return (*load)()
			}
			return &controlpb.Load{}
		},
	})
	if err != nil {
		return nil, errors.Join(err, m.listener.Close())
	}
	m.dialer = cellclient.NewDialer(m.cluster, m.certs.ClientTLS)
	m.locator = cellclient.NewLocator(m.cluster, m.dialer)
	return m, nil
}

func (m *member) setLoad(f func() *controlpb.Load) { m.load.Store(&f) }

// serverOptions are those of the node's gRPC port.
func (m *member) serverOptions() []grpc.ServerOption {
	return append(certs.Authorize(certs.Allowed), grpc.Creds(credentials.NewTLS(m.certs.ServerTLS())))
}

func (m *member) close() error {
	return errors.Join(m.listener.Close(), m.dialer.Close(), m.cluster.Close())
}

// followed is ready once the node knows the cluster.
func (m *member) check() admin.Check {
	c := admin.Check{Name: "cluster"}
	if m.cluster.View() == nil || len(m.cluster.View().Nodes) == 0 {
		c.Err = errors.New("nothing is known of the cluster yet")
	}
	return c
}

func etcdClientTLS(c EtcdConfig) (*tls.Config, error) {
	if c.CA == "" {
		return nil, nil
	}
	pool, err := certs.LoadPool(c.CA)
	if err != nil {
		return nil, fmt.Errorf("etcd.ca: %w", err)
	}
	return ClientTLS(pool, c.Cert, c.Key)
}

// ClientTLS is the configuration of a client of etcd, with its certificate if
// certFile is not empty.
func ClientTLS(pool *x509.CertPool, certFile, keyFile string) (*tls.Config, error) {
	t := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("etcd.cert: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// NewLogger makes the logger that cfg asks for, on standard error.
func NewLogger(cfg LogConfig) *slog.Logger {
	level := slog.LevelInfo
	switch cfg.Level {
	case "debug":
		level = slog.LevelDebug
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
