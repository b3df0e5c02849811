package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/internal/version"
)

// LimitsConfig says how to look for a cell's limits.
type LimitsConfig struct {
	Common
	Cell           string        // empty: the first one
	P99            time.Duration // the bar: of acknowledgements, from when a message was due
	ConnectionsMax int           // idle ones, tried at most
	Levels         int           // of the ramp, a client process each
	Hold           time.Duration // of all idle connections, to see their CPU
	Rest           time.Duration // before memory is looked at
	Pairs          int
	SizeBytes      int
	Step           time.Duration // measured, of each rate
	WarmUp         time.Duration // before each, not measured
	RateStart      float64       // messages/s
	RateMax        float64       // never more, except for twice the knee
	Factor         float64       // from one rate to the next
	Halvings       int           // of the gap at the knee
	Procs          int           // client processes for the messages; 0 and 1: this one
	Executable     string        // started as `Executable hold` and `Executable member`; empty: held in this process
}

// Validate says what is wrong.
func (c *LimitsConfig) Validate() error {
	if err := c.Common.Validate(); err != nil {
		return err
	}
	switch {
	case c.P99 < time.Millisecond:
		return fmt.Errorf("--p99 %s: from 1ms", c.P99)
	case c.ConnectionsMax < 1:
		return fmt.Errorf("--connections-max %d: from 1", c.ConnectionsMax)
	case c.Levels < 1:
		return fmt.Errorf("--procs %d: from 1", c.Levels)
	case c.Pairs < 1:
		return fmt.Errorf("--pairs %d: from 1", c.Pairs)
	case c.Procs < 0 || c.Procs > c.Pairs:
		return fmt.Errorf("--message-procs %d: from 1 to the number of pairs", c.Procs)
	case c.SizeBytes < SizeBytesMin || c.SizeBytes > sizeBytesMax:
		return fmt.Errorf("--size %d: from %d to %d", c.SizeBytes, SizeBytesMin, sizeBytesMax)
	case c.Step < 100*time.Millisecond || c.WarmUp < 0:
		return fmt.Errorf("--step %s after --warm-up %s: from 100ms after 0", c.Step, c.WarmUp)
	case c.RateStart < 1 || c.RateMax < c.RateStart:
		return fmt.Errorf("--rate-start %g and --rate-max %g: from 1, and not above the other", c.RateStart, c.RateMax)
	case c.Factor <= 1.05 || c.Factor > 10:
		return fmt.Errorf("--factor %g: above 1.05, up to 10", c.Factor)
	case c.Halvings < 0 || c.Halvings > 10:
		return fmt.Errorf("--halvings %d: from 0 to 10", c.Halvings)
	case c.Hold < 0 || c.Rest < 0:
		return errors.New("--hold is below 0")
	}
	return nil
}

// limitsRun is a limits run at work.
type limitsRun struct {
	cfg   LimitsConfig
	c     *cluster
	ramp  *ramp
	load  *load
	steps *steps
	crew  *crew // sends the messages; nil: this process does
	found Limits
}

// LimitsOf looks for what one cell bears: it ramps idle connections up, then
// messages between pairs of the cell, the connections still held, and ends
// with twice the rate that the cell bore. It writes what it found to a folder.
//
// Errors: what kept the measurement from being one. That the generator was the
// limit is no error: see [Result.Faults].
func LimitsOf(ctx context.Context, cfg LimitsConfig) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	c, err := openCluster(ctx, cfg.Admin)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if cfg.Cell == "" {
		cfg.Cell = c.cells[0]
	}
	if !slices.Contains(c.cells, cfg.Cell) {
		return nil, fmt.Errorf("--cell %s: not among the active cells %v", cfg.Cell, c.cells)
	}
	if err := c.enoughDescriptors(2*cfg.Pairs/max(cfg.Procs, 1)+2, 2*cfg.Pairs); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return nil, fmt.Errorf("bench: make the folder for the results: %w", err)
	}
	run := &limitsRun{cfg: cfg, c: c, found: Limits{Cell: cfg.Cell, BarMs: float64(cfg.P99) / float64(time.Millisecond)}}
	plan, err := newPlan(2*cfg.Pairs, cfg.Pairs, 1, SameCell)
	if err != nil {
		return nil, err
	}
	bound, why := run.cfg.bound(c)
	if bound < 1 {
		return nil, fmt.Errorf("not one idle connection can be tried: %s", why)
	}
	if why != "" {
		cfg.say("at most %d idle connections instead of %d: %s", bound, cfg.ConnectionsMax, why)
	}
	cfg.say("making %d accounts in cell %s", bound+2*cfg.Pairs, cfg.Cell)
	accounts, err := c.addAccounts(ctx, slices.Repeat([]string{cfg.Cell}, bound+2*cfg.Pairs))
	if err != nil {
		return nil, err
	}
	run.ramp = &ramp{cfg: &run.cfg, c: c, out: LimitConnections{Asked: cfg.ConnectionsMax, Bound: bound, BoundedBy: why}}
	loadCfg := &RunConfig{
		Common: cfg.Common, Users: 2 * cfg.Pairs, Pairs: cfg.Pairs, SizeBytes: cfg.SizeBytes, Placement: SameCell,
		Duration: 24 * time.Hour, // every message counts, however long the steps take
	}
	run.load = newLoad(loadCfg, tlsConfig, plan, accounts[bound:])
	defer run.load.close()
	defer func() {
		if run.crew != nil {
			run.crew.close()
		}
	}()
	return run.all(ctx, accounts[:bound])
}

func (r *limitsRun) all(ctx context.Context, idle []account) (*Result, error) {
	r.cfg.say("ramping up %d idle connections by %s", len(idle), r.cfg.Transport)
	err := r.ramp.climb(ctx, idle)
	if err == nil {
		err = r.messages(ctx)
	}
	disconnects, ended := r.ramp.end()
	if err = errors.Join(err, ended); err != nil {
		return nil, err
	}
	return r.judge(ctx, disconnects)
}

// messages finds the knee and goes to twice of it.
func (r *limitsRun) messages(ctx context.Context) error {
	l := r.load
	r.steps = &steps{l: l, c: r.c, bar: r.cfg.P99, warmUp: r.cfg.WarmUp, step: r.cfg.Step}
	l.measures, l.observe, l.refused = "limits", r.steps.observe, r.steps.refused
	r.cfg.say("connecting %d pairs", r.cfg.Pairs)
	if err := r.connect(ctx); err != nil {
		return err
	}
	if err := r.c.collectGarbage(ctx); err != nil {
		return err
	}
	l.start = time.Now()
	search := newKneeSearch(r.cfg.RateStart, r.cfg.Factor, r.cfg.RateMax, r.cfg.Halvings)
	for rate, more := search.next(); more; rate, more = search.next() {
		phase := "growing"
		if search.bisecting() {
			phase = "bisecting"
		}
		passed, err := r.try(ctx, phase, rate)
		if err != nil {
			return err
		}
		search.judged(passed)
	}
	r.conclude(search.good)
	if r.found.KneePerSecond == nil {
		return nil
	}
	knee := kneeStep(r.found.Steps, search.good)
	over, err := r.one(ctx, "twice the knee", 2*search.good, false)
	if err != nil {
		return err
	}
	r.found.Overload = &over
	if knee.AckedPS > 0 {
		r.found.OverloadShare = some(float64(int(1000*over.AckedPS/knee.AckedPS+0.5)) / 1000)
	}
	return nil
}

// connect connects the pairs, from this process or from several.
func (r *limitsRun) connect(ctx context.Context) (err error) {
	if r.cfg.Procs <= 1 {
		return r.load.connect(ctx)
	}
	if r.crew, err = startCrew(ctx, r.load, r.c, r.cfg.Procs, r.cfg.Executable); err == nil {
		_, err = r.crew.gather()
	}
	return err
}

// try offers a rate, and once more if it breaks: a hiccup of the machine is
// not the cell's limit.
func (r *limitsRun) try(ctx context.Context, phase string, rate float64) (bool, error) {
	for again := range 2 {
		if again == 1 {
			phase += ", again"
		}
		s, err := r.one(ctx, phase, rate, true)
		if err != nil {
			return false, err
		}
		r.found.Steps = append(r.found.Steps, s)
		if s.Passed {
			if rate >= r.best() {
				r.found.Headroom = r.headroom(s)
			}
			return true, nil
		}
	}
	return false, nil
}

// best is the highest rate that passed.
func (r *limitsRun) best() (out float64) {
	for _, s := range r.found.Steps {
		if s.Passed {
			out = max(out, s.OfferedPS)
		}
	}
	return out
}

func (r *limitsRun) one(ctx context.Context, phase string, rate float64, mayCut bool) (LimitStep, error) {
	var s LimitStep
	var err error
	if r.crew != nil {
		s, err = r.crew.step(r.steps, phase, rate, mayCut)
	} else {
		s, err = r.steps.run(ctx, phase, rate, mayCut)
	}
	if err != nil {
		return s, err
	}
	p99, verdict := "-", "holds"
	if s.AckMs != nil {
		p99 = fmt.Sprintf("%.1f", s.AckMs.P99)
	}
	if !s.Passed {
		verdict = "broke: " + s.Broke
	}
	r.cfg.say("%7.0f/s offered, %7.0f/s acknowledged, p99 %s ms, %s (%s)", rate, s.AckedPS, p99, verdict, phase)
	return s, nil
}

// headroom looks at the resources right after a step.
func (r *limitsRun) headroom(s LimitStep) Headroom {
	out := Headroom{CPUBusyShare: s.BusyShare, ServerCPUs: s.ServerCPUs, OwnCPUs: s.OwnCPUs}
	if total, available, err := readMemory(); err == nil {
		out.MemoryTotal, out.MemoryUsed = total, total-available
	}
	for _, p := range r.c.processes {
		if !p.edge {
			continue
		}
		open, err := readDescriptors(p.pid)
		limit, errLimit := descriptorLimit(p.pid)
		if err == nil && errLimit == nil && open > out.Descriptors {
			out.Descriptors, out.DescriptorsLimit = open, limit
		}
	}
	return out
}

// conclude says what broke first, and whether the knee is the cell's.
func (r *limitsRun) conclude(knee float64) {
	f := &r.found
	broken := lowestBroken(f.Steps, knee)
	switch {
	case broken == nil:
		f.Broke = brokeBound
		f.Detail = fmt.Sprintf("nothing broke up to %s messages/s: --rate-max allows no more", thousands(int64(r.cfg.RateMax)))
	default:
		f.Broke, f.Detail = broken.Broke, broken.describe()
	}
	if f.Broke == brokeGenerator {
		f.Refused = fmt.Sprintf("at %s messages/s the generator sent 1 %% of the messages more than %.1f ms after they were due while the machine had idle CPU: "+
			"that is a limit of waggle-bench here, not of the cell. Run it again with more CPUs for it, on another machine than the servers', or with more --message-procs",
			thousands(int64(broken.OfferedPS)), broken.LagMs.P99)
		return
	}
	if knee > 0 {
		f.KneePerSecond = some(knee)
	}
}

// othersShare is the part of the CPU in use from which on what neither servers
// nor generator used makes a limit doubtful; the kernel's own work on sockets
// stays well below.
const othersShare = 0.25

func (s *LimitStep) describe() string {
	out := fmt.Sprintf("at %s messages/s", thousands(int64(s.OfferedPS)))
	if s.AckMs != nil {
		out += fmt.Sprintf(" p99 was %.0f ms", s.AckMs.P99)
	}
	if s.BusyShare != nil {
		out += fmt.Sprintf(", the machine's CPUs %.0f %% busy (servers %.2f, generator %.2f, others and the kernel %.2f CPUs)",
			100**s.BusyShare, *s.ServerCPUs, *s.OwnCPUs, *s.OtherCPUs)
		if s.Broke == brokeCPU && *s.OtherCPUs > othersShare*(*s.ServerCPUs+*s.OwnCPUs+*s.OtherCPUs) {
			out += ", a good part of it other programs': measure again on a quiet machine"
		}
	}
	return out
}

// settle waits for what is on its way. The first error says who lacks what.
func (r *limitsRun) settle(ctx context.Context) (h history.History, unsettled, err error) {
	if r.crew != nil {
		return r.crew.end()
	}
	unsettled = r.load.settle(ctx)
	return r.load.recorder.History(), unsettled, nil
}

// judge waits for what is on its way, checks the history and writes
// everything down.
func (r *limitsRun) judge(ctx context.Context, disconnects int64) (*Result, error) {
	l := r.load
	r.cfg.say("waiting until everybody has everything, and checking the history")
	h, unsettled, err := r.settle(ctx)
	if err != nil {
		return nil, err
	}
	violations := history.Check(h)
	f := &r.found
	f.Connections = r.ramp.out
	res := &Result{
		Mode: "limits", Commit: version.Commit(), Command: r.cfg.Command, Machine: machine(), Transport: string(r.cfg.Transport), Placement: SameCell,
		Connections: f.Connections.Held + len(l.people), Sent: l.sent.Load(), Acked: l.ack.count(), Received: l.deliver.count(),
		Disconnects: disconnects + l.disconnects.Load(), Errors: l.errorCounts(), LimitedBy: f.Broke + ": " + f.Detail, Limits: f,
		CPUUsPerIdleConnection: r.ramp.cpu, ConnectsPerSecond: some(round(float64(f.Connections.Held) / max(r.ramp.took.Seconds(), 0.001))),
	}
	if f.Refused != "" {
		res.LimitedBy = "the generator: " + f.Refused
	}
	res.count(violations)
	if unsettled != nil {
		res.Errors["not settled"]++
	}
	if n := len(f.Connections.Points); n > 0 {
		last := f.Connections.Points[n-1]
		res.ServerBytesPerConnection = some(round(float64(last.ServerBytes) / float64(last.Connections)))
		res.KernelBytesPerConnection = some(round(float64(last.KernelBytes) / float64(last.Connections)))
	}
	if f.KneePerSecond != nil {
		s := kneeStep(f.Steps, *f.KneePerSecond)
		res.OfferedRate, res.AckMs = s.OfferedPS, s.AckMs
		if s.ServerCPUs != nil && s.AckedPS > 0 {
			res.CPUUsPerMessage = some(round(1e6 * *s.ServerCPUs / s.AckedPS))
		}
	}
	if err := writeResult(r.cfg.Out, res); err != nil {
		return nil, err
	}
	return res, r.report(res, unsettled, violations)
}
