package testcluster

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Raw is a connection that says what it is told, right or wrong. It is for
// tests of what the SDK would never do.
type Raw struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	next uint64
}

// Dial opens a raw connection over TLS.
func (c *Cluster) Dial() *Raw {
	c.t.Helper()
	t := c.TLS()
	t.NextProtos = []string{proto.ALPN}
	t.ServerName = "localhost"
	conn, err := tls.Dial("tcp", c.options.Listen, t)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return &Raw{t: c.t, conn: conn, r: bufio.NewReader(conn)}
}

// Login is Dial with a Hello; it returns the Welcome.
func (c *Cluster) Login(u User, change func(*clientpb.Hello)) (*Raw, *clientpb.Welcome) {
	c.t.Helper()
	r := c.Dial()
	h := &clientpb.Hello{ProtocolVersion: proto.ClientProtocolVersion, Token: u.Token, Device: u.Device}
	if change != nil {
		change(h)
	}
	r.Write(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Hello{Hello: h}})
	f := r.Read()
	if f.GetWelcome() == nil {
		c.t.Fatalf("%s is not welcome: %v", u.Name, f)
	}
	return r, f.GetWelcome()
}

// Write sends a frame; one without id gets the next.
func (r *Raw) Write(f *clientpb.ClientFrame) uint64 {
	r.t.Helper()
	if f.Id == 0 {
		r.next++
		f.Id = r.next
	}
	raw, err := pb.Marshal(f)
	if err != nil {
		r.t.Fatal(err)
	}
	r.WriteBytes(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw)
	return f.Id
}

// WriteBytes sends anything. The server may have closed already.
func (r *Raw) WriteBytes(parts ...[]byte) {
	for _, p := range parts {
		_ = r.conn.SetWriteDeadline(time.Now().Add(Wait))
		if _, err := r.conn.Write(p); err != nil {
			return
		}
	}
}

// ReadErr reads the next frame.
func (r *Raw) ReadErr() (*clientpb.ServerFrame, error) {
	_ = r.conn.SetReadDeadline(time.Now().Add(Wait))
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r.r, raw); err != nil {
		return nil, err
	}
	f := new(clientpb.ServerFrame)
	return f, pb.Unmarshal(raw, f)
}

// Read reads the next frame, which must come.
func (r *Raw) Read() *clientpb.ServerFrame {
	r.t.Helper()
	f, err := r.ReadErr()
	if err != nil {
		r.t.Fatalf("no frame: %v", err)
	}
	return f
}

// Answer reads until the answer to a request, passing over what is pushed.
func (r *Raw) Answer(id uint64) *clientpb.ServerFrame {
	r.t.Helper()
	for {
		if f := r.Read(); f.Id == id || f.GetClosing() != nil {
			return f
		}
	}
}

// Send sends one message with the ids given and reads its answer.
func (r *Raw) Send(thread string, id proto.ClientMsgID, after []byte, text string) *clientpb.ServerFrame {
	r.t.Helper()
	return r.Answer(r.Write(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_SendMessage{SendMessage: &clientpb.SendMessage{
		Thread: thread, ClientMsgId: id[:], After: after, Text: &clientpb.TextMessage{Text: text},
	}}}))
}

// SendUntilDone repeats Send while it is answered "retry later".
func (r *Raw) SendUntilDone(thread string, id proto.ClientMsgID, text string) *clientpb.MessageSent {
	r.t.Helper()
	deadline := time.Now().Add(Wait)
	for {
		f := r.Send(thread, id, nil, text)
		if f.GetMessageSent() != nil {
			return f.GetMessageSent()
		}
		if proto.Code(f.GetError().GetCode()).Class() != proto.ClassRetryLater || time.Now().After(deadline) {
			r.t.Fatalf("send to %s: %v", thread, f)
		}
		time.Sleep(time.Duration(f.GetError().GetRetryMs()) * time.Millisecond)
	}
}

// Close closes the connection without a word.
func (r *Raw) Close() { _ = r.conn.Close() }
