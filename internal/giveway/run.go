package giveway

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
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
	p, err := newProbe()
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
func (g *Gate) watch(ctx context.Context, p *probe) {
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

// probe is a pipe to ourselves: how long a byte takes is what a message waits
// at each of its steps, for the network to be looked at and for a CPU.
type probe struct {
	in, out *os.File
	due     atomic.Int64 // when the byte under way should have been sent, as time since start; 0: none is
	took    atomic.Int64 // of the last one that came
	start   time.Time
	done    chan struct{}
}

func newProbe() (*probe, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("giveway: %w", err)
	}
	p := &probe{in: in, out: out, start: time.Now(), done: make(chan struct{})}
	go p.receive() // ended and awaited by close
	return p, nil
}

func (p *probe) receive() {
	defer close(p.done)
	var b [1]byte
	for {
		if _, err := p.out.Read(b[:]); err != nil {
			return
		}
		p.took.Store(int64(time.Since(p.start)) - p.due.Load())
		p.due.Store(0)
	}
}

// sample sends a byte, which was due a little before now, and tells how long
// the one before took, or has taken by now.
func (p *probe) sample(due, now time.Time) time.Duration {
	if under := p.due.Load(); under != 0 {
		return now.Sub(p.start) - time.Duration(under)
	}
	late := time.Duration(p.took.Load())
	p.due.Store(int64(due.Sub(p.start)))
	_, _ = p.in.Write([]byte{0}) // one byte at a time: there is room
	return late
}

func (p *probe) close() {
	_ = p.in.Close() // ends receive
	<-p.done
	_ = p.out.Close()
}
