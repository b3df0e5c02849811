//go:build unix

package testcluster

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// visitors connect, log in and go again.
type visitors struct {
	c     *Cluster
	tls   *tls.Config
	users []User
}

// visit is one connection. Half of the visitors say goodbye, the others are
// just gone.
func (v *visitors) visit(u User, transport client.Transport) error {
	ctx, cancel := context.WithTimeout(context.Background(), Wait)
	defer cancel()
	var stream io.ReadWriter
	switch transport {
	case client.QUIC:
		conn, err := quic.DialAddr(ctx, v.c.options.Listen, v.tls, nil)
		if err != nil {
			return err
		}
		defer func() { _ = conn.CloseWithError(0, "") }()
		st, err := conn.OpenStreamSync(ctx)
		if err != nil {
			return err
		}
		_ = st.SetDeadline(time.Now().Add(Wait))
		stream = st
	default:
		addr := v.c.options.Listen
		if transport == client.Plain {
			addr = v.c.options.Plaintext
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(Wait))
		stream = conn
		if transport == client.TCP {
			stream = tls.Client(conn, v.tls)
		}
	}
	if err := say(stream, &clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
		ProtocolVersion: proto.ClientProtocolVersion, Token: u.Token, Device: u.Device, Subscribe: true, FromConfirmed: true,
	}}}); err != nil {
		return err
	}
	f, err := hear(stream)
	if err == nil && f.GetWelcome() == nil {
		err = fmt.Errorf("not welcome: %v", f)
	}
	return err
}

func say(w io.Writer, f *clientpb.ClientFrame) error {
	raw, err := pb.Marshal(f)
	if err == nil {
		_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...))
	}
	return err
}

func hear(r io.Reader) (*clientpb.ServerFrame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, err
	}
	f := new(clientpb.ServerFrame)
	return f, pb.Unmarshal(raw, f)
}

// come makes n visits, as many at once as there are users.
func (v *visitors) come(n int) {
	v.c.t.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for _, u := range v.users {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				transport := []client.Transport{client.TCP, client.Plain, client.QUIC}[rand.IntN(3)]
				if err := v.visit(u, transport); err != nil {
					v.c.t.Errorf("%s over %s: %v", u.Name, transport, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// After many connects and disconnects the edge and the hosts hold what they
// held before (I14).
func TestConnectsLeaveNothingBehind(t *testing.T) {
	visits := 3000
	if long() {
		visits = 100_000
	}
	c := StartProcesses(t, devcluster.Options{})
	v := &visitors{c: c, tls: c.TLS()}
	v.tls.NextProtos, v.tls.ServerName = []string{proto.ALPN}, "localhost"
	for i := range 16 {
		v.users = append(v.users, c.AddUser(fmt.Sprintf("visitor%d", i), fmt.Sprintf("c%d", i%2+1)))
	}
	admins := c.Admins()
	nodes := []string{"e1", "c1-n1", "c2-n1"}
	empty := func() {
		c.Until("all sessions have ended", func() error {
			for _, node := range nodes {
				g := c.Gauges(admins[node])
				if n := g["waggle_edge_sessions"] + g["waggle_edge_connections"] + g["waggle_edge_half_open"] + g["waggle_chat_sessions"]; n > 0 {
					return fmt.Errorf("%s has %.0f", node, n)
				}
			}
			return nil
		})
	}
	v.come(300) // what is made once is there now
	empty()
	before := map[string]Level{}
	for _, node := range nodes {
		before[node] = c.Level(admins[node])
	}
	began := time.Now()
	v.come(visits)
	t.Logf("%d visits in %s", visits, time.Since(began).Round(time.Millisecond))
	empty()
	for _, node := range nodes {
		var after Level
		c.Until(node+" is back at its level", func() error {
			after = c.Level(admins[node])
			was := before[node]
			// A few connections between nodes may come and go by themselves.
			if after.Goroutines > was.Goroutines+20 || after.Descriptors > was.Descriptors+20 || after.HeapBytes > was.HeapBytes+8<<20 {
				return fmt.Errorf("before %s, after %s", was, after)
			}
			return nil
		})
		t.Logf("%s before %s; after %s", node, before[node], after)
	}
}
