package giveway

import (
	"context"
	"slices"
	"time"
)

const (
	// tick is the time between two samples, and between two times at which
	// waiting transfers are let through: 100 KB at 50 MB/s.
	tick = 2 * time.Millisecond
	// restAfter is after how long without content the gate stops to look.
	restAfter = time.Second
)

// Run measures and lets transfers pass until ctx ends.
//
// Errors: there is no pipe to be had, at the start only.
func (g *Gate) Run(ctx context.Context) error {
	p, err := g.probe()
	if err != nil {
		return err
	}
	defer p.close()
	g.open(true)
	defer g.open(false)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
		}
		g.watch(ctx, p)
	}
}

// watch measures while content moves.
func (g *Gate) watch(ctx context.Context, p prober) {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	last, began, moving := time.Now(), time.Now(), time.Now()
	moved, messages := g.moved.Load(), g.messages.Load()
	late := make([]time.Duration, 0, 2*int(window/tick))
	for {
		due := last.Add(tick)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		late = append(late, p.sample(due, now))
		g.refill(now.Sub(last))
		last = now
		if took := now.Sub(began); took >= window {
			nowMoved, nowMessages := g.moved.Load(), g.messages.Load()
			g.decide(sample{late: oneInTen(late), moved: nowMoved - moved, messages: nowMessages - messages}, took)
			if nowMoved != moved || g.waiting() {
				moving = now
			} else if now.Sub(moving) > restAfter {
				return
			}
			began, moved, messages, late = now, nowMoved, nowMessages, late[:0]
		}
		timer.Reset(tick)
	}
}

func (g *Gate) waiting() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue.Len() > 0
}

// oneInTen is the time that one in ten is not below.
func oneInTen(late []time.Duration) time.Duration {
	slices.Sort(late)
	return late[len(late)*9/10]
}
