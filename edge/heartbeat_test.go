package edge

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/router"
	"github.com/waggle-im/waggle/edge/session"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// pipes is a net.Listener without network, which simulated time needs.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "pipe"} }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// quietConn is a connection whose peer reads everything.
type quietConn struct {
	sent   atomic.Int64
	closed atomic.Bool
}

func (c *quietConn) Send(frames ...[]byte) (int, bool) {
	c.sent.Add(int64(len(frames)))
	return 0, !c.closed.Load()
}
func (c *quietConn) Close([]byte)                { c.closed.Store(true) }
func (c *quietConn) SetLoggedIn()                {}
func (c *quietConn) Remote() netip.AddrPort      { return netip.AddrPort{} }
func (c *quietConn) Transport() listen.Transport { return listen.TransportTCP }

// heapNow is the heap after a collection, in bytes.
func heapNow() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// In a day (an hour in the short form) of simulated time nobody is closed who
// sends heartbeats, everybody is who falls silent, and nothing grows.
func TestADayOfHeartbeats(t *testing.T) {
	lasts := time.Hour
	if os.Getenv("LONG_TESTS") != "" {
		lasts = 24 * time.Hour
	}
	const faithful, fickle = 200, 20
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.addrs["h1"] = "h1"
		calm := grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}) // as cell nodes have it
		h := &host{w: w, name: "h1", server: grpc.NewServer(calm), streams: map[*hostStream]bool{}}
		cellpb.RegisterChatServer(h.server, h)
		cellpb.RegisterNodeServer(h.server, h)
		ln := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		dialer := cellclient.NewDialer(w, nil, grpc.WithContextDialer(ln.dial))
		r := router.New(router.Config{}, router.Deps{
			Edge: "e1", Directory: w, Dialer: dialer, Locator: cellclient.NewLocator(w, dialer),
		})
		k := newKeys(t)
		s := session.New(session.Config{}, session.Deps{Edge: "e1", Router: r, Keys: k})
		running, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = h.server.Serve(ln) })
		wg.Go(func() { _ = r.Run(running) })
		wg.Go(func() { _ = s.Run(running) })
		began := time.Now()
		beat := mustMarshal(&clientpb.ClientFrame{Id: 2, Body: &clientpb.ClientFrame_Heartbeat{Heartbeat: &clientpb.Heartbeat{}}})
		connect := func() (*quietConn, listen.Receiver) {
			c := &quietConn{}
			session := s.Opened(c)
			session.Frame(mustMarshal(&clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
				ProtocolVersion: proto.ClientProtocolVersion, Token: k.token(t, time.Now().Add(time.Hour)), Device: "d1", Subscribe: true,
			}}}))
			return c, session
		}
		var beats, wrongly, rightly atomic.Int64
		for i := range faithful {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * proto.HeartbeatInterval / faithful)
				c, session := connect()
				for time.Since(began) < lasts {
					time.Sleep(proto.HeartbeatInterval)
					before := c.sent.Load()
					session.Frame(beat)
					if c.closed.Load() || c.sent.Load() != before+1 {
						wrongly.Add(1)
						return
					}
					beats.Add(1)
				}
				session.Closed(nil)
			})
		}
		for i := range fickle { // connects, falls silent, is closed in time, comes again
			wg.Go(func() {
				time.Sleep(time.Duration(i) * proto.HeartbeatInterval / fickle)
				for time.Since(began) < lasts {
					c, session := connect()
					time.Sleep(proto.HeartbeatInterval)
					session.Frame(beat)
					const silence = proto.HeartbeatInterval * proto.HeartbeatSilenceFactor / 10
					time.Sleep(silence - time.Second)
					early := c.closed.Load()
					time.Sleep(proto.HeartbeatInterval/4 + 2*time.Second) // how often it is looked
					if early || !c.closed.Load() {
						wrongly.Add(1)
					}
					session.Closed(nil)
					rightly.Add(1)
				}
			})
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		goroutines, heap, sessions := runtime.NumGoroutine(), heapNow(), s.Len()
		time.Sleep(lasts - 10*time.Minute)
		synctest.Wait()
		h.set(func(h *host) { h.attaches = nil }) // the fake's own notes
		goroutinesNow, heapLater, sessionsNow := runtime.NumGoroutine(), heapNow(), s.Len()
		t.Logf("%s: %d heartbeats, %d closed for silence; goroutines %d → %d, heap %d → %d KiB, sessions %d → %d", lasts,
			beats.Load(), rightly.Load(), goroutines, goroutinesNow, heap>>10, heapLater>>10, sessions, sessionsNow)
		if n := wrongly.Load(); n > 0 {
			t.Errorf("%d were closed though they sent heartbeats, or not though they did not", n)
		}
		if goroutinesNow > goroutines+20 {
			t.Errorf("goroutines have grown from %d to %d", goroutines, goroutinesNow)
		}
		if heapLater > heap+2<<20 {
			t.Errorf("the heap has grown from %d to %d KiB", heap>>10, heapLater>>10)
		}
		if sessionsNow > faithful+fickle {
			t.Errorf("there are %d sessions of %d people", sessionsNow, faithful+fickle)
		}
		time.Sleep(15 * time.Minute) // all have ended
		if n := s.Len(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
		stop()
		_ = dialer.Close()
		h.server.Stop()
		_ = ln.Close()
		wg.Wait()
	})
}
