package bench

import (
	"fmt"
	"os"
)

// readMemory is what the machine has, and what of it is free for programs.
func readMemory() (total, available int64, err error) {
	if total, err = lineValue("/proc/meminfo", "MemTotal:", 1); err != nil {
		return 0, 0, err
	}
	if available, err = lineValue("/proc/meminfo", "MemAvailable:", 1); err != nil {
		return 0, 0, err
	}
	return total << 10, available << 10, nil
}

// readDescriptors is how many descriptors a process has open.
func readDescriptors(pid int) (int64, error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return int64(len(names)), err
}
