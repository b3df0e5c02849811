package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/history"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// connectingMax bounds the connections under construction.
	connectingMax = 64
	// connectTimeout bounds the making of one connection, its waiting for a
	// place included.
	connectTimeout = time.Minute
	// ackTimeout is when a message without answer is given up, by default.
	ackTimeout = 60 * time.Second
	// backlogMax bounds the unanswered messages of an open loop. Past it a
	// message that is due is not sent, and counted as such.
	backlogMax = 100_000
)

// person is a user with a connected client.
type person struct {
	*client.Client
	account  account
	record   *history.DeviceRecorder
	up       atomic.Bool  // connected, as last heard
	expected atomic.Int64 // stored messages of the person's threads
	events   atomic.Int64 // received
	posting  sync.Mutex   // held from recording a post to having posted: their orders are one

	mu      sync.Mutex // guards the fields below
	pts     proto.Pts  // of the last update recorded
	settled bool       // marks that still follow are not recorded
}

// receive records an update and tells whether it is an event. Marks of what
// was received last may follow at any time: those after the end are left out.
func (p *person) receive(u client.Update) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled && u.Event == nil {
		return false
	}
	p.record.Received(u.Pts, u.Event)
	p.pts = u.Pts
	if u.Event != nil {
		p.events.Add(1)
	}
	return u.Event != nil
}

// settle ends the record of a person who lacks missing messages.
func (p *person) settle(missing int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled = true
	p.record.Settled(p.pts + proto.Pts(max(0, missing)))
}

// load is people who write to each other while everything is recorded.
type load struct {
	cfg      *RunConfig
	measures string // mode of the result; empty: run or move
	tls      *tls.Config
	plan     plan
	threads  []string // of each pair
	ids      []proto.ThreadID
	people   []*person
	recorder *history.Recorder

	share  share      // of the messages
	detail *runDetail // to fill; nil: nobody asks

	stop context.CancelFunc
	ctx  context.Context // of the clients
	wg   sync.WaitGroup  // clients

	start        time.Time // of sending; set before the first message
	ack, deliver *tally
	accepted     *tally                      // from the sending that was accepted to the acknowledgement
	lag          *tally                      // of the generator behind its schedule
	pauses       *pauses                     // of a range that moves; nil: none does
	marks        []mark                      // events to draw
	beside       func(context.Context) error // what is done under the load, which ends with it; nil: it ends by time
	// observe is told of each acknowledgement: when the message was due, and how
	// long it took from then and from the sending that was accepted. nil: nobody is.
	observe     func(at, took, accepted time.Duration)
	refused     func(*proto.Error)              // told of each refusal; nil: nobody
	turned      func(p *person, s client.State) // told of each change of a connection; nil: nobody
	sent        atomic.Int64                    // measured messages
	ackedAll    atomic.Int64
	resyncs     atomic.Int64
	outstanding atomic.Int64
	disconnects atomic.Int64
	quiet       atomic.Bool // closing: losses do not count

	mu       sync.Mutex     // guards the fields below
	givenUp  []givenUp      // unanswered for too long
	errors   map[string]int // by kind
	refusals map[string]int // "retry later" while it was measured, by kind
}

// givenUp is a message whose answer was not waited for any longer. Its client
// goes on sending it, so it may yet be stored, and told to both.
type givenUp struct {
	pending  *client.Pending
	from, to *person
}

// share is which messages of a load are this process's: every of-th, from
// number index on. The zero value is all of them.
type share struct{ index, of int }

// number is the number in the whole load of the process's own n-th message.
func (s share) number(n int64) int64 { return n*int64(max(s.of, 1)) + int64(s.index) }

// part is the process's share of n things.
func (s share) part(n int) int {
	of := max(s.of, 1)
	return (s.index+1)*n/of - s.index*n/of
}

func newLoad(cfg *RunConfig, tlsConfig *tls.Config, p plan, accounts []account) *load {
	l := &load{cfg: cfg, tls: tlsConfig, plan: p, recorder: history.NewRecorder(), ack: newTally(), accepted: newTally(), deliver: newTally(), lag: newTally(), errors: map[string]int{}, refusals: map[string]int{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	for _, a := range accounts {
		l.people = append(l.people, &person{account: a, record: l.recorder.Device(a.User, a.Device)})
	}
	for _, pair := range p.pairs {
		id := proto.DirectThread(accounts[pair.a].User, accounts[pair.b].User)
		l.threads, l.ids = append(l.threads, id.String()), append(l.ids, id)
	}
	return l
}

// connect connects everybody.
func (l *load) connect(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(connectingMax)
	for _, p := range l.people {
		g.Go(func() error { return l.join(ctx, p) })
	}
	return g.Wait()
}

func (l *load) join(ctx context.Context, p *person) error {
	var err error
	p.Client, err = client.New(client.Config{
		Server: l.cfg.Server, Transport: l.cfg.Transport, TLS: l.tls, Token: p.account.Token, Device: p.account.Device, Name: "waggle-bench",
		Subscribe: true,
		OnUpdate:  func(u client.Update) { l.received(p, u) },
		OnBody:    func(u client.Update) { p.record.BodyReceived(u.Pts, u.Event); l.delivered(p, u.Event) },
		OnRefused: l.countRefusal,
		OnResync:  func(r client.Resync) { l.resyncs.Add(1); p.record.Resynced(r.Incarnation, r.Pts) },
		OnState: func(s client.State, _ error) {
			if l.turned != nil {
				l.turned(p, s)
			}
			switch {
			case s == client.Connected:
				p.up.Store(true)
			case s == client.Disconnected && p.up.Swap(false) && !l.quiet.Load():
				l.disconnects.Add(1)
			}
		},
	})
	if err != nil {
		return err
	}
	l.wg.Go(func() { _ = p.Run(l.ctx) }) // its end fails what is unanswered
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := p.WaitConnected(ctx); err != nil {
		return fmt.Errorf("connect to %s by %s: %w (are the limits per address lifted, `edge.exempt_loopback: true`?)", l.cfg.Server, l.cfg.Transport, err)
	}
	return nil
}

// mode names what is measured.
func (l *load) mode() string {
	if l.measures != "" {
		return l.measures
	}
	if l.pauses != nil {
		return "move"
	}
	return "run"
}

// close ends all clients and waits until they have.
func (l *load) close() {
	l.quiet.Store(true)
	l.stop()
	l.wg.Wait()
}

func (l *load) received(p *person, u client.Update) {
	if p.receive(u) {
		l.delivered(p, u.Event)
	}
}

// delivered counts a message that reached the peer, with its body.
func (l *load) delivered(p *person, e *clientpb.Event) {
	if proto.EntityID(e.From) == p.account.User || e.BodyMissing {
		return
	}
	_, rest, _ := strings.Cut(e.GetText().GetText(), " ")
	due, _, _ := strings.Cut(rest, " ")
	ns, err := strconv.ParseInt(due, 10, 64)
	if err != nil {
		l.fail("foreign message")
		return
	}
	at := time.Duration(ns)
	l.deliver.add(at, time.Since(l.start)-at, l.isMeasured(at))
}

// isMeasured tells whether what was due at, since the start, counts.
func (l *load) isMeasured(at time.Duration) bool {
	return at >= l.cfg.WarmUp && at < l.cfg.WarmUp+l.cfg.Duration
}

// text makes a text of the size asked for that is unlike all others and says
// when it was due.
func (l *load) text(n int64, at time.Duration) string {
	b := make([]byte, 0, l.cfg.SizeBytes)
	b = strconv.AppendInt(b, n, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(at), 10)
	b = append(b, ' ')
	for len(b) < l.cfg.SizeBytes {
		b = append(b, "Bees tell each other where to go. "[len(b)%34])
	}
	return string(b)
}

// post sends message n, due at. It takes the pairs in turn, and the two of
// each pair in turn. It returns nil where nothing was sent.
func (l *load) post(n int64, at time.Duration) func() {
	i := int(n) % len(l.threads)
	from, to := l.plan.pairs[i].a, l.plan.pairs[i].b
	if int(n)/len(l.threads)%2 == 1 {
		from, to = to, from
	}
	p, thread, text := l.people[from], l.threads[i], l.text(l.share.number(n), at)
	if l.isMeasured(at) {
		l.sent.Add(1)
	}
	l.outstanding.Add(1)
	p.posting.Lock()
	record := p.record.Posted(thread, text)
	pending, err := p.Post(thread, text)
	p.posting.Unlock()
	if err != nil {
		l.outstanding.Add(-1)
		record.Failed(err)
		l.fail(errorKind(err))
		return nil
	}
	return func() {
		defer l.outstanding.Add(-1)
		timeout, cancel := context.WithTimeout(l.ctx, cmp.Or(l.cfg.ackTimeout, ackTimeout))
		defer cancel()
		sent, err := pending.Result(timeout)
		if err != nil {
			record.Failed(err)
			l.fail(errorKind(err))
			l.giveUp(givenUp{pending, p, l.people[to]})
			return
		}
		took := time.Since(l.start) - at
		l.ack.add(at, took, l.isMeasured(at))
		l.accepted.add(at, pending.Took(), l.isMeasured(at))
		if l.pauses != nil && l.pauses.touches(l.ids[i], p.account.User) {
			l.pauses.add(wait{p.account.User, at, took})
		}
		l.ackedAll.Add(1)
		if l.observe != nil {
			l.observe(at, took, pending.Took())
		}
		record.Acked(sent.Seq, sent.Time, sent.ClientMsgID)
		p.expected.Add(1)
		l.people[to].expected.Add(1)
	}
}

func (l *load) giveUp(g givenUp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.givenUp = append(l.givenUp, g)
}

func (l *load) fail(kind string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors[kind]++
}

func (l *load) errorCounts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.errors)
}

// countRefusal is told of each refusal after which a client sends again.
func (l *load) countRefusal(e *proto.Error) {
	if l.refused != nil {
		l.refused(e)
	}
	if !l.isMeasured(time.Since(l.start)) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusals[e.Code.String()]++
}

// refusalCounts is nil where there were none: then result.json has no such key.
func (l *load) refusalCounts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refusals) == 0 {
		return nil
	}
	return maps.Clone(l.refusals)
}

// errorKind names errors so that equal ones can be counted.
func errorKind(err error) string {
	var e *proto.Error
	switch {
	case errors.As(err, &e):
		return e.Code.String()
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	case errors.Is(err, client.ErrOutboxFull):
		return "outbox full"
	case errors.Is(err, client.ErrClosed), errors.Is(err, context.Canceled):
		return "closed"
	}
	return err.Error()
}

// send runs warm-up and load. What it leaves unanswered has been waited for
// when it returns.
func (l *load) send(ctx context.Context, c *cluster) (measured, error) {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	l.start = time.Now()
	end := l.start.Add(l.cfg.WarmUp + l.cfg.Duration)
	l.announce()
	var senders sync.WaitGroup
	l.begin(sending, end, &senders)
	var m measured
	err := l.watch(ctx, l.start.Add(l.cfg.WarmUp))
	acked := l.ackedAll.Load()
	m.from = c.measure()
	switch {
	case err != nil:
	case l.beside != nil:
		err = l.beside(ctx)
		stop()
	default:
		err = l.watch(ctx, end)
	}
	m.to = c.measure()
	m.ackedInWindow = l.ackedAll.Load() - acked
	senders.Wait()
	return m, err
}

// announce says what is about to be sent.
func (l *load) announce() {
	if l.cfg.Window > 0 {
		l.cfg.say("%s: %d messages outstanding", l.cfg.WarmUp+l.cfg.Duration, l.cfg.Window)
		return
	}
	l.cfg.say("%s: %g messages/s", l.cfg.WarmUp+l.cfg.Duration, l.cfg.Rate)
}

// begin starts the loop that sends until end.
func (l *load) begin(ctx context.Context, end time.Time, senders *sync.WaitGroup) {
	if l.cfg.Window > 0 {
		l.closedLoop(ctx, end, senders)
		return
	}
	senders.Go(func() { l.openLoop(ctx, end, senders) })
}

// watch waits until a moment and tells about progress.
func (l *load) watch(ctx context.Context, until time.Time) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	done := time.NewTimer(time.Until(until))
	defer done.Stop()
	for {
		select {
		case <-done.C:
			return nil
		case <-tick.C:
			l.cfg.say("%3.0f s: %d acknowledged, %d outstanding", time.Since(l.start).Seconds(), l.ackedAll.Load(), l.outstanding.Load())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// closedLoop keeps the window full until end.
func (l *load) closedLoop(ctx context.Context, end time.Time, senders *sync.WaitGroup) {
	next := new(atomic.Int64)
	for range l.share.part(l.cfg.Window) {
		senders.Go(func() {
			for ctx.Err() == nil && time.Now().Before(end) {
				wait := l.post(next.Add(1)-1, time.Since(l.start))
				if wait == nil {
					return
				}
				wait()
			}
		})
	}
}

// openLoop sends what is due until end, whatever is answered when. A generator
// that is late sends everything all the same, and how late is recorded. It
// adds the waiting for answers to senders, of which it is one itself.
func (l *load) openLoop(ctx context.Context, end time.Time, senders *sync.WaitGroup) {
	total := end.Sub(l.start)
	for n := int64(0); ctx.Err() == nil; n++ {
		at := time.Duration(float64(l.share.number(n)) / l.cfg.Rate * float64(time.Second))
		if at >= total {
			return
		}
		if early := at - time.Since(l.start); early > 0 {
			time.Sleep(early)
		}
		l.lag.add(at, time.Since(l.start)-at, l.isMeasured(at))
		if l.outstanding.Load() >= int64(l.share.part(backlogMax)) {
			if l.isMeasured(at) {
				l.sent.Add(1)
			}
			l.fail("not sent: backlog")
			continue
		}
		if wait := l.post(n, at); wait != nil {
			senders.Go(wait)
		}
	}
}
