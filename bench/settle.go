package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// settleTimeout bounds the wait for what was acknowledged to arrive.
	settleTimeout = 60 * time.Second
	// settleEvery is how often it is looked whether it has.
	settleEvery = 20 * time.Millisecond
	// readersMax bounds the threads read at once.
	readersMax = 16
)

// settle waits until everybody has been told everything that was stored, and
// records what the servers hold. An error says who was not.
func (l *load) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	late := l.awaitGivenUp(ctx)
	for _, p := range l.people {
		for {
			missing := p.expected.Load() - p.events.Load()
			if missing <= 0 {
				p.settle(0)
				break
			}
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
			}
			// Told to the checker as it should be: it names what is missing.
			p.settle(missing)
			late = fmt.Errorf("user %s lacks %d of %d messages after %s", p.account.User, missing, p.expected.Load(), settleTimeout)
			break
		}
	}
	// Reading has a time of its own: the checker needs the rows most when
	// something is missing.
	read, cancelRead := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancelRead()
	g, read := errgroup.WithContext(read)
	g.SetLimit(readersMax)
	for i, thread := range l.threads {
		reader := l.people[l.plan.pairs[i].a]
		g.Go(func() error { return l.readThread(read, reader, thread) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("read what is stored: %w", err)
	}
	return late
}

// awaitGivenUp waits until the messages whose answers were given up have one all
// the same: until then nobody's log is at its end.
func (l *load) awaitGivenUp(ctx context.Context) error {
	l.mu.Lock()
	list := l.givenUp
	l.givenUp = nil
	l.mu.Unlock()
	for i, g := range list {
		_, err := g.pending.Result(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%d messages have no answer after another %s", len(list)-i, settleTimeout)
		}
		if err == nil {
			g.from.expected.Add(1)
			g.to.expected.Add(1)
		}
	}
	return nil
}

// allReceived waits until everybody has been told everything that was stored,
// and goes on recording.
func (l *load) allReceived(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for _, p := range l.people {
		for p.events.Load() < p.expected.Load() {
			if !pause(ctx, settleEvery) {
				return fmt.Errorf("user %s lacks %d of %d messages: %w", p.account.User, p.expected.Load()-p.events.Load(), p.expected.Load(), ctx.Err())
			}
		}
	}
	return nil
}

// readThread reads a whole thread, newest page first.
func (l *load) readThread(ctx context.Context, reader *person, thread string) error {
	for before := uint64(0); ; {
		events, more, err := reader.History(ctx, &clientpb.ReadHistory{Thread: thread, Before: before, Limit: proto.PageMax})
		if err != nil {
			return fmt.Errorf("%s below %d: %w", thread, before, err)
		}
		l.recorder.Stored(events...)
		if !more || len(events) == 0 {
			return nil
		}
		before = events[0].Seq
	}
}
