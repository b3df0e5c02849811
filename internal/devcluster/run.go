package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/topology"
	"github.com/waggle-im/waggle/internal/admin"
	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/daemon"
)

// lockFile is held while a cluster runs on the data directory.
const lockFile = "LOCK"

// Cluster is one development cluster.
type Cluster struct {
	o        Options
	shape    *shape
	builder  *builder
	runner   runner
	services services
	admin    string
	cells    []string               // at start
	ready    atomic.Pointer[string] // nil: a message has gone round; else why not
}

// New makes a cluster of the shape that o asks for. It starts nothing and
// touches no file.
func New(o Options) (*Cluster, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	var err error
	if o.DataDir, err = filepath.Abs(o.DataDir); err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	c := &Cluster{o: o}
	starting := "starting"
	c.ready.Store(&starting)
	return c, nil
}

// Run is [New] and [Cluster.Run] in one.
func Run(ctx context.Context, o Options) error {
	c, err := New(o)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

// Run runs the cluster until ctx ends, then drains it: edges first, which
// hand their clients over, then cells, control planes and etcd.
//
// Errors name the flag, the port or the directory, and the way out.
func (c *Cluster) Run(ctx context.Context) error {
	if err := os.MkdirAll(c.o.DataDir, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(c.o.DataDir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		if errors.Is(err, fileutil.ErrLocked) {
			return fmt.Errorf("%w: the data directory %s is used by another waggle: stop it, or choose another with --data", ErrRefused, c.o.DataDir)
		}
		return fmt.Errorf("--data: %w", err)
	}
	defer lock.Close()
	return c.run(ctx)
}

// StopNode stops one node of a cluster that runs in one process, draining it;
// StartNode starts it again. They are for tests and demonstrations of what
// the rest does meanwhile. "redis" and "mail" stop and start those two.
func (c *Cluster) StopNode(name string) {
	c.services.stop(name)
	c.runner.stop(func(cfg daemon.Config) bool { return cfg.Node == name })
}

// StartNode starts a node that StopNode has stopped.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	if known, err := c.services.start(name); known {
		return err
	}
	for _, n := range c.shape.nodes(c.o.Procs) {
		if n.name != name {
			continue
		}
		cfg, err := c.builder.config(n)
		if err != nil {
			return err
		}
		return c.runner.start(ctx, cfg)
	}
	return fmt.Errorf("there is no node %s", name)
}

func (c *Cluster) run(ctx context.Context) error {
	var err error
	if c.shape, err = loadShape(c.o); err != nil {
		return err
	}
	c.cells = slices.Clone(c.shape.Cells)
	for _, a := range []struct{ flag, addr string }{{"--listen", c.o.Listen}, {"--plaintext", c.o.Plaintext}, {"--rtsp", c.o.RTSP}, {"--rtmp", c.o.RTMP}} {
		if a.addr == "" {
			continue
		}
		l, err := net.Listen("tcp", a.addr)
		if err != nil {
			return fmt.Errorf("%s %s cannot be used: stop what uses it, or choose another: %w", a.flag, a.addr, err)
		}
		_ = l.Close()
	}
	adminListener, err := daemon.Listen(c.o.Admin, "--admin")
	if err != nil {
		return err
	}
	c.admin = adminListener.Addr().String()
	nodes := c.shape.nodes(c.o.Procs)
	if err := c.shape.assignPorts(append(c.shape.services(), nodes...)); err != nil {
		_ = adminListener.Close()
		return err
	}
	if err := c.shape.save(c.o.DataDir); err != nil {
		_ = adminListener.Close()
		return err
	}
	if c.builder, err = newBuilder(c.o, c.shape); err != nil {
		_ = adminListener.Close()
		return err
	}
	return c.serve(ctx, nodes, adminListener)
}

// serve starts the nodes and the admin address, and stops them in order.
func (c *Cluster) serve(ctx context.Context, nodes []node, adminListener net.Listener) error {
	env := daemon.Env{Logger: c.o.Logger, Admin: c.admin, Gate: c.o.Gate}
	var children *processes
	local := newInProcess(env)
	c.runner = local
	if c.o.Procs {
		children = newProcesses(c.o)
		c.runner = children
	}
	c.services.ports = c.shape.Ports
	for _, n := range c.shape.services() {
		defer c.services.stop(n.name) // after the nodes that use it
		if _, err := c.services.start(n.name); err != nil {
			_ = adminListener.Close()
			return err
		}
	}
	defer c.stopNodes()
	// Created in parallel: each opens its own stores.
	var starting errgroup.Group
	for _, n := range nodes {
		cfg, err := c.builder.config(n)
		if err != nil {
			_ = adminListener.Close()
			return err
		}
		starting.Go(func() error { return c.runner.start(ctx, cfg) })
	}
	if err := starting.Wait(); err != nil {
		_ = adminListener.Close()
		return err
	}
	verbs := local.operator
	if c.o.Procs {
		forwarder := newForwarder(children.controlPlanes)
		verbs = func() *grpc.Server { return forwarder }
	}
	server := admin.New(admin.Config{
		Listener: adminListener, GRPC: verbs, Gatherer: prometheus.Gatherers{daemon.NewRegistry(env.Gate), local}, Checks: c.checks, Logger: c.o.Logger,
		Handlers: map[string]http.Handler{"GET /dev/mail": c.services.mailHandler()},
	})
	g, runCtx := errgroup.WithContext(ctx)
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAdmin()
	g.Go(func() error { return server.Run(adminCtx) })
	g.Go(func() error { return env.Gate.Run(adminCtx) })
	g.Go(func() error { return c.followCells(runCtx) })
	g.Go(func() error {
		if err := c.becomeReady(runCtx); err != nil && runCtx.Err() == nil {
			return err
		}
		return nil
	})
	g.Go(func() error {
		defer stopAdmin()
		select {
		case err := <-c.runner.failed():
			return err
		case <-runCtx.Done():
			return nil
		}
	})
	return g.Wait()
}

// stopNodes stops the nodes in the order in which they need each other.
func (c *Cluster) stopNodes() {
	for _, role := range []string{daemon.RoleEdge, daemon.RoleCell, daemon.RoleControlPlane, daemon.RoleEtcd} {
		c.runner.stop(func(cfg daemon.Config) bool { return cfg.Role == role })
	}
}

// checks are the conditions of /readyz.
func (c *Cluster) checks() []admin.Check {
	round := admin.Check{Name: "a message has gone round"}
	if why := c.ready.Load(); why != nil {
		round.Err = errors.New(*why)
	}
	return append(c.runner.checks(), round)
}

// followCells starts the nodes of cells that operators add, and stops those of
// cells that they remove.
func (c *Cluster) followCells(ctx context.Context) error {
	client, err := c.follower()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return client.Run(ctx) })
	g.Go(func() error {
		for {
			changed := client.Changed()
			for cell, rec := range client.View().Cells {
				follow := c.ensureCell
				if rec.State == string(topology.CellRemoving) {
					follow = c.stopCell
				}
				if err := follow(ctx, string(cell)); err != nil {
					return err
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return errors.Join(g.Wait(), client.Close())
}

// follower watches the cluster without being one of its nodes.
func (c *Cluster) follower() (*controlclient.Client, error) {
	pool, err := certs.LoadPool(c.builder.etcd.CAFile())
	if err != nil {
		return nil, err
	}
	pair := certs.PairIn(c.builder.path("certs"), "etcd-client")
	t, err := daemon.ClientTLS(pool, pair.CertFile, pair.KeyFile)
	if err != nil {
		return nil, err
	}
	return controlclient.New(controlclient.Config{
		Endpoints: []string{"https://" + c.shape.Ports["etcd"].GRPC}, TLS: t, Logger: c.o.Logger,
	})
}

// stopCell stops the nodes of a cell that has nothing left. Their data stays.
func (c *Cluster) stopCell(_ context.Context, cell string) error {
	if !slices.Contains(c.shape.Cells, cell) {
		return nil
	}
	nodes := c.shape.cellNodes(cell)
	c.runner.stop(func(cfg daemon.Config) bool {
		return slices.ContainsFunc(nodes, func(n node) bool { return n.name == cfg.Node })
	})
	c.shape.removeCell(cell)
	if err := c.shape.save(c.o.DataDir); err != nil {
		return err
	}
	fmt.Fprintf(c.o.Out, "cell %s: removed, stopped %d node(s); what they stored lies in %s\n", cell, len(nodes), c.o.DataDir)
	return nil
}

func (c *Cluster) ensureCell(ctx context.Context, cell string) error {
	for _, have := range c.shape.Cells {
		if have == cell {
			return nil
		}
	}
	c.shape.addCell(cell)
	nodes := c.shape.cellNodes(cell)
	if err := c.shape.assignPorts(nodes); err != nil {
		return err
	}
	if err := c.shape.save(c.o.DataDir); err != nil {
		return err
	}
	for _, n := range nodes {
		cfg, err := c.builder.config(n)
		if err != nil {
			return err
		}
		if err := c.runner.start(ctx, cfg); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.o.Out, "cell %s: started %d node(s)\n", cell, len(nodes))
	return nil
}

// becomeReady sends a message round, makes the demo users, and says so.
func (c *Cluster) becomeReady(ctx context.Context) error {
	started := time.Now()
	p := &probe{c: c}
	if err := p.run(ctx); err != nil {
		return err
	}
	users, err := c.demoUsers(ctx)
	if err != nil {
		return err
	}
	if err := c.waitGood(ctx); err != nil {
		return err
	}
	c.ready.Store(nil)
	if c.o.ReadyFile != "" {
		raw, err := json.Marshal(map[string]any{
			"listen": c.o.Listen, "plaintext": c.o.Plaintext, "admin": c.admin, "data": c.o.DataDir,
			"ca": filepath.Join(c.o.DataDir, caFile), "pid": os.Getpid(), "ready_ms": time.Since(started).Milliseconds(),
		})
		if err != nil {
			return err
		}
		if err := atomicfile.Write(c.o.ReadyFile, append(raw, '\n'), 0o644); err != nil {
			return fmt.Errorf("--ready-file: %w", err)
		}
	}
	c.welcome(users)
	return nil
}
