//go:build !linux

package listen

import (
	"net"
	"net/netip"
)

// pollers exist on Linux only; here it is always nil.
type pollers struct{}

// parked exists on Linux only.
type parked struct{}

func newPollers(*Listener) (*pollers, error) { return nil, nil }

func (*pollers) start() {}
func (*pollers) stop()  {}

func (*pollers) park(*net.TCPConn, *parkedTLS, *halfOpen, netip.AddrPort) {
	panic("listen: parking without pollers")
}

func (*parked) tlsRead([]byte) (int, error)  { panic("listen: not parked") }
func (*parked) tlsWrite([]byte) (int, error) { panic("listen: not parked") }
func (*parked) Remote() netip.AddrPort       { panic("listen: not parked") }
