package listen

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const (
	// httpConnsMax bounds HTTP/1.1 and HTTP/2 connections open at once.
	httpConnsMax = 8192
	// httpHeaderTimeout bounds the reading of a request's header.
	httpHeaderTimeout = 5 * time.Second
	// httpIdleTimeout ends connections that ask nothing more.
	httpIdleTimeout = 60 * time.Second
	// httpHeaderBytesMax bounds a request's header.
	httpHeaderBytesMax = 32 << 10
)

// httpSide serves the connections that turn out to be HTTP.
type httpSide struct {
	server *http.Server // nil: there is no HTTP here
	h3     *http3.Server
	ready  *handedOver
	conns  atomic.Int64
}

func newHTTPSide(handler http.Handler) *httpSide {
	s := &httpSide{}
	if handler == nil {
		return s
	}
	s.ready = &handedOver{conns: make(chan net.Conn, 256), done: make(chan struct{})}
	s.server = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: httpHeaderTimeout,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    httpHeaderBytesMax,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.conns.Add(-1)
			}
		},
	}
	s.h3 = &http3.Server{Handler: handler, MaxHeaderBytes: httpHeaderBytesMax, IdleTimeout: httpIdleTimeout}
	return s
}

// offer gives conn to the HTTP server; one too many is closed. It never
// waits.
func (s *httpSide) offer(conn net.Conn) {
	if s.server == nil || s.conns.Load() >= httpConnsMax {
		_ = conn.Close()
		return
	}
	select {
	case s.ready.conns <- conn:
	default:
		_ = conn.Close()
	}
}

// serveQUIC serves one HTTP/3 connection until it ends.
func (s *httpSide) serveQUIC(conn *quic.Conn) {
	if s.h3 == nil {
		_ = conn.CloseWithError(0, "no HTTP here")
		return
	}
	_ = s.h3.ServeQUICConn(conn)
}

func (s *httpSide) run() {
	if s.server != nil {
		_ = s.server.Serve(s.ready)
	}
}

func (s *httpSide) close() {
	if s.server == nil {
		return
	}
	_ = s.ready.Close()
	_ = s.server.Close()
	_ = s.h3.Close()
}

// handedOver is the net.Listener of connections that others accepted.
type handedOver struct {
	conns  chan net.Conn
	done   chan struct{}
	closed atomic.Bool
}

func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handedOver) Close() error {
	if !h.closed.Swap(true) {
		close(h.done)
		for {
			select {
			case c := <-h.conns:
				_ = c.Close()
			default:
				return nil
			}
		}
	}
	return nil
}

func (h *handedOver) Addr() net.Addr { return &net.TCPAddr{} }

// prefixed is a connection of which some bytes have been read already.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// The TLS side needs the bare *tls.Conn for HTTP/2.
var _ net.Conn = (*tls.Conn)(nil)
