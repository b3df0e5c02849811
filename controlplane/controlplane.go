package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/accounts"
	"github.com/waggle-im/waggle/controlplane/canary"
	"github.com/waggle-im/waggle/controlplane/login"
	"github.com/waggle-im/waggle/controlplane/mail"
	"github.com/waggle-im/waggle/controlplane/mover"
	"github.com/waggle-im/waggle/controlplane/operator"
	"github.com/waggle-im/waggle/controlplane/topology"
	"github.com/waggle-im/waggle/controlplane/verify"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/embedredis"
	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// SigningKeyFile is this replica's key in its data folder. Each replica
	// has its own; all public parts are published.
	SigningKeyFile = "token-signing-key.pem"
	// databaseFile is the default database in the data folder.
	databaseFile = "accounts.db"
	// publishRetry is the pause between tries to publish the key.
	publishRetry = 500 * time.Millisecond
	// publishTimeout bounds one try.
	publishTimeout = 3 * time.Second
)

// Config says how one replica of the control plane runs.
type Config struct {
	Node      waggle.NodeID // name of this replica
	DataDir   string        // made when missing, mode 0700
	Database  string        // sqlite:PATH or mysql://…; default: SQLite in DataDir
	Replicas  uint32        // voters per range of cells added from now on, 1 or 3; default 1
	Cluster   string        // the cluster's name, for status
	Mode      string        // "embedded" or "production", for status
	Version   string        // of this binary, for status
	Redis     string        // codes and limits, redis://…; default: one in this process
	SMTP      string        // mail server, smtp://… or smtps://…; default: none
	MailFrom  string        // sender of mails
	Canary    time.Duration // how often a range is moved for trying; 0: never
	LostAfter time.Duration // how long a node must be silent to be replaced; default 10 minutes
	Policy    string        // which devices may be logged in together: multi (default), per-platform or single
}

// Validate checks c without changing it.
func (c Config) Validate() error {
	switch {
	case c.Node == "":
		return errors.New("controlplane: the node has no name")
	case c.DataDir == "":
		return errors.New("controlplane: no data folder is given")
	case c.Canary < 0:
		return fmt.Errorf("controlplane: no canary is moved every %s", c.Canary)
	case c.LostAfter < 0:
		return fmt.Errorf("controlplane: a node cannot be lost after %s", c.LostAfter)
	case c.Replicas != 0 && c.Replicas != 1 && c.Replicas != 3:
		return fmt.Errorf("controlplane: replicas must be 1 or 3, not %d", c.Replicas)
	}
	return nil
}

// Deps are the connections a control plane works over. The caller runs and
// closes them.
type Deps struct {
	Cluster *controlclient.Client
	Dialer  *cellclient.Dialer
	Ranges  login.Ranges // a cellclient.Relay
	// CellAdded, if set, is called after a cell is registered.
	CellAdded func(ctx context.Context, cell waggle.CellID) error
	Logger    *slog.Logger // nil: slog.Default
	// Registerer gets the metrics; nil: none.
	Registerer prometheus.Registerer
}

// ControlPlane is one replica.
type ControlPlane struct {
	config    Config
	deps      Deps
	store     *accounts.Store
	embedded  *embedredis.Server // nil: Redis is elsewhere
	codes     *verify.Redis
	mailer    *mail.Mailer
	registrar *accounts.Registrar
	issuer    *login.Issuer
	keeper    *topology.Keeper
	accounts  *login.Service
	operator  *operator.Service
}

// New opens the database and the signing key; ctx bounds the wait for the
// database. It starts nothing. Close frees it.
func New(ctx context.Context, c Config, d Deps) (*ControlPlane, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	private, err := certs.EnsureSigningKey(filepath.Join(c.DataDir, SigningKeyFile))
	if err != nil {
		return nil, err
	}
	if c.Database == "" {
		c.Database = "sqlite:" + filepath.Join(c.DataDir, databaseFile)
	}
	store, err := accounts.Open(ctx, c.Database)
	if err != nil {
		return nil, err
	}
	hasher := accounts.NewHasher()
	cp := &ControlPlane{config: c, deps: d, store: store}
	if err := cp.openServices(); err != nil {
		return nil, errors.Join(err, cp.Close())
	}
	cp.registrar = accounts.NewRegistrar(store, hasher, topology.NewChooser(d.Cluster), login.Users{Ranges: d.Ranges}, d.Logger)
	if cp.issuer, err = login.NewIssuer(private, d.Cluster, d.Ranges).WithPolicy(c.Policy); err != nil {
		return nil, errors.Join(err, cp.Close())
	}
	if d.Registerer != nil {
		elected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "waggle_placement_elected", Help: "1 while this control plane is the one that changes placement.",
		}, func() float64 {
			if cp.Elected() {
				return 1
			}
			return 0
		})
		if err := d.Registerer.Register(elected); err != nil {
			return nil, errors.Join(fmt.Errorf("controlplane: %w", err), cp.Close())
		}
	}
	cp.keeper = topology.NewKeeper(d.Cluster, topology.NewNodeCalls(d.Dialer), string(c.Node), d.Logger)
	moves := mover.New(mover.Config{Cluster: d.Cluster, Nodes: mover.NewNodeCalls(d.Dialer), Logger: d.Logger, LostAfter: c.LostAfter})
	cp.keeper.Beside(moves.Serve)
	cp.keeper.Beside(moves.Care)
	if c.Canary > 0 {
		cp.keeper.Canary()
		cp.keeper.Beside(canary.New(canary.Config{
			Cluster: d.Cluster, Ranges: d.Ranges, Users: login.Users{Ranges: d.Ranges}, Every: c.Canary, Logger: d.Logger,
		}).Serve)
	}
	cp.accounts = login.New(login.Config{
		Store: store, Hasher: hasher, Registrar: cp.registrar, Issuer: cp.issuer, Cluster: d.Cluster, Ranges: d.Ranges,
		Codes: cp.codes, Limits: cp.codes, Mail: cp.mailer, Logger: d.Logger,
	})
	cp.operator = operator.New(operator.Config{
		Name: c.Cluster, Mode: c.Mode, Version: c.Version, Replicas: c.Replicas,
		Cluster: d.Cluster, Dialer: d.Dialer, Store: store, Registrar: cp.registrar, Issuer: cp.issuer, Ranges: d.Ranges,
		CellAdded: d.CellAdded, Logger: d.Logger,
	})
	return cp, nil
}

// openServices makes the clients of Redis and of the mail server.
func (cp *ControlPlane) openServices() error {
	url := cp.config.Redis
	var err error
	if url == "" {
		if cp.embedded, err = embedredis.Start("127.0.0.1:0"); err != nil {
			return err
		}
		url = cp.embedded.URL()
	}
	if cp.codes, err = verify.Open(url); err != nil {
		return err
	}
	cp.mailer, err = mail.New(mail.Config{Server: cp.config.SMTP, From: cp.config.MailFrom, Logger: cp.deps.Logger, Registerer: cp.deps.Registerer})
	return err
}

// RegisterAccounts adds the service for edges, to be served on the node's own
// gRPC port behind certs.Authorize.
func (cp *ControlPlane) RegisterAccounts(s grpc.ServiceRegistrar) {
	controlpb.RegisterAccountsServer(s, cp.accounts)
}

// RegisterOperator adds the service for operators, to be served on the admin
// address only.
func (cp *ControlPlane) RegisterOperator(s grpc.ServiceRegistrar) {
	controlpb.RegisterOperatorServer(s, cp.operator)
}

// AccountsServer is the service for edges, for callers in the same process.
func (cp *ControlPlane) AccountsServer() controlpb.AccountsServer { return cp.accounts }

// OperatorServer is the service for operators, for callers in the same
// process.
func (cp *ControlPlane) OperatorServer() controlpb.OperatorServer { return cp.operator }

// Elected tells whether this replica is the one that opens ranges.
func (cp *ControlPlane) Elected() bool { return cp.keeper.Elected() }

// Ready tells whether people can log in here: the database answers and the
// signing key is published.
func (cp *ControlPlane) Ready(ctx context.Context) error {
	if _, ok := cp.deps.Cluster.PublicKey(cp.issuer.KeyID()); !ok {
		return waggle.Errorf(waggle.CodeNotReady, "the signing key is not published yet")
	}
	return cp.store.Ping(ctx)
}

// Run publishes the key, stands for election, opens ranges while elected and
// finishes registrations that broke off, until ctx ends. It returns nil.
func (cp *ControlPlane) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { cp.keepKeyPublished(ctx); return nil })
	g.Go(func() error { return cp.keeper.Run(ctx) })
	g.Go(func() error { return cp.registrar.Run(ctx) })
	g.Go(func() error { return cp.accounts.Run(ctx) })
	g.Go(func() error { return cp.mailer.Run(ctx) })
	return g.Wait()
}

// Close closes the database and the connections to Redis. Call it after Run
// returned and no request is under way.
func (cp *ControlPlane) Close() error {
	err := cp.store.Close()
	if cp.codes != nil {
		err = errors.Join(err, cp.codes.Close())
	}
	if cp.embedded != nil {
		cp.embedded.Close()
	}
	return err
}

// keepKeyPublished writes this replica's public key whenever etcd lacks it.
func (cp *ControlPlane) keepKeyPublished(ctx context.Context) {
	if cp.deps.Cluster.WaitSynced(ctx) != nil {
		return
	}
	kid := cp.issuer.KeyID()
	for {
		changed := cp.deps.Cluster.Changed()
		if _, ok := cp.deps.Cluster.PublicKey(kid); ok {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := cp.publishKey(ctx); err != nil && ctx.Err() == nil {
			cp.deps.Logger.Debug("the signing key is not published", "err", err)
		}
		retry := time.NewTimer(publishRetry)
		select {
		case <-changed:
		case <-retry.C:
		case <-ctx.Done():
		}
		retry.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (cp *ControlPlane) publishKey(ctx context.Context) error {
	kid := cp.issuer.KeyID()
	value, err := proto.Marshal(&controlpb.KeyRecord{Kid: kid, PublicKey: cp.issuer.PublicKey(), AddedMs: time.Now().UnixMilli()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	key := controlclient.KeyKey(kid)
	_, err = cp.deps.Cluster.Etcd().Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value))).Commit()
	return err
}
