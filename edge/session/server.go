package session

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-im/waggle/edge/admission"
	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/router"
	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Config tunes sessions. The zero value is usable.
type Config struct {
	// HeartbeatInterval is announced to clients; 2.5 of it in silence close
	// the connection. 0: proto.HeartbeatInterval.
	HeartbeatInterval time.Duration
	// FirstAttachTimeout bounds the time from Hello to Welcome. 0: 5 s.
	FirstAttachTimeout time.Duration
	// FetchTimeout is how long a session waits for missing updates before it
	// asks for them again. 0: 1 s.
	FetchTimeout time.Duration
	// OutBytesMax is the queue length above which pushes are dropped; it must
	// be the listener's OutHighBytes. 0: proto.SessionOutBytesMax.
	OutBytesMax int
	// MessagesUnderWayMax bounds the unanswered messages of all sessions
	// together; more are refused "retry later". 0: [admission.UnderWayMax],
	// below it: no bound.
	MessagesUnderWayMax int
	// MessagesOverloadedMax is the same while the edge is overloaded. 0:
	// [admission.OverloadedMax], below it: the same bound.
	MessagesOverloadedMax int
}

// Deps are what sessions work with.
type Deps struct {
	Edge   proto.NodeID
	Router *router.Router
	Keys   token.Keys
	Gate   *giveway.Gate // told of every request; nil: nobody is
	Log    *slog.Logger  // nil: none
}

// Server makes sessions of connections and watches over their deadlines.
type Server struct {
	cfg    Config
	edge   string
	router *router.Router
	keys   token.Keys
	gate   *giveway.Gate
	log    *slog.Logger

	admission *admission.Gate

	lastID atomic.Uint64
	counts counts

	mu      sync.Mutex // guards the fields below
	hellos  []helloDeadline
	behind  map[*Session]struct{} // have not written all they know to exist
	stopped *clientpb.Closing     // set once the edge shuts down
	last    shares                // where its sessions go then
	leaving func() []Alternative  // while the edge is emptied; nil: it serves
}

type helloDeadline struct {
	at      time.Time
	session *Session
}

// counts are counted since the start.
type counts struct {
	logins, refused, requests, repeated, pushes, dropped, fetches atomic.Int64
}

// Stats are counts since the start.
type Stats struct {
	Logins   int64 // sessions that got their Welcome
	Refused  int64 // connections ended with an error
	Requests int64
	Repeated int64 // requests sent again after a re-attach
	Pushes   int64 // pushes written
	Dropped  int64 // pushes not written, to be fetched
	Fetches  int64
	Held     int64 // messages refused "retry later", since too many were under way
	// Overloaded says whether messages are late for so many that fewer are let
	// through.
	Overloaded bool
}

var _ listen.Handler = (*Server)(nil)

// New makes a server. Session ids begin at a number of the present time, so
// that they do not repeat those of this edge's previous run.
func New(cfg Config, deps Deps) *Server {
	if cfg.HeartbeatInterval == 0 {
		cfg.HeartbeatInterval = proto.HeartbeatInterval
	}
	if cfg.FirstAttachTimeout == 0 {
		cfg.FirstAttachTimeout = 5 * time.Second
	}
	if cfg.FetchTimeout == 0 {
		cfg.FetchTimeout = time.Second
	}
	if cfg.OutBytesMax == 0 {
		cfg.OutBytesMax = proto.SessionOutBytesMax
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, edge: string(deps.Edge), router: deps.Router, keys: deps.Keys, gate: deps.Gate, log: deps.Log,
		behind: map[*Session]struct{}{}, admission: admission.New(cfg.MessagesUnderWayMax, cfg.MessagesOverloadedMax),
	}
	s.lastID.Store(uint64(time.Now().UnixMilli()) << 20)
	return s
}

// Opened implements [listen.Handler].
func (s *Server) Opened(c listen.Conn) listen.Receiver {
	n := &Session{server: s, conn: c, since: time.Now().UnixMilli()}
	n.heard.Store(n.since)
	return n
}

// Refusal implements [listen.Handler].
func (s *Server) Refusal(e *proto.Error) []byte { return encodeError(0, e) }

// Run enforces the deadlines of sessions until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	quick := time.NewTicker(s.cfg.FetchTimeout / 4)
	defer quick.Stop()
	idle := time.NewTicker(s.cfg.HeartbeatInterval / 4)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-quick.C:
			s.sweepHellos(now)
			s.sweepBehind(now)
		case now := <-idle.C:
			s.sweepIdle(now)
		}
	}
}

func (s *Server) sweepHellos(now time.Time) {
	s.mu.Lock()
	due := 0
	for due < len(s.hellos) && !s.hellos[due].at.After(now) {
		due++
	}
	late := append([]helloDeadline(nil), s.hellos[:due]...)
	if due > 0 {
		s.hellos = append([]helloDeadline(nil), s.hellos[due:]...)
	}
	s.mu.Unlock()
	for _, h := range late {
		h.session.attachExpired()
	}
}

func (s *Server) sweepBehind(now time.Time) {
	s.mu.Lock()
	all := make([]*Session, 0, len(s.behind))
	for n := range s.behind {
		all = append(all, n)
	}
	s.mu.Unlock()
	for _, n := range all {
		if n.stillBehind(now) {
			continue
		}
		s.mu.Lock()
		delete(s.behind, n)
		s.mu.Unlock()
		if n.stillBehind(now) { // noted again between the two
			s.noteBehind(n)
		}
	}
}

func (s *Server) noteBehind(n *Session) {
	s.mu.Lock()
	s.behind[n] = struct{}{}
	s.mu.Unlock()
}

func (s *Server) sweepIdle(now time.Time) {
	limit := s.cfg.HeartbeatInterval * proto.HeartbeatSilenceFactor / 10
	s.router.Each(func(c router.Client) bool {
		n := c.(*Session)
		if silent := now.Sub(time.UnixMilli(n.heard.Load())); silent > limit {
			n.end(proto.Errorf(proto.CodeIdle, "nothing was heard for %s; send a heartbeat every %s",
				silent.Round(time.Millisecond), s.cfg.HeartbeatInterval))
		}
		return true
	})
}

// Shutdown tells every client to go to one of alternatives and closes its
// connection, flushing; new sessions get the same answer. Clients are asked to
// come at random times within spread.
func (s *Server) Shutdown(alternatives []Alternative, spread time.Duration) {
	s.mu.Lock()
	s.stopped = &clientpb.Closing{
		Code: uint32(proto.CodeShuttingDown), Message: "this edge is shutting down; connect to another one",
		RetryMs: uint32(spread / time.Millisecond),
	}
	s.last.update(alternatives)
	s.mu.Unlock()
	s.router.Each(func(c router.Client) bool {
		n := c.(*Session)
		n.close(s.goodbye(n.conn.Transport()))
		return true
	})
}

// SetLeaving has new sessions sent to alternatives, as long as there are any;
// nil ends that. Those there are go on: see [Server.NewDeparture].
func (s *Server) SetLeaving(alternatives func() []Alternative) {
	s.mu.Lock()
	s.leaving = alternatives
	s.mu.Unlock()
}

// turnedAway is the answer to a Hello while the edge is left; nil: it is
// welcome.
func (s *Server) turnedAway(t listen.Transport) []byte {
	s.mu.Lock()
	leaving := s.leaving
	s.mu.Unlock()
	if leaving == nil {
		return nil
	}
	var share shares
	share.update(leaving())
	if len(share.list) == 0 {
		return nil // better here than nowhere
	}
	return encodeClosing(share.take(t), 100*time.Millisecond)
}

// goodbye is the frame of a shutdown; nil when there is none.
func (s *Server) goodbye(t listen.Transport) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped == nil {
		return nil
	}
	return encode(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Closing{Closing: &clientpb.Closing{
		Code: s.stopped.Code, Message: s.stopped.Message, Alternatives: s.last.take(t),
		RetryMs: 1 + rand.Uint32N(s.stopped.RetryMs+1),
	}}})
}

// Len is the number of logged-in sessions, those waiting for their first
// attach included.
func (s *Server) Len() int { return s.router.Len() }

// Info describes one session.
type Info struct {
	User      proto.EntityID
	Device    string
	Transport string
	Remote    netip.AddrPort
	Since     time.Time
	Subscribe bool
}

// Lookup lists the sessions of user on this edge. It walks all sessions: it is
// for operators.
func (s *Server) Lookup(user proto.EntityID) []Info {
	var found []Info
	s.router.Each(func(c router.Client) bool {
		if n := c.(*Session); n.user == user {
			found = append(found, Info{n.user, n.device, string(n.conn.Transport()), n.conn.Remote(), time.UnixMilli(n.since), n.subscribe})
		}
		return true
	})
	return found
}

// Stats counts.
func (s *Server) Stats() Stats {
	c := &s.counts
	return Stats{c.logins.Load(), c.refused.Load(), c.requests.Load(), c.repeated.Load(), c.pushes.Load(), c.dropped.Load(), c.fetches.Load(), s.admission.Refused(), s.admission.Overloaded(time.Now())}
}
