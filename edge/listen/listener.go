package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/waggle-im/waggle/proto"
)

// Listener accepts connections and serves them until its Run ends.
type Listener struct {
	cfg     Config
	handler Handler
	log     *slog.Logger
	limiter *limiter
	sweeper *sweeper
	tls     *tls.Config // over TCP
	http    *httpSide
	pollers *pollers // nil: every TCP connection has a goroutine

	tcp, plain net.Listener
	udp        *net.UDPConn
	quic       *quic.Listener
	transport  *quic.Transport

	buffers pool
	line    line // of TLS connections whose handshake has not begun
	// quicHandshakes are admitted and not yet accepted, nor ended.
	quicHandshakes atomic.Int64
	quicAcceptors  atomic.Int64  // waiting, beside the one that always does
	quicBegun      chan struct{} // woken by each handshake
	quicEnded      sync.Once     // is told once
	tasks          sync.WaitGroup
	stopping       atomic.Bool
	open           atomic.Int64
	refused        atomic.Int64

	mu      sync.Mutex // guards the fields below
	streams map[*streamConn]struct{}
	closed  bool
}

// New checks cfg and binds its addresses, so that a port in use is an error
// here; nothing is accepted before Run. log may be nil. Close frees the
// addresses if Run is never called.
func New(cfg Config, handler Handler, log *slog.Logger) (*Listener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cfg = cfg.withDefaults()
	l := &Listener{
		cfg: cfg, handler: handler, log: log,
		limiter: newLimiter(cfg), sweeper: newSweeper(),
		http:      newHTTPSide(cfg.HTTP),
		line:      newLine(cfg),
		quicBegun: make(chan struct{}, 1),
		streams:   map[*streamConn]struct{}{},
	}
	if cfg.TLS != nil {
		l.tls = overTCP(cfg.TLS)
	}
	err := l.bind()
	if err == nil && !cfg.Portable {
		l.pollers, err = newPollers(l)
	}
	if err == nil && l.udp != nil {
		err = l.listenQUIC()
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// bind opens the sockets. TCP and UDP share a port number; when the system
// chooses it, the one free for TCP may be taken for UDP, so we try again.
func (l *Listener) bind() error {
	listen := net.ListenConfig{KeepAlive: -1} // heartbeats find dead peers
	var err error
	if l.cfg.PlaintextAddr != "" {
		if l.plain, err = listen.Listen(context.Background(), "tcp", l.cfg.PlaintextAddr); err != nil {
			return fmt.Errorf("listen: plaintext: %w", err)
		}
	}
	if l.cfg.Addr == "" {
		return nil
	}
	const tries = 10
	for try := 1; ; try++ {
		if l.tcp, err = listen.Listen(context.Background(), "tcp", l.cfg.Addr); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		at := l.tcp.Addr().(*net.TCPAddr)
		l.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone})
		if err == nil {
			return nil
		}
		_ = l.tcp.Close()
		l.tcp = nil
		if _, port, _ := net.SplitHostPort(l.cfg.Addr); port != "0" || try == tries {
			return fmt.Errorf("listen: the UDP port beside TCP %s: %w", at, err)
		}
	}
}

// Addr is the bound address of TLS and QUIC; nil if there is none.
func (l *Listener) Addr() net.Addr {
	if l.tcp == nil {
		return nil
	}
	return l.tcp.Addr()
}

// PlaintextAddr is the bound plaintext address; nil if there is none.
func (l *Listener) PlaintextAddr() net.Addr {
	if l.plain == nil {
		return nil
	}
	return l.plain.Addr()
}

// Stats are counts of the moment.
type Stats struct {
	Open     int // native connections, logged in or not
	HalfOpen int // connections that have not logged in
	Refused  int // connections refused by a limit since the start
}

// Stats counts connections.
func (l *Listener) Stats() Stats {
	return Stats{Open: int(l.open.Load()), HalfOpen: l.limiter.halfOpen(), Refused: int(l.refused.Load())}
}

// Run serves until ctx ends, then closes every connection at once and returns
// after the last goroutine. For a gentle end call StopAccepting first and let
// the connections close.
func (l *Listener) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.tasks.Go(func() { l.sweeper.run(ctx) })
	l.tasks.Go(l.http.run)
	l.pollers.start()
	if l.plain != nil {
		l.tasks.Go(func() { l.accept(ctx, l.plain, l.acceptPlain) })
	}
	if l.tcp != nil {
		l.tasks.Go(func() { l.accept(ctx, l.tcp, l.acceptTLS) })
		l.tasks.Go(func() { l.line.run(ctx, l) })
		l.tasks.Go(func() { l.acceptQUIC(ctx) })
	}
	<-ctx.Done()
	err := l.Close()
	l.tasks.Wait()
	l.line.empty(l)
	return err
}

// StopAccepting refuses new connections from now on; those there are go on.
func (l *Listener) StopAccepting() {
	l.stopping.Store(true)
	for _, ln := range []net.Listener{l.tcp, l.plain} {
		if ln != nil {
			_ = ln.Close()
		}
	}
	if l.quic != nil {
		_ = l.quic.Close()
	}
}

// Close frees the addresses and ends every connection.
func (l *Listener) Close() error {
	l.StopAccepting()
	l.mu.Lock()
	l.closed = true
	streams := make([]*streamConn, 0, len(l.streams))
	for c := range l.streams {
		streams = append(streams, c)
	}
	l.mu.Unlock()
	for _, c := range streams {
		c.kill(causeStopped)
	}
	l.pollers.stop()
	l.http.close()
	if l.transport != nil {
		_ = l.transport.Close()
	}
	if l.udp != nil {
		_ = l.udp.Close()
	}
	return nil
}

// accept hands every new connection of ln that the limits admit to serve.
func (l *Listener) accept(ctx context.Context, ln net.Listener, serve func(context.Context, *net.TCPConn, netip.AddrPort)) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || l.stopping.Load() {
				return
			}
			// Out of descriptors, most likely: some will be closed soon.
			l.log.Warn("accepting failed", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(sweepInterval):
			}
			continue
		}
		tcp := conn.(*net.TCPConn)
		remote := remoteOf(conn.RemoteAddr())
		if err := l.limiter.acquire(remote.Addr(), time.Now()); err != nil {
			l.refuse(tcp, err, ln == l.plain)
			continue
		}
		serve(ctx, tcp, remote)
	}
}

// refuse tells the peer why, where that costs nothing: a fresh socket takes
// one small frame without waiting. TLS peers only see the connection end.
func (l *Listener) refuse(conn net.Conn, err error, plain bool) {
	l.refused.Add(1)
	if plain {
		_ = conn.SetWriteDeadline(time.Now().Add(sweepInterval))
		_, _ = conn.Write(appendFrame(nil, l.handler.Refusal(proto.AsError(err))))
	}
	_ = conn.Close()
}

func (l *Listener) acceptPlain(_ context.Context, conn *net.TCPConn, remote netip.AddrPort) {
	half := &halfOpen{l: l, addr: remote.Addr(), deadline: time.Now().Add(l.cfg.HelloTimeout)}
	if l.pollers != nil {
		l.pollers.park(conn, nil, half, remote)
		return
	}
	l.tasks.Go(func() { l.servePlain(conn, half, remote) })
}

func (l *Listener) acceptTLS(_ context.Context, conn *net.TCPConn, remote netip.AddrPort) {
	l.line.join(standing{conn, remote})
}

// handshake serves a connection that is first in the line.
func (l *Listener) handshake(ctx context.Context, conn *net.TCPConn, remote netip.AddrPort) {
	half := &halfOpen{l: l, addr: remote.Addr()}
	wire := &wire{tcp: conn}
	wire.turn = &turn{line: &l.line, conn: conn, begun: func() { l.setDeadlines(conn, half) }}
	session := tls.Server(wire, l.tls)
	l.setDeadlines(conn, half)
	err := session.HandshakeContext(ctx)
	wire.turn.end()
	wire.turn = nil
	l.line.leave()
	if err != nil {
		if errors.Is(err, errLine) {
			l.refused.Add(1)
		}
		l.log.Debug("TLS handshake failed", "remote", remote, "err", err)
		half.end()
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	switch {
	case session.ConnectionState().NegotiatedProtocol != proto.ALPN:
		half.end()
		l.http.offer(session)
	case l.pollers != nil:
		l.pollers.park(conn, &parkedTLS{wire: wire, conn: session}, half, remote)
	default:
		l.serveStream(tcpStream{Conn: session, half: conn}, TransportTCP, half, remote)
	}
}

// setDeadlines starts the time of a handshake and of the Hello behind it: what a
// client waits for its turn is not its own.
func (l *Listener) setDeadlines(conn *net.TCPConn, half *halfOpen) {
	now := time.Now()
	half.deadline = now.Add(l.cfg.HelloTimeout)
	_ = conn.SetDeadline(now.Add(l.cfg.HandshakeTimeout))
}

// halfOpen is what a connection before login holds of the limits.
type halfOpen struct {
	l        *Listener
	addr     netip.Addr
	deadline time.Time
	ended    atomic.Bool

	// untie, of a QUIC connection, lets it outlast its handshake.
	untie func() bool
}

// end gives it back, once.
func (h *halfOpen) end() {
	if !h.ended.Swap(true) {
		h.l.limiter.release(h.addr)
	}
}

// endHalfOpen gives back what a connection holds, once.
func endHalfOpen(held *atomic.Pointer[halfOpen]) {
	if h := held.Swap(nil); h != nil {
		h.end()
	}
}

// helloTimedOut is what a client that never logged in is told.
func (l *Listener) helloTimedOut() []byte {
	return l.handler.Refusal(proto.Errorf(proto.CodeHelloTimeout,
		"no valid Hello within %s of connecting", l.cfg.HelloTimeout))
}

func remoteOf(addr net.Addr) netip.AddrPort {
	var at netip.AddrPort
	switch a := addr.(type) {
	case *net.TCPAddr:
		at = a.AddrPort()
	case *net.UDPAddr:
		at = a.AddrPort()
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
