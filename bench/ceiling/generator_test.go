package ceiling

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// stub is a server that does what a test tells it to.
type stub struct {
	t      *testing.T
	people []net.Conn      // by number
	got    chan uint32     // who a message came from
	deaf   bool            // it reads no messages
	g      *generator      // connected to it
	ctx    context.Context // of the generator
}

// connected is a generator, of one pair, with a stub.
func connected(t *testing.T, cfg Config, deaf bool) *stub {
	t.Helper()
	cfg.Pairs = 1
	cert, key, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.ParseECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	trust := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
	trust.RootCAs.AddCert(cert)
	s := &stub{t: t, got: make(chan uint32, 64), deaf: deaf}
	l := listen(t)
	accepted := make(chan error, 1)
	go func() {
		accepted <- s.accept(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: private}}})
	}()
	ctx, cancel := context.WithCancelCause(context.Background())
	s.ctx = ctx
	s.g = newGenerator(cfg, cancel)
	t.Cleanup(func() {
		s.g.close()
		cancel(nil)
		for _, conn := range s.people {
			_ = conn.Close()
		}
	})
	if err := s.g.connect(ctx, l.Addr().String(), trust); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stub) accept(l net.Listener, config *tls.Config) error {
	for range 2 {
		raw, err := l.Accept()
		if err != nil {
			return err
		}
		conn := tls.Server(raw, config)
		r := bufio.NewReader(conn)
		var id [4]byte
		if _, err := io.ReadFull(r, id[:]); err != nil {
			return err
		}
		if _, err := conn.Write(frameOf([]byte{kindWelcome})); err != nil {
			return err
		}
		s.people = append(s.people, conn)
		if s.deaf {
			continue
		}
		go func() { // ends with the connection, which the generator closes
			for {
				if _, err := readFrame(r); err != nil {
					return
				}
				s.got <- binary.BigEndian.Uint32(id[:])
			}
		}()
	}
	return nil
}

// wants waits for a message from each of some people, in any order.
func (s *stub) wants(from ...uint32) {
	s.t.Helper()
	missing := map[uint32]int{}
	for _, number := range from {
		missing[number]++
	}
	for range from {
		select {
		case number := <-s.got:
			if missing[number]--; missing[number] < 0 {
				s.t.Fatalf("a message from %d, want those of %v", number, from)
			}
		case <-time.After(longest):
			s.t.Fatalf("nothing comes, want messages from %v", from)
		}
	}
}

// acks answers some messages of a person at once.
func (s *stub) acks(number, n int) {
	s.t.Helper()
	var out []byte
	for range n {
		out = append(out, frameOf([]byte{kindAck})...)
	}
	if _, err := s.people[number].Write(out); err != nil {
		s.t.Fatal(err)
	}
}

// Each acknowledgement makes room for one message, which the other of the two
// writes; also where both places of a pair are one person's, and are answered
// at once.
func TestWindowStaysFull(t *testing.T) {
	s := connected(t, Config{Window: 2, SizeBytes: 1}, false)
	s.g.begin, s.g.end = time.Now(), time.Now().Add(time.Hour)
	s.g.fill()
	s.wants(0, 1)
	s.acks(0, 1)
	s.wants(1)
	for range 20 {
		s.acks(1, 2)
		s.wants(0, 0)
		s.acks(0, 2)
		s.wants(1, 1)
	}
	if sent, acked := s.g.sent.Load(), s.g.acked.Load(); sent != 83 || acked > 81 {
		t.Errorf("%d sent, %d acknowledged", sent, acked)
	}
	select {
	case number := <-s.got:
		t.Errorf("a message from %d is too much", number)
	default:
	}
}

// The schedule of an open loop goes on when the server reads nothing: what it
// would have to wait for is not sent, and counted.
func TestOpenLoopDoesNotWait(t *testing.T) {
	const size = 1000
	s := connected(t, Config{Rate: 10_000, SizeBytes: size}, true)
	start := time.Now()
	s.g.begin, s.g.end = start, start.Add(time.Second)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.g.openLoop(s.ctx, start)
	}()
	select {
	case <-done:
	case <-time.After(longest):
		t.Error("it waits")
		s.g.close()
		<-done
	}
	sent, unsent := s.g.sent.Load(), s.g.unsent.Load()
	if sent+unsent < 9_999 || sent+unsent > 10_001 || sent*size > 2*unansweredBytesMax {
		t.Errorf("%d sent, %d not", sent, unsent)
	}
	if s.ctx.Err() != nil {
		t.Error(context.Cause(s.ctx))
	}
}
