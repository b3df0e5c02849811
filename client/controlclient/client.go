package controlclient

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/protobuf/proto"

	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding"
)

const (
	// LeaseTTL is how long after a node's last sign it is marked gone.
	LeaseTTL = 5 * time.Second
	// LoadInterval is how often a changed load is written.
	LoadInterval = time.Second
	// requestTimeout bounds one request to etcd.
	requestTimeout = 3 * time.Second
	// retryMin and retryMax bound the pauses between tries to reach etcd.
	retryMin = 50 * time.Millisecond
	retryMax = 2 * time.Second
	// cacheDelay joins changes into one write of the copy on disk.
	cacheDelay = 300 * time.Millisecond
)

// Config says which cluster to follow and what to announce.
type Config struct {
	Endpoints []string    // of etcd, as in http://127.0.0.1:2379
	TLS       *tls.Config // for etcd; nil: none
	// CachePath is the copy on disk; empty: none, and with etcd down the
	// node knows nothing at start.
	CachePath string
	// Self is the record of this node; nil: announce nothing. Its load is
	// taken from Load.
	Self *controlpb.NodeRecord
	// Load is asked once per LoadInterval; nil: no load is announced.
	Load   func() *controlpb.Load
	Logger *slog.Logger // nil: slog.Default
}

// Validate checks c without changing it.
func (c Config) Validate() error {
	if len(c.Endpoints) == 0 {
		return errors.New("controlclient: no etcd endpoint is given")
	}
	if c.Self != nil && (c.Self.Node == "" || c.Self.Addr == "") {
		return errors.New("controlclient: a node to be announced needs a name and an address")
	}
	return nil
}

// Client follows the cluster. It is safe for concurrent use.
type Client struct {
	config Config
	log    *slog.Logger
	etcd   *clientv3.Client

	view    atomic.Pointer[View]
	leaving atomic.Bool   // see SetLeaving
	said    chan struct{} // holds one: leaving has changed

	mu      sync.Mutex // guards the fields below
	changed chan struct{}
	listed  bool // etcd was listed since the start
	dirty   chan struct{}
	synced  chan struct{} // closed when listed becomes true
}

// New makes a client and reads the copy on disk, so that [Client.View] is
// usable at once. It starts nothing and does not wait for etcd. A damaged copy
// is reported in the log and not used.
func New(c Config) (*Client, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Self != nil {
		c.Self = proto.CloneOf(c.Self)
	}
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  c.TLS,
		DialKeepAliveTime:    5 * time.Second, // etcd refuses pings more often
		DialKeepAliveTimeout: 2 * time.Second,
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// gRPC's own limit is two minutes: an etcd that is back should
			// be used at once.
			Backoff:           backoff.Config{BaseDelay: retryMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryMax},
			MinConnectTimeout: time.Second,
		})},
	})
	if err != nil {
		return nil, fmt.Errorf("controlclient: %w", err)
	}
	client := &Client{
		config: c, log: c.Logger, etcd: etcd,
		changed: make(chan struct{}), dirty: make(chan struct{}, 1), synced: make(chan struct{}),
		said: make(chan struct{}, 1),
	}
	v := newDraft(&View{}).finish(0)
	if c.CachePath != "" {
		if v, err = loadCache(c.CachePath); err != nil {
			c.Logger.Warn("the copy of the cluster's state is not used", "err", err)
		}
	}
	client.view.Store(v)
	return client, nil
}

// Run follows the cluster and keeps this node announced until ctx ends, however
// often etcd comes and goes. At the end it takes the announcement back and
// writes the copy on disk. It returns nil.
func (c *Client) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { c.follow(ctx); return nil })
	g.Go(func() error { c.keepCache(ctx); return nil })
	if c.config.Self != nil {
		g.Go(func() error { c.announce(ctx); return nil })
	}
	return g.Wait()
}

// Close ends the connection to etcd. Call it after Run returned.
func (c *Client) Close() error { return c.etcd.Close() }

// Etcd is the connection, for the control plane's own use.
func (c *Client) Etcd() *clientv3.Client { return c.etcd }

// View is the cluster as last heard of. Never nil.
func (c *Client) View() *View { return c.view.Load() }

// Changed is closed at the next change of the view. Take it before reading the
// view, so that no change is missed.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// WaitSynced waits until etcd itself was listed once since the start. With
// etcd down it waits until ctx ends; [Client.WaitUsable] does not.
func (c *Client) WaitSynced(ctx context.Context) error {
	select {
	case <-c.synced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("controlclient: etcd at %v does not answer: %w", c.config.Endpoints, ctx.Err())
	}
}

// WaitUsable waits until there is something to go by: a copy on disk with at
// least one node, or an answer of etcd.
func (c *Client) WaitUsable(ctx context.Context) error {
	if len(c.View().Nodes) > 0 {
		return nil
	}
	return c.WaitSynced(ctx)
}

// Synced tells whether etcd was listed since the start.
func (c *Client) Synced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listed
}

// Routes is the route map.
func (c *Client) Routes() *sharding.Map { return c.View().Routes }

// NodeAddr is where a node serves gRPC, alive or not.
func (c *Client) NodeAddr(node waggle.NodeID) (string, bool) {
	n, ok := c.View().Nodes[node]
	if !ok || n.Record.GetAddr() == "" {
		return "", false
	}
	return n.Record.Addr, true
}

// CellNodes are the nodes of a cell, those believed alive first.
func (c *Client) CellNodes(cell waggle.CellID) []waggle.NodeID {
	nodes := c.View().InCell(cell)
	ids := make([]waggle.NodeID, len(nodes))
	for i, n := range nodes {
		ids[i] = n.ID
	}
	return ids
}

// PublicKey is the token key of that id.
func (c *Client) PublicKey(kid string) (ed25519.PublicKey, bool) { return c.View().publicKey(kid) }

// publish makes v the view. Only the following goroutine calls it.
func (c *Client) publish(v *View, lasting bool) {
	c.view.Store(v)
	c.mu.Lock()
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if lasting {
		select {
		case c.dirty <- struct{}{}:
		default:
		}
	}
}

func (c *Client) keepCache(ctx context.Context) {
	if c.config.CachePath == "" {
		return
	}
	save := func() {
		if err := saveCache(c.config.CachePath, c.View()); err != nil {
			c.log.Warn("the copy of the cluster's state is not written", "err", err)
		}
	}
	for {
		select {
		case <-c.dirty:
			sleep(ctx, cacheDelay)
			save()
		case <-ctx.Done():
			if c.Synced() { // the revision has risen since
				save()
			}
			return
		}
	}
}

// sleep waits for d or the end of ctx, and tells whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
