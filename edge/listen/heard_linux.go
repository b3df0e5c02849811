package listen

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// sinceHeard is how long ago the kernel received the last data of a peer, be it
// read or not, and whether the peer has gone since.
func sinceHeard(conn *net.TCPConn) (ago time.Duration, gone bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, true
	}
	var info *unix.TCPInfo
	var failed error
	err = raw.Control(func(fd uintptr) {
		info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil {
		return 0, true
	}
	if failed != nil {
		return 0, false // a kernel without it
	}
	return time.Duration(info.Last_data_recv) * time.Millisecond, info.State != unix.BPF_TCP_ESTABLISHED
}
