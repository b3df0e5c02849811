package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; none should come near it.
const patience = 30 * time.Second

// fakeEdge is a server whose every frame the test says itself.
type fakeEdge struct {
	t     *testing.T
	addr  string
	conns chan *edgeConn
}

// edgeConn is one connection of the client, seen from the edge.
type edgeConn struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func newFakeEdge(t *testing.T) *fakeEdge {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &fakeEdge{t: t, addr: l.Addr().String(), conns: make(chan *edgeConn, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			e.conns <- &edgeConn{t: t, conn: conn, r: bufio.NewReader(conn)}
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		close(e.conns)
		for c := range e.conns {
			_ = c.conn.Close()
		}
	})
	return e
}

// accept takes the client's next connection.
func (e *fakeEdge) accept() *edgeConn {
	e.t.Helper()
	select {
	case c := <-e.conns:
		if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
			e.t.Fatal(err)
		}
		e.t.Cleanup(func() { _ = c.conn.Close() })
		return c
	case <-time.After(patience):
		e.t.Fatal("the client did not connect")
		return nil
	}
}

// next is the client's next frame other than heartbeats and confirmations.
func (c *edgeConn) next() *clientpb.ClientFrame {
	c.t.Helper()
	for {
		f, err := c.read()
		if err != nil {
			c.t.Fatalf("reading the client's next frame: %v", err)
		}
		if f.GetHeartbeat() == nil && f.GetConfirm() == nil {
			return f
		}
	}
}

func (c *edgeConn) read() (*clientpb.ClientFrame, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c.r, raw); err != nil {
		return nil, err
	}
	f := new(clientpb.ClientFrame)
	return f, pb.Unmarshal(raw, f)
}

// ended waits until the client has closed the connection.
func (c *edgeConn) ended() {
	c.t.Helper()
	for {
		if _, err := c.read(); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				c.t.Fatal("the client did not close the connection")
			}
			return
		}
	}
}

func (c *edgeConn) say(frames ...*clientpb.ServerFrame) {
	c.t.Helper()
	var out []byte
	for _, f := range frames {
		raw, err := pb.Marshal(f)
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(raw))), raw...)
	}
	if _, err := c.conn.Write(out); err != nil {
		c.t.Fatalf("writing to the client: %v", err)
	}
}

// welcome takes the Hello and answers it.
func (c *edgeConn) welcome(w *clientpb.Welcome) *clientpb.Hello {
	c.t.Helper()
	f := c.next()
	if f.GetHello() == nil {
		c.t.Fatalf("the first frame is %v", f)
	}
	if w.ServerTimeMs == 0 {
		w.ServerTimeMs = time.Now().UnixMilli()
	}
	w.User = 17
	c.say(&clientpb.ServerFrame{Id: f.Id, Body: &clientpb.ServerFrame_Welcome{Welcome: w}})
	return f.GetHello()
}

func (c *edgeConn) nextSend() (uint64, *clientpb.SendMessage) {
	c.t.Helper()
	f := c.next()
	if f.GetSendMessage() == nil {
		c.t.Fatalf("want a message, have %v", f)
	}
	return f.Id, f.GetSendMessage()
}

func stored(id uint64, m *clientpb.SendMessage, seq uint64) *clientpb.ServerFrame {
	return &clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{
		Thread: m.Thread, Seq: seq, TimeMs: 1, ClientMsgId: m.ClientMsgId,
	}}}
}

func refusal(id uint64, code proto.Code) *clientpb.ServerFrame {
	e := proto.Errorf(code, "refused: %s", code)
	return &clientpb.ServerFrame{Id: id, Body: &clientpb.ServerFrame_Error{Error: &clientpb.Error{
		Code: uint32(code), Message: e.Message, RetryMs: e.RetryMillis(),
	}}}
}

func updates(pts ...uint64) *clientpb.ServerFrame {
	u := new(clientpb.Updates)
	for _, p := range pts {
		u.Updates = append(u.Updates, &clientpb.Update{Pts: p, Body: &clientpb.Update_Event{Event: &clientpb.Event{
			Thread: thread, Seq: p, Body: &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: "hello"}},
		}}})
	}
	return &clientpb.ServerFrame{Body: &clientpb.ServerFrame_Updates{Updates: u}}
}

func closing(code proto.Code, alternatives ...string) *clientpb.ServerFrame {
	return &clientpb.ServerFrame{Body: &clientpb.ServerFrame_Closing{Closing: &clientpb.Closing{
		Code: uint32(code), Message: "closing", Alternatives: alternatives,
	}}}
}

const thread = "d/17/4242"

// running is a client whose Run ends with the test.
type running struct {
	*Client
	t     *testing.T
	ended chan error
}

func start(t *testing.T, e *fakeEdge, change func(*Config)) *running {
	t.Helper()
	cfg := Config{Server: e.addr, Transport: Plain, Token: "token", Device: "phone", Subscribe: true}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Client: c, t: t, ended: make(chan error, 1)}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.ended <- c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-stopped
	})
	return r
}

func (r *running) post(text string) *Pending {
	r.t.Helper()
	p, err := r.Post(thread, text)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (r *running) result(p *Pending) (Sent, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	sent, err := p.Result(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		r.t.Fatal("the message was never answered")
	}
	return sent, err
}

// runEnds waits for Run to return by itself.
func (r *running) runEnds() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		r.t.Fatal("Run did not return")
		return nil
	}
}

func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing was received")
		panic("unreachable")
	}
}
