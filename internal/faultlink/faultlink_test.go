package faultlink

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a TCP server that says back what it hears.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func to(addr string) func() (string, error) { return func() (string, error) { return addr, nil } }

func newTCP(t *testing.T) (*TCP, net.Conn) {
	t.Helper()
	link, err := ListenTCP("127.0.0.1:0", to(echo(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close() })
	c, err := net.Dial("tcp", link.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return link, c
}

func say(t *testing.T, c net.Conn, what []byte) {
	t.Helper()
	if _, err := c.Write(what); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, want []byte, within time.Duration) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(within))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("heard %d bytes that were not said", len(got))
	}
}

func hearNothing(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !isTimeout(err) {
		t.Fatalf("heard %d bytes, %v, on a cut link", n, err)
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

func TestTCPPassesEverythingInOrder(t *testing.T) {
	_, c := newTCP(t)
	what := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() { _, _ = c.Write(what) }()
	hear(t, c, what, 20*time.Second)
}

func TestCutTCPKeepsWhatItHolds(t *testing.T) {
	link, c := newTCP(t)
	say(t, c, []byte("one"))
	hear(t, c, []byte("one"), 10*time.Second)
	link.Set(Quality{Cut: true})
	say(t, c, []byte("two"))
	hearNothing(t, c)
	link.Set(Quality{})
	hear(t, c, []byte("two"), 10*time.Second)
}

func TestDelayAndRateHoldTCPBack(t *testing.T) {
	link, c := newTCP(t)
	link.Set(Quality{Delay: 100 * time.Millisecond})
	start := time.Now()
	say(t, c, []byte("x"))
	hear(t, c, []byte("x"), 10*time.Second)
	if d := time.Since(start); d < 200*time.Millisecond {
		t.Errorf("there and back took %v, the delay is 100 ms each", d)
	}
	link.Set(Quality{BytesPerSecond: 100_000})
	what := make([]byte, 50_000)
	start = time.Now()
	go func() { _, _ = c.Write(what) }()
	hear(t, c, what, 20*time.Second)
	if d := time.Since(start); d < 400*time.Millisecond {
		t.Errorf("50 kB at 100 kB/s took %v", d)
	}
}

func TestResetBreaksConnections(t *testing.T) {
	link, c := newTCP(t)
	say(t, c, []byte("one"))
	hear(t, c, []byte("one"), 10*time.Second)
	link.Reset()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("the connection stands: %v", err)
	}
}

func newUDP(t *testing.T) (*UDP, net.Conn) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	link, err := ListenUDP("127.0.0.1:0", 7, to(server.LocalAddr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close() })
	c, err := net.Dial("udp", link.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return link, c
}

// count sends n datagrams and counts the answers, in the order they come.
func count(t *testing.T, c net.Conn, n int) (heard int, inOrder bool) {
	t.Helper()
	for i := range n {
		say(t, c, []byte{byte(i)})
		time.Sleep(time.Millisecond) // a socket's buffer must not be what loses them
	}
	inOrder, last := true, -1
	for {
		buf := make([]byte, 10)
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := c.Read(buf); err != nil {
			return heard, inOrder
		}
		heard++
		inOrder = inOrder && int(buf[0]) >= last
		last = int(buf[0])
	}
}

func TestUDPLosesDoublesAndReorders(t *testing.T) {
	link, c := newUDP(t)
	if heard, inOrder := count(t, c, 100); heard != 100 || !inOrder {
		t.Fatalf("a good link passed %d of 100, in order: %v", heard, inOrder)
	}
	link.Set(Quality{Loss: 0.5})
	if heard, _ := count(t, c, 100); heard < 5 || heard > 60 {
		t.Errorf("with half lost each way %d of 100 came back, about 25 should", heard)
	}
	link.Set(Quality{Double: 1})
	if heard, _ := count(t, c, 50); heard < 150 {
		t.Errorf("with all doubled each way %d came for 50", heard)
	}
	link.Set(Quality{Jitter: 50 * time.Millisecond})
	if heard, inOrder := count(t, c, 100); heard != 100 || inOrder {
		t.Errorf("with jitter %d of 100 came, in order: %v", heard, inOrder)
	}
	link.Set(Quality{Cut: true})
	if heard, _ := count(t, c, 10); heard != 0 {
		t.Errorf("%d datagrams passed a cut link", heard)
	}
	link.Set(Quality{})
	link.Rebind()
	if heard, _ := count(t, c, 10); heard != 10 {
		t.Errorf("after rebinding %d of 10 came back", heard)
	}
}
