package mail

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/internal/mailsink"
	"github.com/waggle-im/waggle/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const wait = time.Minute

func start(t *testing.T, server string) *Mailer {
	t.Helper()
	m, err := New(Config{Server: server, From: "Waggle <noreply@example.org>"})
	if err != nil {
		t.Fatal(err)
	}
	m.retry = time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

func count(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(wait); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestACodeArrives(t *testing.T) {
	sink, err := mailsink.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	m := start(t, sink.URL())
	for i := range 20 {
		code := fmt.Sprintf("%06d", i*7919)
		to := fmt.Sprintf("Ann+%d@example.org", i)
		if err := m.Send(Code(to, code, 3*time.Minute)); err != nil {
			t.Fatal(err)
		}
		var got mailsink.Mail
		until(t, "the mail arrives", func() (ok bool) { got, ok = sink.Last(to); return ok })
		if got.Code != code || got.Subject != "Your Waggle code" || !strings.Contains(got.Text, "valid for 3 minutes") {
			t.Errorf("%+v", got)
		}
	}
	if _, ok := sink.Last("nobody@example.org"); ok {
		t.Error("a mail nobody sent")
	}
}

func TestMailWaitsForAServerThatIsDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	m := start(t, "smtp://"+addr+"?tls=none")
	if err := m.Send(Code("ann@example.org", "123456", wait)); err != nil {
		t.Fatal(err)
	}
	until(t, "a try has failed", func() bool { return count(t, m.retried) > 0 })
	sink, err := mailsink.Start(addr)
	if err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	until(t, "the mail arrives", func() bool { _, ok := sink.Last("ann@example.org"); return ok })
	until(t, "it is counted", func() bool { return count(t, m.sent) == 1 })

	late := start(t, "smtp://127.0.0.1:1?tls=none")
	if err := late.Send(Code("ann@example.org", "123456", time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	until(t, "a mail of no use is given up", func() bool { return count(t, late.failed) == 1 })
}

func TestTheQueueHasAnEnd(t *testing.T) {
	m, err := New(Config{Server: "smtp://127.0.0.1:1?tls=none", From: "noreply@example.org"})
	if err != nil {
		t.Fatal(err)
	}
	for range queueMax {
		if err := m.Send(Message{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Send(Message{}); proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("past the end: %v", err)
	}
	none, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := none.Send(Message{}); proto.CodeOf(err) != proto.CodeNoCodes {
		t.Errorf("without a server: %v", err)
	}
}

func TestServerAddresses(t *testing.T) {
	s, err := parseServer("smtp://u:p%40ss@mail.example.org")
	if err != nil || s.port != 587 || s.implicit || s.user != "u" || s.password != "p@ss" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := parseServer("smtps://mail.example.org"); err != nil || s.port != 465 || !s.implicit {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "mail.example.org", "http://h", "smtp://u:secret@h:x", "smtp://h?tls=none", "smtp://h?tls=maybe", "smtp://u:secret@h?password_file=/no/such"} {
		if _, err := parseServer(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := New(Config{Server: "smtp://h", From: "nobody"}); err == nil {
		t.Error("a sender that is no address was taken")
	}
}
