package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/waggle-im/waggle/proto"
)

// A server that has too many new connections at work says so, and is left in
// peace for a while, longer each time, but never given up.
func TestCrowded(t *testing.T) {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	transport := &quic.Transport{Conn: udp, ConnContext: func(context.Context, *quic.ClientInfo) (context.Context, error) {
		return nil, errors.New("too many")
	}}
	defer transport.Close()
	if _, err := transport.Listen(&tls.Config{NextProtos: []string{proto.ALPN}, MinVersion: tls.VersionTLS13}, &quic.Config{}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Server: udp.LocalAddr().String(), Transport: QUIC, Token: "t"}.withDefaults()
	_, err = dial(t.Context(), &cfg, cfg.Server)
	if !crowded(err) {
		t.Fatalf("a refusal is not seen as one: %v", err)
	}
	backoff := backoffMin
	for _, want := range []time.Duration{backoffCrowd, 2 * backoffCrowd, 4 * backoffCrowd, 8 * backoffCrowd, backoffCrowdMax, backoffCrowdMax} {
		var within time.Duration
		if within, backoff = nextWait(backoff, err); within != want {
			t.Errorf("waits for up to %s, want %s", within, want)
		}
	}
}

func TestNextWait(t *testing.T) {
	lost := errors.Join(io.ErrUnexpectedEOF, proto.Errorf(proto.CodeIdle, "gone"))
	backoff := backoffMin
	for range 10 {
		within, next := nextWait(backoff, lost)
		if within != backoff || next < within || next > backoffMax {
			t.Fatalf("waits for up to %s after %s, then %s", within, backoff, next)
		}
		backoff = next
	}
	if backoff != backoffMax {
		t.Errorf("ends at %s", backoff)
	}
}

// A TLS server that ends handshakes is crowded too, be it with an alert or
// without a word; one that cannot be reached, or is not to be trusted, is not.
func TestCrowdedOverTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	refusal := errors.New("the line is too long")
	for name, c := range map[string]struct {
		serve func(net.Conn)
		want  bool
	}{
		"closes": {func(c net.Conn) { _ = c.Close() }, true},
		"alert": {func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, refusal }}).Handshake()
			_ = c.Close()
		}, true},
		"unknown authority": {func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{proto.ALPN}}).Handshake()
			_ = c.Close()
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			defer serving.Wait()
			defer ln.Close()
			serving.Go(func() {
				if conn, err := ln.Accept(); err == nil {
					c.serve(conn)
				}
			})
			cfg := Config{Server: ln.Addr().String(), Transport: TCP, Token: "t"}.withDefaults()
			if _, err := dial(t.Context(), &cfg, cfg.Server); err == nil || crowded(err) != c.want {
				t.Errorf("crowded is %t: %v", crowded(err), err)
			}
		})
	}
	cfg := Config{Server: "127.0.0.1:1", Transport: TCP, Token: "t"}.withDefaults()
	if _, err := dial(t.Context(), &cfg, cfg.Server); err == nil || crowded(err) {
		t.Errorf("a server that is not there is crowded: %v", err)
	}
}
