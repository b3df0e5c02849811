package testcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
)

// The limits of the edge's listener (edge/listen.Config), which a flood fills.
const (
	halfOpenPerAddress = 256
)

// flood is what strangers do before they log in, from addresses of their own
// (Linux answers on all of 127.0.0.0/8).
type flood struct {
	order     floodOrder
	ctx       context.Context
	wg        sync.WaitGroup
	opened    atomic.Int64
	ended     atomic.Int64 // by the server
	outlasted atomic.Int64 // the server's deadline, by far
}

// floodOrder is where strangers go, and how many.
type floodOrder struct {
	Listen, Plaintext string
	CA                []byte // PEM
	Addresses         []string
	Each              int // of each kind, from each address
}

// floodCounts is what they have seen so far.
type floodCounts struct {
	Opened, Ended, Outlasted int64
}

// lasts is far above every deadline before login.
const lasts = 20 * time.Second

// stranger opens a connection from addr and does something with it until the
// server ends it. A refused connection is opened again after a pause.
func (f *flood) stranger(addr, server string, do func(net.Conn) error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	for f.ctx.Err() == nil {
		if conn, err := dialer.DialContext(f.ctx, "tcp", server); err == nil {
			f.opened.Add(1)
			stop := context.AfterFunc(f.ctx, func() { _ = conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(lasts))
			if err := do(conn); err != nil && f.ctx.Err() == nil {
				f.ended.Add(1)
				if isTimeout(err) {
					f.outlasted.Add(1)
				}
			}
			stop()
			_ = conn.Close()
		}
		select {
		case <-f.ctx.Done():
		case <-time.After(time.Second): // its pace
		}
	}
}

func isTimeout(err error) bool {
	t, ok := err.(net.Error)
	return ok && t.Timeout()
}

// untilEnd reads until the server ends the connection.
func untilEnd(conn net.Conn) error {
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return err
	}
	return io.EOF
}

// drip writes what it is given byte by byte, one per second.
func (f *flood) drip(conn net.Conn, bytes []byte) error {
	ended := make(chan error, 1)
	f.wg.Go(func() { ended <- untilEnd(conn) })
	for _, b := range bytes {
		if _, err := conn.Write([]byte{b}); err != nil {
			return err
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(time.Second): // its pace
		}
	}
	return <-ended
}

// begunTLS is the beginning of a TLS handshake: a record of 512 bytes is
// announced, and its first bytes.
var begunTLS = [...]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}

// start lets strangers at the edge.
func (f *flood) start() error {
	listen, plain := f.order.Listen, f.order.Plaintext
	hello := append([]byte{0, 0, 0, 200}, make([]byte, 200)...)
	trusting := &tls.Config{RootCAs: x509.NewCertPool(), NextProtos: []string{proto.ALPN}, ServerName: "localhost"}
	if !trusting.RootCAs.AppendCertsFromPEM(f.order.CA) {
		return errors.New("no authority")
	}
	for _, addr := range f.order.Addresses {
		for _, kind := range []struct {
			server string
			do     func(net.Conn) error
		}{
			{listen, untilEnd},
			{plain, untilEnd},
			{listen, func(conn net.Conn) error { _, _ = conn.Write(begunTLS[:]); return untilEnd(conn) }},
			{listen, func(conn net.Conn) error { return f.drip(conn, append(begunTLS[:], make([]byte, 500)...)) }},
			{plain, func(conn net.Conn) error { return f.drip(conn, hello) }},
			{listen, func(conn net.Conn) error { // TLS, and half a Hello
				secure := tls.Client(conn, trusting)
				if err := secure.HandshakeContext(f.ctx); err != nil {
					return err
				}
				_, _ = secure.Write(hello[:20])
				return untilEnd(secure)
			}},
		} {
			for range f.order.Each {
				f.wg.Go(func() { f.stranger(addr, kind.server, kind.do) })
			}
		}
		udp, err := net.ListenPacket("udp", addr+":0")
		if err != nil {
			return err
		}
		server, err := net.ResolveUDPAddr("udp", listen)
		if err != nil {
			return err
		}
		f.wg.Go(func() { f.storm(udp, server, trusting) })
	}
	return nil
}

// deaf never hears what is answered.
type deaf struct{ net.PacketConn }

func (d deaf) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if _, _, err := d.PacketConn.ReadFrom(b); err != nil {
			return 0, nil, err
		}
	}
}

// storm begins QUIC handshakes and hears none of the answers.
func (f *flood) storm(udp net.PacketConn, server net.Addr, trusting *tls.Config) {
	transport := &quic.Transport{Conn: deaf{udp}}
	defer func() { _ = transport.Close(); _ = udp.Close() }()
	for f.ctx.Err() == nil {
		f.opened.Add(1)
		f.wg.Go(func() {
			ctx, cancel := context.WithTimeout(f.ctx, 50*time.Millisecond) // one datagram, not its repetitions
			defer cancel()
			if conn, err := transport.Dial(ctx, server, trusting, nil); err == nil {
				_ = conn.CloseWithError(0, "")
			}
		})
		select {
		case <-f.ctx.Done():
		case <-time.After(20 * time.Millisecond): // its pace
		}
	}
}

// TestFloodProcess is a flood: strangers are elsewhere and have CPUs of their
// own, so they run in a process of their own, which takes only what CPU the
// others leave where latency is measured. It is for TestFloodBeforeLogin, which
// tells it by its standard input what to do and, by closing that, to end.
func TestFloodProcess(t *testing.T) {
	if os.Getenv(floodEnv) == "" {
		t.Skip("TestFloodBeforeLogin runs it")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f := &flood{ctx: ctx}
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&f.order); err != nil {
		t.Fatal(err)
	}
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the input
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	out := json.NewEncoder(os.Stdout)
	for ctx.Err() == nil {
		_ = out.Encode(floodCounts{f.opened.Load(), f.ended.Load(), f.outlasted.Load()})
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // its pace
		}
	}
	f.wg.Wait()
	_ = out.Encode(floodCounts{f.opened.Load(), f.ended.Load(), f.outlasted.Load()})
}

const floodEnv = "WAGGLE_TEST_FLOOD"

// strangers is a flood in a process of its own.
type strangers struct {
	in     io.Closer
	cmd    *exec.Cmd
	mu     sync.Mutex
	counts floodCounts
	done   chan struct{}
}

// startStrangers starts n strangers of each kind from each address. The test
// must end them.
func (c *Cluster) startStrangers(addresses []string, n int) *strangers {
	c.t.Helper()
	ca, err := os.ReadFile(filepath.Join(c.options.DataDir, "ca.pem"))
	if err != nil {
		c.t.Fatal(err)
	}
	line := []string{os.Args[0], "-test.run=^TestFloodProcess$"}
	if long() { // else a machine that is busy with other tests would have no flood
		line = append([]string{"chrt", "--idle", "0"}, line...)
	}
	// #nosec G204 -- this test itself
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), floodEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	s := &strangers{in: in, cmd: cmd, done: make(chan struct{})}
	go func() { // ends with the process
		defer close(s.done)
		lines := json.NewDecoder(out)
		for {
			var counts floodCounts
			if err := lines.Decode(&counts); err != nil {
				_, _ = io.Copy(io.Discard, out)
				return
			}
			s.mu.Lock()
			s.counts = counts
			s.mu.Unlock()
		}
	}()
	order := floodOrder{Listen: c.options.Listen, Plaintext: c.options.Plaintext, CA: ca, Addresses: addresses, Each: n}
	if err := json.NewEncoder(in).Encode(order); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (s *strangers) now() floodCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// end ends the flood and gives its last counts.
func (s *strangers) end(t *testing.T) floodCounts {
	_ = s.in.Close()
	<-s.done
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the strangers' process: %v", err)
	}
	return s.now()
}

// Strangers who hold connections open without logging in are held to the
// limits and thrown out by their deadlines; people who are logged in go on
// chatting at nearly their usual pace.
func TestFloodBeforeLogin(t *testing.T) {
	rounds, each := 1, 3*time.Second
	if long() {
		rounds, each = 6, 20*time.Second
	}
	c := StartConfigured(t, devcluster.Options{}, "edge: {exempt_loopback: false}\n")
	edge := c.Admins()["e1"]
	w := c.StartTalkers(6)
	w.Talk(time.Second)
	before := c.Level(edge)
	addresses := []string{"127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14", "127.0.0.15", "127.0.0.16"}
	for round := range rounds {
		calm := w.Talk(each)
		f := c.startStrangers(addresses, 60)
		refused := c.Gauges(edge)["waggle_edge_connections_refused_total"]
		most := 0.0
		c.Until("the limits are reached", func() error {
			g := c.Gauges(edge)
			most = max(most, g["waggle_edge_half_open"])
			if g["waggle_edge_connections_refused_total"] == refused {
				return fmt.Errorf("nobody was refused: %.0f are half-open", most)
			}
			return nil
		})
		flooded := w.Talk(each)
		g := c.Gauges(edge)
		most = max(most, g["waggle_edge_half_open"])
		during := c.Level(edge)
		c.Until("strangers are thrown out", func() error {
			if n := f.now(); n.Ended == 0 {
				return fmt.Errorf("of %d nobody", n.Opened)
			}
			return nil
		})
		seen := f.end(t)
		t.Logf("round %d: calm %s; flooded %s (p99 × %.1f)", round, calm, flooded, float64(flooded.P99)/float64(calm.P99))
		t.Logf("round %d: %d connections opened, %d ended by the server, %.0f refused, at most %.0f half-open; %s", round,
			seen.Opened, seen.Ended, g["waggle_edge_connections_refused_total"]-refused, most, during)
		if n := seen.Outlasted; n > 0 {
			t.Errorf("%d connections lasted longer than %s without logging in", n, lasts)
		}
		if limit := float64(len(addresses) * halfOpenPerAddress); most > limit {
			t.Errorf("%.0f connections were half-open; the addresses may have %.0f", most, limit)
		}
		if flooded.P99 > 10*calm.P99 && flooded.P99 > 2*time.Second {
			t.Errorf("the flood slows people down: %s, without it %s", flooded, calm)
		}
		const perHalfOpen = 64 << 10
		if bound := before.HeapBytes + most*perHalfOpen + 32<<20; during.HeapBytes > bound {
			t.Errorf("the edge's heap is %.1f MB, above %.1f MB", during.HeapBytes/1e6, bound/1e6)
		}
		c.Until("nobody is half-open", func() error {
			if n := c.Gauges(edge)["waggle_edge_half_open"]; n > 0 {
				return fmt.Errorf("%.0f are", n)
			}
			return nil
		})
	}
	w.Check()
	after := c.Level(edge)
	t.Logf("edge before %s; after %s", before, after)
	if after.Goroutines > before.Goroutines+30 || after.Descriptors > before.Descriptors+30 {
		t.Errorf("the flood has left something behind: before %s, after %s", before, after)
	}
}
