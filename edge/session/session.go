package session

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-im/waggle/edge/admission"
	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/router"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

type phase uint8

// The phases of a session, in order; each may end it.
const (
	connected phase = iota // no Hello yet
	awaiting               // the token's key may be on its way here
	greeted                // the token is good; waiting for the first attach
	welcomed               // stays so over every later attach
	ended
)

// Session is one client connection. Keep it small: there are many.
//
// Lock order: mu, then the router's and the connection's locks.
type Session struct {
	server *Server
	conn   listen.Conn
	link   router.Link
	heard  atomic.Int64 // Unix milliseconds of the last frame
	since  int64        // Unix milliseconds

	// Set by Hello, before the router knows the session.
	user          proto.EntityID
	device        string
	platform      string
	sessionNumber uint64
	authority     uint64
	subscribe     bool

	mu           sync.Mutex // guards the fields below
	phase        phase
	fromStored   bool   // start at the position the server keeps
	fetching     bool   // asked for missing updates
	slow         bool   // the out-queue is long: pushes are dropped
	attempt      uint32 // of the last Attached
	pendingBytes int32
	next         uint64 // the next pts to write
	newest       uint64 // the newest pts known of
	confirmed    uint64 // the newest the client confirmed
	progress     int64  // Unix milliseconds: last asked for or got updates
	incarnation  string
	wait         admission.Wait
	pending      []request
}

// request is one that has not been answered.
type request struct {
	id      uint64
	frame   []byte // the encoded ClientFrame
	carried bool   // with the newest attach
	ticket  admission.Ticket
}

// Frame implements [listen.Receiver].
func (s *Session) Frame(b []byte) {
	now := time.Now()
	s.heard.Store(now.UnixMilli())
	var f clientpb.ClientFrame
	if err := codec.Unmarshal(b, &f); err != nil {
		s.refuse(0, proto.Errorf(proto.CodeBadFrame, "a frame of %d bytes is not a ClientFrame", len(b)))
		return
	}
	if f.Body == nil {
		s.refuse(f.Id, proto.Errorf(proto.CodeBadFrame, "frame %d has no body this server knows; is the client newer?", f.Id))
		return
	}
	if hello := f.GetHello(); hello != nil {
		s.hello(f.Id, hello, now)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.phase {
	case ended:
		return
	case connected, awaiting:
		s.refuseLocked(f.Id, proto.Errorf(proto.CodeBadFrame, "the first frame must be Hello"))
		return
	}
	switch body := f.Body.(type) {
	case *clientpb.ClientFrame_Heartbeat:
		s.sendLocked(encode(&clientpb.ServerFrame{Id: f.Id, Body: &clientpb.ServerFrame_HeartbeatAck{
			HeartbeatAck: &clientpb.HeartbeatAck{Pts: s.newest, ServerTimeMs: now.UnixMilli()}}}))
	case *clientpb.ClientFrame_Logout:
		s.endLocked(proto.Errorf(proto.CodeLoggedOut, "logged out"))
	case *clientpb.ClientFrame_Typing:
		// No answer, so it is not kept: between attaches it is lost.
		s.link.Request(s.attempt, append([]byte(nil), b...))
	case *clientpb.ClientFrame_Confirm:
		s.confirmLocked(body.Confirm.Pts)
	default:
		s.requestLocked(f.Id, b, f.GetSendMessage() != nil, now)
	}
}

// confirmLocked passes on what the device has processed. Only what was
// written can have been.
func (s *Session) confirmLocked(pts uint64) {
	if !s.subscribe || pts <= s.confirmed || pts >= s.next {
		return
	}
	s.confirmed = pts
	s.link.Confirm(s.attempt, pts) // else it goes with the next attach
}

// requestLocked keeps a request until it is answered and sends it if the
// session is attached. One that sends a message must be admitted.
func (s *Session) requestLocked(id uint64, b []byte, message bool, now time.Time) {
	if id == 0 {
		s.refuseLocked(0, proto.Errorf(proto.CodeBadFrame, "a request needs an id above 0"))
		return
	}
	for i := range s.pending {
		if s.pending[i].id == id {
			s.refuseLocked(id, proto.Errorf(proto.CodeBadFrame, "request %d is still unanswered; choose another id", id))
			return
		}
	}
	if len(s.pending) >= proto.RequestsInFlightMax || int(s.pendingBytes)+len(b) > proto.SessionPendingBytesMax {
		s.sendLocked(encodeError(id, proto.Errorf(proto.CodeOverloaded,
			"%d requests of this connection are unanswered; wait for some", len(s.pending))))
		return
	}
	var ticket admission.Ticket
	if message {
		var wait time.Duration
		if ticket, wait = s.server.admission.Enter(now, len(s.pending), &s.wait); wait > 0 {
			err := proto.Errorf(proto.CodeOverloaded, "too many messages are under way")
			err.Retry = wait
			s.sendLocked(encodeError(id, err))
			return
		}
	}
	frame := append([]byte(nil), b...)
	s.pending = append(s.pending, request{id: id, frame: frame, ticket: ticket})
	s.pendingBytes += int32(len(frame))
	s.server.counts.requests.Add(1)
	s.server.gate.Message()
	if s.phase == welcomed && !s.link.Request(s.attempt, frame) {
		// Between attaches it waits. Attached, the host's queue is full:
		// attaching anew repeats everything in order, later.
		s.link.Overflowed(s.attempt)
	}
}

// sendLocked queues frames for the client, for one write.
func (s *Session) sendLocked(frames ...[]byte) {
	queued, _ := s.conn.Send(frames...) // one that is torn down tells Closed
	if queued > s.server.cfg.OutBytesMax {
		s.slow = true // until Drained
	}
}

// refuse answers a connection that breaks the protocol and closes it.
func (s *Session) refuse(id uint64, err *proto.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseLocked(id, err)
}

func (s *Session) refuseLocked(id uint64, err *proto.Error) {
	if s.phase == ended {
		return
	}
	s.server.counts.refused.Add(1)
	s.server.log.Debug("connection refused", "user", s.user, "remote", s.conn.Remote(), "err", err)
	s.closeLocked(encodeError(id, err))
}

// end closes the connection with a reason.
func (s *Session) end(err *proto.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(err)
}

func (s *Session) endLocked(err *proto.Error) {
	s.closeLocked(encode(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Closing{Closing: &clientpb.Closing{
		Code: uint32(err.Code), Message: err.Error(), RetryMs: err.RetryMillis()}}}))
}

func (s *Session) close(final []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(final)
}

func (s *Session) closeLocked(final []byte) {
	if s.phase == ended {
		return
	}
	s.phase = ended
	s.dropPendingLocked()
	s.link.Close()
	s.conn.Close(final)
}

func (s *Session) dropPendingLocked() {
	for _, r := range s.pending {
		s.server.admission.Leave(r.ticket, time.Now())
	}
	s.pending = nil
}

// Closed implements [listen.Receiver].
func (s *Session) Closed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != ended {
		s.phase = ended
		s.dropPendingLocked()
		s.link.Close()
	}
	if err != nil {
		s.server.log.Debug("connection ended", "user", s.user, "err", err)
	}
}
