package router

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

const (
	// resolversMax bounds the questions "who hosts this range" at once.
	resolversMax = 64
	// resolveTimeout bounds one of them.
	resolveTimeout = 2 * time.Second
	// attachTimeout is how long a host that is otherwise alive may leave an
	// attach unanswered before it is repeated.
	attachTimeout = 3 * time.Second
	// resolveFirst is the wait before a range's host is asked for once more:
	// one question for all its sessions, and a range that changes owner has
	// its next host within some milliseconds.
	resolveFirst = 4 * time.Millisecond
	// backoffFirst and backoffMax bound the wait between tries.
	backoffFirst = 25 * time.Millisecond
	backoffMax   = 500 * time.Millisecond
)

// Config tunes a router. The zero value is usable.
type Config struct {
	// HostSilentTimeout is how long a host may be silent before its sessions
	// are attached anew. 0: proto.HostSilentTimeout.
	HostSilentTimeout time.Duration
	// PingInterval is how often a host is asked for a sign of life.
	// 0: a quarter of HostSilentTimeout.
	PingInterval time.Duration
}

// Deps are what a router works with.
type Deps struct {
	Edge      proto.NodeID
	Directory cellclient.Directory
	Dialer    *cellclient.Dialer
	Locator   *cellclient.Locator
	Log       *slog.Logger // nil: none
}

// Router keeps sessions attached to hosts.
type Router struct {
	cfg       Config
	edge      proto.NodeID
	directory cellclient.Directory
	dialer    *cellclient.Dialer
	locator   *cellclient.Locator
	log       *slog.Logger
	tasks     sync.WaitGroup
	signal    chan struct{} // something waits
	ctx       context.Context
	cancel    context.CancelFunc
	attaches  atomic.Int64
	breaks    atomic.Int64

	linksMu sync.RWMutex // guards links
	links   map[uint64]*Link

	mu        sync.Mutex // guards the fields below
	ranges    map[proto.RangeID]*queue
	delayed   []delayed
	unacked   []unacked // oldest first
	streams   map[proto.NodeID]*stream
	resolvers int
	stopped   bool
}

// queue holds the waiting links of one range.
type queue struct {
	links     []*Link
	resolving bool
	failures  int
	notBefore time.Time
}

type delayed struct {
	at   time.Time
	link *Link
}

type unacked struct {
	at      time.Time
	link    *Link
	attempt uint32
}

// New makes a router.
func New(cfg Config, deps Deps) *Router {
	if cfg.HostSilentTimeout == 0 {
		cfg.HostSilentTimeout = proto.HostSilentTimeout
	}
	if cfg.PingInterval == 0 {
		cfg.PingInterval = cfg.HostSilentTimeout / 4
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	r := &Router{
		cfg: cfg, edge: deps.Edge, directory: deps.Directory, dialer: deps.Dialer, locator: deps.Locator, log: deps.Log,
		signal:  make(chan struct{}, 1),
		links:   map[uint64]*Link{},
		ranges:  map[proto.RangeID]*queue{},
		streams: map[proto.NodeID]*stream{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Open makes link ready for a session of user and starts attaching it. id is
// unique on this edge; c is called from now on.
func (r *Router) Open(link *Link, id uint64, user proto.EntityID, c Client) {
	link.router, link.client, link.id, link.rng = r, c, id, user.Range()
	r.linksMu.Lock()
	r.links[id] = link
	r.linksMu.Unlock()
	r.wait(link, 0)
}

// Len is the number of open links.
func (r *Router) Len() int {
	r.linksMu.RLock()
	defer r.linksMu.RUnlock()
	return len(r.links)
}

// Each calls f for every open link's client until f returns false. Clients may
// be opened and closed meanwhile.
func (r *Router) Each(f func(Client) bool) {
	for _, l := range r.snapshot() {
		if !f(l.client) {
			return
		}
	}
}

func (r *Router) snapshot() []*Link {
	r.linksMu.RLock()
	defer r.linksMu.RUnlock()
	all := make([]*Link, 0, len(r.links))
	for _, l := range r.links {
		all = append(all, l)
	}
	return all
}

func (r *Router) lookup(id uint64) *Link {
	r.linksMu.RLock()
	defer r.linksMu.RUnlock()
	return r.links[id]
}

func (r *Router) forget(id uint64) {
	r.linksMu.Lock()
	delete(r.links, id)
	r.linksMu.Unlock()
}

// Stats are counts since the start.
type Stats struct {
	Attaches      int64 // attach frames sent
	BrokenStreams int64 // streams to hosts that broke or were silent
}

// Stats counts.
func (r *Router) Stats() Stats {
	return Stats{Attaches: r.attaches.Load(), BrokenStreams: r.breaks.Load()}
}

// Run attaches sessions until ctx ends, then ends the streams, so that hosts
// detach what is left.
func (r *Router) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, r.cancel)
	defer stop()
	timer := time.NewTimer(r.cfg.PingInterval)
	defer timer.Stop()
	lastTick := time.Now()
	var lastMap *sharding.Map
	for {
		select {
		case <-r.ctx.Done():
			r.mu.Lock()
			r.stopped = true
			r.mu.Unlock()
			r.tasks.Wait()
			return nil
		case <-r.signal:
		case <-timer.C:
		}
		now := time.Now()
		next := r.dispatch(now)
		if late := now.Sub(lastTick); late >= r.cfg.PingInterval {
			lastTick = now
			// After a pause of our own, what hosts sent meanwhile is
			// still unread: they were not silent.
			r.checkStreams(now, late < 2*r.cfg.PingInterval)
			lastMap = r.checkRoutes(lastMap)
		}
		timer.Reset(min(next, r.cfg.PingInterval))
	}
}

// wait puts l in line for an attach after delay.
func (r *Router) wait(l *Link, delay time.Duration) {
	r.mu.Lock()
	if delay > 0 {
		r.delayed = append(r.delayed, delayed{time.Now().Add(delay), l})
	} else {
		r.queueLocked(l)
	}
	r.mu.Unlock()
	r.wake()
}

func (r *Router) queueLocked(l *Link) {
	q := r.ranges[l.rng]
	if q == nil {
		q = &queue{}
		r.ranges[l.rng] = q
	}
	q.links = append(q.links, l)
}

func (r *Router) wake() {
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// again puts l in line if it still is where s says.
func (r *Router) again(l *Link, s *stream, delay time.Duration) {
	l.mu.Lock()
	if l.stream != s || l.state == waiting || l.state == closed {
		l.mu.Unlock()
		return
	}
	l.state = waiting
	l.mu.Unlock()
	r.wait(l, delay)
}

// batch is what one round attaches at one node.
type batch struct {
	target cellclient.Target
	links  []*Link
}

// dispatch attaches all that can be and says when to look again.
func (r *Router) dispatch(now time.Time) time.Duration {
	batches, next := r.collect(now)
	for _, b := range batches {
		s := r.streamTo(b.target.Node)
		for _, l := range b.links {
			r.attach(l, s, b.target.Epoch)
		}
	}
	return next
}

func (r *Router) collect(now time.Time) (batches []batch, next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next = r.cfg.PingInterval
	kept := r.delayed[:0]
	for _, d := range r.delayed {
		if d.at.After(now) {
			next = min(next, d.at.Sub(now))
			kept = append(kept, d)
		} else {
			r.queueLocked(d.link)
		}
	}
	clear(r.delayed[len(kept):])
	r.delayed = kept
	for rng, q := range r.ranges {
		switch {
		case q.resolving:
		case len(q.links) == 0:
			delete(r.ranges, rng)
		case q.notBefore.After(now):
			next = min(next, q.notBefore.Sub(now))
		default:
			if target, ok := r.locator.Cached(rng); ok {
				batches = append(batches, batch{target, q.links})
				delete(r.ranges, rng)
			} else if r.resolvers < resolversMax && !r.stopped {
				q.resolving = true
				r.resolvers++
				r.tasks.Go(func() { r.resolve(rng, q) })
			}
		}
	}
	return batches, max(next, time.Millisecond)
}

// resolve finds the host of a range.
func (r *Router) resolve(rng proto.RangeID, q *queue) {
	ctx, cancel := context.WithTimeout(r.ctx, resolveTimeout)
	defer cancel()
	_, err := r.locator.Host(ctx, rng)
	r.mu.Lock()
	r.resolvers--
	q.resolving = false
	if err != nil {
		q.failures++
		q.notBefore = time.Now().Add(jitter(min(resolveFirst<<min(q.failures-1, 8), backoffMax)))
		r.log.Debug("no host", "range", rng, "err", err)
	}
	r.mu.Unlock()
	r.wake()
}

// attach sends l's attach on s.
func (r *Router) attach(l *Link, s *stream, epoch proto.Epoch) {
	a := l.client.Attach()
	l.mu.Lock()
	if a == nil || l.state != waiting {
		l.mu.Unlock()
		return
	}
	if old := l.stream; old != nil && old != s {
		old.enqueue(&cellpb.EdgeFrame{Session: l.id, Body: &cellpb.EdgeFrame_Detach{Detach: &cellpb.DetachSession{}}})
	}
	l.state = attaching
	l.attempt++
	l.epoch = epoch
	l.setStreamLocked(s)
	a.Range, a.Epoch, a.Attempt = uint64(l.rng), uint64(epoch), l.attempt
	attempt := l.attempt
	sent := s.enqueue(&cellpb.EdgeFrame{Session: l.id, Body: &cellpb.EdgeFrame_Attach{Attach: a}})
	l.mu.Unlock()
	r.attaches.Add(1)
	if !sent {
		r.again(l, s, backoff(l.failed()))
		return
	}
	r.mu.Lock()
	r.unacked = append(r.unacked, unacked{time.Now().Add(attachTimeout), l, attempt})
	r.mu.Unlock()
}

// backoff is the wait before the next try after failures in a row: the first
// repeats at once, because a refusal names where to go.
func backoff(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	return jitter(min(backoffFirst<<min(failures-2, 8), backoffMax))
}

// jitter spreads d over 1 … 1.5 of it.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/2+1) }
