package session

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/router"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Alternative is another edge that takes sessions.
type Alternative struct {
	Addr     string // host:port for clients
	Plain    string // host:port for clients without TLS; empty: none
	Sessions uint64 // that it has, as last reported
}

// Departure sends the sessions of a server elsewhere, some at a time. It is
// used by one goroutine.
type Departure struct {
	server   *Server
	patience time.Duration
	asked    map[*Session]time.Time
	share    shares
	due      float64 // sessions that may be asked by now
	last     time.Time
}

// NewDeparture makes one that begins now. Sessions that are still here for
// patience after they were asked are closed; 0: never.
func (s *Server) NewDeparture(now time.Time, patience time.Duration) *Departure {
	return &Departure{server: s, patience: patience, asked: map[*Session]time.Time{}, last: now}
}

// Step asks as many sessions as rate (per second) has made due since the last
// step to go to one of alternatives, and tells how many are left. Without
// alternatives nobody is asked.
func (d *Departure) Step(now time.Time, rate float64, alternatives []Alternative) (left int) {
	elapsed := now.Sub(d.last)
	d.last = now
	if len(alternatives) == 0 {
		d.due = 0
		return d.server.Len()
	}
	d.due = min(d.due+rate*elapsed.Seconds(), rate) // never more than those of a second at once
	d.share.update(alternatives)
	still := make(map[*Session]time.Time, len(d.asked))
	d.server.router.Each(func(c router.Client) bool {
		n := c.(*Session)
		left++
		at, asked := d.asked[n]
		switch {
		case asked && d.patience > 0 && now.Sub(at) > d.patience:
			n.close(encodeClosing(d.share.take(n.conn.Transport()), time.Second))
		case asked:
			still[n] = at
		case d.due >= 1:
			if n.goTo(&d.share, elapsed) {
				d.due--
				still[n] = now
			}
		}
		return true
	})
	d.asked = still
	return left
}

// goTo asks a session to go elsewhere, if it has got so far that it can. One
// without TLS is only closed if no edge says where it takes such: it came
// through a balancer, which knows where to send it.
func (s *Session) goTo(to *shares, spread time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != welcomed {
		return false
	}
	alternatives := to.take(s.conn.Transport())
	if len(alternatives) == 0 {
		s.closeLocked(encodeClosing(nil, time.Second))
		return true
	}
	s.sendLocked(encode(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Redirect{Redirect: &clientpb.Redirect{
		Alternatives: alternatives, WaitMs: rand.Uint32N(uint32(spread.Milliseconds()) + 1),
	}}}))
	return true
}

// encodeClosing is the last frame of a session of an edge that is left.
func encodeClosing(alternatives []string, spread time.Duration) []byte {
	return encode(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Closing{Closing: &clientpb.Closing{
		Code: uint32(proto.CodeShuttingDown), Message: "this edge takes no sessions; connect to another one",
		Alternatives: alternatives, RetryMs: 1 + rand.Uint32N(uint32(spread/time.Millisecond)+1),
	}}})
}

// shares spreads sessions over edges by their load: what was reported, and
// what was sent there since that report changed.
type shares struct{ list []share }

type share struct {
	Alternative
	sent uint64
}

func (s *shares) update(alternatives []Alternative) {
	next := make([]share, len(alternatives))
	for i, a := range alternatives {
		next[i].Alternative = a
		for _, old := range s.list {
			if old.Alternative == a {
				next[i].sent = old.sent
			}
		}
	}
	s.list = next
}

// take is where the next session of a transport goes, best first.
func (s *shares) take(t listen.Transport) (out []string) {
	slices.SortStableFunc(s.list, func(a, b share) int {
		return int(int64(a.Sessions+a.sent) - int64(b.Sessions+b.sent))
	})
	for i, a := range s.list {
		addr := a.Addr
		if t == listen.TransportPlain {
			addr = a.Plain
		}
		switch {
		case addr == "":
			continue
		case len(out) == 0:
			s.list[i].sent++
		}
		out = append(out, addr)
	}
	return out
}
