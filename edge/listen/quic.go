package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/waggle-im/waggle/proto"
)

const (
	// quicStreamWindowBytes and quicConnWindowBytes bound what a peer can
	// make us buffer (security.md).
	quicStreamWindowBytes = 256 << 10
	quicConnWindowBytes   = 1 << 20
	// quicRetryAbove is the number of half-open connections from which a
	// QUIC peer must first prove its address by a Retry.
	quicRetryAbove = 1024
	// quicUnprovenShare of an address's limits is what peers may use up that
	// have not proved to have the address: datagrams with a forged sender must
	// not keep its owner out.
	quicUnprovenShare = 4
	// quicUnprovenPlaces is the share of the places for handshakes, one in so
	// many, of those that have not proved their address: strangers who hear no
	// answer keep such a place until the handshake's time is up, and have answers
	// sent to them again and again. A proof costs a client one more round trip.
	quicUnprovenPlaces = 8
	// quicAddressShare of the places for handshakes is what one address may
	// hold while these are scarce.
	quicAddressShare = 8
	// quicAcceptorIdle is how long an acceptor that handshakes were many for
	// waits for the next.
	quicAcceptorIdle = time.Second
)

// quicHalfOpen is the key of a QUIC connection's [halfOpen] in its context.
type quicHalfOpen struct{}

func (l *Listener) listenQUIC() error {
	l.transport = &quic.Transport{
		Conn: l.udp,
		VerifySourceAddress: func(from net.Addr) bool {
			return l.quicHandshakes.Load() >= int64(max(1, l.cfg.QUICHandshakesMax/quicUnprovenPlaces)) || l.limiter.suspicious(remoteOf(from).Addr())
		},
		ConnContext: l.admitQUIC,
	}
	if len(l.cfg.StatelessResetKey) == len(quic.StatelessResetKey{}) {
		key := quic.StatelessResetKey(l.cfg.StatelessResetKey)
		l.transport.StatelessResetKey = &key
	}
	var err error
	l.quic, err = l.transport.Listen(overQUIC(l.cfg.TLS), &quic.Config{
		HandshakeIdleTimeout:           l.cfg.HandshakeTimeout,
		MaxIdleTimeout:                 l.cfg.QUICIdleTimeout,
		InitialStreamReceiveWindow:     quicStreamWindowBytes / 4,
		MaxStreamReceiveWindow:         quicStreamWindowBytes,
		InitialConnectionReceiveWindow: quicConnWindowBytes / 4,
		MaxConnectionReceiveWindow:     quicConnWindowBytes,
		Allow0RTT:                      false,
	})
	if err != nil {
		return fmt.Errorf("listen: QUIC on %s: %w", l.udp.LocalAddr(), err)
	}
	return nil
}

// admitQUIC counts a QUIC connection from its first datagram on: a handshake
// that is never finished costs a goroutine and keys until its time is up. What
// it holds of the limits ends with the handshake if that fails, else acceptQUIC
// takes it over.
func (l *Listener) admitQUIC(ctx context.Context, from *quic.ClientInfo) (context.Context, error) {
	addr := remoteOf(from.RemoteAddr).Addr()
	if !l.beginQUIC(addr) {
		l.refused.Add(1)
		return nil, proto.Errorf(proto.CodeTooManyConns, "the server has %d handshakes at work", l.cfg.QUICHandshakesMax)
	}
	if err := l.limiter.acquire(addr, time.Now()); err != nil {
		l.quicHandshakes.Add(-1)
		l.refused.Add(1)
		return nil, err
	}
	half := &halfOpen{l: l, addr: addr, deadline: time.Now().Add(l.cfg.HelloTimeout)}
	half.untie = context.AfterFunc(ctx, func() { l.quicHandshakes.Add(-1); half.end() })
	select {
	case l.quicBegun <- struct{}{}:
	default: // it has been woken
	}
	return context.WithValue(ctx, quicHalfOpen{}, half), nil
}

// beginQUIC takes a place for a handshake, unless all are taken or the second
// half is and addr has its share. Whoever is refused comes again: were all to
// go on at the same time, each would take so long that its peer gave up.
func (l *Listener) beginQUIC(addr netip.Addr) bool {
	most := int64(l.cfg.QUICHandshakesMax)
	n := l.quicHandshakes.Add(1)
	if n > most || n > (most+1)/2 && int64(l.limiter.halfOpenOf(addr)) >= max(1, most/quicAddressShare) {
		l.quicHandshakes.Add(-1)
		return false
	}
	return true
}

// acceptQUIC takes connections whose handshake is done. quic-go keeps 32 of them
// and refuses the others, after all their work; each acceptor that waits is a
// place more. When many connect at once, all may be done before one goroutine
// has its turn again: so there is an acceptor for each handshake at work.
func (l *Listener) acceptQUIC(ctx context.Context) {
	l.tasks.Go(func() {
		for l.acceptOneQUIC(ctx, ctx) {
		}
	})
	for {
		select {
		case <-l.quicBegun:
		case <-ctx.Done():
			return
		}
		for l.quicAcceptors.Load() < l.quicHandshakes.Load() {
			l.quicAcceptors.Add(1)
			l.tasks.Go(func() {
				defer l.quicAcceptors.Add(-1)
				for more := true; more; {
					wait, cancel := context.WithTimeout(ctx, quicAcceptorIdle)
					more = l.acceptOneQUIC(ctx, wait)
					cancel()
				}
			})
		}
	}
}

// acceptOneQUIC serves the next connection within ctx; it is false when there is
// none within wait.
func (l *Listener) acceptOneQUIC(ctx, wait context.Context) bool {
	conn, err := l.quic.Accept(wait)
	if err != nil {
		if wait.Err() == nil && !errors.Is(err, net.ErrClosed) && !l.stopping.Load() {
			l.quicEnded.Do(func() { l.log.Error("QUIC stopped accepting", "err", err) })
		}
		return false
	}
	remote := remoteOf(conn.RemoteAddr())
	half, ok := conn.Context().Value(quicHalfOpen{}).(*halfOpen)
	if !ok {
		panic("listen: a QUIC connection that was not admitted")
	}
	if half.untie() {
		l.quicHandshakes.Add(-1)
	}
	l.tasks.Go(func() { l.serveQUIC(ctx, conn, half, remote) })
	return true
}

// serveQUIC serves conn until it ends. Its reader waits below here for as long
// as that takes, so what happens before is not on the stack any more: a stack
// that is 1.2 KiB deep is not shrunk from 8 to 4 KiB by the collector (a quarter
// in use, with 800 bytes of reserve; runtime.shrinkstack), and
// [quic.ConnectionState] alone takes 400 bytes.
func (l *Listener) serveQUIC(ctx context.Context, conn *quic.Conn, half *halfOpen, remote netip.AddrPort) {
	if st := l.acceptStream(ctx, conn, half); st != nil {
		l.serveStream(quicStream{Stream: st, conn: conn}, TransportQUIC, half, remote)
	}
}

// acceptStream waits for the first stream that the client opens, on which the
// frames travel. It is nil where none came, or the client speaks HTTP/3 and was
// served.
//
//go:noinline
func (l *Listener) acceptStream(ctx context.Context, conn *quic.Conn, half *halfOpen) *quic.Stream {
	if conn.ConnectionState().TLS.NegotiatedProtocol != proto.ALPN {
		half.end()
		l.http.serveQUIC(conn)
		return nil
	}
	wait, cancel := context.WithDeadline(ctx, half.deadline)
	defer cancel()
	st, err := conn.AcceptStream(wait)
	if err != nil {
		half.end()
		_ = conn.CloseWithError(quic.ApplicationErrorCode(proto.CodeHelloTimeout), "no stream was opened in time")
		return nil
	}
	return st
}

// quicStream is the one stream of a native QUIC connection.
type quicStream struct {
	*quic.Stream
	conn *quic.Conn
}

func (s quicStream) finish() error { return s.Stream.Close() }

func (s quicStream) abort() { _ = s.conn.CloseWithError(0, "") }

// linger implements streamEnd: closing a QUIC connection throws away what the
// peer has not acknowledged, so the peer, who has seen the end of the stream,
// goes first.
func (s quicStream) linger(until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-s.conn.Context().Done():
	case <-timer.C:
	}
}
