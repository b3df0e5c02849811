package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// quicIdle is when QUIC itself gives a silent path up; heartbeats come more
// often.
const quicIdle = 90 * time.Second

// quicKeepAlive is how soon an idle client learns that its edge was killed
// and started again: TCP is told at once, QUIC when it next sends.
const quicKeepAlive = 15 * time.Second

// quicSilence is how long a server may say nothing at all in a QUIC handshake:
// one that is not there says nothing, one that is crowded refuses.
const quicSilence = 5 * time.Second

// wire is one established connection, before or after Hello.
type wire struct {
	rw        io.ReadWriter
	r         *bufio.Reader
	transport Transport
	deadline  func(time.Time) error // of writing
	close     func()
	drop      func() // closes without the protocol's goodbye, where there is one
}

// dial connects to one server by the configured transport.
func dial(ctx context.Context, cfg *Config, server string) (*wire, error) {
	switch cfg.Transport {
	case QUIC:
		return dialQUIC(ctx, cfg, server, min(cfg.DialTimeout, quicSilence))
	case TCP:
		return dialTLS(ctx, cfg, server)
	case Plain:
		return dialPlain(ctx, server)
	}
	quicCtx, cancel := context.WithTimeout(ctx, cfg.QUICTimeout)
	w, quicErr := dialQUIC(quicCtx, cfg, server, cfg.QUICTimeout)
	cancel()
	if quicErr == nil {
		return w, nil
	}
	w, err := dialTLS(ctx, cfg, server)
	if err != nil {
		return nil, fmt.Errorf("%w (QUIC: %w)", err, quicErr)
	}
	return w, nil
}

func tlsConfig(cfg *Config, server string) *tls.Config {
	t := new(tls.Config)
	if cfg.TLS != nil {
		t = cfg.TLS.Clone()
	}
	t.NextProtos = []string{proto.ALPN}
	t.MinVersion = tls.VersionTLS13
	if t.ServerName == "" {
		t.ServerName, _, _ = net.SplitHostPort(server)
	}
	return t
}

// dialQUIC gives a server up that is silent for a time.
func dialQUIC(ctx context.Context, cfg *Config, server string, silent time.Duration) (*wire, error) {
	conn, err := quic.DialAddr(ctx, server, tlsConfig(cfg, server), &quic.Config{
		MaxIdleTimeout: quicIdle, KeepAlivePeriod: quicKeepAlive, HandshakeIdleTimeout: silent,
		InitialStreamReceiveWindow: 64 << 10, MaxStreamReceiveWindow: 256 << 10,
		InitialConnectionReceiveWindow: 64 << 10, MaxConnectionReceiveWindow: 1 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("client: connect to %s by QUIC: %w", server, err)
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		_ = conn.CloseWithError(0, "")
		return nil, fmt.Errorf("client: connect to %s by QUIC: %w", server, err)
	}
	end := func() { _ = conn.CloseWithError(0, "") }
	return &wire{
		rw: stream, r: bufio.NewReader(stream), transport: QUIC, deadline: stream.SetWriteDeadline, close: end, drop: end,
	}, nil
}

// crowded tells whether a server had too many new connections at work. QUIC
// says so in the handshake or right after; with TLS it ends the handshake.
func crowded(err error) bool {
	if _, ok := errors.AsType[*handshakeEnded](err); ok {
		return true
	}
	refused, ok := errors.AsType[*quic.TransportError](err)
	return ok && refused.ErrorCode == quic.ConnectionRefused
}

// handshakeEnded is the error of a TLS handshake that the server has ended,
// with an alert or without a word.
type handshakeEnded struct{ cause error }

func (e *handshakeEnded) Error() string {
	return "the server ended the TLS handshake: " + e.cause.Error()
}
func (e *handshakeEnded) Unwrap() error { return e.cause }

// endedByServer tells whether the server has ended a TLS handshake, by what
// crypto/tls says of it.
func endedByServer(err error) bool {
	if errors.Is(err, io.EOF) {
		return true
	}
	on, ok := errors.AsType[*net.OpError](err)
	return ok && !on.Timeout() && on.Op != "dial"
}

func dialTLS(ctx context.Context, cfg *Config, server string) (*wire, error) {
	d := tls.Dialer{Config: tlsConfig(cfg, server)}
	conn, err := d.DialContext(ctx, "tcp", server)
	if err != nil {
		if ctx.Err() == nil && endedByServer(err) {
			err = &handshakeEnded{err}
		}
		return nil, fmt.Errorf("client: connect to %s: %w", server, err)
	}
	return netWire(conn, TCP), nil
}

func dialPlain(ctx context.Context, server string) (*wire, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", server)
	if err != nil {
		return nil, fmt.Errorf("client: connect to %s: %w", server, err)
	}
	return netWire(conn, Plain), nil
}

func netWire(conn net.Conn, t Transport) *wire {
	bare := conn
	if secure, ok := conn.(*tls.Conn); ok {
		bare = secure.NetConn()
	}
	return &wire{
		rw: conn, r: bufio.NewReader(conn), transport: t, deadline: conn.SetWriteDeadline,
		close: func() { _ = conn.Close() }, drop: func() { _ = bare.Close() },
	}
}

// appendFrame adds one frame in wire form.
func appendFrame(to []byte, f *clientpb.ClientFrame) ([]byte, error) {
	at := len(to)
	to = append(to, 0, 0, 0, 0)
	to, err := codec.Append(to, f)
	if err != nil {
		return to[:at], err
	}
	binary.BigEndian.PutUint32(to[at:], uint32(len(to)-at-4))
	return to, nil
}

// read reads one frame.
func (w *wire) read() (*clientpb.ServerFrame, error) {
	var head [4]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > proto.FrameBytesMax {
		return nil, fmt.Errorf("client: the server sent a frame of %d bytes, the limit is %d", n, proto.FrameBytesMax)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(w.r, buf); err != nil {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	f := new(clientpb.ServerFrame)
	if err := codec.Unmarshal(buf, f); err != nil {
		return nil, fmt.Errorf("client: the server's frame cannot be read: %w", err)
	}
	return f, nil
}
