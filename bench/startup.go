package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/version"
)

// The bars of a start: until a message has gone round, and of the resident
// memory of a cluster of two cells that nobody uses.
const (
	startupEmptyBar  = 1.5 // s
	startupCleanBar  = 1.5
	startupKilledBar = 2.0
	startupBytesBar  = 150e6
	// startupRest lets a cluster come to rest before memory is looked at.
	startupRest = 2 * time.Second
)

// StartupConfig says what to start. Of its Common, Server, Admin, CA and
// Transport are not used.
type StartupConfig struct {
	Common
	Waggle string
	Repeat int
}

// Validate says what is wrong.
func (c *StartupConfig) Validate() error {
	switch {
	case c.Repeat < 1:
		return fmt.Errorf("--repeat %d: from 1", c.Repeat)
	case c.Out == "":
		return errors.New("a folder for the results is missing")
	}
	return nil
}

// Startup is the part of a result that only startup has: seconds until a
// message has gone round, and resident bytes of the whole empty cluster.
type Startup struct {
	EmptyS              *Spread `json:"empty_s"`
	CleanS              *Spread `json:"clean_s"`  // after SIGTERM
	KilledS             *Spread `json:"killed_s"` // after SIGKILL, under load until shortly before
	EmptyBytes          *Spread `json:"empty_bytes"`
	EmptyBytesCollected *Spread `json:"empty_bytes_collected"`
}

// StartupOf starts a cluster on an empty folder, after a clean stop and after
// SIGKILL, a number of times, and writes how long it took to a folder.
//
// Errors: what kept the measurement from being one.
func StartupOf(ctx context.Context, cfg StartupConfig) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := makeOut(&cfg.Common); err != nil {
		return nil, err
	}
	r := &Result{
		Mode: "startup", Commit: version.Commit(), Command: cfg.Command, Machine: machine(), Transport: string(client.TCP), Placement: SameCell,
		Errors: map[string]int{}, LimitedBy: "the start itself", Startup: &Startup{},
	}
	var all startupTimes
	for i := range cfg.Repeat {
		cfg.say("== start %d of %d: empty, after a clean stop, after SIGKILL", i+1, cfg.Repeat)
		one, err := cfg.one(ctx, r)
		if err != nil {
			return nil, err
		}
		for j, v := range one {
			all[j] = append(all[j], v...)
		}
		cfg.say("%.2f s, %.2f s, %.2f s; %.0f MB empty", one[0][0], one[1][0], one[2][0], one[3][0]/1e6)
	}
	r.Startup = &Startup{EmptyS: spreadOf(all[0]), CleanS: spreadOf(all[1]), KilledS: spreadOf(all[2]), EmptyBytes: spreadOf(all[3]), EmptyBytesCollected: spreadOf(all[4])}
	if err := writeResult(cfg.Out, r); err != nil {
		return nil, err
	}
	notes := []note{
		{"cluster", "`waggle dev --no-demo`: two cells, control plane, etcd and edge in one process"},
		{"ready", "from the start of the program until `--ready-file` is there: a message has gone round"},
	}
	return r, writeParts(cfg.Out, reportHead(r, time.Now(), notes), startupText(r.Startup))
}

// startupTimes are the values of the keys of [Startup].
type startupTimes [5][]float64

func (cfg *StartupConfig) one(ctx context.Context, r *Result) (out startupTimes, err error) {
	d, err := newDev(cfg.Waggle)
	if err != nil {
		return out, err
	}
	defer d.close()
	begin := func(to int) error {
		took, err := d.start(ctx)
		out[to] = append(out[to], took.Seconds())
		return err
	}
	if err := begin(0); err != nil {
		return out, err
	}
	if err := rest(ctx, startupRest); err != nil {
		return out, err
	}
	c, err := openCluster(ctx, d.addrs[1])
	if err != nil {
		return out, err
	}
	defer c.close()
	idle := c.measure()
	collected, err := c.measureCollected(ctx)
	if err != nil {
		return out, err
	}
	if idle.missing == nil {
		out[3], out[4] = []float64{float64(idle.memoryTotal())}, []float64{float64(collected.memoryTotal())}
	} else {
		out[3], out[4] = []float64{0}, []float64{0}
	}
	if err := d.stop(); err != nil {
		return out, err
	}
	if err := begin(1); err != nil {
		return out, err
	}
	// Something to recover.
	run := RunConfig{Common: d.common(cfg.Common, filepath.Join(cfg.Out, "load")), Pairs: 20, Window: 40, SizeBytes: 200, Duration: 2 * time.Second, Placement: SameCell}
	run.Transport, run.Progress = client.TCP, nil
	loaded, err := Run(ctx, run)
	if err != nil {
		return out, err
	}
	r.add(loaded)
	d.kill()
	return out, begin(2)
}

// startupText is what startup found, for people.
func startupText(s *Startup) string {
	var b strings.Builder
	b.WriteString("\n| | bar | measured | reached |\n| --- | --- | --- | --- |\n")
	row := func(name, unit string, bar float64, v *Spread, one float64) {
		reached := "no"
		switch {
		case v == nil || v.Max == 0:
			reached = "-"
		case v.Median <= bar:
			reached = "yes"
		}
		number := "-"
		if v != nil {
			number = fmt.Sprintf("%.2f (%.2f–%.2f) %s", v.Median/one, v.Min/one, v.Max/one, unit)
		}
		fmt.Fprintf(&b, "| %s | ≤ %g %s | %s | %s |\n", name, bar/one, unit, number, reached)
	}
	row("ready, empty folder", "s", startupEmptyBar, s.EmptyS, 1)
	row("ready, after a clean stop", "s", startupCleanBar, s.CleanS, 1)
	row("ready, after SIGKILL", "s", startupKilledBar, s.KilledS, 1)
	row("resident memory, empty", "MB", startupBytesBar, s.EmptyBytes, 1e6)
	row("the same, after a collection", "MB", startupBytesBar, s.EmptyBytesCollected, 1e6)
	return b.String()
}
