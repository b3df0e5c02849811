package devcluster

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-im/waggle/internal/daemon"
)

// A child that runs on one CPU has the slack, another has that of the thread
// that started it, and that thread is as it was.
func TestChildSlack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const usual = 70_000 // ns, this thread's for the time of the test
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	said := filepath.Join(dir, "says-its-slack")
	if err := os.WriteFile(said, []byte("#!/bin/sh\nexec cat /proc/self/timerslack_ns\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := newProcesses(Options{DataDir: dir, Executable: said})
	slackOf := func(node, cpus string) string {
		t.Helper()
		t.Setenv("GOMAXPROCS", cpus)
		c := &child{cfg: daemon.Config{Node: node, Role: "edge"}}
		if err := p.spawn(c, "none.yaml"); err != nil {
			t.Fatal(err)
		}
		if err := c.cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		log, err := os.ReadFile(filepath.Join(dir, "logs", node+".log"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(log))
	}

	if got := slackOf("one", "1"); got != "3000000" {
		t.Errorf("the slack of a child on one CPU is %s ns, want 3000000", got)
	}
	if after, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || after != before {
		t.Errorf("the slack of the thread that started it became %d ns, was %d (%v)", after, before, err)
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, usual, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }()
	if got := slackOf("two", "2"); got != "70000" {
		t.Errorf("the slack of a child on two CPUs is %s ns, want 70000", got)
	}
}
