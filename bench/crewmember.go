package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/waggle-im/waggle/client"
)

// Member is a client process of a load: it reads an order and commands from in,
// a line each, and answers each with a line on out. It ends with in.
func Member(ctx context.Context, in io.Reader, out io.Writer) error {
	r := bufio.NewReader(io.LimitReader(in, holdOrderBytesMax))
	raw, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("bench: member: no order: %w", err)
	}
	m := new(member)
	if err := json.Unmarshal(raw, &m.order); err != nil {
		return fmt.Errorf("bench: member: the order: %w", err)
	}
	// Whoever gave the order may die at any time: this process ends with it.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	commands := make(chan crewCommand)
	go func() { // ends with in, which belongs to the caller and outlives nothing
		dec := json.NewDecoder(r)
		for {
			var c crewCommand
			if err := dec.Decode(&c); err != nil {
				cancel(io.EOF)
				return
			}
			select {
			case commands <- c:
			case <-ctx.Done():
				return
			}
		}
	}()
	err = m.serve(ctx, commands, json.NewEncoder(out))
	if errors.Is(context.Cause(ctx), io.EOF) {
		return nil
	}
	return err
}

// member is a client process of a load at work.
type member struct {
	order crewOrder
	load  *load
	steps *steps
}

func (m *member) serve(ctx context.Context, commands <-chan crewCommand, out *json.Encoder) error {
	answer := func(r crewReport, err error) error {
		if err != nil {
			r.Error = err.Error()
		}
		return errors.Join(err, out.Encode(r))
	}
	err := m.prepare()
	if err == nil {
		defer m.load.close()
		err = m.load.connect(ctx)
	}
	if err := answer(crewReport{}, err); err != nil {
		return err
	}
	for {
		select {
		case c := <-commands:
			if err := answer(m.do(ctx, c)); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// prepare makes the load of the order: its people come in pairs.
func (m *member) prepare() error {
	o := &m.order
	if len(o.Accounts) < 2 || len(o.Accounts)%2 != 0 {
		return fmt.Errorf("an order for %d people", len(o.Accounts))
	}
	var t *tls.Config
	if o.Transport != client.Plain {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(o.CA) {
			return errors.New("the order has no certificate in PEM form")
		}
		t = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	}
	cfg := &RunConfig{
		Common: Common{Server: o.Server, Transport: o.Transport}, Rate: o.Rate, Window: o.Window, SizeBytes: o.SizeBytes,
		Duration: o.Duration, WarmUp: o.WarmUp, Pairs: len(o.Accounts) / 2, Users: len(o.Accounts), Placement: SameCell,
	}
	p := plan{}
	for i := range cfg.Pairs {
		p.pairs = append(p.pairs, pair{2 * i, 2*i + 1})
	}
	m.load = newLoad(cfg, t, p, o.Accounts)
	m.load.share = share{o.Index, o.Of}
	m.steps = &steps{l: m.load}
	m.load.observe, m.load.refused = m.steps.observe, m.steps.refused
	return nil
}

// since is the moment of another process of this machine as one of this
// process, with a monotonic clock.
func since(unixNano int64) time.Time {
	now := time.Now()
	return now.Add(time.Unix(0, unixNano).Sub(now))
}

func (m *member) do(ctx context.Context, c crewCommand) (crewReport, error) {
	if m.load.start.IsZero() {
		m.load.start = since(c.At)
	}
	switch c.Do {
	case crewRun:
		return m.run(ctx)
	case crewStep:
		return m.step(ctx, c)
	case crewEnd:
		return m.end(ctx)
	}
	return crewReport{}, fmt.Errorf("an unknown command %q", c.Do)
}

func (m *member) run(ctx context.Context) (out crewReport, err error) {
	l := m.load
	var senders sync.WaitGroup
	if waitUntil(ctx, l.start, nil) {
		end := l.start.Add(l.cfg.WarmUp + l.cfg.Duration)
		l.begin(ctx, end, &senders)
		waitUntil(ctx, l.start.Add(l.cfg.WarmUp), nil)
		out.Acked = -l.ackedAll.Load()
		waitUntil(ctx, end, nil)
		out.Acked += l.ackedAll.Load()
	}
	if ctx.Err() != nil {
		l.stop() // answers no longer count
	}
	senders.Wait()
	return out, ctx.Err()
}

func (m *member) step(ctx context.Context, c crewCommand) (out crewReport, err error) {
	l, s := m.load, m.steps
	mt := newMeter(c.From, c.To, c.Bar)
	s.mu.Lock()
	s.meter = mt
	s.mu.Unlock()
	errors := l.errorTotal()
	cut, offered := make(chan struct{}), make(chan struct{})
	go func() { // ends with its schedule or ctx; waited for below
		defer close(offered)
		if !s.offer(ctx, mt, c.Begin, c.Rate, c.Cut) {
			close(cut)
		}
	}()
	waitUntil(ctx, l.start.Add(c.From), cut)
	out.Acked = -l.ackedAll.Load()
	whole := waitUntil(ctx, l.start.Add(c.To), cut)
	out.Acked += l.ackedAll.Load()
	<-offered
	if ctx.Err() != nil {
		l.stop() // answers no longer count
	}
	s.senders.Wait()
	if err := ctx.Err(); err != nil {
		return out, err
	}
	if out.Step, err = mt.report(); err != nil {
		return out, err
	}
	out.Step.CutShort, out.Step.Errors = !whole, l.errorTotal()-errors
	return out, nil
}

// end waits for what is on its way and writes the history down.
func (m *member) end(ctx context.Context) (out crewReport, err error) {
	unsettled := m.load.settle(ctx)
	if err := writeHistoryFile(m.order.History, m.load.recorder.History()); err != nil {
		return out, err
	}
	out.End, err = m.load.report(unsettled)
	return out, err
}

// memberHistory is the file of a client process's history, until it is merged.
func memberHistory(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("history-%d.tmp", index+1))
}
