package edge

import (
	"context"
	"time"

	"github.com/waggle-im/waggle/edge/session"
)

// departureStep is how often sessions are asked to go elsewhere.
const departureStep = 50 * time.Millisecond

// SetDraining has the edge emptied while it runs: new sessions are sent to the
// others, and those there are asked to connect there first and then to leave.
// False takes that back. With no other edge everybody stays.
func (e *Edge) SetDraining(draining bool) {
	for {
		select {
		case e.orders <- draining:
			return
		default:
		}
		select {
		case <-e.orders: // overtaken
		default:
		}
	}
}

// follow does what SetDraining asks until ctx ends.
func (e *Edge) follow(ctx context.Context) {
	var departure *session.Departure // nil: the edge serves
	tick := time.NewTicker(departureStep)
	defer tick.Stop()
	for {
		step := tick.C
		if departure == nil {
			step = nil
		}
		select {
		case draining := <-e.orders:
			switch {
			case draining == (departure != nil):
			case draining:
				e.deps.Log.Info("draining: sessions are sent to other edges", "sessions", e.Sessions())
				departure = e.sessions.NewDeparture(time.Now(), e.cfg.DrainPatience)
				e.sessions.SetLeaving(e.deps.Alternatives)
				e.deps.Leaving(true)
			default:
				e.deps.Log.Info("draining is over", "sessions", e.Sessions())
				departure = nil
				e.sessions.SetLeaving(nil)
				e.deps.Leaving(false)
			}
		case now := <-step:
			departure.Step(now, float64(e.cfg.DrainRate), e.deps.Alternatives())
		case <-ctx.Done():
			return
		}
	}
}

// drain sends everybody elsewhere, says goodbye to those that did not go in
// time and waits until the connections are gone.
func (e *Edge) drain() {
	began := time.Now()
	e.deps.Leaving(true)
	e.listener.StopAccepting()
	e.depart(began)
	e.sessions.Shutdown(e.deps.Alternatives(), e.cfg.ReconnectSpread)
	deadline := time.NewTimer(time.Until(began.Add(e.cfg.DrainTimeout)))
	defer deadline.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		// Those that never logged in are not waited for.
		if s := e.listener.Stats(); s.Open <= s.HalfOpen {
			return
		}
		select {
		case <-look.C:
		case <-deadline.C:
			return
		}
	}
}

// depart asks all sessions to go elsewhere, within half of the time there is,
// and waits until they have gone, or have nowhere to go, or three quarters of
// the time are over.
func (e *Edge) depart(began time.Time) {
	rate := max(float64(e.cfg.DrainRate), float64(e.Sessions())/(e.cfg.DrainTimeout/2).Seconds())
	departure := e.sessions.NewDeparture(began, 0)
	tick := time.NewTicker(departureStep)
	defer tick.Stop()
	for {
		alternatives := e.deps.Alternatives()
		now := time.Now()
		if departure.Step(now, rate, alternatives) == 0 || len(alternatives) == 0 || now.Sub(began) > e.cfg.DrainTimeout*3/4 {
			return
		}
		<-tick.C
	}
}
