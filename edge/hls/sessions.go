package hls

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
)

// stream needs mu.
func (s *Server) stream(id proto.LiveID) *stream {
	st := s.streams[id]
	if st == nil {
		st = &stream{sessions: map[string]*viewer{}, tickets: map[string]*ticket{}}
		s.streams[id] = st
	}
	return st
}

// begin makes a session of a ticket, once.
func (s *Server) begin(ctx context.Context, id proto.LiveID, file, text string) (string, error) {
	if text == "" || file != index {
		return "", proto.Errorf(proto.CodeBadTicket, "a ticket is needed: POST /live/%s/ticket gives one, for /live/%s/%s?ticket=TICKET", id, id, index)
	}
	s.mu.Lock()
	if s.sessions >= sessionsMax {
		s.mu.Unlock()
		return "", proto.Errorf(proto.CodeOverloaded, "this edge has too many viewers: try another")
	}
	st := s.stream(id)
	t := st.tickets[text]
	if t == nil {
		t = &ticket{done: make(chan struct{}), seen: time.Now()}
		st.tickets[text] = t
		s.sessions++
		s.mu.Unlock()
		s.admit(ctx, id, text, t)
	} else {
		t.seen = time.Now()
		s.mu.Unlock()
	}
	select {
	case <-t.done:
		return t.session, t.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// admit asks a node about a ticket, for all who show it meanwhile.
func (s *Server) admit(ctx context.Context, id proto.LiveID, text string, t *ticket) {
	var got cellclient.LiveAdmitted
	t.err = s.ask(context.WithoutCancel(ctx), id, "admit", cellclient.LiveAdmit{Ticket: text}, &got)
	t.session = got.Session
	s.mu.Lock()
	st := s.stream(id)
	if t.err != nil {
		delete(st.tickets, text)
		s.sessions--
		s.tidy(id, st)
	} else {
		s.learn(id, st, got.Node, got.Run)
		st.sessions[got.Session] = &viewer{name: got.Viewer, seen: time.Now(), confirmed: time.Now()}
		s.sessions++
	}
	s.mu.Unlock()
	close(t.done)
}

// learn notes which node carries a livestream. It needs mu.
func (s *Server) learn(id proto.LiveID, st *stream, node string, run uint64) {
	if st.node != proto.NodeID(node) || st.run != run {
		st.node, st.run = proto.NodeID(node), run
		s.cache.forget("/live/" + id.String() + "/")
	}
}

// tidy forgets a livestream that nobody watches here. It needs mu.
func (s *Server) tidy(id proto.LiveID, st *stream) {
	if len(st.sessions) == 0 && len(st.tickets) == 0 && s.streams[id] == st {
		delete(s.streams, id)
		s.cache.forget("/live/" + id.String() + "/")
	}
}

// enter lets a session ask for something. A session that this edge does not
// know was begun at another: a node is asked.
func (s *Server) enter(ctx context.Context, id proto.LiveID, session string) (end func(), err error) {
	s.mu.Lock()
	st := s.streams[id]
	if st == nil || st.sessions[session] == nil {
		full := s.sessions >= sessionsMax
		s.mu.Unlock()
		if full {
			return nil, proto.Errorf(proto.CodeOverloaded, "this edge has too many viewers: try another")
		}
		if err := s.takeOver(ctx, id, session); err != nil {
			return nil, err
		}
		s.mu.Lock()
		st = s.stream(id)
	}
	defer s.mu.Unlock()
	v := st.sessions[session]
	switch {
	case v == nil:
		return nil, proto.Errorf(proto.CodeUnavailable, "the session was forgotten just now: ask again")
	case v.refused != nil:
		return nil, v.refused
	case time.Since(v.confirmed) > trustFor:
		return nil, proto.Errorf(proto.CodeUnavailable, "it cannot be found out just now whether you may watch: try again")
	case v.requests >= requestsMax:
		return nil, proto.Errorf(proto.CodeRateLimited, "too many requests of one viewer at once: at most %d", requestsMax)
	}
	v.seen = time.Now()
	v.requests++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		v.requests--
		v.seen = time.Now()
	}, nil
}

// takeOver asks whether a session counts that this edge does not know.
func (s *Server) takeOver(ctx context.Context, id proto.LiveID, session string) error {
	var got cellclient.LiveChecked
	if err := s.ask(ctx, id, "check", cellclient.LiveCheck{Sessions: []string{session}}, &got); err != nil {
		return err
	}
	if len(got.Verdicts) != 1 {
		return proto.Errorf(proto.CodeUnavailable, "the node's answer lacks the session")
	}
	if err := got.Verdicts[0].Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stream(id)
	s.learn(id, st, got.Node, got.Run)
	if st.sessions[session] == nil {
		st.sessions[session] = &viewer{name: got.Verdicts[0].Viewer, seen: time.Now(), confirmed: time.Now()}
		s.sessions++
	}
	return nil
}

// recheck asks about all sessions, and tells how many watch.
func (s *Server) recheck(ctx context.Context) {
	type round struct {
		id       proto.LiveID
		sessions []string
		viewers  int
	}
	var rounds []round
	now := time.Now()
	s.mu.Lock()
	for id, st := range s.streams {
		s.expire(id, st, now)
		r := round{id: id}
		names := map[string]bool{}
		for session, v := range st.sessions {
			if v.refused == nil && (v.requests > 0 || now.Sub(v.seen) < activeFor) {
				names[v.name] = true
				r.sessions = append(r.sessions, session)
			}
		}
		r.viewers = len(names)
		rounds = append(rounds, r)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, r := range rounds {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			first := true
			for part := range slices.Chunk(r.sessions, cellclient.LiveCheckMax) {
				check := cellclient.LiveCheck{Sessions: part}
				if first {
					check.Source, check.Viewers = string(s.cfg.Edge), r.viewers
				}
				first = false
				s.checkAll(ctx, r.id, check)
			}
		})
	}
	wg.Wait()
}

// expire forgets what nobody has asked for in a long time. It needs mu.
func (s *Server) expire(id proto.LiveID, st *stream, now time.Time) {
	for session, v := range st.sessions {
		if v.requests == 0 && now.Sub(v.seen) > forgetAfter {
			delete(st.sessions, session)
			s.sessions--
		}
	}
	for text, t := range st.tickets {
		select {
		case <-t.done:
			if now.Sub(t.seen) > forgetAfter || st.sessions[t.session] == nil {
				delete(st.tickets, text)
				s.sessions--
			}
		default: // under way
		}
	}
	s.tidy(id, st)
}

func (s *Server) checkAll(ctx context.Context, id proto.LiveID, check cellclient.LiveCheck) {
	var got cellclient.LiveChecked
	err := s.ask(ctx, id, "check", check, &got)
	if err == nil && len(got.Verdicts) != len(check.Sessions) {
		err = proto.Errorf(proto.CodeUnavailable, "the node's answer lacks sessions")
	}
	over := err != nil && proto.CodeOf(err).Class() == proto.ClassGiveUp // of all: the livestream is gone
	if err != nil && !over {
		s.log.Warn("viewers cannot be checked just now", "live", id.String(), "err", err)
		s.lose(id)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[id]
	if st == nil {
		return
	}
	if !over {
		s.learn(id, st, got.Node, got.Run)
	}
	for i, session := range check.Sessions {
		v := st.sessions[session]
		if v == nil {
			continue
		}
		verdict := err
		if !over {
			verdict = got.Verdicts[i].Err()
		}
		switch code := proto.CodeOf(verdict); {
		case code == proto.CodeOK:
			v.confirmed = time.Now()
		case code.Class() == proto.ClassGiveUp:
			v.refused = forbidden(verdict)
		}
	}
}

// lose has another node asked next time.
func (s *Server) lose(id proto.LiveID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[id]; st != nil {
		st.node = ""
	}
}

// forbidden is why a viewer is sent away in the middle: 403, whatever became of
// him.
func forbidden(err error) error {
	e := proto.AsError(err)
	if e.Code == proto.CodeUnknownFile || cellclient.LiveStatus(e.Code) == http.StatusForbidden {
		return e
	}
	return proto.Errorf(proto.CodeForbidden, "%s", e.Error())
}
