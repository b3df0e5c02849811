package listen

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// echo sends every frame back and logs its peer in at once. Some first bytes
// mean more: 'B' asks for that many KiB in frames of 60 KiB, 'C' for a close, '2'
// for two frames at once.
type echo struct {
	mu      sync.Mutex // guards the fields below
	opened  int
	closed  []error
	drained int
	queued  int // the longest queue seen
	noLogin bool
}

func (h *echo) sent(queued int, _ bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queued = max(h.queued, queued)
}

func (h *echo) longestQueue() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.queued
}

type echoConn struct {
	h *echo
	c Conn
}

func (h *echo) Opened(c Conn) Receiver {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened++
	if !h.noLogin {
		c.SetLoggedIn()
	}
	return &echoConn{h, c}
}

func (h *echo) Refusal(e *proto.Error) []byte { return []byte("refused: " + e.Code.String()) }

func (e *echoConn) Frame(b []byte) {
	switch {
	case len(b) == 3 && b[0] == 'B':
		block := bytes.Repeat([]byte{'b'}, 60<<10)
		for range binary.BigEndian.Uint16(b[1:]) {
			e.h.sent(e.c.Send(block))
		}
	case len(b) == 1 && b[0] == 'C':
		block := bytes.Repeat([]byte{'b'}, 60<<10)
		for range 30 {
			e.c.Send(block)
		}
		e.c.Close([]byte("bye"))
	case len(b) == 1 && b[0] == '2':
		e.c.Send([]byte("one"), []byte("two"))
	default:
		e.c.Send(b)
	}
}

func (e *echoConn) Drained() {
	e.h.mu.Lock()
	defer e.h.mu.Unlock()
	e.h.drained++
}

func (e *echoConn) Closed(err error) {
	e.h.mu.Lock()
	defer e.h.mu.Unlock()
	e.h.closed = append(e.h.closed, err)
}

func testCertificate(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func start(t testing.TB, cfg Config, h Handler) *Listener {
	t.Helper()
	cfg.Addr, cfg.PlaintextAddr = "127.0.0.1:0", "127.0.0.1:0"
	if cfg.TLS == nil {
		cfg.TLS = testCertificate(t)
	}
	l, err := New(cfg, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

// What is sent together must be one TLS record: the point of sending it so.
func TestFramesSentTogetherAreOneRecord(t *testing.T) {
	for _, portable := range []bool{false, true} {
		l := start(t, Config{Portable: portable}, new(echo))
		c := dial(t, l, TransportTCP)
		if _, err := c.Write(appendFrame(nil, []byte("2"))); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100)
		n, err := c.Read(got) // gives at most one record
		want := appendFrame(appendFrame(nil, []byte("one")), []byte("two"))
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("portable %v: one read gave %q (%v), want %q", portable, got[:n], err, want)
		}
	}
}

// client is the peer's side: any reader and writer.
type client struct {
	io.ReadWriter
	finish func() error
	close  func()
}

func clientTLS(protocols ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}
}

func dial(t testing.TB, l *Listener, transport Transport) *client {
	t.Helper()
	c, err := tryDial(l, transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func tryDial(l *Listener, transport Transport) (*client, error) {
	switch transport {
	case TransportPlain:
		c, err := net.Dial("tcp", l.PlaintextAddr().String())
		if err != nil {
			return nil, err
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		return &client{c, c.(*net.TCPConn).CloseWrite, func() { _ = c.Close() }}, nil
	case TransportTCP:
		c, err := tls.Dial("tcp", l.Addr().String(), clientTLS(proto.ALPN))
		if err != nil {
			return nil, err
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		return &client{c, c.CloseWrite, func() { _ = c.NetConn().Close() }}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, l.Addr().String(), clientTLS(proto.ALPN), nil)
	if err != nil {
		return nil, err
	}
	st, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	_ = st.SetDeadline(time.Now().Add(patience))
	return &client{st, st.Close, func() { _ = conn.CloseWithError(0, "") }}, nil
}

func (c *client) send(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := c.Write(appendFrame(nil, frame)); err != nil {
		t.Fatal(err)
	}
}

func (c *client) receive() ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(header[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}

func (c *client) expect(t testing.TB, want string) {
	t.Helper()
	got, err := c.receive()
	if err != nil || string(got) != want {
		t.Fatalf("got %.40q (%d bytes), %v; want %.40q", got, len(got), err, want)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		runtime.Gosched()
		<-time.After(time.Millisecond)
	}
}

// everywhere runs f over every transport, parked and portable.
func everywhere(t *testing.T, f func(t *testing.T, portable bool, transport Transport)) {
	for _, portable := range []bool{false, true} {
		for _, transport := range []Transport{TransportPlain, TransportTCP, TransportQUIC} {
			if portable && transport == TransportQUIC {
				continue // the same code as not portable
			}
			t.Run(fmt.Sprintf("%s/portable=%t", transport, portable), func(t *testing.T) {
				f(t, portable, transport)
			})
		}
	}
}

func TestEcho(t *testing.T) {
	everywhere(t, func(t *testing.T, portable bool, transport Transport) {
		h := &echo{}
		l := start(t, Config{Portable: portable}, h)
		c := dial(t, l, transport)
		for i := range 100 {
			body := strings.Repeat("x", i*i*6)
			c.send(t, []byte(body))
			c.expect(t, body)
		}
		_ = c.finish()
		if _, err := c.receive(); err == nil {
			t.Fatal("a frame after the end")
		}
		c.close()
		eventually(t, "closed once", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.closed) == 1
		})
		eventually(t, "nothing open", func() bool { s := l.Stats(); return s.Open == 0 && s.HalfOpen == 0 })
	})
}

// TestOneByteFragments: every frame comes in pieces of one byte.
func TestOneByteFragments(t *testing.T) {
	everywhere(t, func(t *testing.T, portable bool, transport Transport) {
		l := start(t, Config{Portable: portable}, &echo{})
		c := dial(t, l, transport)
		for _, body := range []string{"", "a", strings.Repeat("b", 300)} {
			for _, b := range appendFrame(nil, []byte(body)) {
				if _, err := c.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			c.expect(t, body)
		}
	})
}

// TestParking: many connections, few goroutines, all answered, in fragments
// and twice, so that each was idle in between.
func TestParking(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("parking is for Linux")
	}
	const connections = 500
	for _, transport := range []Transport{TransportPlain, TransportTCP} {
		t.Run(string(transport), func(t *testing.T) {
			l := start(t, Config{ExemptLoopback: true, HelloTimeout: patience, HandshakeTimeout: patience}, &echo{})
			var clients []*client
			for range connections {
				clients = append(clients, dial(t, l, transport))
			}
			for round := range 2 {
				for i, c := range clients {
					frame := appendFrame(nil, fmt.Appendf(nil, "hello %d %d", round, i))
					for _, b := range frame[:6] {
						_, _ = c.Write([]byte{b})
					}
					_, _ = c.Write(frame[6:])
				}
				for i, c := range clients {
					c.expect(t, fmt.Sprintf("hello %d %d", round, i))
				}
			}
			eventually(t, "few goroutines", func() bool { return runtime.NumGoroutine() < connections/10 })
			if s := l.Stats(); s.Open != connections || s.HalfOpen != 0 {
				t.Fatalf("stats: %+v", s)
			}
		})
	}
}

// TestSlowReader: a peer asks for far more than socket buffers hold and reads
// late; nothing is lost and the receiver is told when the queue drained.
func TestSlowReader(t *testing.T) {
	everywhere(t, func(t *testing.T, portable bool, transport Transport) {
		h := &echo{}
		l := start(t, Config{Portable: portable, OutBytesMax: 64 << 20}, h)
		c := dial(t, l, transport)
		const blocks = 500 // 30 MB
		c.send(t, binary.BigEndian.AppendUint16([]byte{'B'}, blocks))
		c.send(t, []byte("after"))
		eventually(t, "a long queue", func() bool { return h.longestQueue() > 1<<20 })
		for i := range blocks {
			if b, err := c.receive(); err != nil || len(b) != 60<<10 {
				t.Fatalf("block %d: %d bytes, %v", i, len(b), err)
			}
		}
		c.expect(t, "after")
		eventually(t, "drained", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.drained > 0
		})
	})
}

// TestNeverReads: a peer that does not read is cut off by bytes, or by time.
func TestNeverReads(t *testing.T) {
	everywhere(t, func(t *testing.T, portable bool, transport Transport) {
		for name, cfg := range map[string]Config{
			"bytes": {OutBytesMax: 1 << 20},
			"time":  {OutBytesMax: 256 << 20, SlowWriterTimeout: 200 * time.Millisecond},
		} {
			t.Run(name, func(t *testing.T) {
				cfg.Portable = portable
				h := &echo{}
				l := start(t, cfg, h)
				c := dial(t, l, transport)
				c.send(t, binary.BigEndian.AppendUint16([]byte{'B'}, 1000))
				eventually(t, "closed", func() bool {
					h.mu.Lock()
					defer h.mu.Unlock()
					return len(h.closed) == 1 && h.closed[0] == errSlowReader
				})
				eventually(t, "nothing open", func() bool { return l.Stats().Open == 0 })
			})
		}
	})
}

// TestCloseFlushes: what was queued, 1.8 MB, arrives before the end.
func TestCloseFlushes(t *testing.T) {
	everywhere(t, func(t *testing.T, portable bool, transport Transport) {
		l := start(t, Config{Portable: portable, CloseFlushTimeout: patience}, &echo{})
		c := dial(t, l, transport)
		c.send(t, []byte("C"))
		c.send(t, []byte("not read any more"))
		for range 30 {
			if b, err := c.receive(); err != nil || len(b) != 60<<10 {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
		}
		c.expect(t, "bye")
		if _, err := c.receive(); err != io.EOF {
			t.Fatalf("after the last frame: %v, want EOF", err)
		}
		c.close()
		eventually(t, "nothing open", func() bool { return l.Stats().Open == 0 })
	})
}

func TestCloseIsBounded(t *testing.T) {
	everywhere(t, func(t *testing.T, portable bool, transport Transport) {
		l := start(t, Config{Portable: portable, CloseFlushTimeout: 50 * time.Millisecond}, &echo{})
		c := dial(t, l, transport)
		c.send(t, []byte("C")) // and never read
		eventually(t, "opened", func() bool { return l.Stats().Open == 1 })
		eventually(t, "closed", func() bool { return l.Stats().Open == 0 })
	})
}

func TestOversizedLength(t *testing.T) {
	everywhere(t, func(t *testing.T, portable bool, transport Transport) {
		h := &echo{noLogin: true}
		l := start(t, Config{Portable: portable}, h)
		c := dial(t, l, transport)
		_, _ = c.Write(binary.BigEndian.AppendUint32(nil, proto.FrameBytesMaxBeforeLogin+1))
		c.expect(t, "refused: too_big")

		h.mu.Lock()
		h.noLogin = false
		h.mu.Unlock()
		c = dial(t, l, transport)
		c.send(t, []byte("in"))
		c.expect(t, "in")
		big := strings.Repeat("x", proto.FrameBytesMax)
		c.send(t, []byte(big))
		c.expect(t, big)
		_, _ = c.Write(binary.BigEndian.AppendUint32(nil, proto.FrameBytesMax+1))
		c.expect(t, "refused: too_big")
	})
}

func TestHelloTimeout(t *testing.T) {
	everywhere(t, func(t *testing.T, portable bool, transport Transport) {
		l := start(t, Config{Portable: portable, HelloTimeout: 300 * time.Millisecond}, &echo{noLogin: true})
		c := dial(t, l, transport)
		if _, err := c.Write([]byte{0, 0}); err != nil {
			t.Fatal(err)
		}
		got, err := c.receive()
		// The portable plaintext server has not begun a frame yet when the
		// peer sent nothing; here it sent two bytes and is told.
		if err != nil || string(got) != "refused: hello_timeout" {
			t.Fatalf("%q, %v", got, err)
		}
		c.close()
		eventually(t, "released", func() bool { s := l.Stats(); return s.Open == 0 && s.HalfOpen == 0 })
	})
}

func TestHTTPOnTheSamePorts(t *testing.T) {
	for _, portable := range []bool{false, true} {
		l := start(t, Config{Portable: portable, HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Proto)
		})}, &echo{})
		get := func(url string, transport *http.Transport) string {
			defer transport.CloseIdleConnections()
			reply, err := (&http.Client{Transport: transport, Timeout: patience}).Get(url)
			if err != nil {
				t.Fatal(err)
			}
			defer reply.Body.Close()
			body, _ := io.ReadAll(reply.Body)
			return string(body)
		}
		if got := get("http://"+l.PlaintextAddr().String(), &http.Transport{}); got != "HTTP/1.1" {
			t.Errorf("plaintext: %q", got)
		}
		if got := get("https://"+l.Addr().String(), &http.Transport{TLSClientConfig: clientTLS()}); got != "HTTP/1.1" {
			t.Errorf("TLS: %q", got)
		}
		if got := get("https://"+l.Addr().String(), &http.Transport{TLSClientConfig: clientTLS("h2"), ForceAttemptHTTP2: true}); got != "HTTP/2.0" {
			t.Errorf("h2: %q", got)
		}
	}
}

// A certificate that was renewed is used by the next handshake.
func TestCertificatesAreFollowed(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	current.Store(&testCertificate(t).Certificates[0])
	l := start(t, Config{TLS: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return current.Load(), nil
	}}}, &echo{})
	for range 2 {
		current.Store(&testCertificate(t).Certificates[0])
		want := current.Load().Certificate[0]
		overTCP, err := tls.Dial("tcp", l.Addr().String(), clientTLS(proto.ALPN))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = overTCP.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		overQUIC, err := quic.DialAddr(ctx, l.Addr().String(), clientTLS(proto.ALPN), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = overQUIC.CloseWithError(0, "") })
		for transport, state := range map[Transport]tls.ConnectionState{TransportTCP: overTCP.ConnectionState(), TransportQUIC: overQUIC.ConnectionState().TLS} {
			if !bytes.Equal(state.PeerCertificates[0].Raw, want) {
				t.Errorf("%s: another certificate than that of the moment", transport)
			}
		}
	}
}

// ticketCounter is a client's session cache that keeps nothing.
type ticketCounter struct{ given atomic.Int64 }

func (*ticketCounter) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *ticketCounter) Put(string, *tls.ClientSessionState)      { c.given.Add(1) }

// A client that would resume its TLS session is given no ticket for it: one
// would come before the first answer.
func TestNoTicketsAreGiven(t *testing.T) {
	l := start(t, Config{}, &echo{})
	tickets := new(ticketCounter)
	cfg := clientTLS(proto.ALPN)
	cfg.ClientSessionCache = tickets
	conn, err := tls.Dial("tcp", l.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &client{ReadWriter: conn}
	c.send(t, []byte("hello"))
	c.expect(t, "hello")
	if n := tickets.given.Load(); n != 0 {
		t.Errorf("%d tickets were given", n)
	}
}

func TestHTTP3OnTheSamePort(t *testing.T) {
	l := start(t, Config{HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto)
	})}, &echo{})
	transport := &http3.Transport{TLSClientConfig: clientTLS("h3")}
	defer transport.Close()
	reply, err := (&http.Client{Transport: transport, Timeout: patience}).Get("https://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if body, _ := io.ReadAll(reply.Body); string(body) != "HTTP/3.0" {
		t.Fatalf("%q", body)
	}
}

func TestPortInUse(t *testing.T) {
	l := start(t, Config{}, &echo{})
	_, err := New(Config{PlaintextAddr: l.PlaintextAddr().String()}, &echo{}, nil)
	if err == nil || !strings.Contains(err.Error(), l.PlaintextAddr().String()) {
		t.Fatalf("a port in use: %v", err)
	}
}

func TestLimitsPerAddress(t *testing.T) {
	l := start(t, Config{HalfOpenPerAddressMax: 2}, &echo{})
	for range 2 {
		c := dial(t, l, TransportPlain)
		_, _ = c.Write([]byte{0})
	}
	eventually(t, "two half-open", func() bool { return l.Stats().HalfOpen == 2 })
	c := dial(t, l, TransportPlain)
	c.expect(t, "refused: too_many_connections")
	if s := l.Stats(); s.Refused != 1 {
		t.Fatalf("stats: %+v", s)
	}
}

func TestLimiterPerSecond(t *testing.T) {
	l := newLimiter(Config{NewPerAddressPerSecondMax: 3}.withDefaults())
	now := time.Unix(1000, 0)
	addr := remoteOf(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}).Addr()
	for range 3 {
		if err := l.acquire(addr, now); err != nil {
			t.Fatal(err)
		}
		l.release(addr)
	}
	if err := l.acquire(addr, now); proto.CodeOf(err) != proto.CodeTooManyConns {
		t.Fatalf("the fourth in a second: %v", err)
	}
	if err := l.acquire(addr, now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	l.release(addr)
	other := remoteOf(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)}).Addr()
	_ = l.acquire(other, now.Add(2*time.Second))
	if len(l.addresses) != 1 {
		t.Fatalf("%d addresses are remembered, want 1", len(l.addresses))
	}
}

// deafSocket sends and hears nothing, as one whose sender is forged.
type deafSocket struct{ net.PacketConn }

func (s deafSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if _, _, err := s.PacketConn.ReadFrom(b); err != nil {
			return 0, nil, err
		}
	}
}

// A QUIC handshake counts from its first datagram on, and no longer than it
// lasts. Whoever does not prove to have an address gets a share of its limit
// only, so its owner can still connect.
func TestUnfinishedQUICHandshakesCount(t *testing.T) {
	const limit = 8
	l := start(t, Config{HalfOpenPerAddressMax: limit, HandshakeTimeout: 500 * time.Millisecond}, &echo{})
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: deafSocket{udp}}
	ctx, cancel := context.WithCancel(context.Background())
	var dials sync.WaitGroup
	defer func() { cancel(); dials.Wait(); _ = transport.Close(); _ = transport.Conn.Close() }()
	for range 4 * limit {
		dials.Go(func() {
			if conn, err := transport.Dial(ctx, l.udp.LocalAddr(), clientTLS(proto.ALPN), nil); err == nil {
				t.Error("a client that hears nothing is connected")
				_ = conn.CloseWithError(0, "")
			}
		})
	}
	eventually(t, "unfinished handshakes count", func() bool { return l.Stats().HalfOpen == limit/quicUnprovenShare })
	p := dial(t, l, "quic")
	p.send(t, []byte("hello"))
	p.expect(t, "hello")
	if n := l.Stats().HalfOpen; n > limit/quicUnprovenShare {
		t.Errorf("%d are half-open, more than unproven peers may hold", n)
	}
	cancel()
	dials.Wait()
	eventually(t, "nothing is half-open", func() bool { return l.Stats().HalfOpen == 0 })
}

// Handshakes of peers who may have forged their address take an eighth of the
// places; those who are refused a place may come again.
func TestQUICHandshakesAreBounded(t *testing.T) {
	const most, unproven = 16, 2
	l := start(t, Config{QUICHandshakesMax: most, HandshakeTimeout: 500 * time.Millisecond, ExemptLoopback: true}, &echo{})
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: deafSocket{udp}}
	ctx, cancel := context.WithCancel(context.Background())
	var dials sync.WaitGroup
	defer func() { cancel(); dials.Wait(); _ = transport.Close(); _ = transport.Conn.Close() }()
	for range 2 * most {
		dials.Go(func() { _, _ = transport.Dial(ctx, l.udp.LocalAddr(), clientTLS(proto.ALPN), nil) })
	}
	eventually(t, "their places are taken", func() bool { return l.Stats().HalfOpen == unproven })
	p := dial(t, l, "quic")
	p.send(t, []byte("hello"))
	p.expect(t, "hello")
	if n := l.Stats().HalfOpen; n > unproven {
		t.Errorf("%d handshakes, more than unproven peers may hold", n)
	}
	cancel()
	dials.Wait()
	eventually(t, "all places are free", func() bool { return l.quicHandshakes.Load() == 0 })

	// With all of them taken a peer learns it at once.
	l.quicHandshakes.Store(most)
	_, err = tryDial(l, TransportQUIC)
	if refused, ok := errors.AsType[*quic.TransportError](err); !ok || refused.ErrorCode != quic.ConnectionRefused {
		t.Errorf("with all places taken: %v", err)
	}
	if n := l.Stats().Refused; n == 0 {
		t.Error("nothing counts as refused")
	}
	l.quicHandshakes.Store(0)
	dial(t, l, "quic")
}

// An address has its share where places are scarce.
func TestQUICPlacesOfAnAddress(t *testing.T) {
	l := &Listener{cfg: Config{QUICHandshakesMax: 16}.withDefaults()}
	l.limiter = newLimiter(l.cfg)
	greedy, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	got := 0
	for range 20 {
		if l.beginQUIC(greedy) {
			got++
			_ = l.limiter.acquire(greedy, time.Now())
		}
	}
	if got != 8 || !l.beginQUIC(other) || l.beginQUIC(greedy) {
		t.Errorf("one address holds %d of 16 places", got)
	}
}

// None of a burst of connections is thrown away when its handshake is done.
func TestABurstOfQUICIsAccepted(t *testing.T) {
	const burst = 240
	l := start(t, Config{ExemptLoopback: true, HandshakeTimeout: patience, HelloTimeout: patience}, &echo{})
	transports := make([]*quic.Transport, 8)
	for i := range transports {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		transports[i] = &quic.Transport{Conn: udp}
		defer func() { _ = transports[i].Close(); _ = udp.Close() }()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var dials sync.WaitGroup
	for i := range burst {
		dials.Go(func() {
			conn, err := transports[i%len(transports)].Dial(ctx, l.udp.LocalAddr(), clientTLS(proto.ALPN), &quic.Config{HandshakeIdleTimeout: patience})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.CloseWithError(0, "") }()
			st, err := conn.OpenStreamSync(ctx)
			if err == nil {
				_, err = st.Write(appendFrame(nil, []byte("hello")))
			}
			if err == nil {
				_ = st.SetReadDeadline(time.Now().Add(patience))
				_, err = io.ReadFull(st, make([]byte, 9))
			}
			if err != nil {
				t.Errorf("after the handshake: %v", err)
			}
		})
	}
	dials.Wait()
}
