package testservers

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreeAddr is a loopback address that nobody else is given until the test ends:
// the port behind it is listened on for as long, and who cannot listen there
// looks elsewhere, be it in another process. It is below the ports that systems
// give to outgoing connections, one of which may otherwise take it before it is
// listened on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	var err error
	for range 100 {
		port := 10_000 + 2*rand.N(5_000)
		var guard, l net.Listener
		if guard, err = net.Listen("tcp", loopback(port+1)); err != nil {
			continue
		}
		if l, err = net.Listen("tcp", loopback(port)); err != nil {
			_ = guard.Close()
			continue
		}
		_ = l.Close()
		t.Cleanup(func() { _ = guard.Close() })
		return loopback(port)
	}
	t.Fatal(err)
	return ""
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
