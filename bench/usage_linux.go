package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of CPU times in /proc; Linux has it at 100 Hz for programs
// on every architecture Go knows.
const tick = 10 * time.Millisecond

// readProcess is the resident memory and the CPU time of a process.
func readProcess(pid int) (int64, time.Duration, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		return 0, 0, fmt.Errorf("statm: %w", err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// Behind the name, which may hold anything: state is the first field,
	// user and system time the 12th and 13th.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("stat has %d fields", len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("stat: %w", err)
		}
		ticks += n
	}
	return resident * int64(os.Getpagesize()), time.Duration(ticks) * tick, nil
}

// readMachineCPU is the busy and idle time of all CPUs.
func readMachineCPU() (busy, idle time.Duration, err error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	for i, f := range strings.Fields(first)[1:] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		switch {
		case i == 3 || i == 4: // idle, waiting for disks
			idle += time.Duration(n) * tick
		case i < 8: // guests' time is in user time already
			busy += time.Duration(n) * tick
		}
	}
	return busy, idle, nil
}

// readKernelMemory is the machine's slab and socket buffer memory.
func readKernelMemory() (slab, sockets int64, err error) {
	kib, err := lineValue("/proc/meminfo", "Slab:", 1)
	if err != nil {
		return 0, 0, err
	}
	for _, prefix := range []string{"TCP:", "UDP:"} {
		pages, err := lineValue("/proc/net/sockstat", prefix, -1)
		if err != nil {
			return 0, 0, err
		}
		sockets += pages * int64(os.Getpagesize())
	}
	return kib << 10, sockets, nil
}

// lineValue is a number of the line that begins with prefix: the field at, or
// the last one for -1.
func lineValue(path, prefix string, at int) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != prefix {
			continue
		}
		if at < 0 {
			at = len(fields) - 1
		}
		return strconv.ParseInt(fields[at], 10, 64)
	}
	return 0, fmt.Errorf("%s has no line %s", path, prefix)
}

func syncData(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// descriptorLimit is how many descriptors a process may open; pid 0 is this
// one.
func descriptorLimit(pid int) (int64, error) {
	if pid == 0 {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
			return 0, err
		}
		return int64(min(l.Cur, 1<<40)), nil
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, errNotHere
}

func machine() string {
	model := runtime.GOARCH
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	memory, _ := lineValue("/proc/meminfo", "MemTotal:", 1)
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d CPUs (%s), %.0f GiB, Linux %s, %s", runtime.NumCPU(), model, float64(memory)/(1<<20), strings.TrimSpace(string(release)), runtime.Version())
}
