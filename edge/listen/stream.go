package listen

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// streamReadBytes is how much a [streamConn] reads at a time, in a buffer it
// keeps while it is idle: 4 KiB were 5 % of an idle QUIC connection's memory.
// QUIC and TLS hold what has come, so reading it in parts costs no system call.
const streamReadBytes = 512

// stream is a connection that a goroutine reads.
type stream interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	streamEnd
}

// streamEnd is how a stream ends.
type streamEnd interface {
	// finish says that nothing more will be written; the peer still can.
	finish() error
	// abort frees everything at once.
	abort()
	// linger waits, until the time given, for the peer to have received
	// what was finished, where abort would destroy it.
	linger(until time.Time)
}

// tcpStream is TCP, with or without TLS.
type tcpStream struct {
	net.Conn
	half *net.TCPConn // the same connection under its TLS
}

func (s tcpStream) finish() error {
	if t, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		_ = t.CloseWrite()
	}
	return s.half.CloseWrite()
}

func (s tcpStream) abort() { _ = s.half.Close() }

// linger implements streamEnd: the kernel goes on sending after a close.
func (s tcpStream) linger(time.Time) {}

// streamConn is a [Conn] with a goroutine that reads. What is sent is written
// by a second goroutine that lives only while there is something to write, so
// that an idle connection costs one.
type streamConn struct {
	l         *Listener
	stream    stream
	transport Transport
	remote    netip.AddrPort
	half      atomic.Pointer[halfOpen] // nil after login
	frameMax  atomic.Int32
	receiver  Receiver // the reader's only

	mu      sync.Mutex // guards the fields below
	room    *sync.Cond // signalled when the queue shrank or the writer ended
	out     []byte
	writing bool
	high    bool
	closing bool
	closeBy time.Time // while closing
	cause   cause
	dead    bool
}

func (l *Listener) servePlain(conn *net.TCPConn, half *halfOpen, remote netip.AddrPort) {
	_ = conn.SetReadDeadline(half.deadline)
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		half.end()
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	peeked := &prefixed{Conn: conn, prefix: first}
	if looksLikeHTTP(first[0]) {
		half.end()
		l.http.offer(peeked)
		return
	}
	l.serveStream(tcpStream{Conn: peeked, half: conn}, TransportPlain, half, remote)
}

// serveStream reads st until it ends.
func (l *Listener) serveStream(st stream, transport Transport, half *halfOpen, remote netip.AddrPort) {
	c := &streamConn{l: l, stream: st, transport: transport, remote: remote}
	c.half.Store(half)
	c.room = sync.NewCond(&c.mu)
	c.frameMax.Store(proto.FrameBytesMaxBeforeLogin)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		half.end()
		st.abort()
		return
	}
	l.streams[c] = struct{}{}
	l.mu.Unlock()
	l.open.Add(1)
	l.sweeper.awaitHello(c, half.deadline)

	err := c.read()

	c.mu.Lock()
	for c.closing && c.writing { // its deadline bounds this
		c.room.Wait()
	}
	flushed := c.closing && c.cause == causeNone
	closeBy := c.closeBy
	c.mu.Unlock()
	if flushed {
		st.linger(closeBy)
	}
	c.mu.Lock()
	c.dead = true
	if c.cause != causeNone {
		err = c.cause.err()
	}
	c.mu.Unlock()
	st.abort()
	l.mu.Lock()
	delete(l.streams, c)
	l.mu.Unlock()
	l.open.Add(-1)
	endHalfOpen(&c.half)
	if c.receiver != nil {
		c.receiver.Closed(err)
	}
}

// read is the connection's goroutine. It returns nil when the peer closed.
func (c *streamConn) read() error {
	var d decoder
	buf := make([]byte, streamReadBytes)
	for {
		n, err := c.stream.Read(buf)
		if n > 0 && c.mayHandle() {
			if ferr := d.feed(buf[:n], c.limit, c.frame); ferr != nil {
				c.Close(c.l.handler.Refusal(proto.AsError(ferr)))
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// mayHandle waits while the peer has too much to read, and says whether what
// it sends is still of interest.
func (c *streamConn) mayHandle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.high && !c.closing && c.cause == causeNone {
		c.room.Wait()
	}
	return !c.closing && c.cause == causeNone
}

func (c *streamConn) limit() int { return int(c.frameMax.Load()) }

func (c *streamConn) frame(b []byte) bool {
	if c.receiver == nil {
		c.receiver = c.l.handler.Opened(c)
	}
	c.receiver.Frame(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closing && c.cause == causeNone
}

// Send implements [Conn].
func (c *streamConn) Send(frames ...[]byte) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.dead || c.cause != causeNone {
		return len(c.out), false
	}
	size := 0
	for _, frame := range frames {
		size += headerBytes + len(frame)
	}
	if len(c.out)+size > c.l.cfg.OutBytesMax {
		c.killLocked(causeSlowReader)
		return len(c.out), false
	}
	for _, frame := range frames {
		c.queueLocked(frame)
	}
	return len(c.out), true
}

func (c *streamConn) queueLocked(frame []byte) {
	c.out = appendFrame(c.out, frame)
	c.high = c.high || len(c.out) > c.l.cfg.OutHighBytes
	c.startWriterLocked()
}

func (c *streamConn) startWriterLocked() {
	if !c.writing {
		c.writing = true
		c.l.tasks.Go(c.write)
	}
}

// write empties the queue, then finishes the stream if it is closing.
func (c *streamConn) write() {
	for {
		c.mu.Lock()
		out, closing := c.out, c.closing
		c.out = nil
		if len(out) == 0 || c.dead {
			if closing && !c.dead {
				_ = c.stream.finish()
			}
			c.writing = false
			c.room.Broadcast()
			c.mu.Unlock()
			return
		}
		if !closing {
			_ = c.stream.SetWriteDeadline(time.Now().Add(c.l.cfg.SlowWriterTimeout))
		}
		c.mu.Unlock()
		if _, err := c.stream.Write(out); err != nil {
			c.mu.Lock()
			c.writing = false
			c.killLocked(causeSlowReader)
			c.mu.Unlock()
			return
		}
		c.mu.Lock()
		drained := c.high && len(c.out) < c.l.cfg.OutHighBytes/2
		if drained {
			c.high = false
			c.room.Broadcast()
		}
		receiver := c.receiver
		c.mu.Unlock()
		if drained && receiver != nil {
			receiver.Drained()
		}
	}
}

// Close implements [Conn]. The reader waits for the peer to close too, so
// that what was written is not destroyed by a reset.
func (c *streamConn) Close(final []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.dead || c.cause != causeNone {
		return
	}
	if final != nil {
		c.queueLocked(final)
	}
	c.closing = true
	c.room.Broadcast()
	c.startWriterLocked()
	c.closeBy = time.Now().Add(c.l.cfg.CloseFlushTimeout)
	_ = c.stream.SetReadDeadline(c.closeBy)
	_ = c.stream.SetWriteDeadline(c.closeBy)
}

// kill ends the connection without another word.
func (c *streamConn) kill(why cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killLocked(why)
}

func (c *streamConn) killLocked(why cause) {
	if c.cause == causeNone && !c.dead {
		c.cause = why
	}
	c.out = nil
	c.room.Broadcast()
	c.stream.abort()
}

// SetLoggedIn implements [Conn].
func (c *streamConn) SetLoggedIn() {
	c.frameMax.Store(proto.FrameBytesMax)
	endHalfOpen(&c.half)
}

func (c *streamConn) helloExpired() {
	if c.half.Load() != nil {
		c.Close(c.l.helloTimedOut())
	}
}

// Remote implements [Conn].
func (c *streamConn) Remote() netip.AddrPort { return c.remote }

// Transport implements [Conn].
func (c *streamConn) Transport() Transport { return c.transport }
