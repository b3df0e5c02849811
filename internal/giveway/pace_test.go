package giveway

import (
	"testing"
	"time"
)

const (
	inTime  = lateAfter / 2
	tooLate = 4 * lateAfter
	mega    = 1_000_000
)

// flowing is a window of a thousand messages per second, at 200 MB/s.
func flowing(late time.Duration) sample {
	return sample{late: late, moved: 10 * mega, messages: 50, held: true}
}

func run(p *pace, s sample, windows int) {
	for range windows {
		p.next(s, window)
	}
}

func TestNoLimitWithoutMessages(t *testing.T) {
	var p pace
	run(&p, sample{late: tooLate, moved: 10 * mega}, 1000)
	if p.limit != 0 {
		t.Errorf("limited to %.0f bytes/s although nobody waits", p.limit)
	}
}

func TestNoLimitWhileAllIsInTime(t *testing.T) {
	var p pace
	run(&p, flowing(inTime), 1000)
	if p.limit != 0 {
		t.Errorf("limited to %.0f bytes/s although nothing is late", p.limit)
	}
}

func TestTheRateFallsWhileLateDownToTheFloor(t *testing.T) {
	var p pace
	p.next(flowing(tooLate), window)
	first := p.limit
	if first < FloorBytesPerSecond || first >= 200*mega {
		t.Fatalf("begins with %.0f bytes/s where 200 MB/s were moved", first)
	}
	p.next(flowing(tooLate), window)
	if p.limit >= first {
		t.Errorf("still late, and the rate went from %.0f to %.0f", first, p.limit)
	}
	run(&p, flowing(tooLate), 1000)
	if p.limit != FloorBytesPerSecond {
		t.Errorf("late for long, the rate is %.0f and not the floor", p.limit)
	}
}

func TestTheRateRisesOnlyWhereItIsUsed(t *testing.T) {
	var p pace
	run(&p, flowing(tooLate), 1000)
	unused := flowing(inTime)
	unused.held = false
	run(&p, unused, 100)
	if p.limit != FloorBytesPerSecond {
		t.Errorf("nobody waited, and the rate rose to %.0f", p.limit)
	}
	run(&p, flowing(inTime), 100)
	if want := float64(FloorBytesPerSecond + 100*riseBytes); p.limit != want {
		t.Errorf("after 100 windows in time the rate is %.0f, not %.0f", p.limit, want)
	}
}

func TestTheLimitGoesWithTheMessagesAndComesBack(t *testing.T) {
	var p pace
	run(&p, flowing(tooLate), 1000)
	quiet := sample{late: tooLate, moved: 10 * mega}
	windows := 0
	for ; p.limit != 0; windows++ {
		if windows == int(5*time.Second/window) {
			t.Fatal("five seconds without a message, and still a limit")
		}
		p.next(quiet, window)
	}
	p.next(flowing(inTime), window)
	if p.limit != FloorBytesPerSecond+riseBytes {
		t.Errorf("messages flow again, and the rate is %.0f, not what it was", p.limit)
	}
}
