package live

import (
	"testing"
	"time"
)

func TestTimeline(t *testing.T) {
	video, audio := &track{rate: 90000}, &track{rate: 48000}
	start := time.Unix(1_000_000, 0)
	var tl timeline
	at := func(tr *track, pts int64, passed time.Duration) time.Duration {
		return duration(tl.place(tr, pts, start.Add(passed)), tr.rate)
	}
	near := func(what string, have, want time.Duration) {
		t.Helper()
		if d := have - want; d < -time.Millisecond || d > time.Millisecond {
			t.Errorf("%s: %v, want %v", what, have, want)
		}
	}
	tl.next()
	near("the first", at(video, 90000*500, 0), timelineStart)
	near("sound before it", at(audio, 48000*500-960, 0), timelineStart-20*time.Millisecond)
	near("a second later", at(video, 90000*501, time.Second), timelineStart+time.Second)
	near("a frame that is shown earlier", at(video, 90000*501-7200, time.Second), timelineStart+920*time.Millisecond)
	if got := tl.clock(ticks(timelineStart+time.Second, 90000), 90000); !got.Equal(start.Add(time.Second)) {
		t.Errorf("it is shown at %v", got)
	}
	tl.next()
	near("another publisher 4 s later", at(video, 7, 5*time.Second), timelineStart+5*time.Second)
	near("its sound", at(audio, 480, 5*time.Second), timelineStart+5*time.Second+10*time.Millisecond)
	tl.next()
	near("one that comes at once", at(video, 0, 5*time.Second), timelineStart+5*time.Second+10*time.Millisecond+reconnectGap)
	// A clock that begins anew, and one that jumps, on both tracks.
	before := tl.end
	jumped := at(video, -90000*4_000_000, 6*time.Second)
	near("a clock that begins anew", jumped, max(timelineStart+6*time.Second, before+reconnectGap))
	near("the next of it", at(video, -90000*4_000_000+3600, 6*time.Second), jumped+40*time.Millisecond)
	far := at(audio, 48000*3600, 7*time.Second)
	if far < jumped || far > jumped+aheadMax {
		t.Errorf("a clock that jumps ahead: %v after %v", far, jumped)
	}
	for _, n := range []int64{-1 << 63, 1<<63 - 1, 0} {
		if got := tl.place(video, n, start.Add(8*time.Second)); n == 0 && duration(got, 90000) < 0 {
			t.Errorf("%d is placed at %d", n, got)
		}
	}
}

func TestDurations(t *testing.T) {
	for _, rate := range []int{8000, 44100, 48000, 90000} {
		for _, n := range []int64{0, 1, 1023, 1024, 90000, 1 << 40} {
			if got := ticks(duration(n, rate), rate); got != n && got != n-1 {
				t.Errorf("%d ticks of %d are %d", n, rate, got)
			}
		}
	}
}
