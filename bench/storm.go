package bench

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/internal/version"
)

const (
	// stormTalkers write and are not dropped, so that what they write is due
	// and sent whatever happens to the others.
	stormTalkers = 50
	// stormFirstRate is how fast everybody is given a first message, in
	// messages/s: below what the smallest cluster bears.
	stormFirstRate = 1000
	// stormAfter is how long messages are sent on when all are back.
	stormAfter = time.Second
	// dropping is how many goroutines break connections: breaking one takes
	// microseconds, and all shall be broken at one moment.
	dropping = 16
)

// StormConfig says how many connections to break at once.
type StormConfig struct {
	Common
	Connections int
	Part        int           // of the people are written to meanwhile; above Connections: all
	Rate        float64       // messages/s to them, open loop
	SizeBytes   int           // of a message
	MaxWait     time.Duration // for all to be back
}

// Validate says what is wrong.
func (c *StormConfig) Validate() error {
	if err := c.Common.Validate(); err != nil {
		return err
	}
	switch {
	case c.Connections < 1:
		return fmt.Errorf("--connections %d: from 1", c.Connections)
	case c.Part < 1:
		return fmt.Errorf("--part %d: from 1", c.Part)
	case c.Rate <= 0:
		return fmt.Errorf("--rate %g: above 0", c.Rate)
	case c.SizeBytes < SizeBytesMin || c.SizeBytes > sizeBytesMax:
		return fmt.Errorf("--size %d: from %d to %d", c.SizeBytes, SizeBytesMin, sizeBytesMax)
	case c.MaxWait < time.Second:
		return fmt.Errorf("--max-wait %s: from 1s", c.MaxWait)
	}
	return nil
}

// StormOf connects people with the SDK, gives each a first message, breaks all
// their connections at one moment, and watches them come back by the SDK's own
// waits, while others write to a part of them. Nothing may be missed.
//
// Errors: what kept the measurement from being one.
func StormOf(ctx context.Context, cfg StormConfig) (*Result, error) {
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
	talkers := min(stormTalkers, cfg.Connections)
	all, servers := talkers+cfg.Connections, talkers+cfg.Connections
	if cfg.Transport == client.QUIC {
		servers = 0
	}
	if err := c.enoughDescriptors(all, servers); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return nil, fmt.Errorf("bench: make the folder for the results: %w", err)
	}
	cells := make([]string, all)
	for i := range cells {
		cells[i] = c.cells[i%len(c.cells)]
	}
	cfg.say("making %d accounts in %d cells", all, len(c.cells))
	accounts, err := c.addAccounts(ctx, cells)
	if err != nil {
		return nil, err
	}
	p := plan{}
	for i := range cfg.Connections {
		p.pairs = append(p.pairs, pair{i % talkers, talkers + i})
	}
	loadCfg := &RunConfig{
		Common: cfg.Common, Users: all, Pairs: cfg.Connections, SizeBytes: cfg.SizeBytes,
		Duration: 24 * time.Hour, // every message counts, however long it takes
	}
	s := &storm{cfg: cfg, c: c, l: newLoad(loadCfg, tlsConfig, p, accounts), talkers: talkers}
	defer s.l.close()
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s.judge(ctx)
}

// storm is a storm run at work.
type storm struct {
	cfg     StormConfig
	c       *cluster
	l       *load
	talkers int // the first of the load's people
	senders sync.WaitGroup

	attempts atomic.Int64
	during   int64 // messages since the drop

	mu      sync.Mutex // guards the fields below
	dropped time.Time  // zero: not yet
	back    map[*person]time.Duration
	allBack chan struct{} // closed when all are
}

// turned notes who is back.
func (s *storm) turned(p *person, state client.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped.IsZero() {
		return
	}
	switch _, was := s.back[p]; {
	case state == client.Connecting:
		s.attempts.Add(1)
	case state != client.Connected || was:
	default:
		s.back[p] = time.Since(s.dropped)
		if len(s.back) == s.cfg.Connections {
			close(s.allBack)
		}
	}
}

func (s *storm) run(ctx context.Context) error {
	l := s.l
	s.back, s.allBack = map[*person]time.Duration{}, make(chan struct{})
	l.measures, l.turned = "storm", s.turned
	s.cfg.say("connecting %d by %s", len(l.people), s.cfg.Transport)
	if err := l.connect(ctx); err != nil {
		return err
	}
	s.cfg.say("a first message to each of %d", s.cfg.Connections)
	l.start = time.Now()
	s.send(ctx, stormFirstRate, func(k int64) (int64, bool) { return k, k < int64(len(l.threads)) })
	s.senders.Wait()
	if err := l.allReceived(ctx); err != nil {
		return err
	}
	part := int64(min(s.cfg.Part, len(l.threads)))
	sending, stop := context.WithCancel(ctx)
	defer stop()
	sent := make(chan struct{})
	go func() { // ends with sending
		defer close(sent)
		// Messages go from the talkers only: the other half of each two laps is
		// the answers'.
		s.during = s.send(sending, s.cfg.Rate, func(k int64) (int64, bool) {
			return 2*(k/part+1)*int64(len(l.threads)) + k%part, true
		})
	}()
	s.cfg.say("breaking all %d connections", s.cfg.Connections)
	s.drop()
	s.watch(ctx)
	stop()
	<-sent
	if ctx.Err() != nil {
		l.stop() // answers no longer count
	}
	s.senders.Wait()
	return ctx.Err()
}

// send posts message number(k) for k = 0, 1, … as it is due, until number or
// ctx ends it. It returns how many were due.
func (s *storm) send(ctx context.Context, rate float64, number func(k int64) (int64, bool)) int64 {
	begin := time.Since(s.l.start)
	for k := int64(0); ; k++ {
		n, more := number(k)
		at := begin + time.Duration(float64(k)/rate*float64(time.Second))
		if early := at - time.Since(s.l.start); more && early > 0 {
			pause(ctx, early)
		}
		if !more || ctx.Err() != nil {
			return k
		}
		if wait := s.l.post(n, at); wait != nil {
			s.senders.Go(wait)
		}
	}
}

// drop breaks all connections at once.
func (s *storm) drop() {
	s.mu.Lock()
	s.dropped = time.Now()
	s.mu.Unlock()
	people := s.l.people[s.talkers:]
	var wg sync.WaitGroup
	for i := range dropping {
		wg.Go(func() {
			for j := i; j < len(people); j += dropping {
				people[j].Drop()
			}
		})
	}
	wg.Wait()
	s.cfg.say("broken within %s", time.Since(s.dropped).Round(time.Millisecond))
}

// watch waits until all are back, or for as long as they are given.
func (s *storm) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	over := time.NewTimer(s.cfg.MaxWait)
	defer over.Stop()
	for {
		select {
		case <-s.allBack:
			pause(ctx, stormAfter)
			return
		case <-tick.C:
			s.mu.Lock()
			n := len(s.back)
			s.mu.Unlock()
			s.cfg.say("%3.0f s: %d of %d are back", time.Since(s.dropped).Seconds(), n, s.cfg.Connections)
		case <-over.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// times are when people were back, sorted, in seconds.
func (s *storm) times() []float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]float64, 0, len(s.back))
	for _, d := range s.back {
		out = append(out, d.Seconds())
	}
	slices.Sort(out)
	return out
}

// backAt is when a part of all were back, nil if they never were.
func backAt(times []float64, all int, part float64) *float64 {
	n := int(math.Ceil(part * float64(all)))
	if n < 1 || n > len(times) {
		return nil
	}
	return some(math.Round(1000*times[n-1]) / 1000)
}

func (s *storm) judge(ctx context.Context) (*Result, error) {
	l := s.l
	s.cfg.say("waiting until everybody has everything, and checking the history")
	unsettled := l.settle(ctx)
	violations := history.Check(l.recorder.History())
	times := s.times()
	out := &Storm{
		Dropped: s.cfg.Connections, Back: len(times), Resyncs: l.resyncs.Load(), Attempts: s.attempts.Load(), SentDuring: s.during,
		BackS: BackTimes{
			P50: backAt(times, s.cfg.Connections, 0.5), P90: backAt(times, s.cfg.Connections, 0.9),
			P99: backAt(times, s.cfg.Connections, 0.99), P100: backAt(times, s.cfg.Connections, 1),
		},
	}
	for _, p := range l.people {
		out.Missed += int(max(0, p.expected.Load()-p.events.Load()))
	}
	r := &Result{
		Mode: "storm", Commit: version.Commit(), Command: s.cfg.Command, Machine: machine(), Transport: string(s.cfg.Transport),
		Connections: len(l.people), OfferedRate: s.cfg.Rate, Sent: l.sent.Load(), Acked: l.ack.count(), Received: l.deliver.count(),
		Disconnects: max(0, l.disconnects.Load()-int64(s.cfg.Connections)), Errors: l.errorCounts(), AckMs: l.ack.quantiles(), DeliverMs: l.deliver.quantiles(),
		LimitedBy: "the clients' own waits before they connect again, and the servers' logins", Storm: out,
	}
	if p99 := out.BackS.P99; p99 != nil && *p99 > 0 {
		r.ConnectsPerSecond = some(round(0.99 * float64(s.cfg.Connections) / *p99))
	}
	if out.Back < out.Dropped {
		r.Errors["not back"] = out.Dropped - out.Back
	}
	r.count(violations)
	if unsettled != nil {
		r.Errors["not settled"]++
	}
	if err := writeResult(s.cfg.Out, r); err != nil {
		return nil, err
	}
	return r, s.report(r, times, unsettled, violations)
}

// report writes report.md and the plot.
func (s *storm) report(r *Result, times []float64, unsettled error, violations []history.Violation) error {
	f := backOverTime(r, times)
	if err := f.write(s.cfg.Out); err != nil {
		return err
	}
	how := "sockets closed without a word of TLS or of the protocol"
	if s.cfg.Transport == client.QUIC {
		how = "connections closed, of which QUIC tells the server"
	}
	notes := append(clusterNotes(s.c),
		note{"dropped", how},
		note{"clients", "the SDK, subscribed, each with an account of its own and a known place in its updates; they come back by the SDK's own random waits"},
		note{"meanwhile", fmt.Sprintf("%g messages/s from %d people who were not dropped to %d of those who were", s.cfg.Rate, s.talkers, min(s.cfg.Part, s.cfg.Connections))},
	)
	if unsettled != nil {
		notes = append(notes, note{"not settled", unsettled.Error()})
	}
	return writeParts(s.cfg.Out, reportHead(r, time.Now(), notes), stormText(r), pictures([]chartFile{{f.title, f.file}}), brokenPromises(violations))
}
