package live

import "time"

const (
	// timelineStart leaves room for units that come a little out of order: no
	// timestamp may be below 0.
	timelineStart = time.Second
	// reconnectGap is the least between the last unit of a publisher and the first
	// of the next, so that no track of the second begins before one of the first
	// has ended.
	reconnectGap = 500 * time.Millisecond
	// backMax is how far timestamps of a track may go back: reordered frames.
	backMax = time.Second
	// aheadMax is how far they may jump ahead. Whatever jumps further, such as a
	// clock of 32 bits that begins anew, is put where it belongs by this node's
	// clock.
	aheadMax = 10 * time.Second
)

// timeline maps what publishers send onto one time that only goes on. The lock
// of the livestream guards it.
type timeline struct {
	started time.Time     // by this node's clock, when timelineStart was
	end     time.Duration // the latest that was given
	shift   time.Duration // to be added to what the publisher of the moment sends
	fresh   bool          // shift is of this publisher
}

// next begins a publisher: its first unit follows what was before.
func (tl *timeline) next() { tl.fresh = false }

// place gives the time of a unit that came with pts in ticks of t's clock.
func (tl *timeline) place(t *track, pts int64, now time.Time) int64 {
	in := duration(pts, t.rate)
	if !tl.fresh {
		tl.anchor(in, now)
	}
	out := pts + ticks(tl.shift, t.rate)
	at := duration(out, t.rate)
	if t.begun && at < duration(t.last, t.rate)-backMax || at > tl.end+aheadMax || at < 0 {
		tl.anchor(in, now)
		out = pts + ticks(tl.shift, t.rate)
		at = duration(out, t.rate)
	}
	t.last, t.begun = out, true
	tl.end = max(tl.end, at)
	return out
}

func (tl *timeline) anchor(in time.Duration, now time.Time) {
	to := timelineStart
	if tl.started.IsZero() {
		tl.started = now
	} else {
		to = max(timelineStart+now.Sub(tl.started), tl.end+reconnectGap)
	}
	tl.shift, tl.fresh = to-in, true
	tl.end = max(tl.end, to)
}

// clock is when, by this node's clock, what has pts is shown.
func (tl *timeline) clock(pts int64, rate int) time.Time {
	return tl.started.Add(duration(pts, rate) - timelineStart)
}
