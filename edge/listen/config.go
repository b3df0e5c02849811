package listen

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// Config says where and how to listen. The zero value of every field but Addr
// or PlaintextAddr is usable.
type Config struct {
	// Addr is host:port for TLS over TCP and for QUIC over UDP, both on the
	// same port (0: a free one). Empty: no TLS and no QUIC.
	Addr string
	// PlaintextAddr is host:port for TCP without TLS. Empty: none.
	PlaintextAddr string
	// TLS has the certificates. With a GetCertificate that follows their files
	// a new one is used at once. Needed with Addr.
	TLS *tls.Config
	// StatelessResetKey, of 32 bytes, lets an edge that was killed tell the
	// peers of its former connections that they are gone. It must be the same
	// over restarts. Empty: peers find out by their own time-outs.
	StatelessResetKey []byte
	// HTTP serves h2, http/1.1 and h3, and HTTP on the plaintext port. Nil:
	// such connections are closed.
	HTTP http.Handler

	// HelloTimeout is from accept to SetLoggedIn, without the time that a TLS
	// connection waits in line for its handshake. 0: proto.HelloTimeout.
	HelloTimeout time.Duration
	// HandshakeTimeout bounds a TLS or QUIC handshake.
	// 0: proto.HandshakeTimeout.
	HandshakeTimeout time.Duration
	// SlowWriterTimeout is how long a non-empty queue may make no progress before
	// the connection is torn down.
	// 0: 10 s.
	SlowWriterTimeout time.Duration
	// CloseFlushTimeout bounds writing the rest of a closing connection.
	// 0: proto.CloseFlushTimeout.
	CloseFlushTimeout time.Duration
	// QUICIdleTimeout ends a QUIC connection whose peer is gone. 0: 90 s,
	// three heartbeats.
	QUICIdleTimeout time.Duration

	// OutHighBytes is the queue length above which nothing more is read from
	// the peer. 0: proto.SessionOutBytesMax.
	OutHighBytes int
	// OutBytesMax is the queue length past which the connection is torn
	// down: answers to requests already read must fit. 0: 4 MiB.
	OutBytesMax int

	// HalfOpenMax bounds connections before login in all. 0: 16,384.
	HalfOpenMax int
	// HalfOpenPerAddressMax bounds them per peer address. 0: 256.
	HalfOpenPerAddressMax int
	// NewPerAddressPerSecondMax bounds accepts per peer address. 0: 200.
	NewPerAddressPerSecondMax int
	// HandshakesMax bounds TLS handshakes begun at once; more wait in line. 0: 1,024.
	HandshakesMax int
	// LineWaitMax is how long a client may have waited for its handshake. One
	// that waited longer is refused when its turn comes: it would give up before
	// it is logged in, which the SDK does after 10 s. 0: 6 s.
	LineWaitMax time.Duration
	// QUICHandshakesMax bounds QUIC handshakes at work; more are refused at
	// their first datagram. All but an eighth must have proved their address.
	// 0: 256, which a core or two finish in a quarter of a second.
	QUICHandshakesMax int
	// ExemptLoopback lifts the limits per address for loopback peers.
	ExemptLoopback bool

	// Pollers is the number of goroutines serving parked connections. 0: 2.
	Pollers int
	// Portable gives every TCP connection a goroutine, as on systems without
	// epoll.
	Portable bool
}

// Validate checks c without changing it.
func (c Config) Validate() error {
	if c.Addr == "" && c.PlaintextAddr == "" {
		return errors.New("listen: neither an address nor a plaintext address is set")
	}
	if c.Addr != "" && c.TLS == nil {
		return fmt.Errorf("listen: %s needs certificates (for plaintext use the plaintext address)", c.Addr)
	}
	for name, d := range map[string]time.Duration{
		"hello": c.HelloTimeout, "handshake": c.HandshakeTimeout, "slow writer": c.SlowWriterTimeout,
		"close flush": c.CloseFlushTimeout, "QUIC idle": c.QUICIdleTimeout, "line": c.LineWaitMax,
	} {
		if d < 0 {
			return fmt.Errorf("listen: the %s timeout is %s; it must not be negative", name, d)
		}
	}
	for name, n := range map[string]int{
		"high out-queue": c.OutHighBytes, "largest out-queue": c.OutBytesMax, "half-open": c.HalfOpenMax,
		"half-open per address": c.HalfOpenPerAddressMax, "new per address and second": c.NewPerAddressPerSecondMax,
		"handshakes": c.HandshakesMax, "QUIC handshakes": c.QUICHandshakesMax, "pollers": c.Pollers,
	} {
		if n < 0 {
			return fmt.Errorf("listen: the limit %q is %d; it must not be negative", name, n)
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.HelloTimeout = orDefault(c.HelloTimeout, proto.HelloTimeout)
	c.HandshakeTimeout = orDefault(c.HandshakeTimeout, proto.HandshakeTimeout)
	c.SlowWriterTimeout = orDefault(c.SlowWriterTimeout, 10*time.Second)
	c.CloseFlushTimeout = orDefault(c.CloseFlushTimeout, proto.CloseFlushTimeout)
	c.QUICIdleTimeout = orDefault(c.QUICIdleTimeout, 90*time.Second)
	c.OutHighBytes = orDefault(c.OutHighBytes, proto.SessionOutBytesMax)
	c.OutBytesMax = orDefault(c.OutBytesMax, 4<<20)
	c.HalfOpenMax = orDefault(c.HalfOpenMax, 16384)
	c.HalfOpenPerAddressMax = orDefault(c.HalfOpenPerAddressMax, 256)
	c.NewPerAddressPerSecondMax = orDefault(c.NewPerAddressPerSecondMax, 200)
	c.HandshakesMax = orDefault(c.HandshakesMax, 1024)
	c.LineWaitMax = orDefault(c.LineWaitMax, 6*time.Second)
	c.QUICHandshakesMax = orDefault(c.QUICHandshakesMax, 256)
	c.Pollers = orDefault(c.Pollers, 2)
	return c
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}
