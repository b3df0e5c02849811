package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/bluenviron/gortsplib/v4"

	"github.com/waggle-im/waggle/proto"
)

const (
	// rightsTimeout is what a question to Rights may take: a connection waits.
	rightsTimeout = 5 * time.Second
	// endTimeout is what telling of an end may take when the service ends.
	endTimeout = 5 * time.Second
)

// Service carries the livestreams of a node.
type Service struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics

	rtsp    *gortsplib.Server // nil: none
	started bool              // rtsp is; of the goroutine of Run
	rtspIn  *guard
	rtmpIn  *guard
	keep    *keeper
	running context.Context // of Run; what lasts longer than a connection hangs on it
	stop    context.CancelFunc
	work    sync.WaitGroup // livestreams and connections of RTMP
	closed  sync.Once

	mu      sync.Mutex // guards what follows; taken before that of a livestream
	streams map[proto.LiveID]*livestream
	viewers int // by RTSP and RTMP, over all livestreams
	ending  bool
}

// New makes a service. It starts nothing; one that is not run needs Close. If it
// fails the sockets are still the caller's.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg: cfg.withDefaults(), deps: deps, log: deps.Log.With("part", "live"),
		metrics: newMetrics(deps.Registry), streams: make(map[proto.LiveID]*livestream),
	}
	s.running, s.stop = context.WithCancel(context.Background())
	if s.cfg.Dir != "" {
		var err error
		if s.keep, err = newKeeper(s); err != nil {
			return nil, err
		}
	}
	if deps.RTSP != nil {
		s.rtspIn = newGuard(deps.RTSP, s.cfg.AdmitWithin, s.cfg.ConnectionsMax)
		s.rtsp = newRTSP(s)
	}
	if deps.RTMP != nil {
		s.rtmpIn = newGuard(deps.RTMP, s.cfg.AdmitWithin, s.cfg.ConnectionsMax)
	}
	return s, nil
}

// Run serves until ctx ends or a listener fails, and returns after the last
// livestream has ended.
func (s *Service) Run(ctx context.Context) error {
	defer s.Close()
	failed := make(chan error, 2)
	var servers sync.WaitGroup
	if s.keep != nil {
		servers.Go(func() { s.keep.run(s.running) })
	}
	if s.rtsp != nil {
		if err := s.rtsp.Start(); err != nil {
			s.stop()
			servers.Wait()
			return fmt.Errorf("live: RTSP: %w", err)
		}
		s.started = true
		servers.Go(func() { failed <- s.rtsp.Wait() })
	}
	if s.rtmpIn != nil {
		servers.Go(func() { failed <- s.serveRTMP() })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("live: %w", err)
	}
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.stop()
	s.work.Wait() // livestreams tell their ends while viewers are still there
	s.Close()
	servers.Wait()
	return err
}

// Close frees a service that does not run. Run calls it at its end.
func (s *Service) Close() error {
	s.closed.Do(func() {
		s.mu.Lock()
		s.ending = true
		s.mu.Unlock()
		s.stop()
		for _, g := range []*guard{s.rtspIn, s.rtmpIn} {
			if g != nil {
				g.closeAll()
			}
		}
		if s.started {
			s.rtsp.Close()
		}
		for _, c := range []*net.UDPConn{s.deps.RTP, s.deps.RTCP} {
			if c != nil {
				_ = c.Close() // again, if the server had it
			}
		}
	})
	return nil
}

// End ends a livestream of this node for reason, if there is such a one. Its
// publisher may begin it again unless Rights refuse.
func (s *Service) End(id proto.LiveID, reason string) {
	if ls := s.stream(id); ls != nil {
		ls.endNow(reason)
	}
}

// HLS serves /live/ID/index.m3u8 and what is named there to callers that have
// admitted who asks. A query is not looked at, except for what HLS itself needs.
func (s *Service) HLS() http.Handler { return http.HandlerFunc(s.serveHLS) }

// stream is nil if id is not on this node.
func (s *Service) stream(id proto.LiveID) *livestream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[id]
}

// claim makes a publisher with the key of a livestream the only one of it.
// disconnect ends its connection; it must not wait.
func (s *Service) claim(ctx context.Context, r request, protocol string, disconnect func()) (*publisher, error) {
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout+endTimeout)
	defer cancel()
	ask, cancelAsk := context.WithTimeout(ctx, rightsTimeout)
	pub, err := s.deps.Rights.Publish(ask, r.id, r.key)
	cancelAsk()
	if err != nil {
		return nil, refusal(err)
	}
	for {
		ls, p, err := s.claimable(r.id, pub, protocol, disconnect)
		if p != nil || err != nil {
			return p, err
		}
		select { // the last one is still telling of its end
		case <-ls.done:
		case <-ctx.Done():
			return nil, proto.Errorf(proto.CodeNotReady, "livestream %s is ending: try again in a moment", r.id)
		}
	}
}

// claimable claims the livestream of id, made if there is none. Without a
// publisher and an error it has ended, and another one may be made once it is
// done.
func (s *Service) claimable(id proto.LiveID, admitted Publication, protocol string, disconnect func()) (*livestream, *publisher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return nil, nil, proto.Errorf(proto.CodeUnavailable, "this node is stopping")
	}
	if ls := s.streams[id]; ls != nil {
		p, err := ls.claim(protocol, admitted, disconnect)
		return ls, p, err
	}
	if len(s.streams) >= s.cfg.PublishersMax {
		return nil, nil, proto.Errorf(proto.CodeTooMany, "this node has %d livestreams: that is all it carries", len(s.streams))
	}
	ls := newLivestream(s, id, admitted)
	p, err := ls.claim(protocol, admitted, disconnect) // before it runs, which would end it
	s.streams[id] = ls
	s.metrics.streams.Set(float64(len(s.streams)))
	s.work.Go(ls.run)
	return ls, p, err
}

// forget removes a livestream that has ended.
func (s *Service) forget(ls *livestream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, ls.id)
	s.metrics.streams.Set(float64(len(s.streams)))
	s.metrics.forget(ls.id)
}

// watch admits a viewer with a ticket to a livestream that is on.
func (s *Service) watch(ctx context.Context, r request) (Viewer, *livestream, error) {
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout)
	defer cancel()
	who, err := s.deps.Rights.Watch(ctx, r.id, r.ticket)
	if err != nil {
		return Viewer{}, nil, refusal(err)
	}
	ls := s.stream(r.id)
	if ls == nil || !ls.on() {
		return Viewer{}, nil, proto.Errorf(proto.CodeNotReady, "livestream %s is not on", r.id)
	}
	return who, ls, nil
}

// seat takes one of the places for viewers.
func (s *Service) seat() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.viewers >= s.cfg.ViewersMax {
		return proto.Errorf(proto.CodeOverloaded, "this node has %d viewers: that is all it carries", s.viewers)
	}
	s.viewers++
	return nil
}

func (s *Service) unseat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.viewers--
}

// refusal is err as it may be told to a stranger: what happened inside is not.
func refusal(err error) error {
	if e, ok := errors.AsType[*proto.Error](err); ok {
		return e
	}
	return proto.Errorf(proto.CodeUnavailable, "nobody can be asked just now: try again")
}
