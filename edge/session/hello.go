package session

import (
	"errors"
	"time"

	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// keyPatience is how long a token waits for a signing key that is not
	// known here: a control plane may have published it a moment ago.
	keyPatience = time.Second
	keyRetry    = 20 * time.Millisecond
)

// hello checks who connects, offline, and starts attaching.
func (s *Session) hello(id uint64, h *clientpb.Hello, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.phase {
	case ended:
		return
	case awaiting, greeted, welcomed:
		s.refuseLocked(id, proto.Errorf(proto.CodeDuplicateHello, "this connection has said Hello already"))
		return
	}
	if goodbye := s.server.goodbye(s.conn.Transport()); goodbye != nil {
		s.closeLocked(goodbye)
		return
	}
	if away := s.server.turnedAway(s.conn.Transport()); away != nil {
		s.closeLocked(away)
		return
	}
	if h.ProtocolVersion != proto.ClientProtocolVersion {
		s.refuseLocked(id, proto.Errorf(proto.CodeBadVersion, "this server speaks protocol version %d, the client %d",
			proto.ClientProtocolVersion, h.ProtocolVersion))
		return
	}
	s.verifyLocked(id, h, now, now.Add(keyPatience))
}

// verifyLocked checks the token, again and again until deadline while all
// that is wrong is that its key is not known yet.
func (s *Session) verifyLocked(id uint64, h *clientpb.Hello, now, deadline time.Time) {
	claims, err := token.Verify(h.Token, s.server.keys, now)
	if errors.Is(err, token.ErrUnknownKey) && now.Before(deadline) {
		s.phase = awaiting
		time.AfterFunc(keyRetry, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.phase == awaiting {
				s.verifyLocked(id, h, time.Now(), deadline)
			}
		})
		return
	}
	if err != nil {
		s.refuseLocked(id, proto.AsError(err))
		return
	}
	if h.Device != claims.Device {
		s.refuseLocked(id, proto.Errorf(proto.CodeBadToken, "the token belongs to another device than %q; log in on this one", h.Device))
		return
	}
	if len(h.Incarnation) > incarnationBytesMax {
		s.refuseLocked(id, proto.Errorf(proto.CodeBadRequest, "an incarnation has at most %d bytes", incarnationBytesMax))
		return
	}
	s.user, s.device, s.platform = claims.User, claims.Device, claims.Platform
	s.sessionNumber, s.authority = claims.SessionNumber, claims.AuthorityVersion
	s.subscribe = h.Subscribe
	s.incarnation = string(h.Incarnation)
	s.fromStored = h.FromConfirmed
	s.next = h.LastPts + 1
	s.phase = greeted
	s.conn.SetLoggedIn()
	s.server.greeted(s, now)
	if goodbye := s.server.goodbye(s.conn.Transport()); goodbye != nil {
		s.closeLocked(goodbye) // the shutdown began meanwhile and may have missed s
	}
}

// incarnationBytesMax bounds what a client can make every attach carry; an
// incarnation has 16 bytes.
const incarnationBytesMax = 64

// greeted starts the first attach of n and its deadline.
func (s *Server) greeted(n *Session, now time.Time) {
	s.mu.Lock()
	s.hellos = append(s.hellos, helloDeadline{now.Add(s.cfg.FirstAttachTimeout), n})
	s.mu.Unlock()
	s.router.Open(&n.link, s.lastID.Add(1), n.user, n)
}

// attachExpired ends a session that no host took in time.
func (s *Session) attachExpired() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == greeted {
		s.refuseLocked(0, proto.Errorf(proto.CodeNotReady, "no host of range %s took the session within %s; try again",
			s.user.Range(), s.server.cfg.FirstAttachTimeout))
	}
}

// carriedBytes bounds the requests that go with an attach, of which many may
// share a batch.
const carriedBytes = 32 << 10

// Attach implements [router.Client]. The oldest requests go with it: sent only
// when it is answered, they would wait for one more way to the host and back.
func (s *Session) Attach() *cellpb.AttachSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == ended {
		return nil
	}
	a := &cellpb.AttachSession{
		User: uint64(s.user), Device: s.device, Platform: s.platform,
		SessionNumber: s.sessionNumber, AuthorityVersion: s.authority,
		Subscribe: s.subscribe, Incarnation: []byte(s.incarnation), Pts: s.next - 1,
		FromConfirmed: s.fromStored && s.phase == greeted,
		Transport:     string(s.conn.Transport()), SinceMs: s.since,
	}
	size := 0
	for i := range s.pending {
		r := &s.pending[i]
		size += len(r.frame)
		if r.carried = size <= carriedBytes; r.carried {
			a.Requests = append(a.Requests, r.frame)
		}
	}
	return a
}

// Attached implements [router.Client]: Welcome the first time, and whatever
// waited every time.
func (s *Session) Attached(a *cellpb.Attached) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == ended {
		return
	}
	first := s.phase == greeted
	s.phase = welcomed
	s.attempt = a.Attempt
	if first && s.subscribe && !s.fromStored && !a.Resync && s.incarnation != "" {
		// The Hello named the last update the device has processed: its
		// confirmation may have been lost with the connection before.
		s.confirmed = a.ResumeFrom
	}
	if string(a.Incarnation) != s.incarnation {
		s.incarnation = string(a.Incarnation)
	}
	if first || a.Resync {
		s.next = a.ResumeFrom + 1
		s.newest = a.Pts
	}
	s.newest = max(s.newest, a.Pts)
	if first {
		s.server.counts.logins.Add(1)
		s.welcomeLocked(a)
	}
	if a.Resync {
		s.sendLocked(encode(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Resync{Resync: &clientpb.Resync{
			Incarnation: a.Incarnation, Pts: a.ResumeFrom, Reason: a.ResyncReason}}}))
	}
	if s.confirmed > 0 && s.confirmed < s.next {
		s.link.Confirm(s.attempt, s.confirmed)
	}
	for _, r := range s.pending {
		if !first {
			s.server.counts.repeated.Add(1)
		}
		if r.carried && a.RequestsTaken {
			continue
		}
		if !s.link.Request(s.attempt, r.frame) {
			s.link.Overflowed(s.attempt)
			break
		}
	}
	s.progress = time.Now().UnixMilli()
	s.watchLocked()
}

func (s *Session) welcomeLocked(a *cellpb.Attached) {
	s.sendLocked(encode(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Welcome{Welcome: &clientpb.Welcome{
		User:         uint64(s.user),
		ServerTimeMs: time.Now().UnixMilli(),
		Limits: &clientpb.Limits{FrameBytes: proto.FrameBytesMax, TextBytes: proto.TextBytesMax,
			RequestsInFlight: proto.RequestsInFlightMax},
		HeartbeatMs: uint32(s.server.cfg.HeartbeatInterval / time.Millisecond),
		Incarnation: a.Incarnation, Pts: a.Pts, ResumeFrom: a.ResumeFrom,
		Edge: s.server.edge, Resync: a.Resync,
	}}}))
}
