//go:build !linux

package bench

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

func readProcess(int) (int64, time.Duration, error) { return 0, 0, errNotHere }

func readMachineCPU() (busy, idle time.Duration, err error) { return 0, 0, errNotHere }

func readKernelMemory() (slab, sockets int64, err error) { return 0, 0, errNotHere }

func syncData(f *os.File) error { return f.Sync() }

func descriptorLimit(int) (int64, error) { return 0, errNotHere }

func machine() string {
	return fmt.Sprintf("%d CPUs, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
