package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
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
)

func (l *Listener) listenQUIC() error {
	l.transport = &quic.Transport{
		Conn:                l.udp,
		VerifySourceAddress: func(net.Addr) bool { return l.limiter.halfOpen() > quicRetryAbove },
	}
	if len(l.cfg.StatelessResetKey) == len(quic.StatelessResetKey{}) {
		key := quic.StatelessResetKey(l.cfg.StatelessResetKey)
		l.transport.StatelessResetKey = &key
	}
	var err error
	l.quic, err = l.transport.Listen(l.certs.quic(), &quic.Config{
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

func (l *Listener) acceptQUIC(ctx context.Context) {
	for {
		conn, err := l.quic.Accept(ctx)
		if err != nil {
			if ctx.Err() == nil && !l.stopping.Load() && !errors.Is(err, net.ErrClosed) {
				l.log.Error("QUIC stopped accepting", "err", err)
			}
			return
		}
		remote := remoteOf(conn.RemoteAddr())
		if err := l.limiter.acquire(remote.Addr(), time.Now()); err != nil {
			l.refused.Add(1)
			_ = conn.CloseWithError(quic.ApplicationErrorCode(proto.CodeOf(err)), err.Error())
			continue
		}
		half := &halfOpen{l: l, addr: remote.Addr(), deadline: time.Now().Add(l.cfg.HelloTimeout)}
		l.tasks.Go(func() {
			if conn.ConnectionState().TLS.NegotiatedProtocol != proto.ALPN {
				half.end()
				l.http.serveQUIC(conn)
				return
			}
			// The frames travel on the first stream the client opens.
			wait, cancel := context.WithDeadline(ctx, half.deadline)
			st, err := conn.AcceptStream(wait)
			cancel()
			if err != nil {
				half.end()
				_ = conn.CloseWithError(quic.ApplicationErrorCode(proto.CodeHelloTimeout), "no stream was opened in time")
				return
			}
			l.serveStream(quicStream{Stream: st, conn: conn}, TransportQUIC, half, remote)
		})
	}
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
