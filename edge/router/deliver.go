package router

import (
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

// deliveries gathers what one batch brings for each session, so that a session
// writes once to its client however many frames there are. Each stream's
// receiver has one and uses it again.
type deliveries struct {
	groups []delivery // in the order of their first frame; their space is used again
	at     map[uint64]int
}

type delivery struct {
	session uint64
	frames  []*cellpb.HostFrame
}

func newDeliveries() *deliveries { return &deliveries{at: map[uint64]int{}} }

// batch hands what a host said to the sessions it names, to each in order.
func (d *deliveries) batch(s *stream, frames []*cellpb.HostFrame) {
	for _, f := range frames {
		for _, id := range f.Sessions {
			switch f.Body.(type) {
			case *cellpb.HostFrame_Response, *cellpb.HostFrame_Push:
				d.add(id, f)
			default:
				d.flush(s) // what came before it goes before it
				s.r.control(s, id, f)
			}
		}
	}
	d.flush(s)
}

func (d *deliveries) add(id uint64, f *cellpb.HostFrame) {
	i, known := d.at[id]
	if !known {
		i = len(d.groups)
		d.at[id] = i
		if i < cap(d.groups) {
			d.groups = d.groups[:i+1]
		} else {
			d.groups = append(d.groups, delivery{})
		}
		d.groups[i].session = id
	}
	d.groups[i].frames = append(d.groups[i].frames, f)
}

func (d *deliveries) flush(s *stream) {
	for i := range d.groups {
		g := &d.groups[i]
		s.r.deliver(s, g.session, g.frames)
		clear(g.frames) // keeps no frame
		g.frames = g.frames[:0]
	}
	d.groups = d.groups[:0]
	clear(d.at)
}

// deliver hands responses and pushes to a session. What comes from another
// stream than that of the session's newest attach is ignored: the log has the
// updates, and unanswered requests are repeated.
func (r *Router) deliver(s *stream, id uint64, frames []*cellpb.HostFrame) {
	l := r.lookup(id)
	if l == nil {
		return // closed meanwhile
	}
	l.mu.Lock()
	ready := l.stream == s && l.state == attached
	l.mu.Unlock()
	if ready {
		l.client.Deliver(frames)
	}
}

// control takes what a host says of a session itself.
func (r *Router) control(s *stream, id uint64, f *cellpb.HostFrame) {
	l := r.lookup(id)
	if l == nil {
		return
	}
	l.mu.Lock()
	here := l.stream == s && l.state != closed
	attempt := l.attempt
	l.mu.Unlock()
	if !here {
		return
	}
	switch body := f.Body.(type) {
	case *cellpb.HostFrame_Attached:
		if body.Attached.Attempt == attempt {
			r.attached(l, s, body.Attached)
		}
	case *cellpb.HostFrame_Refused:
		if body.Refused.Attempt == 0 || body.Refused.Attempt == attempt {
			r.refused(l, s, body.Refused)
		}
	case *cellpb.HostFrame_End:
		l.client.Ended(&proto.Error{Code: proto.Code(body.End.Code), Message: body.End.Message})
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
