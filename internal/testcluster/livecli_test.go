//go:build unix

package testcluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/waggle-im/waggle/internal/devcluster"
)

// lines collects what a program writes, line by line.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements [io.Writer].
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// all are the lines written so far that are JSON objects.
func (l *lines) all() []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for _, line := range bytes.Split(l.buf.Bytes(), []byte("\n")) {
		var v map[string]any
		if json.Unmarshal(line, &v) == nil {
			out = append(out, v)
		}
	}
	return out
}

// start runs the waggle command beside the test.
func (p *terminal) start(args ...string) (*program, *lines) {
	p.c.t.Helper()
	out := new(lines)
	run := &program{cmd: p.command(args...), errs: new(bytes.Buffer), done: make(chan struct{})}
	run.cmd.Stdout, run.cmd.Stderr = out, run.errs
	if err := run.cmd.Start(); err != nil {
		p.c.t.Fatal(err)
	}
	go func() { // awaited by the clean-up
		defer close(run.done)
		run.err = run.cmd.Wait()
	}()
	p.c.t.Cleanup(func() {
		_ = run.cmd.Process.Signal(syscall.SIGINT) // which ends ffmpeg too
		<-run.done
	})
	return run, out
}

// fails runs the waggle command, which must fail, and gives what it says.
func (p *terminal) fails(args ...string) string {
	p.c.t.Helper()
	cmd := p.command(args...)
	out, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); !exited {
		p.c.t.Fatalf("waggle %s: %v, it was to fail: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// untilKind waits for a line of a kind.
func (c *Cluster) untilKind(l *lines, kind string) map[string]any {
	c.t.Helper()
	var found map[string]any
	c.Until("a line "+kind, func() error {
		for _, v := range l.all() {
			if v["kind"] == kind {
				found = v
				return nil
			}
		}
		return fmt.Errorf("not among %d", len(l.all()))
	})
	return found
}

// TestLiveCommands publishes a file with the waggle command and watches it with
// the waggle command by every protocol.
func TestLiveCommands(t *testing.T) {
	needFFmpeg(t)
	c := Start(t, devcluster.Options{Cells: 1, NoDemo: true})
	c.AddUser("ann", "c1")
	c.AddUser("bob", "c1")
	c.AddUser("eve", "c1")
	ann, bob, eve := c.login(User{Name: "ann"}), c.login(User{Name: "bob"}), c.login(User{Name: "eve"})
	film := filepath.Join(t.TempDir(), "film.mp4")
	made := c.ffmpeg("-f", "lavfi", "-i", "testsrc=size=320x180:rate=15", "-f", "lavfi", "-i", "sine", "-t", "120",
		"-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", film)
	_, tail := bob.start("tail", "-o", "json")
	c.untilEnded("the film is made", made)

	publish, _ := ann.start("live", "publish", film, "--to", "bob", "--title", "a film")
	started := c.untilKind(tail, "live_started")
	id, _ := started["live_id"].(string)
	if announced := c.untilKind(tail, "live_announced"); id == "" || announced["live_id"] != id || announced["title"] != "a film" {
		t.Fatalf("%v, %v", announced, started)
	}
	var watchers []liveWatch
	for _, transport := range []string{"rtsp", "rtmp", "hls"} {
		w := liveWatch{transport: transport, file: filepath.Join(t.TempDir(), "out")}
		w.program, w.measured = bob.start("live", "watch", id, "--transport", transport, "--out", w.file, "-o", "json")
		watchers = append(watchers, w)
	}
	for _, w := range watchers {
		c.watched(t, w)
	}
	c.untilKind(tail, "live_viewers")
	for _, verb := range [][]string{{"live", "watch", id}, {"live", "ticket", id}, {"live", "show", id}, {"live", "publish", id, film}} {
		if said := eve.fails(verb...); strings.Contains(said, "a film") {
			t.Errorf("eve is told: %s", said)
		}
	}
	_ = publish.cmd.Process.Signal(syscall.SIGINT)
	c.untilEnded("publishing ends", publish)
	if publish.err != nil {
		t.Errorf("publish: %v: %s", publish.err, publish.errs)
	}
	c.untilKind(tail, "live_ended")
	var shown map[string]any
	if err := json.Unmarshal(bob.must("live", "show", id, "-o", "json"), &shown); err != nil || shown["state"] != "ended" {
		t.Errorf("%v, %v", shown, err)
	}
	bob.must("live", "watch", id) // says that it has ended, which is no failure
	if history := string(bob.must("history", "ann")); strings.Count(history, "a film") < 3 {
		t.Errorf("history: %s", history)
	}
	cmd := ann.command("live", "publish", id, film)
	cmd.Env = append(cmd.Environ(), "PATH=/nonexistent")
	if said, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(said), "ffmpeg is not installed") || !strings.Contains(string(said), "rtsp://") {
		t.Errorf("without ffmpeg: %v: %s", err, said)
	}
}

// liveWatch is a `waggle live watch`.
type liveWatch struct {
	*program
	transport, file string
	measured        *lines
}

// watched waits until a watcher has received enough, ends it and looks at what it
// has written.
func (c *Cluster) watched(t *testing.T, w liveWatch) {
	c.Until(w.transport+" comes", func() error {
		for _, l := range w.measured.all() {
			if bytes, _ := l["bytes"].(float64); bytes > 30_000 && l["rate_bps"] != nil && l["lost"] == float64(0) {
				return nil
			}
		}
		return fmt.Errorf("%v", w.measured.all())
	})
	_ = w.cmd.Process.Signal(syscall.SIGINT)
	c.untilEnded(w.transport+" ends", w.program)
	if w.err != nil {
		t.Errorf("%s: %v: %s", w.transport, w.err, w.errs)
	}
	out, err := exec.Command("ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", w.file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "h264") || w.transport != "hls" && !strings.Contains(string(out), "aac") {
		t.Errorf("%s wrote %s (%v)", w.transport, out, err)
	}
}
