package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/edge/gateway"
	"github.com/waggle-im/waggle/edge/hls"
	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/router"
	"github.com/waggle-im/waggle/edge/session"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// Deps are what an edge works with. The caller closes the dialer, after Run.
type Deps struct {
	Node      proto.NodeID
	Directory cellclient.Directory
	Dialer    *cellclient.Dialer
	Locator   *cellclient.Locator
	Keys      token.Keys
	Accounts  controlpb.AccountsClient
	// TLS has the certificates; needed unless only the plaintext address is
	// set.
	TLS *tls.Config
	// Alternatives are the other edges that take sessions. Nil: none.
	Alternatives func() []session.Alternative
	// Leaving is told when this edge begins to send its sessions elsewhere and
	// when that is over. Nil: nobody is.
	Leaving func(bool)
	// Files says where files are served, FilesProxy goes there. Nil: this edge
	// has no files. The caller closes the proxy, after Run.
	Files      cellclient.FilesDirectory
	FilesProxy *cellclient.FilesProxy
	// Gate is told of requests, and files give way to them there. Nil: they do
	// not.
	Gate *giveway.Gate
	// Mounts add HTTP handlers.
	Mounts  []gateway.Mount
	Log     *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
}

// Edge is one edge.
type Edge struct {
	cfg      Config
	deps     Deps
	listener *listen.Listener
	sessions *session.Server
	router   *router.Router
	hls      *hls.Server // nil without files
	orders   chan bool   // holds the last one not taken: be emptied, or serve
}

// New assembles an edge and binds its addresses, so that a port in use is an
// error here. It starts nothing. Close frees the addresses if Run is never
// called.
func New(cfg Config, deps Deps) (*Edge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Alternatives == nil {
		deps.Alternatives = func() []session.Alternative { return nil }
	}
	if deps.Leaving == nil {
		deps.Leaving = func(bool) {}
	}
	e := &Edge{cfg: cfg, deps: deps, orders: make(chan bool, 1)}
	e.router = router.New(cfg.Router, router.Deps{
		Edge: deps.Node, Directory: deps.Directory, Dialer: deps.Dialer, Locator: deps.Locator, Log: deps.Log,
	})
	e.sessions = session.New(cfg.Session, session.Deps{Edge: deps.Node, Router: e.router, Keys: deps.Keys, Gate: deps.Gate, Log: deps.Log})
	cfg.Listen.TLS = deps.TLS
	if deps.Files != nil {
		files := &gateway.Files{Directory: deps.Files, Proxy: deps.FilesProxy, Keys: deps.Keys, Gate: deps.Gate}
		live := &gateway.Live{Files: files}
		e.hls = hls.New(hls.Config{Edge: deps.Node, Nodes: deps.FilesProxy, NodeOf: live.NodeOf, Log: deps.Log})
		live.HLS = e.hls
		deps.Mounts = append(slices.Clip(deps.Mounts), files, live)
	}
	cfg.Listen.HTTP = gateway.New(gateway.Config{
		Accounts: deps.Accounts, ExemptLoopback: cfg.ExemptLoopback, TrustedProxies: cfg.TrustedProxies,
	}, deps.Mounts...)
	var err error
	if e.listener, err = listen.New(cfg.Listen, e.sessions, deps.Log); err != nil {
		return nil, err
	}
	if deps.Metrics != nil {
		if err := deps.Metrics.Register(collector{e}); err != nil {
			return nil, errors.Join(err, e.listener.Close())
		}
	}
	return e, nil
}

// Close frees the addresses of an edge that never ran.
func (e *Edge) Close() error { return e.listener.Close() }

// Addr is where TLS (TCP) and QUIC (UDP) are served; nil if they are not.
func (e *Edge) Addr() net.Addr { return e.listener.Addr() }

// PlaintextAddr is where plaintext TCP is served; nil if it is not.
func (e *Edge) PlaintextAddr() net.Addr { return e.listener.PlaintextAddr() }

// Sessions is the number of logged-in sessions.
func (e *Edge) Sessions() int { return e.sessions.Len() }

// UserSessions lists the sessions of user on this edge; it walks all of them.
func (e *Edge) UserSessions(user proto.EntityID) []session.Info { return e.sessions.Lookup(user) }

// Run serves until ctx ends. Then it stops accepting, sends every client
// somewhere else, flushes for at most Config.DrainTimeout and returns after
// the last goroutine.
func (e *Edge) Run(ctx context.Context) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var tasks sync.WaitGroup
	runs := []func(context.Context) error{e.listener.Run, e.sessions.Run, e.router.Run}
	if e.hls != nil {
		runs = append(runs, e.hls.Run)
	}
	errs := make(chan error, len(runs))
	for _, run := range runs {
		tasks.Go(func() { errs <- run(serving) })
	}
	e.follow(ctx)
	e.drain()
	stop()
	tasks.Wait()
	if e.deps.Metrics != nil {
		e.deps.Metrics.Unregister(collector{e})
	}
	var err error
	for range runs {
		err = errors.Join(err, <-errs)
	}
	return err
}
