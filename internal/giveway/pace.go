package giveway

import "time"

const (
	// window is the time between two decisions: some twenty samples, and no
	// longer than a person notices.
	window = 50 * time.Millisecond
	// lateAfter is the lateness, of one sample in ten, from which on content is
	// held back. A message passes about eight steps of a node and an edge, and
	// timers alone are late by up to 1 ms (the resolution of epoll). At 4 ms
	// ten uploads were no faster, and p99 of messages beside them was 18 to 19
	// ms, not 14 to 16 (docs/PERFORMANCE.md).
	lateAfter = 2 * time.Millisecond
	// FloorBytesPerSecond is the least rate: whatever else happens, transfers
	// come to an end. What passes an edge and a node of one process
	// counts twice, and then has 8 MiB/s.
	FloorBytesPerSecond = 16 << 20
	// riseBytes is what a window in time adds to the rate, bytes per second: a
	// free CPU is found within seconds, and one window too many is not felt.
	riseBytes = 1 << 20
	// fall is what is left of the rate after a window that was late.
	fall = 0.75
	// flowPerSecond is from how many messages per second on they are said to
	// flow: below, it is about one in a second that waits some milliseconds.
	flowPerSecond = 10
	// memory is the weight of the past windows in the flow of messages, which
	// is forgotten within a few seconds.
	memory = 0.9
)

// sample is what was seen in one window.
type sample struct {
	late     time.Duration // of one sample in ten
	moved    int64         // bytes asked for
	messages int64
	held     bool // somebody had to wait
}

// pace decides how fast content may move.
type pace struct {
	limit float64 // bytes per second; 0: none
	last  float64 // the limit when messages flowed last; 0: never
	flow  float64 // messages per window, of late
}

// next decides after a window that took so long.
func (p *pace) next(s sample, took time.Duration) {
	p.flow = memory*p.flow + (1-memory)*float64(s.messages)*float64(window)/float64(took)
	if p.flow < flowPerSecond*window.Seconds() {
		p.limit = 0
		return
	}
	if p.limit == 0 {
		p.limit = p.last
	}
	late := s.late > lateAfter
	switch {
	case late && p.limit == 0:
		p.limit = fall * float64(s.moved) / took.Seconds()
	case late:
		p.limit *= fall
	case p.limit > 0 && s.held:
		p.limit += riseBytes
	}
	if p.limit > 0 {
		p.limit = max(p.limit, FloorBytesPerSecond)
		p.last = p.limit
	}
}
