package devcluster

import (
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// childSlack is how much later than it asked the kernel may wake a child that
// runs on one CPU. Its runtime has a thread that looks every 20 µs whether a
// system call keeps the CPU; with the usual slack of 50 µs it finds nearly every
// disk sync and wakes another thread for the rest of it. Measured between 1 and
// 10 ms, see docs/PERFORMANCE.md, "Timer slack".
const childSlack = 3 * time.Millisecond

// startWithSlack starts cmd with childSlack. Processes inherit it from the thread
// that starts them.
func startWithSlack(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Without it the child is slower and nothing else.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(childSlack), 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // the thread's default
	return cmd.Start()
}
