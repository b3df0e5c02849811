package files

import (
	"os"

	"golang.org/x/sys/unix"
)

// beginWriteback has the kernel write a part of file to the disk, without
// waiting for it. What cannot be begun comes with the sync.
func beginWriteback(file *os.File, offset, n int64) {
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), offset, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}
