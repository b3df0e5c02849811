package faultlink

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// datagramBytesMax is the largest datagram that passes.
const datagramBytesMax = 64 << 10

// UDP is a bad link in front of a UDP server, QUIC for instance: to the server
// each client is a port of its own, which it keeps.
type UDP struct {
	socket  *net.UDPConn
	target  func() (string, error)
	quality *quality
	wg      sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	clients map[string]*net.UDPConn
	closed  bool
}

// ListenUDP starts a link from listen (host:port) to the address target gives;
// it is asked for every new client. Close ends it. The same seed draws the
// same losses.
func ListenUDP(listen string, seed uint64, target func() (string, error)) (*UDP, error) {
	addr, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return nil, fmt.Errorf("faultlink: %w", err)
	}
	s, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("faultlink: %w", err)
	}
	u := &UDP{socket: s, target: target, quality: newQuality(seed), clients: map[string]*net.UDPConn{}}
	u.wg.Go(u.fromClients)
	return u, nil
}

// Addr is where to send.
func (u *UDP) Addr() string { return u.socket.LocalAddr().String() }

// Set changes how the link is.
func (u *UDP) Set(q Quality) { u.quality.set(q) }

// Rebind gives every client a new port towards the server, as a network
// address translation does that has forgotten them: their address changes.
func (u *UDP) Rebind() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, c := range u.clients {
		_ = c.Close()
		delete(u.clients, key)
	}
}

// Close ends the link and waits for what it has under way.
func (u *UDP) Close() error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	err := u.socket.Close()
	u.quality.close()
	u.Rebind()
	u.wg.Wait()
	return err
}

func (u *UDP) fromClients() {
	buf := make([]byte, datagramBytesMax)
	for {
		n, from, err := u.socket.ReadFromUDP(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if c := u.client(from); c != nil {
			data := append([]byte(nil), buf[:n]...)
			u.deliver(func() { _, _ = c.Write(data) })
		}
	}
}

// client is the socket that stands for a client towards the server.
func (u *UDP) client(from *net.UDPAddr) *net.UDPConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := from.String()
	if c := u.clients[key]; c != nil || u.closed {
		return c
	}
	addr, err := u.target()
	if err != nil {
		return nil
	}
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil
	}
	c, err := net.DialUDP("udp", nil, to)
	if err != nil {
		return nil
	}
	u.clients[key] = c
	u.wg.Go(func() { u.fromServer(c, from) })
	return c
}

func (u *UDP) fromServer(c *net.UDPConn, to *net.UDPAddr) {
	buf := make([]byte, datagramBytesMax)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the server is away just now: its port refuses
		}
		data := append([]byte(nil), buf[:n]...)
		u.deliver(func() { _, _ = u.socket.WriteToUDP(data, to) })
	}
}

// deliver lets a datagram meet its fate.
func (u *UDP) deliver(send func()) {
	copies, delay := u.quality.fate()
	for range copies {
		if delay <= 0 {
			send()
			continue
		}
		u.wg.Add(1)
		time.AfterFunc(delay, func() {
			defer u.wg.Done()
			send()
		})
	}
}
