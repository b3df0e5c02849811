package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/waggle-im/waggle/client"
)

const (
	// holderBytes is a generous guess at what a connection costs servers and
	// client process together, to stay clear of the end of memory.
	holderBytes     = 96 << 10
	holderBytesQUIC = 192 << 10
	// memoryShare is the part of the free memory that idle connections may
	// take.
	memoryShare = 0.6
)

// bound is how many idle connections may be tried, beside others that other
// parts of the run need, and why not as many as asked for.
func (cfg *LimitsConfig) bound(c *cluster) (int, string) {
	n, why := cfg.ConnectionsMax, ""
	less := func(most int64, reason string) {
		if most < int64(n) {
			n, why = int(max(most, 0)), reason
		}
	}
	if _, available, err := readMemory(); err == nil {
		each := int64(holderBytes)
		if cfg.Transport == client.QUIC {
			each = holderBytesQUIC
		}
		less(int64(memoryShare*float64(available))/each, fmt.Sprintf("%d MiB of free memory", available>>20))
	}
	if cfg.Transport == client.QUIC {
		return n, why // many connections share a descriptor
	}
	if limit, err := descriptorLimit(0); err == nil {
		procs := int64(cfg.Levels)
		if cfg.Executable == "" {
			procs = 1
		}
		less(procs*(limit-descriptorsSpare), fmt.Sprintf("%d descriptors in each of %d client processes", limit, procs))
	}
	edges, limits := 0, int64(0)
	for _, p := range c.processes {
		if !p.edge {
			continue
		}
		limit, err := descriptorLimit(p.pid)
		if err != nil {
			return n, why // elsewhere: it will say so itself
		}
		edges++
		limits += limit - descriptorsSpare
	}
	if edges > 0 {
		less(limits-int64(2*cfg.Pairs), fmt.Sprintf("%d descriptors of the edges, %d of them for the pairs (start the cluster after `ulimit -n` with more)", limits+int64(edges*descriptorsSpare), 2*cfg.Pairs))
	}
	return n, why
}

// ramp is the idle connections, held by client processes, one for each level.
type ramp struct {
	cfg    *LimitsConfig
	c      *cluster
	out    LimitConnections
	procs  []*holding
	before usage // without connections, after a collection
	cpu    *float64
	took   time.Duration
}

// climb connects level by level. What breaks a level ends the climb; that is
// an error only for the first.
func (r *ramp) climb(ctx context.Context, accounts []account) error {
	idle := IdleConfig{Common: r.cfg.Common, Connections: len(accounts), Procs: min(r.cfg.Levels, len(accounts)), Executable: r.cfg.Executable}
	orders, err := idle.orders(accounts)
	if err != nil {
		return err
	}
	if err := rest(ctx, r.cfg.Rest); err != nil {
		return err
	}
	from := r.c.measure()
	if err := rest(ctx, r.cfg.Hold); err != nil {
		return err
	}
	to := r.c.measure()
	if r.before, err = r.c.measureCollected(ctx); err != nil {
		return err
	}
	for _, order := range orders {
		broke, err := r.level(ctx, &idle, order)
		if err != nil {
			return err
		}
		if broke != "" {
			r.out.Broke = broke
			break
		}
	}
	if r.out.Held == 0 {
		return fmt.Errorf("no idle connection: %s (are the limits per address lifted, `edge.exempt_loopback: true`?)", r.out.Broke)
	}
	heldFrom := r.c.measure()
	if err := rest(ctx, r.cfg.Hold); err != nil {
		return err
	}
	heldTo := r.c.measure()
	if heldTo.missing == nil && from.missing == nil {
		more := cores(heldTo.serverCPU-heldFrom.serverCPU, heldFrom, heldTo) - cores(to.serverCPU-from.serverCPU, from, to)
		r.cpu = perIdle(more, r.out.Held)
	}
	return nil
}

// level connects one client process's share and looks at the memory. What it
// returns is why it could not.
func (r *ramp) level(ctx context.Context, idle *IdleConfig, order holdOrder) (string, error) {
	p, err := idle.startHolder(ctx)
	if err != nil {
		return "", err
	}
	var report holdReport
	err = json.NewEncoder(p.in).Encode(order)
	if err == nil {
		err = p.out.Decode(&report)
	}
	if ctx.Err() != nil || err != nil || report.Error != "" {
		_ = p.in.Close()
		ended := p.wait()
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case err != nil:
			return fmt.Sprintf("a client process ended early: %v", errors.Join(err, ended)), nil
		}
		return fmt.Sprintf("after %d: %s", r.out.Held+report.Connected, report.Error), nil
	}
	r.procs = append(r.procs, p)
	r.out.Held += report.Connected
	took := time.Duration(report.TookUs) * time.Microsecond
	r.took += took
	if err := rest(ctx, r.cfg.Rest); err != nil {
		return "", err
	}
	now, err := r.c.measureCollected(ctx)
	if err != nil {
		return "", err
	}
	r.cfg.say("%d idle connections after %s", r.out.Held, took.Round(time.Millisecond))
	if now.missing == nil && r.before.missing == nil {
		r.out.Points = append(r.out.Points, RampPoint{
			Connections: r.out.Held, ServerBytes: now.memoryTotal() - r.before.memoryTotal(), KernelBytes: now.slab - r.before.slab, ConnectS: round(took.Seconds()),
		})
	}
	if total, available, err := readMemory(); err == nil && float64(available) < memoryLow*float64(total) {
		return fmt.Sprintf("memory: %d MiB free", available>>20), nil
	}
	return "", nil
}

// end lets the connections go; it returns how many were lost before.
func (r *ramp) end() (disconnects int64, err error) {
	for _, p := range r.procs {
		_ = p.in.Close()
	}
	for _, p := range r.procs {
		var report holdReport
		if e := p.out.Decode(&report); e != nil {
			err = errors.Join(err, fmt.Errorf("a client process ended without its report: %w", e))
		}
		disconnects += report.Disconnects
		err = errors.Join(err, p.wait())
	}
	r.procs = nil
	return disconnects, err
}
