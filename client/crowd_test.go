package client

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
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
