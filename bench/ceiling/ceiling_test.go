package ceiling

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

// asProcess makes the test program a server process.
const asProcess = "ceiling-process"

// longest is how long anything here may take; nothing does but what hangs.
const longest = time.Minute

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == asProcess {
		if err := Process(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func small(t *testing.T, copies int) Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Command: []string{self, asProcess}, Dir: t.TempDir(), Copies: copies, Pairs: 3, Window: 6, SizeBytes: 40, Duration: time.Second}
}

// keysIn counts what a store holds, each of the size of a body.
func keysIn(t *testing.T, fs vfs.FS, dir string, size int) int64 {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, Logger: quiet{}, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	var n int64
	for it.First(); it.Valid(); it.Next() {
		if len(it.Value()) != size {
			t.Errorf("a message of %d bytes in %s, want %d", len(it.Value()), dir, size)
		}
		n++
	}
	if err := it.Error(); err != nil {
		t.Fatal(err)
	}
	return n
}

// Everything that was acknowledged is in the leader's store and, of three
// copies, in another one, and has reached the peer. Without a warm-up all of it
// is measured.
func TestRun(t *testing.T) {
	for _, copies := range []int{1, 3} {
		for _, loop := range []struct {
			name   string
			window int
			rate   float64
		}{{"one at a time", 1, 0}, {"closed loop", 6, 0}, {"open loop", 0, 50}} {
			t.Run(fmt.Sprintf("%d %s", copies, loop.name), func(t *testing.T) {
				cfg := small(t, copies)
				cfg.Window, cfg.Rate = loop.window, loop.rate
				var looks [][]int
				cfg.Look = func(pids []int) { looks = append(looks, pids) }
				r, err := Run(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				checkResult(t, cfg, r)
				if len(looks) != 2 || len(looks[0]) != copies || len(looks[1]) != copies || looks[0][0] == os.Getpid() {
					t.Errorf("looked at processes %v", looks)
				}
				checkStores(t, cfg, r)
			})
		}
	}
}

func checkResult(t *testing.T, cfg Config, r *Result) {
	t.Helper()
	if r.Sent == 0 || r.Acked != r.Sent || r.Pushed != r.Sent || r.Latencies.TotalCount() != r.Sent || r.Answered > r.Sent {
		t.Errorf("%+v", r)
	}
	if due := int64(cfg.Rate * cfg.Duration.Seconds()); cfg.Rate > 0 && (r.Sent+r.Unsent < due-1 || r.Sent+r.Unsent > due+1) {
		t.Errorf("%d sent and %d not, of %d", r.Sent, r.Unsent, due)
	}
	if cfg.Window > 0 && r.Unsent != 0 {
		t.Errorf("%d not sent in a closed loop", r.Unsent)
	}
}

func checkStores(t *testing.T, cfg Config, r *Result) {
	t.Helper()
	var followers int64
	for n := range cfg.Copies {
		keys := keysIn(t, vfs.Default, filepath.Join(cfg.Dir, strconv.Itoa(n)), cfg.SizeBytes)
		if n > 0 {
			followers = max(followers, keys)
		} else if keys != r.Sent {
			t.Errorf("the leader stored %d of %d", keys, r.Sent)
		}
	}
	if cfg.Copies > 1 && followers != r.Acked {
		t.Errorf("no follower stored more than %d of %d acknowledged", followers, r.Acked)
	}
}

// What is due in the warm-up is sent and stored, and does not count.
func TestWarmUp(t *testing.T) {
	cfg := small(t, 1)
	cfg.Window, cfg.Rate, cfg.WarmUp = 0, 50, time.Second
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if all := r.Sent + r.Unsent; all < 49 || all > 51 || r.Acked != r.Sent || r.Pushed != r.Sent || r.Latencies.TotalCount() != r.Sent {
		t.Errorf("%+v", r)
	}
	if stored := keysIn(t, vfs.Default, filepath.Join(cfg.Dir, "0"), cfg.SizeBytes); stored <= r.Sent {
		t.Errorf("%d stored in all, %d of them measured", stored, r.Sent)
	}
}

// A process that goes away, a store that is there already and a command that is
// no server make no measurement, and an end from outside ends everything.
func TestNoMeasurement(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(cfg *Config, cancel context.CancelFunc)
		says  string
	}{
		"a follower dies":  {func(cfg *Config, _ context.CancelFunc) { cfg.Look = kill(t, 1) }, "a server process: exit status 1"},
		"the server dies":  {func(cfg *Config, _ context.CancelFunc) { cfg.Look = kill(t, 0) }, "connection broke"},
		"no disk":          {func(cfg *Config, _ context.CancelFunc) { cfg.Dir = filepath.Join(os.Args[0], "none") }, "did not start"},
		"a store is there": {func(cfg *Config, _ context.CancelFunc) { makeStore(t, filepath.Join(cfg.Dir, "0")) }, "did not start"},
		"no such program":  {func(cfg *Config, _ context.CancelFunc) { cfg.Command = []string{filepath.Join(cfg.Dir, "none")} }, "start a server"},
		"no command":       {func(cfg *Config, _ context.CancelFunc) { cfg.Command = nil }, "no command"},
		"ended meanwhile":  {func(cfg *Config, cancel context.CancelFunc) { cfg.Look = func([]int) { cancel() } }, "context canceled"},
		"ended before":     {func(_ *Config, cancel context.CancelFunc) { cancel() }, "context canceled"},
		"no configuration": {func(cfg *Config, _ context.CancelFunc) { *cfg = Config{} }, "--copies"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), longest)
			defer cancel()
			cfg := small(t, 3)
			// It is noticed when it happens: the measured time would not end.
			cfg.Duration = time.Hour
			c.spoil(&cfg, cancel)
			r, err := Run(ctx, cfg)
			if err == nil || r != nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, %v; want %q", r, err, c.says)
			}
		})
	}
}

// makeStore leaves a store behind. A measurement must not begin with it.
func makeStore(t *testing.T, dir string) {
	db, err := openStore(dir)
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Error(err)
	}
}

// kill is a look that ends one of the processes.
func kill(t *testing.T, n int) func(pids []int) {
	return func(pids []int) {
		p, err := os.FindProcess(pids[n])
		if err == nil {
			err = p.Kill()
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func TestNoOrder(t *testing.T) {
	for _, in := range []string{"", "{", "none\n"} {
		if err := Process(t.Context(), strings.NewReader(in), io.Discard); err == nil || !strings.Contains(err.Error(), "order") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestValidate(t *testing.T) {
	good := small(t, 1)
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"--copies 0":      func(c *Config) { c.Copies = 0 },
		"--copies 2":      func(c *Config) { c.Copies = 2 },
		"--pairs 0":       func(c *Config) { c.Pairs = 0 },
		"--pairs 5001":    func(c *Config) { c.Pairs = 5001 },
		"--rate":          func(c *Config) { c.Rate = 1 },
		"--window":        func(c *Config) { c.Window = 0 },
		"--window 7":      func(c *Config) { c.Window = 7 },
		"--size 0":        func(c *Config) { c.SizeBytes = 0 },
		"--size 32769":    func(c *Config) { c.SizeBytes = 32769 },
		"--duration 10ms": func(c *Config) { c.Duration = 10 * time.Millisecond },
		"--warm-up -1s":   func(c *Config) { c.WarmUp = -time.Second },
	} {
		c := good
		if spoil(&c); c.Validate() == nil || !strings.Contains(c.Validate().Error(), name) {
			t.Errorf("%s: %v", name, c.Validate())
		}
	}
}

// served is a server in this process with a store in memory.
type served struct {
	t    *testing.T
	fs   *vfs.MemFS
	addr string
	tls  *tls.Config
	end  func()
}

// serving starts a leader of followers at addresses, which ends with the test.
func serving(t *testing.T, followers ...string) *served {
	t.Helper()
	cert, key, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.ParseECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	v := &served{t: t, fs: vfs.NewCrashableMem(), tls: &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}}
	v.tls.RootCAs.AddCert(cert)
	db, err := pebble.Open("db", &pebble.Options{FS: v.fs, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	v.addr = l.Addr().String()
	s := newServer(db)
	if len(followers) > 0 {
		if s.followers, err = dialFollowers(t.Context(), followers); err != nil {
			t.Fatal(err)
		}
	}
	v.end = inBackground(t, func(ctx context.Context) error {
		err := s.serve(ctx, l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: private}}})
		return errors.Join(err, db.Close())
	})
	return v
}

// inBackground runs f until the end of the test or until what it returns is
// called, and holds it to its having no error then.
func inBackground(t *testing.T, f func(context.Context) error) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(longest):
			t.Error("does not end")
		}
	})
	t.Cleanup(end)
	return end
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// human is a person of a test. What the server sends it comes by got, which is
// closed with the connection.
type human struct {
	t    *testing.T
	conn net.Conn
	got  chan string
}

func (v *served) join(number uint32) *human {
	v.t.Helper()
	conn, err := tls.Dial("tcp", v.addr, v.tls)
	if err != nil {
		v.t.Fatal(err)
	}
	h := &human{v.t, conn, make(chan string, 16)}
	done := make(chan struct{})
	v.t.Cleanup(func() { _ = conn.NetConn().Close(); <-done })
	go func() {
		defer close(done)
		defer close(h.got)
		for r := bufio.NewReader(conn); ; {
			frame, err := readFrame(r)
			if err != nil {
				return
			}
			h.got <- string(frame)
		}
	}()
	h.write(binary.BigEndian.AppendUint32(nil, number))
	h.wants("w")
	return h
}

func (h *human) write(raw []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(raw); err != nil {
		h.t.Fatal(err)
	}
}

func (h *human) say(to uint32, body string) {
	h.t.Helper()
	h.write(frameOf(append(binary.BigEndian.AppendUint32(nil, to), body...)))
}

func (h *human) wants(want string) {
	h.t.Helper()
	select {
	case got, ok := <-h.got:
		if !ok || got != want {
			h.t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(longest):
		h.t.Fatalf("nothing comes, want %q", want)
	}
}

// patience is how long what must not come is waited for. A server that is right
// cannot fail by it, however slow; from one that is wrong it comes sooner.
const patience = 200 * time.Millisecond

func (h *human) wantsNothing() {
	h.t.Helper()
	select {
	case got := <-h.got:
		h.t.Fatalf("got %q too early", got)
	case <-time.After(patience):
	}
}

// mute is a follower that answers only when it is told to.
type mute struct {
	t     *testing.T
	l     net.Listener
	conn  net.Conn
	batch chan []byte
}

func newMute(t *testing.T) *mute { return &mute{t: t, l: listen(t), batch: make(chan []byte, 16)} }

func (m *mute) accept() {
	m.t.Helper()
	var err error
	if m.conn, err = m.l.Accept(); err != nil {
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	m.t.Cleanup(func() { _ = m.conn.Close(); <-done })
	go func() {
		defer close(done)
		for r := bufio.NewReader(m.conn); ; {
			frame, err := readFrame(r)
			if err != nil {
				return
			}
			m.batch <- frame
		}
	}()
}

// gets waits until the leader has sent a batch with a body.
func (m *mute) gets(body string) {
	m.t.Helper()
	select {
	case batch := <-m.batch:
		if !strings.Contains(string(batch), body) {
			m.t.Fatalf("the batch %q lacks %q", batch, body)
		}
	case <-time.After(longest):
		m.t.Fatal("no batch comes")
	}
}

func (m *mute) answer() {
	m.t.Helper()
	if _, err := m.conn.Write(frameOf(nil)); err != nil {
		m.t.Fatal(err)
	}
}

// Nobody is told anything before one of two followers has synced; then it does
// not take the other one.
func TestMajority(t *testing.T) {
	first, second := newMute(t), newMute(t)
	v := serving(t, first.l.Addr().String(), second.l.Addr().String())
	first.accept()
	second.accept()
	a, b := v.join(0), v.join(1)
	for _, who := range []*mute{first, second} {
		// The slower one has batches open: only what the faster has of all counts.
		body := "message for " + who.l.Addr().String()
		a.say(1, body)
		first.gets(body)
		second.gets(body)
		a.wantsNothing()
		b.wantsNothing()
		if who == second {
			second.answer() // of the first batch: that was acknowledged before
			a.wantsNothing()
		}
		who.answer()
		a.wants("a")
		b.wants("p" + body)
	}
}

// What is acknowledged outlives a crash of the leader, and what a follower
// answers one of the follower's.
func TestCrash(t *testing.T) {
	t.Run("leader", func(t *testing.T) {
		v := serving(t)
		a, b := v.join(0), v.join(1)
		for n := range int64(5) {
			a.say(1, "once")
			a.wants("a")
			b.wants("ponce")
			if have := keysIn(t, v.fs.CrashClone(vfs.CrashCloneCfg{}), "db", 4); have != n+1 {
				t.Errorf("%d messages after a crash, %d were acknowledged", have, n+1)
			}
		}
	})
	t.Run("follower", func(t *testing.T) {
		fs := vfs.NewCrashableMem()
		db, err := pebble.Open("db", &pebble.Options{FS: fs, Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		l := listen(t)
		inBackground(t, func(ctx context.Context) error { return errors.Join(follow(ctx, l, db), db.Close()) })
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(longest))
		r := bufio.NewReader(conn)
		for n := range int64(5) {
			b := new(pebble.Batch)
			if err := b.Set([]byte{byte(n)}, []byte("once"), nil); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(frameOf(b.Repr())); err != nil {
				t.Fatal(err)
			}
			if _, err := readFrame(r); err != nil {
				t.Fatal(err)
			}
			if have := keysIn(t, fs.CrashClone(vfs.CrashCloneCfg{}), "db", 4); have != n+1 {
				t.Errorf("%d batches after a crash, %d were answered", have, n+1)
			}
		}
	})
}

// A server ends while people are connected, half connected and waiting for what
// will not be acknowledged, and has no error to tell.
func TestEnd(t *testing.T) {
	first, second := newMute(t), newMute(t)
	v := serving(t, first.l.Addr().String(), second.l.Addr().String())
	first.accept()
	second.accept()
	half, err := net.Dial("tcp", v.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	a := v.join(0) // accepted after the half one
	a.say(1, "never")
	first.gets("never")
	v.end()
}

// Messages that wait are bounded: who has more is not read any further. There
// are more of them than bound and socket buffers take together.
func TestQueueIsBounded(t *testing.T) {
	first := newMute(t)
	v := serving(t, first.l.Addr().String())
	first.accept()
	a, b := v.join(0), v.join(1)
	const size, count = 512 << 10, 44
	body := strings.Repeat("x", size)
	written := make(chan error, 1)
	go func() {
		var err error
		for range count {
			if _, e := a.conn.Write(frameOf(append(binary.BigEndian.AppendUint32(nil, 1), body...))); e != nil && err == nil {
				err = e
			}
		}
		written <- err
	}()
	select {
	case err := <-written:
		t.Fatalf("all was read before the first batch is stored: %v", err)
	case <-time.After(patience):
	}
	for answered := 0; answered < count; {
		var batch []byte
		select {
		case batch = <-first.batch:
		case <-time.After(longest):
			t.Fatal("no batch comes")
		}
		if len(batch) > queueBytesMax+2*size {
			t.Errorf("a batch of %d bytes", len(batch))
		}
		first.answer()
		for range strings.Count(string(batch), body) {
			a.wants("a")
			b.wants("p" + body)
			answered++
		}
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// A process answers its order with an address, and ends with its input.
func TestProcess(t *testing.T) {
	in, orders := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Process(context.Background(), in, out) }()
	if err := json.NewEncoder(orders).Encode(order{Dir: filepath.Join(t.TempDir(), "1"), Follower: true}); err != nil {
		t.Fatal(err)
	}
	var addr string
	if err := json.NewDecoder(answers).Decode(&addr); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = orders.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(longest):
		t.Error("does not end")
	}
}
