//go:build unix

package testcluster

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/devcluster"
)

// A whole cell is killed and stays away for a while. People of the other cell
// who write among themselves do not notice. What is written to the people of
// the cell that is away, and by them, waits in the SDK's outbox and arrives
// when it is back. Nobody is disconnected.
func TestWholeCellAway(t *testing.T) {
	away := 10 * time.Second
	if long() {
		away = time.Minute
	}
	c := StartProcesses(t, devcluster.Options{Replicas: 3, RestartAfter: away})
	loads := []struct {
		who string
		*Load
	}{
		{"c1 among themselves", c.StartLoadBetween("c1", "c1", 3, 10)},
		{"c1 with c2", c.StartLoadBetween("c1", "c2", 3, 10)},
		{"c2 among themselves", c.StartLoadBetween("c2", "c2", 3, 10)},
	}
	report := func(when string) (slowest []time.Duration) {
		for _, l := range loads {
			d := l.Slowest()
			slowest = append(slowest, d)
			t.Logf("%-22s %-20s slowest acknowledgement %v", when, l.who, d.Round(time.Millisecond))
		}
		return slowest
	}
	report("while starting")
	time.Sleep(away / 3) // for comparison
	report("before")
	pids := c.Pids()
	killed := 0
	for node, pid := range pids {
		if !strings.HasPrefix(node, "c2-") {
			continue
		}
		killed++
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if killed != 3 {
		t.Fatalf("%d nodes of c2 killed", killed)
	}
	time.Sleep(away * 2 / 3) // the fault itself: it lasts longer
	others := report("c2 away")[0]
	if others > away/2 {
		t.Errorf("who has nothing to do with c2 waited %s for an acknowledgement", others)
	}
	c.Until("the nodes of c2 are back", func() error {
		now := c.Pids()
		for node, pid := range pids {
			if strings.HasPrefix(node, "c2-") && (now[node] == 0 || now[node] == pid) {
				return errors.New(node + " is not")
			}
		}
		return nil
	})
	c.UntilSettled()
	for _, l := range loads {
		l.End()
	}
	if after := report("c2 back"); after[2] < away/2 {
		t.Errorf("people of c2 waited %s only, it was away for %s", after[2], away)
	}
	for _, l := range loads {
		t.Logf("%s: %d messages", l.who, l.Check())
		l.noLosses()
	}
}
