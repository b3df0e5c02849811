package live

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// strangersMax limits connections that have not been admitted yet, and those
	// of one address: a hundred viewers behind one router come within seconds.
	strangersMax, strangersPerAddressMax = 512, 128
	// strangerBytesMax is what may be read before a connection is admitted: the
	// greatest SDP that is taken is 128 KiB.
	strangerBytesMax = 256 << 10
	// sendBufferBytes of the system for a viewer: 20 Mbit/s over 100 ms. Without
	// it the system keeps up to 4 MiB, a quarter of a minute of a usual stream.
	sendBufferBytes = 256 << 10
)

var errTooMuch = errors.New("sent too much before it was admitted")

// guard is a listener whose connections are closed unless they are admitted in
// time. The libraries above wait for ever for a request.
type guard struct {
	net.Listener
	admitWithin time.Duration
	max         int

	mu        sync.Mutex // guards what follows
	conns     map[*conn]struct{}
	strangers int
	from      map[netip.Addr]int // strangers by address
	closed    bool
}

func newGuard(l net.Listener, admitWithin time.Duration, connsMax int) *guard {
	return &guard{Listener: l, admitWithin: admitWithin, max: connsMax, conns: make(map[*conn]struct{}), from: make(map[netip.Addr]int)}
}

// Accept implements [net.Listener]. It fails only when the listener is closed:
// whoever serves ends for good at the first error.
func (g *guard) Accept() (net.Conn, error) {
	pause := time.Millisecond
	for {
		nc, err := g.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil { // too many open files: a moment later there may be fewer
			if !temporary(err) {
				return nil, err
			}
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		if c := g.take(nc); c != nil {
			return c, nil
		}
		_ = nc.Close() // there are too many
	}
}

func temporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (g *guard) take(nc net.Conn) *conn {
	tcp, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return nil
	}
	from := tcp.AddrPort().Addr().Unmap()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || len(g.conns) >= g.max || g.strangers >= strangersMax || g.from[from] >= strangersPerAddressMax {
		return nil
	}
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetWriteBuffer(sendBufferBytes)
	}
	c := &conn{Conn: nc, guard: g, from: from, stranger: true}
	c.budget.Store(strangerBytesMax)
	g.conns[c] = struct{}{}
	g.strangers++
	g.from[from]++
	c.timer = time.AfterFunc(g.admitWithin, c.drop)
	return c
}

// closeAll closes the listener and what it has accepted.
func (g *guard) closeAll() {
	_ = g.Listener.Close()
	g.mu.Lock()
	g.closed = true
	all := make([]*conn, 0, len(g.conns))
	for c := range g.conns {
		all = append(all, c)
	}
	g.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

// conn is a connection that has to be admitted.
type conn struct {
	net.Conn
	guard    *guard
	from     netip.Addr
	timer    *time.Timer
	budget   atomic.Int64 // bytes that may still be read; below 0: no limit
	stranger bool         // guarded by guard.mu
	once     sync.Once
}

// admit takes a connection to be one that plays or publishes: other limits hold
// from now on.
func (c *conn) admit() {
	c.budget.Store(-1)
	c.timer.Stop()
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	c.known()
}

// known counts c as no stranger any more, under guard.mu.
func (c *conn) known() {
	if !c.stranger {
		return
	}
	c.stranger = false
	c.guard.strangers--
	if c.guard.from[c.from]--; c.guard.from[c.from] <= 0 {
		delete(c.guard.from, c.from)
	}
}

// dismiss is for a connection whose session has ended: it may begin another one
// in time.
func (c *conn) dismiss() {
	c.budget.Store(strangerBytesMax)
	c.timer.Reset(c.guard.admitWithin)
}

// closeWithin lets c say the last words, and closes it then.
func (c *conn) closeWithin(d time.Duration) { c.timer.Reset(d) }

// allow sets how many more bytes may be read.
func (c *conn) allow(n int64) { c.budget.Store(n) }

// Read implements [net.Conn].
func (c *conn) Read(b []byte) (int, error) {
	left := c.budget.Load()
	if left == 0 {
		return 0, errTooMuch
	}
	if left > 0 && int64(len(b)) > left {
		b = b[:left]
	}
	n, err := c.Conn.Read(b)
	if left > 0 {
		c.budget.CompareAndSwap(left, left-int64(n)) // fails if c was admitted meanwhile
	}
	return n, err
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.timer.Stop()
	c.leave()
	return c.Conn.Close()
}

// drop closes c when its time is up. It does not touch the timer: it may run
// before that is known.
func (c *conn) drop() {
	c.leave()
	_ = c.Conn.Close()
}

// leave takes c off the guard's list.
func (c *conn) leave() {
	c.once.Do(func() {
		c.guard.mu.Lock()
		defer c.guard.mu.Unlock()
		delete(c.guard.conns, c)
		c.known()
	})
}

// ListenUDP opens a pair of sockets for RTP and RTCP on host. port is that of
// RTP and even; that of RTCP follows it. 0: any pair that is free.
func ListenUDP(ctx context.Context, host string, port int) (rtp, rtcp *net.UDPConn, err error) {
	if port%2 != 0 {
		return nil, nil, fmt.Errorf("live: the port of RTP must be even, %d is not", port)
	}
	tries := 1
	if port == 0 {
		tries = 100 // each is free with a good chance
	}
	for range tries {
		if rtp, rtcp, err = listenPair(ctx, host, port); err == nil {
			return rtp, rtcp, nil
		}
	}
	return nil, nil, fmt.Errorf("live: no pair of ports for RTP and RTCP: %w", err)
}

// udpBufferBytes holds what publishers send while the reader waits for a
// processor: the system's default is some 200 KiB, 100 ms of ten of them. It is
// a wish, the system may give less.
const udpBufferBytes = 4 << 20

func listenPair(ctx context.Context, host string, port int) (rtp, rtcp *net.UDPConn, err error) {
	var lc net.ListenConfig
	listen := func(p int) (*net.UDPConn, error) {
		pc, err := lc.ListenPacket(ctx, "udp", net.JoinHostPort(host, fmt.Sprint(p)))
		if err != nil {
			return nil, err
		}
		c := pc.(*net.UDPConn)
		_ = c.SetReadBuffer(udpBufferBytes)
		_ = c.SetWriteBuffer(udpBufferBytes)
		return c, nil
	}
	if rtp, err = listen(port); err != nil {
		return nil, nil, err
	}
	at := rtp.LocalAddr().(*net.UDPAddr).Port
	if at%2 != 0 {
		_ = rtp.Close()
		return nil, nil, fmt.Errorf("port %d is odd", at)
	}
	if rtcp, err = listen(at + 1); err != nil {
		_ = rtp.Close()
		return nil, nil, err
	}
	return rtp, rtcp, nil
}
