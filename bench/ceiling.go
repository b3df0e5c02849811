package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/waggle-im/waggle/bench/ceiling"
	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/version"
)

// CeilingConfig says what to measure. Of its Common, Server, Admin, CA and
// Transport are not used; of Load, Command and Look are set here, and Dir is
// where a temporary folder for the stores is made, empty for the system's.
type CeilingConfig struct {
	Common
	Load       ceiling.Config
	Executable string // started as `Executable ceiling-process` for each copy
}

// Validate says what is wrong.
func (c *CeilingConfig) Validate() error {
	if c.Out == "" {
		return errors.New("a folder for the results is missing")
	}
	return c.Load.Validate()
}

// Ceiling is the part of a result that only ceiling has. That of the servers is
// the result's CPUUsPerMessage too, so that [Compare] holds Waggle's against it.
type Ceiling struct {
	Copies                   int      `json:"copies"`
	AckedPS                  float64  `json:"acked_per_s"` // acknowledgements that came in the measured time
	Unsent                   int64    `json:"unsent"`      // of an open loop: due and not sent, since too much was unanswered or the generator too late
	ServerCPUUsPerMessage    *float64 `json:"server_cpu_us_per_message"`
	GeneratorCPUUsPerMessage *float64 `json:"generator_cpu_us_per_message"`
}

// CeilingOf measures what the least that a durable chat server can do takes (see
// the package ceiling) and writes it to a folder.
//
// Errors: what kept the measurement from being one.
func CeilingOf(ctx context.Context, cfg CeilingConfig) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := new(cluster) // of the servers' processes
	if err := c.enoughDescriptors(2*cfg.Load.Pairs, 0); err != nil {
		return nil, err
	}
	if err := makeOut(&cfg.Common); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cfg.Load.Dir, "waggle-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: a folder for the stores: %w", err)
	}
	defer os.RemoveAll(dir)
	var looks []usage
	load := cfg.Load
	load.Dir, load.Command = dir, []string{cfg.Executable, "ceiling-process"}
	load.Look = func(pids []int) {
		c.processes = nil
		for _, pid := range pids {
			c.processes = append(c.processes, process{name: "ceiling", pid: pid})
		}
		looks = append(looks, c.measure())
	}
	cfg.say("%s: %s", load.WarmUp+load.Duration, cfg.describe())
	disk := startSyncSampler(dir)
	got, err := ceiling.Run(ctx, load)
	sync := disk.end()
	if err != nil {
		return nil, err
	}
	m := measured{from: looks[0], to: looks[1], ackedInWindow: got.Answered, sync: sync}
	r := cfg.result(got, m)
	if err := writeResult(cfg.Out, r); err != nil {
		return nil, err
	}
	return r, writeParts(cfg.Out, reportHead(r, time.Now(), cfg.notes(m)), ceilingText(r), latencyTable(r))
}

func (c *CeilingConfig) result(got *ceiling.Result, m measured) *Result {
	load := &c.Load
	r := &Result{
		Mode: "ceiling", Commit: version.Commit(), Command: c.Command, Machine: machine(), Transport: string(client.TCP),
		Connections: 2 * load.Pairs, OfferedRate: load.Rate, Sent: got.Sent, Acked: got.Acked, Received: got.Pushed,
		Errors: map[string]int{}, AckMs: quantilesOf(got.Latencies),
		Ceiling:   &Ceiling{Copies: load.Copies, AckedPS: round(m.ackedPS()), Unsent: got.Unsent},
		LimitedBy: limitedBy(load.Rate, load.Window, got.Latencies.Mean()/1000, m),
	}
	if load.Window > 0 {
		r.OfferedRate = round(float64(got.Sent) / load.Duration.Seconds())
	}
	if m.from.missing == nil && m.to.missing == nil && m.ackedInWindow > 0 {
		each := func(d time.Duration) *float64 {
			return some(round(float64(d.Microseconds()) / float64(m.ackedInWindow)))
		}
		r.CPUUsPerMessage = each(m.to.serverCPU - m.from.serverCPU)
		r.Ceiling.ServerCPUUsPerMessage = r.CPUUsPerMessage
		r.Ceiling.GeneratorCPUUsPerMessage = each(m.to.ownCPU - m.from.ownCPU)
	}
	return r
}

func (c *CeilingConfig) describe() string {
	how := fmt.Sprintf("open loop, %g messages/s", c.Load.Rate)
	if c.Load.Window > 0 {
		how = fmt.Sprintf("closed loop, %d outstanding in all", c.Load.Window)
	}
	return fmt.Sprintf("%s; %d pairs, %d bytes", how, c.Load.Pairs, c.Load.SizeBytes)
}

func (c *CeilingConfig) notes(m measured) []note {
	out := []note{
		{"load", c.describe()},
		{"measured", fmt.Sprintf("%s after a warm-up of %s", c.Load.Duration, c.Load.WarmUp)},
		{"acknowledged in that time", fmt.Sprintf("%d, that is %.0f messages/s", m.ackedInWindow, m.ackedPS())},
		{"server processes", fmt.Sprint(c.Load.Copies)},
	}
	if err := errors.Join(m.from.missing, m.to.missing); err != nil {
		out = append(out, note{"servers' CPU", fmt.Sprintf("not known: %v", m.to.missing)})
	} else {
		out = append(out, cpuNotes(m)...)
	}
	return append(out, syncNotes(m)...)
}

// ceilingText is what ceiling found, for people.
func ceilingText(r *Result) string {
	var b strings.Builder
	copies, synced := "one copy", "synced to disk"
	if r.Ceiling.Copies > 1 {
		copies, synced = fmt.Sprintf("%d copies", r.Ceiling.Copies), "synced by a majority of processes"
	}
	fmt.Fprintf(&b, "\n**%s messages/s acknowledged with %s", thousands(int64(math.Round(r.Ceiling.AckedPS))), copies)
	if q := r.AckMs; q != nil {
		fmt.Fprintf(&b, ", 99 %% of them within %s", duration(q.P99))
	}
	fmt.Fprintf(&b, ".** A ceiling is the least a durable chat server can do, to hold Waggle's figures against on the same machine: messages come over TLS, are %s in batches, acknowledged, and pushed to the peer."+
		" It knows nothing of accounts, order, resumption, routes or marks.\n", synced)
	b.WriteString("\n| | |\n| --- | --- |\n")
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "| %s | "+format+" |\n", append([]any{name}, args...)...)
	}
	row("connections", "%d", r.Connections)
	row("offered rate", "%.0f messages/s", r.OfferedRate)
	row("sent, acknowledged, received", "%d, %d, %d", r.Sent, r.Acked, r.Received)
	if n := r.Ceiling.Unsent; n > 0 {
		row("due but not sent (too much unanswered, or the generator too late)", "%d", n)
	}
	for _, cpu := range []struct {
		of    string
		value *float64
	}{{"server", r.Ceiling.ServerCPUUsPerMessage}, {"generator", r.Ceiling.GeneratorCPUUsPerMessage}} {
		if cpu.value != nil {
			row(cpu.of+" CPU per message, µs", "%.1f", *cpu.value)
		}
	}
	row("limited by", "%s", r.LimitedBy)
	return b.String()
}
