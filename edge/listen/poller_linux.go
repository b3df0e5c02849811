package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-im/waggle/proto"
)

const (
	// eventsPerWait is how many sockets one epoll_wait reports.
	eventsPerWait = 256
	// readsPerWake bounds what one connection may have read and handled
	// before the others get their turn: 4 × readBytes.
	readsPerWake = 4
	// unsentBytesMax bounds what the kernel holds for a peer that does not
	// read, where it would take 2.5 MB and more. What is on its way does not
	// count, so it bounds no speed.
	unsentBytesMax = 128 << 10
)

// pollers share the parked connections; a connection stays with the poller it
// was given. A nil *pollers has none.
type pollers struct {
	l    *Listener
	all  []*poller
	next atomic.Uint32
}

// poller waits for many sockets with one goroutine.
//
// Its epoll set is itself watched by the Go runtime's poller, so a waiting
// poller costs no thread. The runtime watches edges: we may wait only after
// epoll_wait has reported nothing. Inside the set sockets are level-triggered:
// what is left unread is reported again.
type poller struct {
	l     *Listener
	epoll *os.File
	raw   int // the descriptor of epoll

	mu      sync.Mutex // guards the fields below
	table   []*parked  // by descriptor
	counter uint32     // tells uses of one descriptor apart
	started bool
	stopped bool
}

func newPollers(l *Listener) (*pollers, error) {
	ps := &pollers{l: l}
	for range l.cfg.Pollers {
		fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err == nil {
			err = unix.SetNonblock(fd, true) // makes os.NewFile watch it
		}
		if err != nil {
			ps.stop()
			return nil, fmt.Errorf("listen: epoll: %w", err)
		}
		p := &poller{l: l, raw: fd, epoll: os.NewFile(uintptr(fd), "epoll")}
		ps.all = append(ps.all, p)
		if err := p.epoll.SetReadDeadline(time.Time{}); err != nil {
			ps.stop()
			return nil, fmt.Errorf("listen: the runtime does not watch epoll: %w", err)
		}
	}
	return ps, nil
}

func (ps *pollers) start() {
	if ps == nil {
		return
	}
	for _, p := range ps.all {
		p.mu.Lock()
		p.started = true
		p.mu.Unlock()
		ps.l.tasks.Go(p.run)
	}
}

// stop ends all connections. A poller that was started frees its own things.
func (ps *pollers) stop() {
	if ps == nil {
		return
	}
	for _, p := range ps.all {
		p.mu.Lock()
		p.stopped = true
		started := p.started
		p.mu.Unlock()
		_ = p.epoll.SetReadDeadline(time.Unix(1, 0)) // ends its wait
		if !started {
			_ = p.epoll.Close()
		}
	}
}

// park takes tcp over, with the TLS state of its finished handshake if there
// is one. From here on the runtime knows nothing of the socket.
func (ps *pollers) park(tcp *net.TCPConn, secure *parkedTLS, half *halfOpen, remote netip.AddrPort) {
	p := ps.all[int(ps.next.Add(1))%len(ps.all)]
	fd, err := takeDescriptor(tcp)
	_ = tcp.Close()
	if err != nil {
		half.end()
		ps.l.log.Warn("parking failed", "remote", remote, "err", err)
		return
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytesMax); err != nil {
		ps.l.log.Warn("the kernel's queue of a connection is not bounded", "remote", remote, "err", err)
	}
	c := &parked{p: p, remote: remote, fd: int32(fd), fresh: secure == nil}
	c.half.Store(half)
	c.frameMax.Store(proto.FrameBytesMaxBeforeLogin)
	c.interest = unix.EPOLLIN
	if secure != nil {
		secure.wire.parked, secure.wire.tcp = c, nil
		c.tls = secure.conn
		// The handshake may have read the first frames already; a socket
		// that can be written to wakes the poller at once.
		c.interest |= unix.EPOLLOUT
	}
	ps.l.open.Add(1)
	if err := p.add(c); err != nil {
		half.end()
		ps.l.open.Add(-1)
		_ = unix.Close(fd)
		return
	}
	ps.l.sweeper.awaitHello(c, half.deadline)
}

// takeDescriptor is a descriptor of tcp's socket of our own. It stays
// non-blocking: that is a property of the socket, not of the descriptor.
func takeDescriptor(tcp *net.TCPConn) (int, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	var fd int
	var dupErr error
	err = raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(err, dupErr)
}

func (p *poller) add(c *parked) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return net.ErrClosed
	}
	p.counter++
	c.use = p.counter
	for len(p.table) <= int(c.fd) {
		p.table = append(p.table, nil)
	}
	p.table[c.fd] = c
	// Under the lock, so that the poller finds c in the table.
	event := c.event()
	if err := unix.EpollCtl(p.raw, unix.EPOLL_CTL_ADD, int(c.fd), &event); err != nil {
		p.table[c.fd] = nil
		return err
	}
	return nil
}

// find is the connection an event is about; nil if it has ended since.
func (p *poller) find(fd int32, use uint32) *parked {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(fd) >= len(p.table) {
		return nil
	}
	if c := p.table[fd]; c != nil && c.use == use {
		return c
	}
	return nil
}

func (p *poller) forget(fd int32) {
	p.mu.Lock()
	p.table[fd] = nil
	p.mu.Unlock()
}

func (p *poller) run() {
	buf := p.l.buffers.get()
	defer p.l.buffers.put(buf)
	events := make([]unix.EpollEvent, eventsPerWait)
	var again, unfinished []*parked
	for {
		n, err := p.wait(events, len(unfinished) == 0)
		if err != nil {
			p.closeAll()
			_ = p.epoll.Close() // last: connections name it until they end
			return
		}
		again, unfinished = unfinished, again[:0]
		for _, c := range again {
			if c.wake(unix.EPOLLIN, *buf) {
				unfinished = append(unfinished, c)
			}
		}
		for i := range n {
			c := p.find(events[i].Fd, uint32(events[i].Pad))
			// One that stands in unfinished had its turn already.
			if c != nil && !c.queued && c.wake(events[i].Events, *buf) {
				unfinished = append(unfinished, c)
			}
		}
		for _, c := range unfinished {
			c.queued = false
		}
		clear(again) // keeps no ended connection
	}
}

// wait reports events; with block it waits for the first.
func (p *poller) wait(events []unix.EpollEvent, block bool) (n int, err error) {
	raw, err := p.epoll.SyscallConn()
	if err != nil {
		return 0, err
	}
	var pollErr error
	err = raw.Read(func(fd uintptr) bool {
		n, pollErr = unix.EpollWait(int(fd), events, 0)
		if pollErr == unix.EINTR {
			n, pollErr = 0, nil
			return true
		}
		return n > 0 || pollErr != nil || !block
	})
	if err == nil {
		err = pollErr
	}
	return max(n, 0), err
}

func (p *poller) closeAll() {
	p.mu.Lock()
	p.stopped = true
	var all []*parked
	for _, c := range p.table {
		if c != nil {
			all = append(all, c)
		}
	}
	p.mu.Unlock()
	for _, c := range all {
		c.destroy(causeStopped.err())
	}
}

// sweepNow is the clock of a connection's deadlines: milliseconds, in the
// four bytes a parked connection has for it. It wraps after 49 days, which
// differences survive.
func sweepNow(now time.Time) uint32 { return uint32(now.UnixMilli()) }
