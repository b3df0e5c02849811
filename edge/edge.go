package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/edge/gateway"
	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/router"
	"github.com/waggle-im/waggle/edge/session"
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
	// TLS gives the certificates of the moment; needed unless only the
	// plaintext address is set.
	TLS func() *tls.Config
	// Alternatives are the addresses of other edges, for goodbyes. Nil: none.
	Alternatives func() []string
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
	e := &Edge{cfg: cfg, deps: deps}
	e.router = router.New(cfg.Router, router.Deps{
		Edge: deps.Node, Directory: deps.Directory, Dialer: deps.Dialer, Locator: deps.Locator, Log: deps.Log,
	})
	e.sessions = session.New(cfg.Session, session.Deps{Edge: deps.Node, Router: e.router, Keys: deps.Keys, Log: deps.Log})
	cfg.Listen.TLS = deps.TLS
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
	errs := make(chan error, 3)
	for _, run := range []func(context.Context) error{e.listener.Run, e.sessions.Run, e.router.Run} {
		tasks.Go(func() { errs <- run(serving) })
	}
	<-ctx.Done()
	e.drain()
	stop()
	tasks.Wait()
	if e.deps.Metrics != nil {
		e.deps.Metrics.Unregister(collector{e})
	}
	return errors.Join(<-errs, <-errs, <-errs)
}

// drain says goodbye and waits until the connections are gone.
func (e *Edge) drain() {
	e.listener.StopAccepting()
	var alternatives []string
	if e.deps.Alternatives != nil {
		alternatives = e.deps.Alternatives()
	}
	e.sessions.Shutdown(alternatives, e.cfg.ReconnectSpread)
	deadline := time.NewTimer(e.cfg.DrainTimeout)
	defer deadline.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		// Those that never logged in are not waited for.
		if s := e.listener.Stats(); s.Open <= s.HalfOpen {
			return
		}
		select {
		case <-look.C:
		case <-deadline.C:
			return
		}
	}
}
