package testservers

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreeAddr is a loopback address nobody uses just now. It is below the ports
// that systems give to outgoing connections, one of which may otherwise take it
// before it is listened on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.N(10_000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal(err)
	return ""
}
