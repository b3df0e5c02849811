package session

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// gatherBytes is what one write to a client gathers: past a TLS record there
// is nothing to gain, and a client that does not read must be noticed before
// more is queued.
const gatherBytes = 16 << 10

// Deliver implements [router.Client]. One write for all frames spares a system
// call, a TLS record and the client's wake-up for each but the first.
func (s *Session) Deliver(frames []*cellpb.HostFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var few [4][]byte // on the stack: most batches bring less
	out, size := few[:0], 0
	for _, f := range frames {
		if s.phase != welcomed {
			return
		}
		var frame []byte
		switch body := f.Body.(type) {
		case *cellpb.HostFrame_Response:
			frame = s.responseLocked(body.Response)
		case *cellpb.HostFrame_Push:
			frame = s.pushLocked(body.Push)
		}
		if frame == nil {
			continue
		}
		out, size = append(out, frame), size+len(frame)
		if size >= gatherBytes {
			s.sendLocked(out...)
			out, size = out[:0], 0
		}
	}
	if len(out) > 0 {
		s.sendLocked(out...)
	}
}

// pushLocked is what a push has the client told: its frame, or nil.
func (s *Session) pushLocked(p *cellpb.Push) []byte {
	if p.LastPts == ^uint64(0) {
		return nil // nothing could follow the greatest number
	}
	defer s.watchLocked()
	s.newest = max(s.newest, p.Newest, p.LastPts)
	switch {
	case !s.subscribe || p.LastPts < s.next:
	case s.slow:
		s.server.counts.dropped.Add(1) // Drained fetches it
	case p.FirstPts != s.next:
		s.server.counts.dropped.Add(1)
		s.fetchLocked(time.Now())
	default:
		s.server.counts.pushes.Add(1)
		s.next = p.LastPts + 1
		s.progress = time.Now().UnixMilli()
		s.fetching = s.fetching && s.behindLocked()
		return p.Frame
	}
	return nil
}

// Drained implements [listen.Receiver]: the client has read what was queued.
func (s *Session) Drained() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == ended || !s.slow {
		return
	}
	s.slow = false
	if s.behindLocked() {
		s.progress = 0
		s.fetchLocked(time.Now())
		s.watchLocked()
	}
}

// behindLocked tells whether the client lacks updates that it wants.
func (s *Session) behindLocked() bool {
	return s.phase == welcomed && s.subscribe && s.next <= s.newest
}

// watchLocked has the sweep look after a session that is behind, should the
// missing updates not come by themselves.
func (s *Session) watchLocked() {
	if s.behindLocked() {
		s.server.noteBehind(s)
	}
}

// fetchLocked asks the host for what is missing, once per time-out.
func (s *Session) fetchLocked(now time.Time) {
	if now.UnixMilli()-s.progress < s.server.cfg.FetchTimeout.Milliseconds() && s.fetching {
		return
	}
	if s.link.Fetch(s.attempt, s.next-1) {
		s.fetching = true
		s.progress = now.UnixMilli()
		s.server.counts.fetches.Add(1)
	}
}

// stillBehind repeats the question when no update came for a while, and tells
// whether to go on watching.
func (s *Session) stillBehind(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.behindLocked() {
		s.fetching = false
		return false
	}
	if !s.slow && now.UnixMilli()-s.progress >= s.server.cfg.FetchTimeout.Milliseconds() {
		s.fetchLocked(now)
	}
	return true
}

// responseLocked answers the request that frame names: it is the frame to
// send, or nil. A request may have been repeated and so answered twice; the
// second answer is dropped. "Ask elsewhere" is for us, not for the client.
func (s *Session) responseLocked(frame []byte) []byte {
	id, code := peekResponse(frame)
	if id == 0 {
		// Presence and typing are soon old: a client that reads slowly does
		// without.
		if code != 0 || !s.slow {
			return frame
		}
		return nil
	}
	for i := range s.pending {
		if s.pending[i].id != id {
			continue
		}
		if code.Class() == proto.ClassRetryElsewhere {
			s.link.Reattach(s.attempt)
			return nil
		}
		s.answeredLocked(i)
		return frame
	}
	return nil
}

func (s *Session) answeredLocked(i int) {
	s.pendingBytes -= int32(len(s.pending[i].frame))
	s.server.admission.Leave(s.pending[i].ticket, time.Now())
	copy(s.pending[1:i+1], s.pending[:i]) // most answers are the first's
	s.pending[0] = request{}
	if s.pending = s.pending[1:]; len(s.pending) == 0 {
		s.pending = nil
	}
}

// Ended implements [router.Client].
func (s *Session) Ended(err *proto.Error) { s.end(err) }
