package chat

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// shards is how many goroutines host ranges: enough for the cores of a node,
// few enough that each batches well.
const shards = 4

// leaderLostGrace is how long a host goes on after it lost its stream to the
// leader: the leader grants another about then.
const leaderLostGrace = 500 * time.Millisecond

// Leader takes requests for the ranges it leads; it is one link to one
// storage node. Answers come to [Service.LeadReply].
type Leader interface {
	Request(*cellpb.LeadRequest)
}

// Config is what a [Service] needs. The limits have defaults, Logger,
// Registerer, FindUser, FindPeople and OnHosting may be nil.
type Config struct {
	Self    proto.NodeID
	Dialer  *cellclient.Dialer
	Locator *cellclient.Locator

	// FindUser finds a user by exact name; it may wait.
	FindUser func(ctx context.Context, name string) (proto.EntityID, string, error)
	// FindPeople finds users by the beginning of their name, at most limit, by
	// name; it may wait. The cards have id and name only.
	FindPeople func(ctx context.Context, prefix string, limit int) ([]*clientpb.Card, error)

	// FriendsOnly lets only friends write to each other in direct threads.
	FriendsOnly bool

	// MessagesPerSecond and MessagesBurst limit each user's sends; defaults
	// 100 and 500. Negative: no limit.
	MessagesPerSecond int
	MessagesBurst     int

	// PresenceRefresh is how often it is said again who is online; default
	// [proto.PresenceRefresh]. How long it is believed, and how long a user may
	// be without session before he is said to be gone, go with it.
	PresenceRefresh time.Duration

	// OnHosting is called when a range begins to be hosted here; it must not
	// block. Nil: nobody waits for it.
	OnHosting func()

	Gate       *giveway.Gate // told of every message that is sent; nil: nobody is
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Service is the chat role of one node.
type Service struct {
	cfg     Config
	relay   *cellclient.Relay
	shards  [shards]*shard
	nextID  atomic.Uint64
	metrics *metrics
	tasks   chan struct{} // bounds slow look-ups

	mu     sync.RWMutex // guards the fields below
	hosted map[proto.RangeID]*cellpb.Route
	edges  map[*edgeConn]struct{}
}

// New makes the service. It starts nothing.
func New(cfg Config) *Service {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.OnHosting == nil {
		cfg.OnHosting = func() {}
	}
	if cfg.MessagesPerSecond == 0 {
		cfg.MessagesPerSecond = 100
	}
	if cfg.MessagesBurst == 0 {
		cfg.MessagesBurst = 500
	}
	if cfg.PresenceRefresh == 0 {
		cfg.PresenceRefresh = proto.PresenceRefresh
	}
	s := &Service{
		cfg: cfg, metrics: newMetrics(cfg.Registerer), tasks: make(chan struct{}, 64),
		hosted: map[proto.RangeID]*cellpb.Route{}, edges: map[*edgeConn]struct{}{},
	}
	for i := range s.shards {
		s.shards[i] = newShard()
	}
	s.relay = cellclient.NewRelay(cfg.Self, cfg.Dialer, cfg.Locator, s)
	return s
}

// Run hosts until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, sh := range s.shards {
		wg.Go(func() { sh.run(ctx) })
	}
	wg.Wait()
	s.relay.Close()
	return nil
}

func (s *Service) shard(r proto.RangeID) *shard { return s.shards[uint64(r)%shards] }

// newLimiter is one user's limit; nil means none.
func (s *Service) newLimiter() *rate.Limiter {
	if s.cfg.MessagesPerSecond < 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(s.cfg.MessagesPerSecond), s.cfg.MessagesBurst)
}

// LeadReply takes what the leader behind link from says.
func (s *Service) LeadReply(from Leader, reply *cellpb.LeadReply) {
	r := proto.RangeID(reply.Range)
	sh := s.shard(r)
	sh.post(func() {
		h := sh.hosts[r]
		switch body := reply.Body.(type) {
		case *cellpb.LeadReply_Granted:
			s.granted(sh, from, body.Granted)
		case *cellpb.LeadReply_Revoked:
			if h != nil && h.leader == from && sameGrant(h.grant, body.Revoked.Grant) {
				h.close("the range's leader has changed")
			}
		default:
			if h != nil {
				h.replied(reply)
			}
		}
	})
}

func sameGrant(a, b *cellpb.Grant) bool {
	return a.GetTerm() == b.GetTerm() && a.GetNumber() == b.GetNumber()
}

// LeaderLost tells that the link is broken. Ranges that are not granted anew
// within half a second are let go.
func (s *Service) LeaderLost(from Leader) {
	time.AfterFunc(leaderLostGrace, func() {
		for _, sh := range s.shards {
			sh.post(func() {
				for _, h := range sh.hosts {
					if h.leader == from {
						h.close("the range's leader cannot be reached")
					}
				}
			})
		}
	})
}

func (s *Service) granted(sh *shard, from Leader, g *cellpb.Granted) {
	r := proto.RangeID(g.Range)
	if old := sh.hosts[r]; old != nil {
		old.close("the range was granted anew")
	}
	h := newHost(s, sh, from, g)
	sh.hosts[r] = h
	route := h.route()
	s.mu.Lock()
	s.hosted[r] = route
	s.mu.Unlock()
	s.cfg.Locator.Learn(route)
	s.cfg.OnHosting()
	h.openChannels()
	s.metrics.grants.Inc()
	s.cfg.Logger.Debug("hosting", "range", r, "epoch", route.Epoch, "term", g.Grant.GetTerm(), "number", g.Grant.GetNumber())
}

// Routes answers for the ranges hosted here.
func (s *Service) Routes(ranges []uint64) []*cellpb.Route {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*cellpb.Route
	for _, r := range ranges {
		if route := s.hosted[proto.RangeID(r)]; route != nil {
			out = append(out, route)
		}
	}
	return out
}

// Hosted is the number of ranges hosted here.
func (s *Service) Hosted() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.hosted)
}

// Sessions counts the sessions hosted here, lists those of req.User unless it
// is 0, and tells what was done lately if that is asked.
func (s *Service) Sessions(ctx context.Context, req *cellpb.SessionsRequest) (*cellpb.SessionsReply, error) {
	user := proto.EntityID(req.User)
	answers := make(chan *cellpb.SessionsReply, shards)
	for _, sh := range s.shards {
		sh.post(func() {
			out := new(cellpb.SessionsReply)
			for _, h := range sh.hosts {
				before := out.Sessions
				h.listSessions(user, out)
				if req.LoadSeconds > 0 {
					out.Loads = append(out.Loads, h.load(out.Sessions-before, int(req.LoadSeconds)))
				}
			}
			if req.LoadSeconds > 0 {
				out.Sends = sh.sends.Counts(time.Now(), int(req.LoadSeconds))
			}
			answers <- out
		})
	}
	sum := new(cellpb.SessionsReply)
	for range s.shards {
		select {
		case a := <-answers:
			sum.Sessions += a.Sessions
			sum.Infos = append(sum.Infos, a.Infos...)
			sum.Loads = append(sum.Loads, a.Loads...)
			if a.Sends != nil {
				sum.Sends = latency.Add(sum.Sends, a.Sends)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return sum, nil
}

// background runs f beside the shards, if not too much waits already.
func (s *Service) background(f func()) bool {
	select {
	case s.tasks <- struct{}{}:
	default:
		return false
	}
	go func() { // ends by f's own deadline
		defer func() { <-s.tasks }()
		f()
	}()
	return true
}
