package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// perSocket is how many QUIC connections share a UDP socket: a socket
	// each would double the client's cost and take ports.
	perSocket = 100
	// quicIdle is three heartbeats.
	quicIdle = 90 * time.Second
	// quicRefusedWait is the longest wait before a refused connection is first
	// tried again: a server works its queue of new ones off in less. It doubles
	// up to quicRefusedWaitMax.
	quicRefusedWait    = 200 * time.Millisecond
	quicRefusedWaitMax = 5 * time.Second
)

// quicSockets are the UDP sockets of a holder. Use the zero value.
type quicSockets struct {
	mu      sync.Mutex // guards the fields below
	sockets []*quic.Transport
	used    int // connections on the last one
}

func (s *quicSockets) transport() (*quic.Transport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sockets) == 0 || s.used == perSocket {
		udp, err := net.ListenUDP("udp", &net.UDPAddr{})
		if err != nil {
			return nil, err
		}
		s.sockets, s.used = append(s.sockets, &quic.Transport{Conn: udp}), 0
	}
	s.used++
	return s.sockets[len(s.sockets)-1], nil
}

func (s *quicSockets) dial(ctx context.Context, server string, t *tls.Config) (held, error) {
	addr, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		return held{}, err
	}
	socket, err := s.transport()
	if err != nil {
		return held{}, err
	}
	conn, err := socket.Dial(ctx, addr, t, &quic.Config{
		MaxIdleTimeout: quicIdle, HandshakeIdleTimeout: holdDialTimeout,
		InitialStreamReceiveWindow: 4 << 10, MaxStreamReceiveWindow: 16 << 10,
		InitialConnectionReceiveWindow: 4 << 10, MaxConnectionReceiveWindow: 16 << 10,
	})
	if err != nil {
		return held{}, err
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return held{}, errors.Join(err, conn.CloseWithError(0, ""))
	}
	return held{stream, func() { _ = conn.CloseWithError(0, "") }}, nil
}

// refusedForNow tells whether a server had too many new connections at work,
// which shows in the handshake or right after.
func refusedForNow(err error) bool {
	refused, ok := errors.AsType[*quic.TransportError](err)
	return ok && refused.ErrorCode == quic.ConnectionRefused
}

func (s *quicSockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.sockets {
		_ = t.Close()
		_ = t.Conn.Close()
	}
}
