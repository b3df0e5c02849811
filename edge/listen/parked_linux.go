package listen

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-im/waggle/proto"
)

// parked is a TCP connection without goroutine. Its poller reads, decodes and
// destroys it; anyone may send. Keep it small: there are many.
//
//	open ──Close──► closing (queues its last words) ──► sealed (writes the rest)
//	  │               ──► finished (our side is shut down) ──► destroyed
//	  └── peer closed, error, kill ───────────────────────────►
//
// From closing on what the peer sends is read and dropped.
//
// Only the poller closes the descriptor, so that nobody writes into a socket
// that has since become another's. Others shut the socket down, which wakes
// the poller.
//
// Lock order: the lock of crypto/tls before mu. No callback runs under mu.
type parked struct {
	p        *poller
	tls      *tls.Conn                // nil: plaintext
	receiver Receiver                 // the poller's; nil before the first frame
	half     atomic.Pointer[halfOpen] // nil after login
	remote   netip.AddrPort
	in       decoder // the poller's
	frameMax atomic.Int32
	use      uint32 // with fd, names this connection in events
	queued   bool   // the poller's: has unread bytes and a turn coming
	fresh    bool   // the poller's: plaintext of which no byte has come
	empty    bool   // the poller's: the socket was read empty in this turn

	mu       sync.Mutex // guards the fields below
	stage    stage
	high     bool // the queue is too long: nothing is read
	cause    cause
	fd       int32  // -1: destroyed
	interest uint32 // the events asked for
	progress uint32 // when the queue last shrank or was empty; sweepNow
	out      []byte // bytes for the socket
}

// stage is how far the end of a parked connection has come.
type stage uint8

const (
	stageOpen     stage = iota
	stageClosing        // only last words are queued: a frame, and TLS' alert
	stageSealed         // all that will be written is queued
	stageFinished       // all of it is written, and our side of the socket shut down
)

func (c *parked) event() unix.EpollEvent {
	return unix.EpollEvent{Events: c.interest, Fd: c.fd, Pad: int32(c.use)}
}

// wake is a turn of c with its poller. It tells whether c wants another one
// without waiting for an event.
func (c *parked) wake(events uint32, buf []byte) (again bool) {
	drained, readable, closing := c.writable(events)
	if drained && c.receiver != nil {
		c.receiver.Drained()
	}
	if closing {
		return c.drop(buf)
	}
	if !readable {
		// Not read while the queue is long, but an end is noticed.
		if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			c.destroy(io.ErrUnexpectedEOF)
		}
		return false
	}
	c.empty = false
	for range readsPerWake {
		n, err := c.read(buf)
		if n > 0 && !c.consume(buf[:n]) {
			return false
		}
		if err != nil {
			return c.readFailed(err)
		}
		if c.tls == nil && n < len(buf) {
			return false // read empty; more will be an event
		}
		if c.paused() {
			return false
		}
	}
	c.queued = true
	return true
}

// writable writes what waits if the socket takes it.
func (c *parked) writable(events uint32) (drained, readable, closing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return false, false, false
	}
	if events&unix.EPOLLOUT != 0 || len(c.out) > 0 {
		c.flushLocked()
	}
	if c.high && len(c.out) < c.p.l.cfg.OutHighBytes/2 {
		c.high = false
		drained = true
		c.askLocked()
	}
	return drained, !c.high, c.stage != stageOpen
}

func (c *parked) paused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.high || c.stage != stageOpen || c.fd < 0
}

// read gives decrypted bytes.
func (c *parked) read(buf []byte) (int, error) {
	if c.tls != nil {
		return c.tls.Read(buf)
	}
	return c.sysRead(buf)
}

// sysRead never waits: an empty socket is errAgain, its end io.EOF.
func (c *parked) sysRead(buf []byte) (int, error) {
	for {
		// Only the poller reads and only it closes: no lock is needed.
		n, err := unix.Read(int(c.fd), buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, errAgain{}
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// tlsRead is what crypto/tls reads from. After a short read it does not ask
// the kernel again: epoll will tell.
func (c *parked) tlsRead(b []byte) (int, error) {
	if c.empty {
		return 0, errAgain{}
	}
	n, err := c.sysRead(b)
	c.empty = n < len(b)
	return n, err
}

// tlsWrite is what crypto/tls writes to. It takes everything and never fails:
// a failed or short write would end the TLS session.
func (c *parked) tlsWrite(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		c.appendLocked(b)
	}
	return len(b), nil
}

// consume handles what was read and tells whether c is still of interest.
func (c *parked) consume(b []byte) bool {
	if c.fresh {
		c.fresh = false
		if looksLikeHTTP(b[0]) {
			c.handOver(b)
			return false
		}
	}
	err := c.in.feed(b, func() int { return int(c.frameMax.Load()) }, func(frame []byte) bool {
		if c.receiver == nil {
			c.receiver = c.p.l.handler.Opened(c)
		}
		c.receiver.Frame(frame)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.stage == stageOpen && c.cause == causeNone
	})
	if err != nil {
		c.Close(c.p.l.handler.Refusal(proto.AsError(err)))
	}
	return true
}

func (c *parked) readFailed(err error) (again bool) {
	switch {
	case isAgain(err):
		return false
	case err == io.EOF:
		err = nil
	}
	c.destroy(err)
	return false
}

// drop reads a closing connection empty, so that closing it sends no reset
// which would destroy what the peer has yet to read.
func (c *parked) drop(buf []byte) (again bool) {
	for range readsPerWake {
		if _, err := c.sysRead(buf); err != nil {
			return c.readFailed(err)
		}
	}
	return false
}

// destroy frees everything. The poller's only.
func (c *parked) destroy(err error) {
	c.mu.Lock()
	if c.fd < 0 {
		c.mu.Unlock()
		return
	}
	if c.cause != causeNone {
		err = c.cause.err()
	}
	fd := c.fd
	c.p.forget(fd)
	c.fd = -1
	c.out = nil
	_ = unix.Close(int(fd)) // leaves the epoll set by that
	c.mu.Unlock()
	c.p.l.open.Add(-1)
	endHalfOpen(&c.half)
	if c.receiver != nil {
		c.receiver.Closed(err)
	}
}

// handOver gives the socket back to the runtime, for the HTTP server.
func (c *parked) handOver(read []byte) {
	c.mu.Lock()
	fd := c.fd
	c.p.forget(fd)
	_ = unix.EpollCtl(c.p.raw, unix.EPOLL_CTL_DEL, int(fd), nil)
	c.fd = -1
	c.mu.Unlock()
	c.p.l.open.Add(-1)
	endHalfOpen(&c.half)
	file := os.NewFile(uintptr(fd), "tcp")
	defer file.Close()
	conn, err := net.FileConn(file) // a descriptor of its own
	if err != nil {
		return
	}
	c.p.l.http.offer(&prefixed{Conn: conn, prefix: append([]byte(nil), read...)})
}

// Send implements [Conn].
func (c *parked) Send(frames ...[]byte) (int, bool) {
	buf := c.p.l.buffers.get()
	defer c.p.l.buffers.put(buf)
	*buf = (*buf)[:0]
	for _, frame := range frames {
		*buf = appendFrame(*buf, frame)
	}
	return c.write(*buf, false)
}

// write queues b and writes what the socket takes.
func (c *parked) write(b []byte, final bool) (int, bool) {
	if c.tls == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.admitLocked(len(b), final) {
			return len(c.out), false
		}
		c.appendLocked(b)
		c.flushUnlessFullLocked()
		return len(c.out), c.cause == causeNone
	}
	c.mu.Lock()
	ok := c.admitLocked(len(b), final)
	queued := len(c.out)
	c.mu.Unlock()
	if !ok {
		return queued, false
	}
	if _, err := c.tls.Write(b); err != nil { // comes back in tlsWrite
		return queued, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushUnlessFullLocked()
	return len(c.out), c.cause == causeNone
}

// flushUnlessFullLocked spares the system call when the poller waits for room
// anyway.
func (c *parked) flushUnlessFullLocked() {
	if c.interest&unix.EPOLLOUT == 0 {
		c.flushLocked()
	}
}

func (c *parked) admitLocked(n int, final bool) bool {
	if c.fd < 0 || c.cause != causeNone || c.stage != stageOpen && !final {
		return false
	}
	if !final && len(c.out)+n > c.p.l.cfg.OutBytesMax {
		c.killLocked(causeSlowReader)
		return false
	}
	return true
}

func (c *parked) appendLocked(b []byte) {
	if len(c.out) == 0 {
		c.progress = sweepNow(time.Now())
	}
	c.out = append(c.out, b...)
	if !c.high && len(c.out) > c.p.l.cfg.OutHighBytes {
		c.high = true
		c.askLocked()
	}
}

// flushLocked writes until the socket is full or nothing is left.
func (c *parked) flushLocked() {
	written := 0
	for written < len(c.out) && c.fd >= 0 && c.stage != stageFinished && c.cause == causeNone {
		n, err := unix.Write(int(c.fd), c.out[written:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			if err != unix.EAGAIN {
				// The poller will read the same error and end c.
				written = len(c.out)
			}
			break
		}
		written += n
	}
	switch {
	case written == len(c.out):
		c.out = nil
	case written > 0:
		// Moved down, not cut off: the space before would never be used.
		c.out = c.out[:copy(c.out, c.out[written:])]
		if c.stage == stageOpen { // closing counts from its beginning
			c.progress = sweepNow(time.Now())
		}
	}
	if len(c.out) == 0 && c.stage == stageSealed && c.fd >= 0 {
		c.stage = stageFinished
		_ = unix.Shutdown(int(c.fd), unix.SHUT_WR)
	}
	c.askLocked()
}

// askLocked tells epoll what c waits for.
func (c *parked) askLocked() {
	if c.fd < 0 {
		return
	}
	var want uint32
	if !c.high || c.stage != stageOpen {
		want |= unix.EPOLLIN
	}
	if len(c.out) > 0 || c.high {
		// Also when another's Send emptied the queue: only the poller
		// ends the pause.
		want |= unix.EPOLLOUT
	}
	if want == c.interest {
		return
	}
	if want&^c.interest&unix.EPOLLOUT != 0 {
		c.p.l.sweeper.watch(c)
	}
	c.interest = want
	event := c.event()
	_ = unix.EpollCtl(c.p.raw, unix.EPOLL_CTL_MOD, int(c.fd), &event)
}

// Close implements [Conn].
func (c *parked) Close(final []byte) {
	c.mu.Lock()
	if c.stage != stageOpen || c.fd < 0 || c.cause != causeNone {
		c.mu.Unlock()
		return
	}
	c.stage = stageClosing
	c.mu.Unlock()
	if final != nil {
		c.write(appendFrame(nil, final), true)
	}
	if c.tls != nil {
		_ = c.tls.CloseWrite()
	}
	c.mu.Lock()
	c.stage = stageSealed
	c.progress = sweepNow(time.Now()) // the closing time-out counts from here
	c.flushLocked()
	c.mu.Unlock()
	c.p.l.sweeper.watch(c)
}

// killLocked ends c without another word. The poller notices the shutdown.
func (c *parked) killLocked(why cause) {
	if c.cause == causeNone {
		c.cause = why
	}
	c.out = nil
	_ = unix.Shutdown(int(c.fd), unix.SHUT_RDWR)
	c.askLocked()
}

// sweep implements writer.
func (c *parked) sweep(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 || c.cause != causeNone || c.stage == stageOpen && len(c.out) == 0 {
		return false
	}
	waited := time.Duration(sweepNow(now)-c.progress) * time.Millisecond
	switch {
	case int32(sweepNow(now)-c.progress) < 0: // progress came after now was read
	case c.stage != stageOpen && waited >= c.p.l.cfg.CloseFlushTimeout:
		c.killLocked(causeAborted)
	case c.stage == stageOpen && waited >= c.p.l.cfg.SlowWriterTimeout:
		c.killLocked(causeSlowReader)
	}
	return true
}

// SetLoggedIn implements [Conn].
func (c *parked) SetLoggedIn() {
	c.frameMax.Store(proto.FrameBytesMax)
	endHalfOpen(&c.half)
}

func (c *parked) helloExpired() {
	if c.half.Load() != nil {
		c.Close(c.p.l.helloTimedOut())
	}
}

// Remote implements [Conn].
func (c *parked) Remote() netip.AddrPort { return c.remote }

// Transport implements [Conn].
func (c *parked) Transport() Transport {
	if c.tls != nil {
		return TransportTCP
	}
	return TransportPlain
}
