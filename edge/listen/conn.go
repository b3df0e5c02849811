package listen

import (
	"errors"
	"net/netip"

	"github.com/waggle-im/waggle/proto"
)

// Transport names how a connection came in.
type Transport string

// The transports of a [Conn].
const (
	TransportTCP   Transport = "tcp"   // TLS over TCP
	TransportPlain Transport = "plain" // TCP without TLS
	TransportQUIC  Transport = "quic"
)

// Conn is one native connection. All methods may be called from any
// goroutine, also from inside a [Receiver]'s methods, and none of them waits
// for the network.
type Conn interface {
	// Send queues frames, which are copied, for one write. queued is the
	// number of bytes that wait to be written, envelope included. ok is false
	// when the connection is closing, or when the queue is full beyond
	// Config.OutBytesMax: then the connection is also torn down.
	Send(frames ...[]byte) (queued int, ok bool)
	// Close queues final (nil: nothing), writes what is queued for at most
	// Config.CloseFlushTimeout, then closes. Later calls do nothing.
	Close(final []byte)
	// SetLoggedIn ends the deadlines and limits of a half-open connection
	// and raises the frame limit to [proto.FrameBytesMax].
	SetLoggedIn()
	// Remote is the peer's address.
	Remote() netip.AddrPort
	// Transport says how the peer is connected.
	Transport() Transport
}

// Handler is told of native connections.
type Handler interface {
	// Opened is called when the first complete frame has come; what it
	// returns gets that frame and all that follows. It must not block.
	Opened(Conn) Receiver
	// Refusal encodes the frame that tells a client why its connection is
	// refused.
	Refusal(*proto.Error) []byte
}

// Receiver gets what happens on one connection. Frame, Drained and Closed of
// one connection may come from different goroutines; Frames never overlap.
// None may block: a poller serves many connections.
type Receiver interface {
	// Frame is one frame without its length. b is valid during the call only.
	Frame(b []byte)
	// Drained says that the queue had been above Config.OutHighBytes and is
	// now below half of it.
	Drained()
	// Closed is the last call. err is nil when the peer closed.
	Closed(err error)
}

// Why a connection ended, as given to [Receiver].Closed.
var (
	errSlowReader = errors.New("the peer does not read what it is sent")
	errAborted    = errors.New("closed by the server")
	errStopped    = errors.New("the listener has stopped")
)

// cause is an error of this package in one byte, because every parked
// connection keeps one.
type cause uint8

const (
	causeNone cause = iota
	causeSlowReader
	causeAborted
	causeStopped
)

func (c cause) err() error {
	switch c {
	case causeSlowReader:
		return errSlowReader
	case causeAborted:
		return errAborted
	case causeStopped:
		return errStopped
	}
	return nil
}
