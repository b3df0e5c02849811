package client

import (
	"bytes"
	"testing"
	"time"
)

// TestDoubt holds when a silent server is asked for a sign of life and given up.
func TestDoubt(t *testing.T) {
	start := time.Now()
	var written bytes.Buffer
	type step struct {
		at    time.Duration // since start
		heard time.Duration // the server was heard last; 0: not since before start
		again time.Duration // 0: not before something is owed
		beats bool
		lost  bool
	}
	for name, c := range map[string]struct {
		owes  bool
		steps []step
	}{
		"owes nothing": {false, []step{{at: time.Hour}}},
		// It was silent for long, as nobody asked it anything.
		"owes since now": {true, []step{{at: 0, again: doubtAfter}, {at: time.Second, again: doubtAfter}}},
		"silent": {true, []step{
			{at: doubtAfter, again: 2 * doubtAfter, beats: true},
			{at: doubtAfter + time.Second, again: 2 * doubtAfter},
			{at: 2 * doubtAfter, again: 2 * doubtAfter, lost: true},
		}},
		"heard again": {true, []step{
			{at: doubtAfter, again: 2 * doubtAfter, beats: true},
			{at: 2 * doubtAfter, heard: doubtAfter + time.Second, again: 2*doubtAfter + time.Second},
			{at: 2*doubtAfter + time.Second, heard: doubtAfter + time.Second, again: 3*doubtAfter + time.Second, beats: true},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			client := &Client{}
			conn := &connection{wire: &wire{rw: &written, deadline: func(time.Time) error { return nil }}, heartbeat: time.Hour, lastHeard: start.Add(-time.Minute), owesSince: start}
			if c.owes {
				conn.unanswered = 1
			}
			for i, s := range c.steps {
				written.Reset()
				if s.heard != 0 {
					conn.lastHeard = start.Add(s.heard)
				}
				again, err := client.doubt(conn, start.Add(s.at))
				if (err != nil) != s.lost {
					t.Errorf("step %d: %v", i, err)
				}
				want := time.Time{}
				if s.again != 0 {
					want = start.Add(s.again)
				}
				if !again.Equal(want) {
					t.Errorf("step %d: again after %s, want %s", i, again.Sub(start), s.again)
				}
				if beats := written.Len() > 0; beats != s.beats {
					t.Errorf("step %d: a sign of life was asked for: %t", i, beats)
				}
			}
		})
	}
}

// TestAnAlarmIsSetOnlyToRingSooner: a later time costs no setting.
func TestAnAlarmIsSetOnlyToRingSooner(t *testing.T) {
	var a alarm
	defer a.stop()
	now := time.Now()
	for i, c := range []struct{ by, at time.Duration }{{time.Hour, time.Hour}, {2 * time.Hour, time.Hour}, {time.Minute, time.Minute}} {
		a.by(now.Add(c.by), now)
		if !a.at.Equal(now.Add(c.at)) {
			t.Errorf("step %d: rings after %s, want %s", i, a.at.Sub(now), c.at)
		}
	}
	a.by(time.Time{}, now)
	a.by(now, now)
	select {
	case <-a.c():
		a.rang()
	case <-time.After(patience):
		t.Fatal("it does not ring")
	}
	if a.by(now.Add(time.Hour), now); !a.at.Equal(now.Add(time.Hour)) {
		t.Error("it cannot be set again")
	}
}
