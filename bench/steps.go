package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/waggle-im/waggle/proto"
)

const (
	// achievedShare is the part of an offered rate that must be acknowledged
	// within the bar: then the bar holds at p99, unanswered ones included.
	achievedShare = 0.99
	// lagShare is the part of the bar that the generator's own delay may take
	// at p99 before a step that broke says more about it than about the cell.
	lagShare = 0.25
	// cutBehind is how far behind a step is cut short: its latency is beyond
	// any bar by then.
	cutBehind = 2 * time.Second
	// cutSpare is how many unanswered messages are nothing unusual at any rate.
	cutSpare = 1000
	// memoryLow is the free part of the machine's memory below which it broke.
	memoryLow = 0.05
)

// meter counts the messages due in a span of time.
type meter struct {
	from, to time.Duration // since the load's start
	bar      time.Duration

	mu       sync.Mutex // guards the fields below
	ack, lag *hdrhistogram.Histogram
	accepted *hdrhistogram.Histogram // from the sending that was accepted
	due      int64
	inBar    int64
	refusals map[string]int
}

func newMeter(from, to, bar time.Duration) *meter {
	return &meter{from: from, to: to, bar: bar, ack: newHistogram(3), lag: newHistogram(3), accepted: newHistogram(3), refusals: map[string]int{}}
}

func (m *meter) sent(at, lag time.Duration) {
	if at < m.from || at >= m.to {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.due++
	_ = m.lag.RecordValue(min(max(lag.Microseconds(), 1), latencyMax.Microseconds()))
}

func (m *meter) acked(at, took, accepted time.Duration) {
	if at < m.from || at >= m.to {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if took <= m.bar {
		m.inBar++
	}
	_ = m.ack.RecordValue(min(max(took.Microseconds(), 1), latencyMax.Microseconds()))
	_ = m.accepted.RecordValue(min(max(accepted.Microseconds(), 1), latencyMax.Microseconds()))
}

func (m *meter) refused(e *proto.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusals[e.Code.String()]++
}

// steps offers rates to one load, one after the other.
type steps struct {
	l       *load
	c       *cluster
	bar     time.Duration
	warmUp  time.Duration
	step    time.Duration
	n       int64 // messages so far
	senders sync.WaitGroup

	mu    sync.Mutex // guards meter
	meter *meter     // of the step at work: the one before has been drained
}

func (s *steps) current() *meter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meter
}

func (s *steps) observe(at, took, accepted time.Duration) {
	if m := s.current(); m != nil {
		m.acked(at, took, accepted)
	}
}

func (s *steps) refused(e *proto.Error) {
	if m := s.current(); m != nil {
		m.refused(e)
	}
}

// run offers a rate for a step, waits until everything is answered or given
// up, and judges.
func (s *steps) run(ctx context.Context, phase string, rate float64, mayCut bool) (LimitStep, error) {
	begin := time.Since(s.l.start)
	m := newMeter(begin+s.warmUp, begin+s.warmUp+s.step, s.bar)
	s.mu.Lock()
	s.meter = m
	s.mu.Unlock()
	offering, stop := context.WithCancel(ctx)
	defer stop()
	cut := make(chan struct{})
	offered := make(chan struct{})
	go func() { // ends with its schedule or ctx; waited for below
		defer close(offered)
		if !s.offer(offering, m, begin, rate, mayCut) {
			close(cut)
		}
	}()
	errors := s.l.errorTotal()
	from, acked := s.c.measure(), s.l.ackedAll.Load()
	if waitUntil(ctx, s.l.start.Add(m.from), cut) {
		from, acked = s.c.measure(), s.l.ackedAll.Load()
	}
	waitUntil(ctx, s.l.start.Add(m.to), cut)
	to, ackedTo := s.c.measure(), s.l.ackedAll.Load()
	<-offered
	if ctx.Err() != nil {
		s.l.stop() // answers no longer count
	}
	s.senders.Wait()
	if err := ctx.Err(); err != nil {
		return LimitStep{}, err
	}
	if from.missing == nil && to.missing != nil {
		return LimitStep{}, fmt.Errorf("a server went away at %.0f messages/s: %w", rate, to.missing)
	}
	out := m.step(phase, rate, from, to)
	out.AckedPS = round(float64(ackedTo-acked) / to.at.Sub(from.at).Seconds())
	select {
	case <-cut:
		out.CutShort = true
	default:
	}
	out.judge(s.bar, s.l.errorTotal()-errors)
	return out, nil
}

// waitUntil is false if it was cut short, or ctx ended.
func waitUntil(ctx context.Context, t time.Time, cut <-chan struct{}) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-cut:
	case <-ctx.Done():
	}
	return false
}

// offer sends what is due, whatever is answered when. It is false where it
// gave up, being too far behind.
func (s *steps) offer(ctx context.Context, m *meter, begin time.Duration, rate float64, mayCut bool) bool {
	for k := int64(0); ctx.Err() == nil; k++ {
		at := begin + time.Duration(float64(s.l.share.number(k))/rate*float64(time.Second))
		if at >= m.to {
			return true
		}
		if early := at - time.Since(s.l.start); early > 0 {
			time.Sleep(early)
		}
		outstanding := s.l.outstanding.Load()
		if mayCut && outstanding > int64(s.l.share.part(cutSpare+int(rate*cutBehind.Seconds()))) {
			return false
		}
		m.sent(at, time.Since(s.l.start)-at)
		if outstanding >= int64(s.l.share.part(backlogMax)) {
			continue // due and never sent: it counts as unanswered
		}
		wait := s.l.post(s.n, at)
		s.n++
		if wait != nil {
			s.senders.Go(wait)
		}
	}
	return true
}

// step is what was counted, to be called when nothing is outstanding.
func (m *meter) step(phase string, rate float64, from, to usage) LimitStep {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := LimitStep{
		Phase: phase, OfferedPS: rate, Seconds: round((m.to - m.from).Seconds()), Due: m.due, InBar: m.inBar, Late: m.ack.TotalCount() - m.inBar,
		Unanswered: m.due - m.ack.TotalCount(), AckMs: quantilesOf(m.ack), AcceptedMs: quantilesOf(m.accepted), LagMs: quantilesOf(m.lag), Refusals: m.refusals,
	}
	if from.missing == nil && to.missing == nil && to.busy+to.idle > from.busy+from.idle {
		busy, idle := to.busy-from.busy, to.idle-from.idle
		known := to.serverCPU - from.serverCPU + to.ownCPU - from.ownCPU
		out.BusyShare = some(busy.Seconds() / (busy + idle).Seconds())
		out.ServerCPUs = some(cores(to.serverCPU-from.serverCPU, from, to))
		out.OwnCPUs = some(cores(to.ownCPU-from.ownCPU, from, to))
		out.OtherCPUs = some(max(0, cores(busy-known, from, to)))
		for _, v := range []*float64{out.BusyShare, out.ServerCPUs, out.OwnCPUs, out.OtherCPUs} {
			*v = float64(int(*v*1000+0.5)) / 1000
		}
	}
	return out
}

// judge says whether the step passed, or else what broke.
func (s *LimitStep) judge(bar time.Duration, errors int) {
	total, available, err := readMemory()
	switch {
	case err == nil && float64(available) < memoryLow*float64(total):
		s.Broke = brokeMemory
	case !s.CutShort && errors == 0 && s.Due > 0 && float64(s.InBar) >= achievedShare*float64(s.Due):
		s.Passed = true
	case s.lagged(bar) && (s.BusyShare == nil || *s.BusyShare < busyShare):
		s.Broke = brokeGenerator
	case s.BusyShare == nil:
		s.Broke = brokeUnknown
	case *s.BusyShare >= busyShare:
		s.Broke = brokeCPU
	case errors > 0:
		s.Broke = brokeErrors
	default:
		s.Broke = brokeLatency
	}
}

// lagged tells whether the generator's delay is a good part of the bar.
func (s *LimitStep) lagged(bar time.Duration) bool {
	return s.LagMs != nil && s.LagMs.P99 > lagShare*float64(bar)/float64(time.Millisecond)
}

// lowestBroken is the step next above the knee, that says what broke there; nil
// where none broke.
func lowestBroken(all []LimitStep, knee float64) *LimitStep {
	var out *LimitStep
	for i := range all {
		s := &all[i]
		if !s.Passed && s.OfferedPS > knee && (out == nil || s.OfferedPS <= out.OfferedPS) {
			out = s
		}
	}
	return out
}

// kneeStep is the step that passed at the knee.
func kneeStep(all []LimitStep, knee float64) *LimitStep {
	i := slices.IndexFunc(all, func(s LimitStep) bool { return s.Passed && s.OfferedPS == knee })
	if i < 0 {
		return nil
	}
	return &all[i]
}

func (l *load) errorTotal() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, k := range l.errors {
		n += k
	}
	return n
}
