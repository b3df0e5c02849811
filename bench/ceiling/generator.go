package ceiling

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// A person's unanswered messages are bounded so that they fit into the
	// buffers of the connection: a schedule must not wait for a server that does
	// not read.
	unansweredBytesMax = 64 << 10
	unansweredMax      = 512
	// lateMax is how long after the measured time a generator that is late still
	// sends what was due in it.
	lateMax = time.Second
	// settleMax bounds the wait for what is unanswered at the end, settleEvery
	// is how often it is looked at.
	settleMax   = 60 * time.Second
	settleEvery = 5 * time.Millisecond
	// latencyMax is the highest latency told apart from a higher one.
	latencyMax = 10 * time.Minute
	// Before the body of a frame to the server come its length and the peer.
	headBytes = 8
)

// generator is the people: two for each pair, who write to each other in turns.
type generator struct {
	cfg    Config
	fail   context.CancelCauseFunc // ends the measurement
	people []*client
	wg     sync.WaitGroup // of the readers

	begin, end time.Time // of the measured time; set before the first message

	sent, acked, pushed, unsent atomic.Int64 // messages due in it
	written, answered           atomic.Int64 // all

	mu        sync.Mutex // guards latencies
	latencies *hdrhistogram.Histogram
}

// client is one person's connection.
type client struct {
	g    *generator
	peer *client
	conn *tls.Conn
	r    *bufio.Reader
	due  chan time.Time // of what is unanswered, in order

	mu  sync.Mutex // guards out, and that the order of due is that on the wire
	out []byte     // the frame: only the first byte of the body changes
}

func newGenerator(cfg Config, fail context.CancelCauseFunc) *generator {
	return &generator{cfg: cfg, fail: fail, latencies: hdrhistogram.New(1, latencyMax.Microseconds(), 3)}
}

// connect connects everybody. The server knows all of them when it returns.
func (g *generator) connect(ctx context.Context, addr string, config *tls.Config) error {
	for i := range 2 * g.cfg.Pairs {
		raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("ceiling: connect: %w", err)
		}
		c := g.newClient(uint32(i), tls.Client(raw, config))
		g.people = append(g.people, c)
		if err := c.hello(ctx, uint32(i)); err != nil {
			return fmt.Errorf("ceiling: connect: %w", err)
		}
	}
	for i, c := range g.people {
		c.peer = g.people[i^1]
		g.wg.Go(c.read)
	}
	return nil
}

func (g *generator) newClient(number uint32, conn *tls.Conn) *client {
	size := g.cfg.SizeBytes
	c := &client{
		g: g, conn: conn, r: bufio.NewReaderSize(conn, 4<<10),
		due: make(chan time.Time, max(2, min(unansweredMax, unansweredBytesMax/(headBytes+size)))), // a closed loop has two
		out: make([]byte, headBytes+size),
	}
	binary.BigEndian.PutUint32(c.out, uint32(4+size))
	binary.BigEndian.PutUint32(c.out[4:], number^1)
	return c
}

// hello says who it is and waits until the server knows.
func (c *client) hello(ctx context.Context, number uint32) error {
	if err := c.conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if _, err := c.conn.Write(binary.BigEndian.AppendUint32(nil, number)); err != nil {
		return err
	}
	_, err := readFrame(c.r)
	return err
}

func (g *generator) close() {
	for _, c := range g.people {
		_ = c.conn.NetConn().Close() // no farewell: the server closes too
	}
	g.wg.Wait()
}

// run runs warm-up and load, and waits for what is on its way.
func (g *generator) run(ctx context.Context, look func()) (*Result, error) {
	start := time.Now()
	g.begin = start.Add(g.cfg.WarmUp)
	g.end = g.begin.Add(g.cfg.Duration)
	var wg sync.WaitGroup
	wg.Go(func() {
		if g.cfg.Window > 0 {
			g.fill()
		} else {
			g.openLoop(ctx, start)
		}
	})
	r := &Result{}
	if rest(ctx, time.Until(g.begin)) {
		r.Answered = -g.answered.Load()
		look()
	}
	if rest(ctx, time.Until(g.end)) {
		r.Answered += g.answered.Load()
		look()
	}
	deadline := time.Now().Add(settleMax)
	if ctx.Err() != nil {
		deadline = time.Now()
	}
	for _, c := range g.people {
		_ = c.conn.SetWriteDeadline(deadline) // for a server that reads no more
	}
	wg.Wait()
	if err := g.settle(ctx); err != nil {
		return nil, err
	}
	r.Sent, r.Acked, r.Pushed, r.Unsent = g.sent.Load(), g.acked.Load(), g.pushed.Load(), g.unsent.Load()
	g.mu.Lock()
	defer g.mu.Unlock()
	r.Latencies = g.latencies
	return r, nil
}

// settle waits until all is answered, and all that was due in the measured time
// has been pushed.
func (g *generator) settle(ctx context.Context) error {
	late := time.Now().Add(settleMax)
	for {
		answered, pushed := g.answered.Load(), g.pushed.Load() // before what they are held to
		written, sent := g.written.Load(), g.sent.Load()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case answered == written && pushed == sent:
			return nil
		case time.Now().After(late):
			return fmt.Errorf("ceiling: %d of %d messages were acknowledged, and %d of the %d measured ones pushed, %s after the end", answered, written, pushed, sent, settleMax)
		}
		rest(ctx, settleEvery)
	}
}

// isMeasured tells whether what was due at a time counts.
func (g *generator) isMeasured(due time.Time) bool {
	return !due.Before(g.begin) && due.Before(g.end)
}

// read takes what comes until the connection ends.
func (c *client) read() {
	for {
		frame, err := readFrame(c.r)
		if err != nil {
			c.g.fail(fmt.Errorf("ceiling: a connection broke: %w", err)) // at the end nobody asks
			return
		}
		switch {
		case len(frame) > 1 && frame[0] == kindPush:
			c.g.pushed.Add(int64(frame[1]))
		case len(frame) == 1 && frame[0] == kindAck:
			c.answered()
		default:
			c.g.fail(errors.New("ceiling: the server sent a frame of no kind"))
			return
		}
	}
}

// answered counts an acknowledgement. In a closed loop the peer writes the next
// message at once: one for one, so that no place of the window is lost, however
// many of them one person has. The answer counts after that: a moment in
// between would look like the end.
func (c *client) answered() {
	g, due, now := c.g, <-c.due, time.Now()
	if g.cfg.Window > 0 && now.Before(g.end) {
		c.peer.send(now)
	}
	if g.isMeasured(due) {
		g.mu.Lock()
		_ = g.latencies.RecordValue(min(max(now.Sub(due).Microseconds(), 1), latencyMax.Microseconds())) // within its bounds
		g.mu.Unlock()
		g.acked.Add(1)
	}
	g.answered.Add(1)
}

// send writes a message that was due at a time. It tells whether it did: not if
// too many are unanswered.
func (c *client) send(due time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case c.due <- due:
	default:
		return false
	}
	c.g.written.Add(1)
	c.out[headBytes] = 0
	if c.g.isMeasured(due) {
		c.out[headBytes] = 1
		c.g.sent.Add(1)
	}
	if _, err := c.conn.Write(c.out); err != nil {
		c.g.fail(fmt.Errorf("ceiling: a connection broke: %w", err))
	}
	return true
}

// fill begins a closed loop, which then goes on by itself until the end. The
// first places go to one person of each pair, the next to the others.
func (g *generator) fill() {
	for i := range g.cfg.Window {
		pair, turn := i%g.cfg.Pairs, i/g.cfg.Pairs
		g.people[2*pair+turn%2].send(time.Now())
	}
}

// openLoop sends by a schedule, whatever the server does.
func (g *generator) openLoop(ctx context.Context, start time.Time) {
	for n := 0; ctx.Err() == nil; n++ {
		due := start.Add(time.Duration(float64(n) / g.cfg.Rate * float64(time.Second)))
		if !due.Before(g.end) {
			return
		}
		if early := time.Until(due); early > 0 {
			rest(ctx, early)
		}
		from := g.people[2*(n%g.cfg.Pairs)+n/g.cfg.Pairs%2]
		if (time.Since(g.end) > lateMax || !from.send(due)) && g.isMeasured(due) {
			g.unsent.Add(1)
		}
	}
}
