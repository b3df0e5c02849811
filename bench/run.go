package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/internal/version"
)

// descriptorsSpare is what a process opens beside its connections.
const descriptorsSpare = 256

// Run sends messages between pairs and writes the results to a folder. The
// result is there whenever the error is nil, also if the servers broke a
// promise: see [Result.Faults].
//
// Errors: what kept the measurement from being one.
func Run(ctx context.Context, cfg RunConfig) (*Result, error) {
	return runWith(ctx, cfg, new(runDetail))
}

// runDetail is what a run saw beside its result.
type runDetail struct {
	lag         *Quantiles // of the generator
	busyShare   *float64   // of the machine's CPUs
	ackedPS     float64    // messages/s
	serverBytes int64      // resident, at the end of the load; 0: not known
}

func runWith(ctx context.Context, cfg RunConfig, detail *runDetail) (*Result, error) {
	if cfg.Users == 0 {
		cfg.Users = 2 * cfg.Pairs
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l, c, err := prepare(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	defer c.close()
	defer l.close()
	l.detail = detail
	if cfg.Procs > 1 {
		return l.runByCrew(ctx, c)
	}
	m, err := l.measure(ctx, c)
	if err != nil {
		return nil, err
	}
	return l.judge(ctx, c, m)
}

// runByCrew lets several client processes send.
func (l *load) runByCrew(ctx context.Context, c *cluster) (*Result, error) {
	if err := c.collectGarbage(ctx); err != nil {
		return nil, err
	}
	before := c.measure()
	l.cfg.say("connecting by %s from %d processes", l.cfg.Transport, l.cfg.Procs)
	start := time.Now()
	w, err := startCrew(ctx, l, c, l.cfg.Procs, l.cfg.Executable)
	if err != nil {
		return nil, err
	}
	defer w.close()
	if _, err := w.gather(); err != nil {
		return nil, err
	}
	connecting := time.Since(start)
	if err := c.collectGarbage(ctx); err != nil {
		return nil, err
	}
	connected := c.measure()
	disk := startSyncSampler(l.cfg.Out)
	m, err := w.send()
	m.sync = disk.end()
	if err != nil {
		return nil, err
	}
	m.before, m.connected, m.connecting = before, connected, connecting
	l.cfg.say("waiting until everybody has everything, and reading what is stored")
	h, unsettled, err := w.end()
	if err != nil {
		return nil, err
	}
	return l.conclude(c, m, h, unsettled)
}

// measure connects everybody and sends.
func (l *load) measure(ctx context.Context, c *cluster) (measured, error) {
	if err := c.collectGarbage(ctx); err != nil {
		return measured{}, err
	}
	before := c.measure()
	l.cfg.say("connecting by %s", l.cfg.Transport)
	start := time.Now()
	if err := l.connect(ctx); err != nil {
		return measured{}, err
	}
	connecting := time.Since(start)
	if err := c.collectGarbage(ctx); err != nil {
		return measured{}, err
	}
	connected := c.measure()
	disk := startSyncSampler(l.cfg.Out)
	m, err := l.send(ctx, c)
	m.sync = disk.end()
	m.before, m.connected, m.connecting = before, connected, connecting
	return m, err
}

// judge waits for what is on its way, and concludes.
func (l *load) judge(ctx context.Context, c *cluster, m measured) (*Result, error) {
	l.cfg.say("waiting until everybody has everything, and reading what is stored")
	unsettled := l.settle(ctx)
	return l.conclude(c, m, l.recorder.History(), unsettled)
}

// conclude checks the history and writes everything down.
func (l *load) conclude(c *cluster, m measured, h history.History, unsettled error) (*Result, error) {
	l.cfg.say("checking the history")
	violations := history.Check(h)
	if l.detail != nil {
		l.detail.fill(l, m)
	}
	r := l.result(c, m, violations)
	notes := l.notes(c, m)
	if unsettled != nil {
		r.Errors["not settled"]++
		notes = append(notes, note{"not settled", unsettled.Error()})
	}
	if err := writeHistory(l.cfg.Out, h); err != nil {
		return nil, err
	}
	if err := writeResult(l.cfg.Out, r); err != nil {
		return nil, err
	}
	return r, writeReport(l.cfg.Out, r, notes, violations, charts{ack: l.ack, deliver: l.deliver, warmUp: l.cfg.WarmUp, marks: l.marks})
}

func (d *runDetail) fill(l *load, m measured) {
	d.lag = l.lag.quantiles()
	d.ackedPS = m.ackedPS()
	if m.from.missing == nil && m.to.missing == nil {
		busy, idle := m.to.busy-m.from.busy, m.to.idle-m.from.idle
		d.busyShare = some(busy.Seconds() / (busy + idle).Seconds())
		d.serverBytes = m.to.memoryTotal()
	}
}

// enoughDescriptors refuses what would run out of descriptors half-way.
func (c *cluster) enoughDescriptors(own, servers int) error {
	if limit, err := descriptorLimit(0); err == nil && limit < int64(own+descriptorsSpare) {
		return fmt.Errorf("a client process would need %d descriptors, its limit is %d: raise it (`ulimit -n %d`), or with `idle` give more --procs",
			own+descriptorsSpare, limit, own+descriptorsSpare)
	}
	edges, limits := 0, int64(0)
	for _, p := range c.processes {
		if !p.edge {
			continue
		}
		limit, err := descriptorLimit(p.pid)
		if err != nil {
			return nil // elsewhere: it will say so itself
		}
		edges++
		limits += limit - descriptorsSpare
	}
	if edges > 0 && limits < int64(servers) {
		return fmt.Errorf("%d connections are more than the %d descriptors the edges may open: start the cluster after `ulimit -n %d`, or with more --edges",
			servers, limits, servers+descriptorsSpare)
	}
	return nil
}

// measured is what the servers used while the load ran.
type measured struct {
	before, connected usage // before and after connecting
	from, to          usage // the measured window
	connecting        time.Duration
	ackedInWindow     int64 // answers that came in it, for whatever was due when
	sync              *Quantiles
}

// ackedPS is in messages/s.
func (m measured) ackedPS() float64 {
	return float64(m.ackedInWindow) / m.to.at.Sub(m.from.at).Seconds()
}

// result needs everything to be at rest.
func (l *load) result(c *cluster, m measured, violations []history.Violation) *Result {
	cfg := l.cfg
	seconds := cfg.Duration.Seconds()
	r := &Result{
		Mode: l.mode(), Commit: version.Commit(), Command: cfg.Command, Machine: machine(), Transport: string(cfg.Transport), Placement: cfg.Placement,
		Connections: len(l.people), OfferedRate: cfg.Rate, Sent: l.sent.Load(), Acked: l.ack.count(), Received: l.deliver.count(),
		Disconnects: l.disconnects.Load(), Errors: l.errorCounts(), Refusals: l.refusalCounts(), AckMs: l.ack.quantiles(), DeliverMs: l.deliver.quantiles(),
		PauseMs:           l.pauses.quantiles(),
		ConnectsPerSecond: some(round(float64(len(l.people)) / m.connecting.Seconds())),
	}
	if cfg.Window > 0 {
		r.OfferedRate = round(float64(r.Sent) / seconds)
	}
	r.count(violations)
	r.LimitedBy = limitedBy(cfg.Rate, cfg.Window, l.ack.mean(), m)
	if m.to.missing == nil && m.before.missing == nil {
		n := float64(len(l.people))
		r.ServerBytesPerConnection = some(round(float64(m.connected.memoryTotal()-m.before.memoryTotal()) / n))
		r.KernelBytesPerConnection = some(round(float64(m.connected.slab-m.before.slab) / n))
		r.ServerBytesByNode = growth(m.before, m.connected)
		if m.ackedInWindow > 0 {
			r.CPUUsPerMessage = some(round(float64((m.to.serverCPU - m.from.serverCPU).Microseconds()) / float64(m.ackedInWindow)))
		}
	}
	return r
}

func growth(from, to usage) map[string]int64 {
	out := map[string]int64{}
	for name, b := range to.memory {
		out[name] = b - from.memory[name]
	}
	return out
}

// busyShare is from where on a machine's CPUs count as used up: the rest goes
// to waiting for one of them while another has nothing to do.
const busyShare = 0.9

// limitedBy says what kept the rate of an open or a closed loop from being
// higher, as far as the numbers tell; mean is of the acknowledgements, in ms.
func limitedBy(rate float64, window int, mean float64, m measured) string {
	perSecond := m.ackedPS()
	if m.from.missing != nil || m.to.missing != nil {
		return "unknown: " + errors.Join(m.from.missing, m.to.missing).Error()
	}
	server, own := cores(m.to.serverCPU-m.from.serverCPU, m.from, m.to), cores(m.to.ownCPU-m.from.ownCPU, m.from, m.to)
	busy, idle := m.to.busy-m.from.busy, m.to.idle-m.from.idle
	share := busy.Seconds() / (busy + idle).Seconds()
	detail := fmt.Sprintf("servers %.2f, generator %.2f CPUs; the machine's CPUs %.0f %% busy", server, own, 100*share)
	all := cores(busy, m.from, m.to)
	switch {
	case rate > 0 && perSecond >= 0.98*rate && share < busyShare:
		return "the offered rate (" + detail + ")"
	case rate > 0 && perSecond >= 0.98*rate:
		return "the offered rate, with CPUs used up: latency is waiting for one (" + detail + ")"
	case share >= busyShare && server+own < 0.8*all:
		return "CPU, a good part of it used by other programs (" + detail + ")"
	case share >= busyShare && own > server:
		return "CPU, most of it the generator's (" + detail + ")"
	case share >= busyShare:
		return "CPU, most of it the servers' (" + detail + ")"
	case window > 0:
		return fmt.Sprintf("latency: %d outstanding at %.1f ms on average (%s)", window, mean, detail)
	}
	return "the servers' latency, CPUs not used up (" + detail + ")"
}

func writeHistory(dir string, h history.History) error {
	return writeHistoryFile(filepath.Join(dir, historyFile), h)
}

func writeHistoryFile(path string, h history.History) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("bench: write the history: %w", err)
	}
	if err := errors.Join(history.Write(f, h), f.Close()); err != nil {
		return fmt.Errorf("bench: write the history: %w", err)
	}
	return nil
}

func readHistory(path string) (history.History, error) {
	f, err := os.Open(path)
	if err != nil {
		return history.History{}, fmt.Errorf("bench: read a history: %w", err)
	}
	defer f.Close()
	h, err := history.Read(f)
	if err != nil {
		return h, fmt.Errorf("bench: %s: %w", path, err)
	}
	return h, nil
}
