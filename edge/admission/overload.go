package admission

import "time"

// overload decides when the smaller bound holds.
//
//	        answers are late and the usual bound is full,
//	        or they are late for long and many are under way
//	usual ──────────────────────────────────────────► overloaded
//	  ▲                                                   │
//	  ├── nobody was refused for a second ────────────────┤
//	  ├── the refused do not wait: not again for a while ─┤
//	  ├── it does not help: not again for a long while ───┤
//	  └── to see if the usual bound would do now ─────────┘
//
// Times are slots.
type overload struct {
	on    bool
	since int64 // it is so
	// trial is how long it lasts before the usual bound is tried: longer after
	// each trial that failed.
	trial     int64
	notBefore int64 // it begins again
	refusedAt int64 // last

	took     float64 // by the recent answers, on the mean; at most slots each
	tookLong float64 // the same, of many more answers

	// Answers since judged, while the smaller bound holds.
	judged        int64
	answers, slow int // all, and those that took helpedAfter or more
}

const (
	// lateAfter is what answers take where messages wait for each other: several
	// times what one of a full batch does.
	lateAfter = int64(75 * time.Millisecond / slot)
	// helpedAfter is what an answer takes where the smaller bound does not help:
	// two slots begun, some 40 ms, of a bar of 50. It is judged by whether half of
	// the answers in judgedAfter take that long, as a table that is written can
	// make all do for some tenths of a second.
	helpedAfter = int64(50 * time.Millisecond / slot)
	judgedAfter = int64(2 * time.Second / slot)
	// memory is the weight of an answer among the recent ones: of some milliseconds,
	// since well above what is borne answers are late in lumps.
	memory = 1.0 / 64
	// longMemory is the same where the usual bound is not full: a tenth of a
	// second. A stall, as of a disk that is slow once, makes answers late too, and
	// load that only the usual bound bears would pay for it until the next trial.
	longMemory = memory / 16
	// calm is how long nobody is refused when an overload is over.
	calm = int64(time.Second / slot)
	// The first trial fails at the cost of some tenths of a second of late
	// answers, so trials are to be a small part of an overload.
	trialMin = int64(30 * time.Second / slot)
	trialMax = int64(4 * time.Minute / slot)
	// ignoredMin refusals between two adjustments, of which one in ignoredShare
	// is of somebody who has not waited, are a crowd that does not wait.
	ignoredMin   = refusalsMax / 4
	ignoredShare = 4
)

// answered counts a message that was answered after so many slots.
func (o *overload) answered(took int64) {
	// What waited for longer than young waited for something else, and counts as
	// one answer among others.
	counts := float64(min(took, slots))
	o.took += memory * (counts - o.took)
	o.tookLong += longMemory * (counts - o.tookLong)
	if o.answers++; took >= helpedAfter {
		o.slow++
	}
}

// begin decides whether an overload begins now that many are unanswered, or full,
// as many as the usual bound lets through.
func (o *overload) begin(now int64, full bool) {
	took := o.tookLong
	if full {
		took = o.took
	}
	if !o.on && took >= float64(lateAfter) && now >= o.notBefore {
		o.turn(true, now)
	}
}

func (o *overload) turn(on bool, now int64) {
	if on && now-o.since >= trialMin || o.trial == 0 {
		o.trial = trialMin // what was tried last went well
	}
	o.on, o.since = on, now
	o.took, o.tookLong = 0, 0
	o.judged, o.answers, o.slow = now, 0, 0
}

// helps tells whether what is accepted under the smaller bound is in time. Where
// it is not, the CPUs wait for something else than messages: replicas on several
// nodes for each other, so that fewer under way are only less borne.
func (o *overload) helps(now int64) bool {
	if now-o.judged < judgedAfter {
		return true
	}
	slow := 2*o.slow > o.answers
	o.judged, o.answers, o.slow = now, 0, 0
	return !slow
}

// adjust looks at what has been, some times a second: so many were refused, and
// so many of these had not waited as they were told.
func (o *overload) adjust(now int64, refused, early int) {
	if refused > 0 {
		o.refusedAt = now
	}
	ignored := refused >= ignoredMin && ignoredShare*early >= refused
	if ignored {
		o.notBefore = now + trialMin
	}
	switch {
	case !o.on:
	case now-max(o.refusedAt, o.since) >= calm:
		o.turn(false, now)
		o.trial = trialMin
	case ignored:
		o.turn(false, now)
	case !o.helps(now):
		o.turn(false, now)
		o.notBefore = now + trialMax
	case now-o.since >= o.trial:
		o.turn(false, now)
		o.trial = min(2*o.trial, trialMax)
	}
}
