//go:build !linux

package listen

import (
	"net"
	"time"
)

// sinceHeard is known on Linux only: elsewhere nobody has waited for long.
func sinceHeard(*net.TCPConn) (ago time.Duration, gone bool) { return 0, false }
