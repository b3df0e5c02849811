//go:build unix

package testcluster

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// slowReader is a device that subscribes and then reads when it is told to.
type slowReader struct {
	user        User
	thread      string
	conn        net.Conn
	buffered    *bufio.Reader
	incarnation []byte
	pts         uint64
	texts       int
	connects    int
}

// connect logs in with a receive buffer so small that what is not read stays
// at the server.
func (r *slowReader) connect(c *Cluster, cfg *tls.Config) error {
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = setReceiveBuffer(fd, 8<<10) })
	}}
	conn, err := dialer.Dial("tcp", c.options.Listen)
	if err != nil {
		return err
	}
	r.conn = tls.Client(conn, cfg)
	_ = r.conn.SetDeadline(time.Now().Add(Wait))
	r.buffered = bufio.NewReaderSize(r.conn, 4<<10)
	r.connects++
	h := &clientpb.Hello{ProtocolVersion: proto.ClientProtocolVersion, Token: r.user.Token, Device: r.user.Device, Subscribe: true}
	if h.Incarnation, h.LastPts = r.incarnation, r.pts; r.incarnation == nil {
		h.FromConfirmed = true
	}
	if err := say(r.conn, &clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: h}}); err != nil {
		return err
	}
	f, err := hear(r.buffered)
	if err != nil {
		return err
	}
	if f.GetWelcome() == nil {
		return fmt.Errorf("not welcome: %v", f)
	}
	if r.incarnation == nil {
		r.incarnation, r.pts = f.GetWelcome().Incarnation, f.GetWelcome().ResumeFrom
	}
	return r.conn.SetDeadline(time.Time{}) // how long all the writing takes is not known
}

// heartbeat shows the edge that the device is there, though it does not read.
func (r *slowReader) heartbeat() error {
	return say(r.conn, &clientpb.ClientFrame{Body: &clientpb.ClientFrame_Heartbeat{Heartbeat: &clientpb.Heartbeat{}}})
}

// readAll reads until it has n texts, connecting again where the server lost
// patience.
func (r *slowReader) readAll(c *Cluster, cfg *tls.Config, n int, text string) error {
	for deadline := time.Now().Add(2 * Wait); r.texts < n; {
		_ = r.conn.SetDeadline(deadline)
		f, err := hear(r.buffered)
		if err != nil {
			if time.Now().After(deadline) {
				return fmt.Errorf("has %d of %d texts: %w", r.texts, n, err)
			}
			_ = r.conn.Close()
			for err := r.connect(c, cfg); err != nil; err = r.connect(c, cfg) {
				// All come at once: some are refused for now, like any client.
				if time.Now().After(deadline) {
					return fmt.Errorf("connecting again: %w", err)
				}
				if r.conn != nil {
					_ = r.conn.Close()
				}
				time.Sleep(100 * time.Millisecond)
			}
			continue
		}
		if f.GetResync() != nil {
			return fmt.Errorf("was told to resynchronise: %v", f)
		}
		for _, u := range f.GetUpdates().GetUpdates() {
			if u.Pts != r.pts+1 {
				return fmt.Errorf("update %d follows %d", u.Pts, r.pts)
			}
			r.pts = u.Pts
			if e := u.GetEvent(); e != nil {
				if got := e.GetText().GetText(); got != fmt.Sprintf("%d %s", r.texts, text) {
					return fmt.Errorf("text %d is %.20q", r.texts, got)
				}
				r.texts++
			}
		}
	}
	return nil
}

// Many devices that subscribe and stop reading cost the servers a bounded
// amount of memory each, slow nobody else down much, and have missed nothing
// when they read again.
func TestManySlowReaders(t *testing.T) {
	n, each, patience := 100, 54, 4*Wait // 0.8 MB each: the kernel takes about 0.4, the queue 0.25
	if long() {
		n, each, patience = 1000, 100, 20*time.Minute // 1.5 GB, each message acknowledged before the next
	}
	// The edge waits for readers until all is written, however slow the machine:
	// what is measured here is the memory of those it waits for.
	c := StartConfigured(t, devcluster.Options{}, "cell: {messages_per_second: -1}\nedge: {slow_reader_seconds: 3600}\n")
	cfg := c.TLS()
	cfg.NextProtos, cfg.ServerName = []string{proto.ALPN}, "localhost"
	text := strings.Repeat("x", 15<<10)
	readers := make([]*slowReader, n)
	const writers = 8
	var senders [writers]*Device
	for i := range senders {
		senders[i] = c.Connect(c.AddUser(fmt.Sprintf("writer%d", i), fmt.Sprintf("c%d", i%2+1)), client.TCP, nil)
	}
	w := c.StartTalkers(4)
	for i := range readers {
		u := c.AddUser(fmt.Sprintf("slow%d", i), fmt.Sprintf("c%d", i%2+1))
		readers[i] = &slowReader{user: u, thread: proto.DirectThread(u.ID, senders[i%writers].User.ID).String()}
		if err := readers[i].connect(c, cfg); err != nil {
			t.Fatalf("%s: %v", u.Name, err)
		}
	}
	admins := c.Admins()
	w.Talk(time.Second)
	// The writers write to other people first: the same work without slow
	// readers is what people are compared with, a third as long.
	write := func(texts int, to func(i int) string) func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() {
				for m := range texts {
					for i := s; i < n; i += writers {
						if _, err := senders[s].Send(ctx, to(i), fmt.Sprintf("%d %s", m, text)); err != nil {
							t.Errorf("writing: %v", err)
							return
						}
					}
				}
			})
		}
		return func() { wg.Wait(); cancel() }
	}
	during := func(wait func()) (Times, map[string]Level) {
		var done atomic.Bool
		levels := map[string]Level{}
		var wg sync.WaitGroup
		wg.Go(func() { wait(); done.Store(true) })
		var all Times
		var beat time.Time
		for first := true; first || !done.Load(); first = false {
			if time.Since(beat) > proto.HeartbeatInterval/2 {
				beat = time.Now()
				for _, r := range readers {
					_ = r.heartbeat() // one that was ended connects again, later
				}
			}
			times := w.Talk(time.Second)
			all.N, all.P50, all.P99, all.Max = all.N+times.N, max(all.P50, times.P50), max(all.P99, times.P99), max(all.Max, times.Max)
			for _, node := range []string{"e1", "c1-n1", "c2-n1"} {
				if l := c.Level(admins[node]); l.HeapBytes > levels[node].HeapBytes {
					levels[node] = l
				}
			}
		}
		wg.Wait()
		return all, levels
	}
	aside := c.AddUser("aside", "c1")
	calm, before := during(write(each/3, func(i int) string {
		return proto.DirectThread(aside.ID, senders[i%writers].User.ID).String()
	}))
	dropped := c.Gauges(admins["e1"])["waggle_edge_pushes_dropped_total"]
	began := time.Now()
	slow, most := during(write(each, func(i int) string { return readers[i].thread }))
	dropped = c.Gauges(admins["e1"])["waggle_edge_pushes_dropped_total"] - dropped
	t.Logf("%d devices that do not read, %.1f MB each: %s; without them %s", n, float64(each*len(text))/1e6, slow, calm)
	if dropped < float64(n) {
		t.Errorf("%.0f pushes were dropped: the readers are not slow, this test tests nothing", dropped)
	}
	for node, level := range most {
		perReader := (level.HeapBytes - before[node].HeapBytes) / float64(n)
		t.Logf("%s: %s; without slow readers %s: %.0f KiB for each", node, level, before[node], perReader/1024)
		const besideQueue = 192 << 10 // the frame that filled it, TLS records, the slices' spare room
		if bound := float64(n)*(proto.SessionOutBytesMax+besideQueue) + 32<<20; level.HeapBytes-before[node].HeapBytes > bound {
			t.Errorf("%s has grown by %.1f MB, above %.1f MB", node, (level.HeapBytes-before[node].HeapBytes)/1e6, bound/1e6)
		}
	}
	if slow.P99 > 10*calm.P99 && slow.P99 > 2*time.Second {
		t.Errorf("slow readers slow others down: %s, without them %s", slow, calm)
	}
	var wg sync.WaitGroup
	var again atomic.Int64
	<-time.After(11 * time.Second) // longer than the edge waits if it is not told to
	for _, r := range readers {
		wg.Go(func() {
			if err := r.readAll(c, cfg, each, text); err != nil {
				t.Errorf("%s: %v", r.user.Name, err)
			}
			again.Add(int64(r.connects - 1))
			_ = r.conn.Close()
		})
	}
	wg.Wait()
	// The edge hears no heartbeat of those whose queue is full.
	took := time.Since(began)
	if n := again.Load(); n > 0 && took < proto.HeartbeatInterval*proto.HeartbeatSilenceFactor/10 {
		t.Errorf("%d were ended, though the edge was to wait for them, and all took only %s", n, took)
	}
	t.Logf("all have all %d texts; connected again %d times", each, again.Load())
	w.Check()
}

func setReceiveBuffer(fd uintptr, bytes int) error {
	return syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, bytes)
}
