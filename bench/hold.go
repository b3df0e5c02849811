package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/proto/codec"
)

// holdOrder is what a holder reads as its first line: connections to make and
// keep until its input ends.
type holdOrder struct {
	Server    string           `json:"server"`
	Transport client.Transport `json:"transport"`
	CA        []byte           `json:"ca,omitempty"` // PEM
	Accounts  []account        `json:"accounts"`     // a connection for each
	Sources   []string         `json:"sources,omitempty"`
}

// holdReport is a line a holder writes: one when all are connected, one at the
// end.
type holdReport struct {
	Connected   int    `json:"connected"`
	TookUs      int64  `json:"took_us"` // at least 1
	Disconnects int64  `json:"disconnects"`
	Heartbeats  int64  `json:"heartbeats"` // answered
	Error       string `json:"error,omitempty"`
}

const (
	// perSource is how many connections leave one loopback address: the
	// system has about 28,000 ports for each.
	perSource = 20_000
	// holdDialTimeout bounds one connection, from dialling to Welcome.
	holdDialTimeout = 20 * time.Second
	// holdOrderBytesMax bounds the order: 100,000 tokens.
	holdOrderBytesMax = 256 << 20
)

// held is a connection kept open by next to nothing.
type held struct {
	rw    io.ReadWriter
	close func()
}

// holder keeps connections.
type holder struct {
	order       holdOrder
	tls         *tls.Config
	quic        *quicSockets
	heartbeat   []byte
	disconnects atomic.Int64
	heartbeats  atomic.Int64
	ending      atomic.Bool
	readers     sync.WaitGroup

	mu   sync.Mutex // guards held
	held []held
}

// Hold is a client process of Idle: it reads an order from in, connects, says
// so on out, and keeps the connections with a heartbeat each
// [proto.HeartbeatInterval] until in ends.
func Hold(ctx context.Context, in io.Reader, out io.Writer) error {
	r := bufio.NewReader(io.LimitReader(in, holdOrderBytesMax))
	raw, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("bench: hold: no order: %w", err)
	}
	h := new(holder)
	if err := json.Unmarshal(raw, &h.order); err != nil {
		return fmt.Errorf("bench: hold: the order: %w", err)
	}
	if h.heartbeat, err = frameBytes(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Heartbeat{Heartbeat: &clientpb.Heartbeat{}}}); err != nil {
		return err
	}
	if h.order.Transport != client.Plain {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(h.order.CA)
		host, _, _ := net.SplitHostPort(h.order.Server)
		h.tls = &tls.Config{RootCAs: pool, ServerName: host, NextProtos: []string{proto.ALPN}, MinVersion: tls.VersionTLS13}
	}
	if h.order.Transport == client.QUIC {
		h.quic = new(quicSockets)
		defer h.quic.close()
	}
	enc := json.NewEncoder(out)
	start := time.Now()
	err = h.connectAll(ctx)
	took := time.Since(start)
	defer h.closeAll()
	report := holdReport{Connected: len(h.held), TookUs: max(1, took.Microseconds())}
	if err != nil {
		report.Error = err.Error()
	}
	if err := enc.Encode(report); err != nil {
		return fmt.Errorf("bench: hold: %w", err)
	}
	if err != nil {
		return err
	}
	h.keep(ctx, r)
	report.Disconnects, report.Heartbeats = h.disconnects.Load(), h.heartbeats.Load()
	if err := enc.Encode(report); err != nil {
		return fmt.Errorf("bench: hold: %w", err)
	}
	return nil
}

// connectAll makes the connections, some at a time, until one fails.
func (h *holder) connectAll(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(connectingMax, len(h.order.Accounts)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(h.order.Accounts) {
					return
				}
				if err := h.connect(ctx, i); err != nil {
					cancel(fmt.Errorf("connection %d to %s by %s: %w", i+1, h.order.Server, h.order.Transport, err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// connect makes a connection. Refused for now it tries again, after waits that
// grow, until ctx ends.
func (h *holder) connect(ctx context.Context, i int) error {
	for within := quicRefusedWait; ; within = min(2*within, quicRefusedWaitMax) {
		once, cancel := context.WithTimeout(ctx, holdDialTimeout)
		err := h.connectOnce(once, i)
		cancel()
		if err == nil || !refusedForNow(err) || !pause(ctx, rand.N(within)) {
			return err
		}
	}
}

func (h *holder) connectOnce(ctx context.Context, i int) error {
	c, err := h.dial(ctx, i)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, c.close)
	err = h.hello(c, h.order.Accounts[i])
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.close()
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = append(h.held, c)
	h.readers.Go(func() { h.read(c) })
	return nil
}

func (h *holder) dial(ctx context.Context, i int) (held, error) {
	if h.order.Transport == client.QUIC {
		return h.quic.dial(ctx, h.order.Server, h.tls)
	}
	var d net.Dialer
	if n := len(h.order.Sources); n > 0 {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(h.order.Sources[i/perSource%n])}
	}
	conn, err := d.DialContext(ctx, "tcp", h.order.Server)
	if err != nil {
		return held{}, err
	}
	if h.order.Transport == client.Plain {
		return held{conn, func() { _ = conn.Close() }}, nil
	}
	secure := tls.Client(conn, h.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return held{}, err
	}
	return held{secure, func() { _ = conn.Close() }}, nil
}

func (h *holder) hello(c held, a account) error {
	raw, err := frameBytes(&clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
		ProtocolVersion: proto.ClientProtocolVersion, Token: a.Token, Device: a.Device, Client: "waggle-bench idle", Subscribe: true,
	}}})
	if err != nil {
		return err
	}
	if _, err := c.rw.Write(raw); err != nil {
		return err
	}
	body, err := readFrame(c.rw, nil)
	if err != nil {
		return err
	}
	f := new(clientpb.ServerFrame)
	if err := codec.Unmarshal(body, f); err != nil {
		return err
	}
	switch {
	case f.GetWelcome() != nil:
		return nil
	case f.GetClosing() != nil:
		return proto.FromWire(f.GetClosing().Code, f.GetClosing().Message, f.GetClosing().RetryMs)
	case f.GetError() != nil:
		return proto.FromWire(f.GetError().Code, f.GetError().Message, f.GetError().RetryMs)
	}
	return errors.New("the answer to Hello is no Welcome")
}

// read counts what comes until the connection ends. Nobody writes to idle
// people, so that what comes are answers to heartbeats.
func (h *holder) read(c held) {
	buf := make([]byte, 0, 64)
	for {
		if _, err := readFrame(c.rw, buf); err != nil {
			if !h.ending.Load() {
				h.disconnects.Add(1)
			}
			return
		}
		h.heartbeats.Add(1)
	}
}

// keep sends heartbeats, spread evenly over time, until in ends.
func (h *holder) keep(ctx context.Context, in io.Reader) {
	ended := make(chan struct{})
	go func() { // ends with in, which belongs to the caller and outlives nothing
		defer close(ended)
		_, _ = io.Copy(io.Discard, in)
	}()
	const every = 10 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	start, sent := time.Now(), 0
	for {
		select {
		case <-tick.C:
		case <-ended:
			return
		case <-ctx.Done():
			return
		}
		due := int(float64(len(h.held)) * float64(time.Since(start)) / float64(proto.HeartbeatInterval))
		for ; sent < due; sent++ {
			// A lost connection is counted by its reader.
			_, _ = h.held[sent%len(h.held)].rw.Write(h.heartbeat)
		}
	}
}

func (h *holder) closeAll() {
	h.ending.Store(true)
	for _, c := range h.held {
		c.close()
	}
	h.readers.Wait()
}

func frameBytes(f *clientpb.ClientFrame) ([]byte, error) {
	to, err := codec.Append(make([]byte, 4, 512), f)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(to, uint32(len(to)-4))
	return to, nil
}

// readFrame reads one frame into buf, or into a new one if it is too small.
func readFrame(r io.Reader, buf []byte) ([]byte, error) {
	buf = append(buf[:0], 0, 0, 0, 0)
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(buf))
	if n > proto.FrameBytesMax {
		return nil, fmt.Errorf("a frame of %d bytes, the limit is %d", n, proto.FrameBytesMax)
	}
	if n > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return buf, err
}
