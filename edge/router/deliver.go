package router

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

// deliver hands what a host said to the sessions it names. What comes from
// another stream than that of a session's newest attach is ignored: the log
// has the updates, and unanswered requests are repeated.
func (r *Router) deliver(s *stream, f *cellpb.HostFrame) {
	for _, id := range f.Sessions {
		l := r.lookup(id)
		if l == nil {
			continue // closed meanwhile
		}
		l.mu.Lock()
		here := l.stream == s && l.state != closed
		ready := here && l.state == attached
		attempt := l.attempt
		l.mu.Unlock()
		switch body := f.Body.(type) {
		case *cellpb.HostFrame_Attached:
			if here && body.Attached.Attempt == attempt {
				r.attached(l, s, body.Attached)
			}
		case *cellpb.HostFrame_Response:
			if ready {
				l.client.Response(body.Response)
			}
		case *cellpb.HostFrame_Push:
			if ready {
				l.client.Push(body.Push)
			}
		case *cellpb.HostFrame_Refused:
			if here && (body.Refused.Attempt == 0 || body.Refused.Attempt == attempt) {
				r.refused(l, s, body.Refused)
			}
		case *cellpb.HostFrame_End:
			if here {
				l.client.Ended(&proto.Error{Code: proto.Code(body.End.Code), Message: body.End.Message})
			}
		}
	}
}

func (r *Router) attached(l *Link, s *stream, a *cellpb.Attached) {
	l.mu.Lock()
	ok := l.state == attaching && l.stream == s && l.attempt == a.Attempt
	if ok {
		l.state = attached
		l.failures = 0
	}
	l.mu.Unlock()
	if ok {
		l.client.Attached(a)
	}
}

func (r *Router) refused(l *Link, s *stream, f *cellpb.Refused) {
	code := proto.Code(f.Code)
	r.locator.Learn(f.Route)
	switch code.Class() {
	case proto.ClassRetryElsewhere:
		// Unless the refusal named another host, this one must not be
		// asked again on the strength of what was believed before.
		if f.Route == nil || f.Route.Host == "" || f.Route.Host == string(s.node) {
			r.locator.Forget(l.rng, s.node)
		}
		r.again(l, s, backoff(l.failed()))
	case proto.ClassRetryLater:
		if l.failed() >= 3 {
			r.locator.Forget(l.rng, s.node)
		}
		wait := time.Duration(f.RetryMs) * time.Millisecond
		r.again(l, s, jitter(min(max(wait, backoffFirst), 2*time.Second)))
	default:
		l.client.Ended(&proto.Error{Code: code, Message: f.Message})
	}
}

// checkRoutes re-attaches the sessions of ranges that have a newer epoch than
// they are attached by. It returns the map it has seen.
func (r *Router) checkRoutes(seen *sharding.Map) *sharding.Map {
	current := r.directory.Routes()
	if current == seen {
		return seen
	}
	newer := map[proto.RangeID]proto.Epoch{}
	for route := range current.All() {
		if old, ok := seen.Lookup(route.Range); !ok || old.Epoch < route.Epoch {
			newer[route.Range] = route.Epoch
		}
	}
	if len(newer) == 0 {
		return current
	}
	for _, l := range r.snapshot() {
		epoch, ok := newer[l.rng]
		if !ok {
			continue
		}
		l.mu.Lock()
		behind := l.state != waiting && l.epoch < epoch
		s := l.stream
		l.mu.Unlock()
		if behind {
			r.again(l, s, 0)
		}
	}
	return current
}
