package session

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Push implements [router.Client].
func (s *Session) Push(p *cellpb.Push) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != welcomed || p.LastPts == ^uint64(0) {
		return // nothing could follow the greatest number
	}
	s.newest = max(s.newest, p.Newest, p.LastPts)
	switch {
	case !s.subscribe || p.LastPts < s.next:
		return
	case s.slow:
		s.server.counts.dropped.Add(1) // Drained fetches it
		return
	case p.FirstPts != s.next:
		s.server.counts.dropped.Add(1)
		s.fetchLocked(time.Now())
	case s.sendLocked(p.Frame):
		s.server.counts.pushes.Add(1)
		s.next = p.LastPts + 1
		s.progress = time.Now().UnixMilli()
		s.fetching = s.fetching && s.behindLocked()
	}
	s.watchLocked()
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

// Response implements [router.Client]: it answers the request it names. A
// request may have been repeated and so answered twice; the second answer is
// dropped. "Ask elsewhere" is for us, not for the client.
func (s *Session) Response(frame []byte) {
	id, code := peekResponse(frame)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != welcomed {
		return
	}
	if id == 0 {
		// Presence and typing are soon old: a client that reads slowly does
		// without.
		if code != 0 || !s.slow {
			s.sendLocked(frame)
		}
		return
	}
	for i := range s.pending {
		if s.pending[i].id != id {
			continue
		}
		if code.Class() == proto.ClassRetryElsewhere {
			s.link.Reattach(s.attempt)
			return
		}
		s.answeredLocked(i)
		s.sendLocked(frame)
		return
	}
}

func (s *Session) answeredLocked(i int) {
	s.pendingBytes -= int32(len(s.pending[i].frame))
	copy(s.pending[1:i+1], s.pending[:i]) // most answers are the first's
	s.pending[0] = request{}
	if s.pending = s.pending[1:]; len(s.pending) == 0 {
		s.pending = nil
	}
}

// Ended implements [router.Client].
func (s *Session) Ended(err *proto.Error) { s.end(err) }
