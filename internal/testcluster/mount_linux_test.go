package testcluster

import (
	"fmt"
	"syscall"
)

// mountMemory mounts a disk of so many bytes, kept in memory.
func mountMemory(dir string, bytes int) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", bytes))
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
