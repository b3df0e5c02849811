package testservers

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

const (
	// Test processes that run beside each other take ports from slices of their
	// own, by their process ids.
	slices     = 20
	slicePorts = 500
)

// nextPort is one less than the next port of this process's slice to be tried.
var nextPort atomic.Uint32

// FreeAddr is a loopback address nobody uses just now and nobody is likely to
// take before it is listened on: it is below the ports that systems give to
// outgoing connections, and a process gives no port twice until it has given
// all it has.
func FreeAddr(t testing.TB) string {
	t.Helper()
	var err error
	for range slicePorts {
		port := 10_000 + os.Getpid()%slices*slicePorts + int(nextPort.Add(1)%slicePorts)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal(err)
	return ""
}
