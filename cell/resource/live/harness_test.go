package live

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/proto"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(loadOf); spec != "" {
		viewersMain(spec)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// patience is far above what a slow machine needs.
const patience = 60 * time.Second

var testID = proto.LiveID{Owner: 4096, Number: 17}

// fakeRights knows one key, tickets, and who may stay.
type fakeRights struct {
	mu      sync.Mutex
	record  bool
	gone    map[string]error // by ticket: what MayStay answers
	reports []Report
	kept    map[string][]byte // by content's hash
	keepErr error
	changed chan struct{}
}

func newFakeRights() *fakeRights {
	return &fakeRights{gone: make(map[string]error), kept: make(map[string][]byte), changed: make(chan struct{})}
}

func (f *fakeRights) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeRights) Publish(_ context.Context, _ proto.LiveID, key string) (Publication, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch key {
	case "right":
		return Publication{Record: f.record, Title: "test"}, nil
	case "nobody":
		return Publication{}, errNobody
	}
	return Publication{}, proto.Errorf(proto.CodeForbidden, "that is not the key of this livestream")
}

// Watch takes tickets that begin with "t".
func (f *fakeRights) Watch(_ context.Context, id proto.LiveID, ticket string) (Viewer, error) {
	if !strings.HasPrefix(ticket, "t") {
		return Viewer{}, proto.Errorf(proto.CodeNotMember, "that ticket is not for this livestream")
	}
	return Viewer{Live: id, User: 8192, Thread: ticket}, nil
}

func (f *fakeRights) MayStay(_ context.Context, v Viewer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone[v.Thread]
}

func (f *fakeRights) Report(_ context.Context, r Report) error {
	f.change(func() { f.reports = append(f.reports, r) })
	return nil
}

func (f *fakeRights) Keep(_ context.Context, id proto.LiveID, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	err = f.keepErr
	f.mu.Unlock()
	if err != nil {
		return err
	}
	f.change(func() { f.kept[fmt.Sprintf("%s %x", id, sha256.Sum256(content))] = content })
	return nil
}

// until waits for a report, and returns it.
func (f *fakeRights) until(t *testing.T, what string, ok func(Report) bool) Report {
	t.Helper()
	deadline := time.After(patience)
	seen := 0
	for {
		f.mu.Lock()
		all, changed := f.reports[seen:], f.changed
		f.mu.Unlock()
		for _, r := range all {
			if ok(r) {
				return r
			}
		}
		seen += len(all)
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no report that %s: %+v", what, f.reports)
		}
	}
}

func (f *fakeRights) untilKept(t *testing.T, n int) [][]byte {
	t.Helper()
	deadline := time.After(patience)
	for {
		f.mu.Lock()
		changed := f.changed
		var all [][]byte
		for _, content := range f.kept {
			all = append(all, content)
		}
		f.mu.Unlock()
		if len(all) >= n {
			return all
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%d recordings were handed over, want %d", len(all), n)
		}
	}
}

// node is a service that runs.
type node struct {
	*Service
	rights *fakeRights
	host   string // of RTSP
	rtmp   string
	http   *httptest.Server
	log    *logBuffer
	ended  chan error
	cancel context.CancelFunc
}

type logBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{} // closed by the next write, if somebody waits
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return l.b.Write(b)
}

// until waits for text.
func (l *logBuffer) until(t testing.TB, text string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		there, changed := strings.Contains(l.b.String(), text), l.changed
		l.mu.Unlock()
		if there {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%q does not come", text)
		}
	}
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t testing.TB, cfg Config, rights *fakeRights) *node {
	t.Helper()
	setDefault(&cfg.ReconnectWithin, time.Second)
	setDefault(&cfg.RecheckInterval, 50*time.Millisecond)
	setDefault(&cfg.ReportInterval, 10*time.Millisecond)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	rtp, rtcp, err := ListenUDP(t.Context(), "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{rights: rights, log: &logBuffer{}, ended: make(chan error, 1)}
	deps := Deps{Rights: rights, RTSP: listen(), RTMP: listen(), RTP: rtp, RTCP: rtcp, Log: slog.New(slog.NewTextHandler(n.log, nil))}
	n.host, n.rtmp = deps.RTSP.Addr().String(), deps.RTMP.Addr().String()
	if n.Service, err = New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	n.http = httptest.NewServer(n.HLS())
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		n.end(t)
		if t.Failed() {
			t.Log(n.log.String())
		}
	})
	return n
}

// end stops the node, once.
func (n *node) end(t testing.TB) {
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	select {
	case err := <-n.ended:
		if err != nil {
			t.Errorf("the service ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("the service does not end")
	}
	n.http.Close()
	http.DefaultClient.CloseIdleConnections()
}

func (n *node) publishURL(scheme, key string) string {
	host := n.host
	if scheme == "rtmp" {
		host = n.rtmp
	}
	return fmt.Sprintf("%s://%s/live/%s?key=%s", scheme, host, testID, key)
}

func (n *node) watchURL(scheme, ticket string) string {
	if scheme == "http" {
		return fmt.Sprintf("%s/live/%s/index.m3u8", n.http.URL, testID)
	}
	return strings.Replace(n.publishURL(scheme, ticket), "key=", "ticket=", 1)
}

func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: deploy/dev/programs.sh installs it", p)
			}
			t.Skipf("%s is missing: deploy/dev/programs.sh installs it", p)
		}
	}
}

// program is a program that runs, and is killed at the end of the test.
type program struct {
	*exec.Cmd
	out, err *logBuffer
	done     chan struct{}
	result   error
}

func run(t testing.TB, name string, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{Cmd: exec.CommandContext(ctx, name, args...), out: &logBuffer{}, err: &logBuffer{}, done: make(chan struct{})}
	p.Stdout, p.Stderr = p.out, p.err
	if err := p.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		p.result = p.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-p.done
		if t.Failed() {
			t.Logf("%s %s\n%s", name, strings.Join(args, " "), p.err.String())
		}
	})
	return p
}

// wait returns how the program ended.
func (p *program) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-p.done:
		return p.result
	case <-time.After(patience):
		t.Fatalf("%v does not end\n%s", p.Args, p.err.String())
		return nil
	}
}

func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	p := run(t, name, args...)
	if err := p.wait(t); err != nil {
		t.Fatalf("%v: %v\n%s", p.Args, err, p.err.String())
	}
	return p.out.String()
}

// clip makes a film in which no two pictures are the same.
func clip(t testing.TB, seconds int, more ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clip.mp4")
	args := []string{"-v", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=25,noise=alls=10:allf=t", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000",
		"-t", strconv.Itoa(seconds), "-c:v", "libx264", "-preset", "ultrafast", "-g", "12", "-pix_fmt", "yuv420p", "-c:a", "aac"}
	must(t, "ffmpeg", append(append(args, more...), path)...)
	return path
}

// hashes are those of what is decoded (video) or carried (sound) in order.
func hashes(text string) (video, audio []string) {
	for l := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(l), ",")
		if len(f) < 6 || strings.HasPrefix(l, "#") {
			continue
		}
		hash := strings.TrimSpace(f[5])
		if strings.TrimSpace(f[0]) == "0" {
			video = append(video, hash)
		} else {
			audio = append(audio, hash)
		}
	}
	return video, audio
}

// hashArgs have ffmpeg write hashes of every picture and every packet of sound.
// Nothing is duplicated, dropped or interpolated.
func hashArgs(in ...string) []string {
	args := append([]string{"-v", "error", "-nostdin"}, in...)
	return append(args, "-map", "0:v?", "-map", "0:a?", "-fps_mode", "passthrough", "-copyts", "-c:a", "copy", "-flush_packets", "1", "-f", "framemd5", "-")
}

// publish sends a clip in real time, again and again.
func publish(t testing.TB, file string, to ...string) *program {
	t.Helper()
	return run(t, "ffmpeg", append([]string{"-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", file, "-c", "copy"}, to...)...)
}

func toRTSP(url, transport string) []string {
	return []string{"-f", "rtsp", "-rtsp_transport", transport, url}
}

func toRTMP(url string) []string { return []string{"-f", "flv", url} }

func fromRTSP(url, transport string) []string {
	return []string{"-rtsp_transport", transport, "-i", url}
}

var errNobody = errors.New("no host")

func on(r Report) bool    { return r.State == On }
func ended(r Report) bool { return r.State == Ended }

// untilCount waits for n reports.
func (f *fakeRights) untilCount(t *testing.T, n int, ok func(Report) bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		f.mu.Lock()
		have, changed := 0, f.changed
		for _, r := range f.reports {
			if ok(r) {
				have++
			}
		}
		f.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%d reports of the kind, want %d: %+v", have, n, f.reports)
		}
	}
}
