package listen

import (
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// wire is the net.Conn under crypto/tls. It is an ordinary connection until
// the handshake is over; a parked connection then puts itself behind it.
type wire struct {
	tcp    *net.TCPConn // nil once parked
	parked *parked
	turn   *turn // nil after the handshake
}

// takeTurn waits for the handshake's turn, when the client's hello has come.
func takeTurn(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if w, ok := hello.Conn.(*wire); ok && w.turn != nil {
		return nil, w.turn.begin(hello.Context())
	}
	return nil, nil
}

func (w *wire) Read(b []byte) (int, error) {
	if w.parked != nil {
		return w.parked.tlsRead(b)
	}
	if w.turn != nil {
		w.turn.end() // now the client has something to do
	}
	return w.tcp.Read(b)
}

func (w *wire) Write(b []byte) (int, error) {
	if w.parked != nil {
		return w.parked.tlsWrite(b)
	}
	return w.tcp.Write(b)
}

// Close implements net.Conn; a parked connection is closed by its poller.
func (w *wire) Close() error {
	if w.tcp == nil {
		return nil
	}
	return w.tcp.Close()
}

func (w *wire) LocalAddr() net.Addr {
	if w.tcp == nil {
		return &net.TCPAddr{}
	}
	return w.tcp.LocalAddr()
}

func (w *wire) RemoteAddr() net.Addr {
	if w.tcp == nil {
		return net.TCPAddrFromAddrPort(w.parked.Remote())
	}
	return w.tcp.RemoteAddr()
}

func (w *wire) SetDeadline(t time.Time) error {
	return w.deadline(func() error { return w.tcp.SetDeadline(t) })
}

func (w *wire) SetReadDeadline(t time.Time) error {
	return w.deadline(func() error { return w.tcp.SetReadDeadline(t) })
}

// SetWriteDeadline does nothing once parked: writes never wait then, and
// crypto/tls sets a deadline around its closing alert.
func (w *wire) SetWriteDeadline(t time.Time) error {
	return w.deadline(func() error { return w.tcp.SetWriteDeadline(t) })
}

func (w *wire) deadline(set func() error) error {
	if w.tcp == nil {
		return nil
	}
	return set()
}

// errAgain is what a parked connection's Read says when the socket is empty.
// crypto/tls keeps its state over an error that is temporary.
type errAgain struct{}

func (errAgain) Error() string   { return "nothing to read now" }
func (errAgain) Timeout() bool   { return true }
func (errAgain) Temporary() bool { return true }

func isAgain(err error) bool {
	var again errAgain
	return errors.As(err, &again)
}

// parkedTLS is a finished TLS session and the connection under it.
type parkedTLS struct {
	wire *wire
	conn *tls.Conn
}
