package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/history"
)

// crewLead is how long before it begins a start is told to the client
// processes, so that all of them are ready for it. crewEndMax is how long they
// may take to end before they are killed.
const (
	crewLead   = 300 * time.Millisecond
	crewEndMax = 20 * time.Second
)

// crew is a load sent by several client processes: each has its own people and
// its share of the messages. What they saw ends up in a load that has no clients
// of its own.
type crew struct {
	l       *load // that it is merged into
	c       *cluster
	procs   int
	members []*crewMember
	files   []string       // of the members' histories
	wg      sync.WaitGroup // of those who listen to members
	ending  atomic.Bool

	ctx    context.Context
	cancel context.CancelCauseFunc // with why; a member that ends early does
}

type crewMember struct {
	*holding
	reports chan crewReport // closed when the process has ended
}

// startCrew starts the client processes, by pairs. Call close.
func startCrew(ctx context.Context, l *load, c *cluster, procs int, executable string) (*crew, error) {
	w := &crew{l: l, c: c, procs: procs}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	orders, err := w.orders(procs)
	if err != nil {
		w.cancel(nil)
		return nil, err
	}
	for i, order := range orders {
		p, err := startChild(w.ctx, executable, "member", Member)
		if err != nil {
			err = w.why(err) // one before it has ended
			w.close()
			return nil, err
		}
		m := &crewMember{p, make(chan crewReport, 1)}
		w.members = append(w.members, m)
		w.files = append(w.files, order.History)
		if p.pid != 0 {
			c.generators = append(c.generators, p.pid)
		}
		w.wg.Go(func() { w.listen(i, m) })
		if err := w.write(m, order); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

// orders shares the pairs out. Two pairs with a person in common would have to
// stay in one process: Validate refuses that.
func (w *crew) orders(procs int) ([]crewOrder, error) {
	cfg := w.l.cfg
	order := crewOrder{
		Server: cfg.Server, Transport: cfg.Transport, Of: procs, Rate: cfg.Rate, Window: cfg.Window, SizeBytes: cfg.SizeBytes,
		Duration: cfg.Duration, WarmUp: cfg.WarmUp,
	}
	if cfg.Transport != client.Plain {
		var err error
		if order.CA, err = os.ReadFile(cfg.CA); err != nil {
			return nil, err
		}
	}
	pairs := w.l.plan.pairs
	out := make([]crewOrder, procs)
	for i := range out {
		out[i] = order
		out[i].Index, out[i].History = i, memberHistory(cfg.Out, i)
		for _, p := range pairs[i*len(pairs)/procs : (i+1)*len(pairs)/procs] {
			out[i].Accounts = append(out[i].Accounts, w.l.people[p.a].account, w.l.people[p.b].account)
		}
	}
	return out, nil
}

// listen hands a member's reports on until it ends.
func (w *crew) listen(i int, m *crewMember) {
	defer close(m.reports)
	for {
		var r crewReport
		if err := m.out.Decode(&r); err != nil {
			w.failed(i, fmt.Errorf("ended early: %w", errors.Join(err, m.wait())))
			return
		}
		if r.Error != "" {
			w.failed(i, errors.New(r.Error))
		}
		select {
		case m.reports <- r:
		case <-w.ctx.Done(): // its process is being killed
		}
	}
}

// failed ends the whole crew, for the first reason.
func (w *crew) failed(i int, err error) {
	if !w.ending.Load() {
		w.cancel(fmt.Errorf("client process %d of %d: %w", i+1, w.procs, err))
	}
}

// why is what ended the crew, or else err.
func (w *crew) why(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	return err
}

// close ends every member and waits until all have.
func (w *crew) close() {
	w.ending.Store(true)
	for _, m := range w.members {
		_ = m.in.Close()
	}
	late := time.AfterFunc(crewEndMax, func() { w.cancel(nil) })
	w.wg.Wait()
	late.Stop()
	w.cancel(nil)
	for _, f := range w.files {
		_ = os.Remove(f)
	}
}

// gather waits for a report of every member.
func (w *crew) gather() ([]crewReport, error) {
	out := make([]crewReport, 0, len(w.members))
	for _, m := range w.members {
		select {
		case r, ok := <-m.reports:
			if !ok || w.ctx.Err() != nil {
				return nil, w.why(errors.New("a client process has ended"))
			}
			out = append(out, r)
		case <-w.ctx.Done():
			return nil, w.why(nil)
		}
	}
	return out, nil
}

// tell gives every member a command.
func (w *crew) tell(c crewCommand) error {
	for _, m := range w.members {
		if err := w.write(m, c); err != nil {
			return err
		}
	}
	return nil
}

// write sends a member a line. Where nobody reads it any more the process has
// ended or is about to: what [crew.listen] finds out about that says more than
// the broken pipe, and is waited for.
func (w *crew) write(m *crewMember, line any) error {
	err := json.NewEncoder(m.in).Encode(line)
	if err == nil {
		return nil
	}
	select {
	case <-w.ctx.Done():
	case <-time.After(crewEndMax):
	}
	return w.why(fmt.Errorf("tell a client process: %w", err))
}

// send runs warm-up and load, as [load.send] does.
func (w *crew) send() (measured, error) {
	l := w.l
	l.start = time.Now().Add(crewLead)
	l.announce()
	if err := w.tell(crewCommand{Do: crewRun, At: l.start.UnixNano()}); err != nil {
		return measured{}, err
	}
	var m measured
	waitUntil(w.ctx, l.start.Add(l.cfg.WarmUp), nil)
	m.from = w.c.measure()
	waitUntil(w.ctx, l.start.Add(l.cfg.WarmUp+l.cfg.Duration), nil)
	m.to = w.c.measure()
	reports, err := w.gather()
	for _, r := range reports {
		m.ackedInWindow += r.Acked
	}
	return m, err
}

// step offers a rate for a step, as [steps.run] does.
func (w *crew) step(s *steps, phase string, rate float64, mayCut bool) (LimitStep, error) {
	l := w.l
	begin := time.Since(l.start) + crewLead
	m := newMeter(begin+s.warmUp, begin+s.warmUp+s.step, s.bar)
	err := w.tell(crewCommand{Do: crewStep, At: l.start.UnixNano(), Begin: begin, Rate: rate, Bar: s.bar, From: m.from, To: m.to, Cut: mayCut})
	if err != nil {
		return LimitStep{}, err
	}
	waitUntil(w.ctx, l.start.Add(m.from), nil)
	from := w.c.measure()
	waitUntil(w.ctx, l.start.Add(m.to), nil)
	to := w.c.measure()
	reports, err := w.gather()
	if err != nil {
		return LimitStep{}, err
	}
	if from.missing == nil && to.missing != nil {
		return LimitStep{}, fmt.Errorf("a server went away at %.0f messages/s: %w", rate, to.missing)
	}
	var acked int64
	failed, cut := 0, false
	for _, r := range reports {
		if r.Step == nil {
			return LimitStep{}, errors.New("a client process did not report a step")
		}
		if err := m.merge(r.Step); err != nil {
			return LimitStep{}, err
		}
		acked += r.Acked
		failed += r.Step.Errors
		cut = cut || r.Step.CutShort
	}
	out := m.step(phase, rate, from, to)
	out.AckedPS, out.CutShort = round(float64(acked)/to.at.Sub(from.at).Seconds()), cut
	out.judge(s.bar, failed)
	return out, nil
}

// end waits for what is on its way and merges what all members saw. The first
// error says who was not told everything.
func (w *crew) end() (h history.History, unsettled, err error) {
	if err := w.tell(crewCommand{Do: crewEnd}); err != nil {
		return h, nil, err
	}
	reports, err := w.gather()
	if err != nil {
		return h, nil, err
	}
	var parts []history.History
	for i, r := range reports {
		if r.End == nil {
			return h, nil, errors.New("a client process did not report its load")
		}
		if err := w.l.merge(r.End); err != nil {
			return h, nil, err
		}
		if r.End.Unsettled != "" {
			unsettled = errors.Join(unsettled, errors.New(r.End.Unsettled))
		}
		part, err := readHistory(w.files[i])
		if err != nil {
			return h, nil, err
		}
		parts = append(parts, part)
	}
	return history.Merge(parts...), unsettled, nil
}
