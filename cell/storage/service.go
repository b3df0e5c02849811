package storage

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/cell/storage/replica"
	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// readers is how many questions to applied state are answered at a time, and
// readsWaiting how many may wait; more are refused "retry later".
const (
	readers      = 4
	readsWaiting = 4096
)

// Config is what a [Service] needs. Logger and Registerer may be nil.
type Config struct {
	Self       proto.NodeID
	Cell       proto.CellID // hosts are granted only for ranges that it owns
	Engine     *engine.Engine
	Rules      uint32 // apply by no newer rules than these; 0: all this release knows
	Conn       func(proto.NodeID) (*grpc.ClientConn, error)
	Gate       *giveway.Gate // told of everything written to a log; nil: nobody is
	OnRoutes   func()        // called when [Service.Routes] may answer otherwise; must not block; nil: nobody asks
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Service is the storage role of one node.
type Service struct {
	cfg    Config
	node   *replica.Node
	events *eventQueue
	reads  chan func()

	mu    sync.RWMutex // guards the fields below
	led   map[proto.RangeID]*ledRange
	links map[proto.NodeID]*Link
}

// New opens the replicas below cfg.Engine. It starts nothing.
func New(cfg Config) (*Service, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.OnRoutes == nil {
		cfg.OnRoutes = func() {}
	}
	s := &Service{
		cfg:    cfg,
		events: newEventQueue(),
		reads:  make(chan func(), readsWaiting),
		led:    map[proto.RangeID]*ledRange{},
		links:  map[proto.NodeID]*Link{},
	}
	var err error
	release := state.UpTo(cfg.Rules)
	s.node, err = replica.New(replica.Config{
		Self: cfg.Self, Cell: cfg.Cell, Log: cfg.Engine.Log, State: cfg.Engine.State, Machines: machines{cfg.Engine.State, release}, Rules: release.Newest,
		Observer: observer{s}, Conn: cfg.Conn, Gate: cfg.Gate,
		FS: cfg.Engine.FS(), SnapshotDir: filepath.Join(cfg.Engine.Dir(), "snapshots"),
		Space: cfg.Engine.CheckSpace, Fatal: cfg.Engine.Fatal(),
		Logger: cfg.Logger, Registerer: cfg.Registerer,
	})
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	return s, nil
}

// Run serves until ctx ends. An error means that the node must stop: its
// stores can no longer write.
func (s *Service) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { s.runGrants(ctx) })
	wg.Go(func() { s.inspectDamage(ctx) })
	for range readers {
		wg.Go(func() {
			for {
				select {
				case read := <-s.reads:
					read()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	err := s.node.Run(ctx)
	cancel()
	wg.Wait()
	return err
}

// inspectPause is between two looks at damage: a compaction that meets it is
// tried again and again.
const inspectPause = time.Second

// inspectDamage finds out whose rows are damaged where the store has met a bad
// checksum, and stops those replicas.
func (s *Service) inspectDamage(ctx context.Context) {
	for {
		select {
		case span := <-s.cfg.Engine.Damage():
			s.node.Inspect(span)
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(inspectPause):
		case <-ctx.Done():
			return
		}
	}
}

// Replicas is the layer below, for serving its streams.
func (s *Service) Replicas() *replica.Node { return s.node }

// Drain gives away what this node leads, as [replica.Node.Drain] does.
func (s *Service) Drain(ctx context.Context, takes func(proto.NodeID) bool) (left int) {
	return s.node.Drain(ctx, takes)
}

// machines opens and creates state machines in one store.
type machines struct {
	db      *pebble.DB
	release state.Release
}

// Open implements replica.Machines.
func (m machines) Open(r proto.RangeID) (replica.Machine, error) { return m.release.Open(m.db, r) }

// Create implements replica.Machines.
func (m machines) Create(d *cellpb.Descriptor, incarnation []byte, rules uint32) (replica.Machine, error) {
	return m.release.Create(m.db, d, incarnation, rules)
}

// Ranges implements replica.Machines.
func (m machines) Ranges() ([]proto.RangeID, error) { return state.Ranges(m.db) }

// observer turns what replicas tell into events of the granting loop.
type observer struct{ s *Service }

// LeaderChanged implements replica.Observer.
func (o observer) LeaderChanged(r proto.RangeID, term uint64, _ proto.NodeID, leading bool) {
	o.s.events.put(event{kind: leaderChanged, rng: r, term: term, leading: leading})
	o.s.cfg.OnRoutes()
}

// DescriptorChanged implements replica.Observer.
func (o observer) DescriptorChanged(r proto.RangeID, _ *cellpb.Descriptor) {
	o.s.events.put(event{kind: descriptorChanged, rng: r})
	o.s.cfg.OnRoutes()
}

// GrantApplied implements replica.Observer.
func (o observer) GrantApplied(proto.RangeID) { o.s.cfg.OnRoutes() }

// ReplicaFailed implements replica.Observer.
func (o observer) ReplicaFailed(r proto.RangeID, err error) {
	o.s.cfg.Logger.Error("replica stopped", "range", r, "err", err)
	o.s.events.put(event{kind: leaderChanged, rng: r})
}
