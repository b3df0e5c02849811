package devcluster

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slack is that of the calling thread.
func slack(t *testing.T) time.Duration {
	t.Helper()
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ns)
}

// The child has the slack and the thread that started it is as it was.
func TestStartWithSlack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := slack(t)
	read := exec.Command("cat", "/proc/self/timerslack_ns")
	out, err := read.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := startWithSlack(read); err != nil {
		t.Fatal(err)
	}
	var ns [32]byte
	n, err := out.Read(ns[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := read.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := string(ns[:n]); got != "3000000\n" {
		t.Errorf("the child's slack is %q ns, want 3000000", got)
	}
	if after := slack(t); after != before {
		t.Errorf("the thread's slack became %v, was %v", after, before)
	}
}
