package testcluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/proto"
)

// Load is pairs of people in two cells who write to each other at a steady
// rate, whatever happens, while everything is recorded. Half of them are on
// QUIC, half on TCP.
type Load struct {
	t        testing.TB
	c        *Cluster
	recorder *history.Recorder
	people   []*person
	stop     context.CancelFunc
	sending  sync.WaitGroup
	acks     sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	failures []string
	slowest  map[client.Transport]time.Duration
	losses   map[client.Transport]int
}

type person struct {
	device    *Device
	transport client.Transport
	record    *history.DeviceRecorder
	thread    string
	events    atomic.Int64 // received

	mu      sync.Mutex // guards the fields below
	pts     proto.Pts  // of the last update recorded
	settled bool       // marks that still follow are not recorded
}

// received records an update. Marks of what was received last may follow at
// any time, so those after the end are left out.
func (p *person) received(u client.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled && u.Event == nil {
		return
	}
	p.record.Received(u.Pts, u.Event)
	p.pts = u.Pts
	if u.Event != nil {
		p.events.Add(1)
	}
}

// settle ends the record of a device that has everything.
func (p *person) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled = true
	p.record.Settled(p.pts)
}

// StartLoad makes pairs people in c1 and as many in c2 and lets each of them
// write perSecond messages.
func (c *Cluster) StartLoad(pairs, perSecond int) *Load {
	c.t.Helper()
	return c.StartLoadBetween("c1", "c2", pairs, perSecond)
}

// StartLoadBetween is StartLoad of any two cells, or of one.
func (c *Cluster) StartLoadBetween(cellA, cellB string, pairs, perSecond int) *Load {
	c.t.Helper()
	l := &Load{
		t: c.t, c: c, recorder: history.NewRecorder(),
		slowest: map[client.Transport]time.Duration{}, losses: map[client.Transport]int{},
	}
	run := rand.N(1_000_000) // further loads of one cluster take other names
	for i := range pairs {
		ann := c.AddUser(fmt.Sprintf("a%d-%d", run, i), cellA)
		bob := c.AddUser(fmt.Sprintf("b%d-%d", run, i), cellB)
		thread := proto.DirectThread(ann.ID, bob.ID).String()
		l.people = append(l.people, l.join(ann, thread, client.QUIC), l.join(bob, thread, client.TCP))
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	for i, p := range l.people {
		l.sending.Go(func() { l.write(ctx, i, p, time.Second/time.Duration(perSecond)) })
	}
	c.t.Cleanup(func() {
		stop()
		l.sending.Wait()
	})
	return l
}

func (l *Load) join(u User, thread string, transport client.Transport) *person {
	p := &person{record: l.recorder.Device(u.ID, u.Device), thread: thread, transport: transport}
	p.device = l.c.Connect(u, transport, func(cfg *client.Config) {
		cfg.OnUpdate = p.received
		cfg.OnBody = func(u client.Update) { p.record.BodyReceived(u.Pts, u.Event) }
		cfg.OnState = func(s client.State, _ error) {
			if s == client.Disconnected {
				l.mu.Lock()
				l.losses[transport]++
				l.mu.Unlock()
			}
		}
		cfg.OnResync = func(r client.Resync) { p.record.Resynced(r.Incarnation, r.Pts) }
	})
	return p
}

// write posts on schedule, not when answers come: a slow server does not slow
// the load.
func (l *Load) write(ctx context.Context, number int, p *person, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		text := fmt.Sprintf("person %d message %d", number, n)
		post := p.record.Posted(p.thread, text)
		pending, err := p.device.Post(p.thread, text)
		if err != nil {
			l.fail(fmt.Sprintf("%s: %v", text, err))
			return
		}
		due := time.Now()
		l.acks.Go(func() {
			waitCtx, cancel := context.WithTimeout(context.Background(), Wait)
			defer cancel()
			sent, err := pending.Result(waitCtx)
			if err != nil {
				post.Failed(err)
				l.fail(fmt.Sprintf("%s: %v", text, err))
				return
			}
			post.Acked(sent.Seq, sent.Time, sent.ClientMsgID)
			l.mu.Lock()
			l.slowest[p.transport] = max(l.slowest[p.transport], time.Since(due))
			l.mu.Unlock()
		})
	}
}

func (l *Load) fail(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failures) < 20 {
		l.failures = append(l.failures, what)
	}
}

// Slowest is the longest wait for an acknowledgement since the last call.
func (l *Load) Slowest() time.Duration {
	return max(l.SlowestOn(client.TCP), l.SlowestOn(client.QUIC))
}

// SlowestOn is Slowest of one transport.
func (l *Load) SlowestOn(transport client.Transport) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.slowest[transport]
	l.slowest[transport] = 0
	return d
}

// Losses is how often clients of one transport have lost their connection.
func (l *Load) Losses(transport client.Transport) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.losses[transport]
}

// End ends the load: everything is answered when it returns.
func (l *Load) End() {
	l.stop()
	l.sending.Wait()
	l.acks.Wait()
}

// Check ends the load, waits until everybody has everything, and judges the
// whole history. No send may have failed. It returns the number of messages.
func (l *Load) Check() int {
	l.t.Helper()
	l.End()
	posted := map[string]int{}
	for _, p := range l.recorder.History().Posted {
		posted[p.Thread]++
	}
	for _, p := range l.people {
		l.c.Until(fmt.Sprintf("%s has all %d messages", p.device.User.Name, posted[p.thread]), func() error {
			if n := int(p.events.Load()); n < posted[p.thread] {
				return fmt.Errorf("has %d", n)
			}
			return nil
		})
		p.settle()
	}
	for i := 0; i < len(l.people); i += 2 {
		l.recorder.Stored(l.c.History(l.people[i].device, l.people[i].thread)...)
	}
	for _, hash := range l.c.ReplicaHashes() {
		l.recorder.Hash(hash)
	}
	h := l.recorder.History()
	for i, v := range history.Check(h) {
		if i < 10 {
			l.t.Error(v)
		}
	}
	for _, f := range l.failures {
		l.t.Errorf("failed send: %s", f)
	}
	return len(h.Posted)
}
