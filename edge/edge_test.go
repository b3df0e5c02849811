package edge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/edge/session"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type ctx = context.Context

const patience = 30 * time.Second

type setup struct {
	e      *Edge
	w      *world
	keys   keys
	h1, h2 *host
	// others are the other edges, leaving what this one says of itself.
	others  atomic.Pointer[[]session.Alternative]
	leaving atomic.Bool
	stop    context.CancelFunc
	done    chan struct{}
}

func newSetup(t testing.TB, cfg Config) *setup {
	t.Helper()
	s := &setup{w: newWorld(), keys: newKeys(t), done: make(chan struct{})}
	s.others.Store(&[]session.Alternative{{Addr: "other.example:443", Sessions: 3}, {Addr: "idle.example:443"}})
	s.h1, s.h2 = startHost(t, s.w, "h1"), startHost(t, s.w, "h2")
	dialer := cellclient.NewDialer(s.w, nil)
	certificate := testCertificate(t)
	cfg.Listen.Addr, cfg.Listen.PlaintextAddr = "127.0.0.1:0", "127.0.0.1:0"
	var err error
	s.e, err = New(cfg, Deps{
		Node: "e1", Directory: s.w, Dialer: dialer, Locator: cellclient.NewLocator(s.w, dialer), Keys: s.keys,
		TLS:          certificate,
		Alternatives: func() []session.Alternative { return *s.others.Load() },
		Leaving:      s.leaving.Store,
		Metrics:      prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() {
		defer close(s.done)
		if err := s.e.Run(running); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { stop(); <-s.done; _ = dialer.Close() })
	return s
}

func testCertificate(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// peer is a client of the edge.
type peer struct {
	t testing.TB
	io.ReadWriter
}

func (s *setup) dial(t testing.TB, transport string) *peer {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto.ALPN}}
	var conn net.Conn
	var err error
	switch transport {
	case "plain":
		conn, err = net.Dial("tcp", s.e.PlaintextAddr().String())
	case "tcp":
		conn, err = tls.Dial("tcp", s.e.Addr().String(), cfg)
	default:
		dialing, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		q, err := quic.DialAddr(dialing, s.e.Addr().String(), cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = q.CloseWithError(0, "") })
		st, err := q.OpenStreamSync(dialing)
		if err != nil {
			t.Fatal(err)
		}
		_ = st.SetDeadline(time.Now().Add(patience))
		return &peer{t, st}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &peer{t, conn}
}

func (p *peer) raw(b []byte) {
	p.t.Helper()
	if _, err := p.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) say(f *clientpb.ClientFrame) { p.t.Helper(); p.raw(mustMarshal(f)) }

func (p *peer) hear() (*clientpb.ServerFrame, error) {
	var header [4]byte
	if _, err := io.ReadFull(p, header[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(header[:]))
	if _, err := io.ReadFull(p, b); err != nil {
		return nil, err
	}
	f := &clientpb.ServerFrame{}
	return f, pb.Unmarshal(b, f)
}

func (p *peer) mustHear() *clientpb.ServerFrame {
	p.t.Helper()
	f, err := p.hear()
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// refused wants an error frame of code, then the end.
func (p *peer) refused(code proto.Code) {
	p.t.Helper()
	f := p.mustHear()
	if got := proto.Code(f.GetError().GetCode()); got != code || f.GetError().GetMessage() == "" {
		p.t.Fatalf("got %v, want error %s", f, code)
	}
	p.ended()
}

func (p *peer) ended() {
	p.t.Helper()
	if f, err := p.hear(); !errors.Is(err, io.EOF) {
		p.t.Fatalf("got %v, %v; want the end", f, err)
	}
}

func (s *setup) helloFrame(t testing.TB, last uint64) *clientpb.ClientFrame {
	return &clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
		ProtocolVersion: proto.ClientProtocolVersion, Token: s.keys.token(t, time.Now().Add(time.Hour)), Device: "d1",
		LastPts: last, Subscribe: true}}}
}

// login connects and waits for the Welcome.
func (s *setup) login(t testing.TB, transport string, last uint64) *peer {
	t.Helper()
	p := s.dial(t, transport)
	p.say(s.helloFrame(t, last))
	w := p.mustHear().GetWelcome()
	if w == nil || w.User != uint64(testUser) || w.ResumeFrom != last || w.Edge != "e1" || w.HeartbeatMs == 0 {
		t.Fatalf("welcome: %v", w)
	}
	return p
}

func (p *peer) send(id uint64, text string) {
	p.t.Helper()
	p.say(&clientpb.ClientFrame{Id: id, Body: &clientpb.ClientFrame_SendMessage{SendMessage: &clientpb.SendMessage{
		Text: &clientpb.TextMessage{Text: text}}}})
}

// updates wants the updates from … to, in order and nothing else.
func (p *peer) updates(from, to uint64) {
	p.t.Helper()
	for want := from; want <= to; {
		f := p.mustHear()
		if f.GetUpdates() == nil {
			p.t.Fatalf("got %v, want update %d", f, want)
		}
		for _, u := range f.GetUpdates().Updates {
			if u.Pts != want {
				p.t.Fatalf("update %d, want %d", u.Pts, want)
			}
			want++
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestLoginResumeRequestHeartbeatLogout(t *testing.T) {
	for _, transport := range []string{"plain", "tcp", "quic"} {
		t.Run(transport, func(t *testing.T) {
			s := newSetup(t, Config{})
			for i := range 5 {
				s.h1.publish(fmt.Sprint("old ", i))
			}
			p := s.login(t, transport, 2)
			p.updates(3, 5)
			s.h1.publish("live")
			p.updates(6, 6)
			p.send(7, "hi")
			if f := p.mustHear(); f.Id != 7 || f.GetMessageSent().GetThread() != "hi" {
				t.Fatalf("response: %v", f)
			}
			p.say(&clientpb.ClientFrame{Id: 8, Body: &clientpb.ClientFrame_Heartbeat{Heartbeat: &clientpb.Heartbeat{}}})
			if f := p.mustHear(); f.Id != 8 || f.GetHeartbeatAck().GetPts() != 6 {
				t.Fatalf("heartbeat: %v", f)
			}
			if got := s.e.UserSessions(testUser); len(got) != 1 || got[0].Transport != transport || got[0].Device != "d1" {
				t.Fatalf("sessions: %+v", got)
			}
			p.say(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Logout{Logout: &clientpb.Logout{}}})
			if f := p.mustHear(); proto.Code(f.GetClosing().GetCode()) != proto.CodeLoggedOut {
				t.Fatalf("closing: %v", f)
			}
			p.ended()
			eventually(t, "no session", func() bool { return s.e.Sessions() == 0 })
			eventually(t, "the host detached it", func() bool {
				s.h1.mu.Lock()
				defer s.h1.mu.Unlock()
				return s.h1.detached == 1
			})
		})
	}
}

func TestBadInputGetsAClearErrorAndDisturbsNobody(t *testing.T) {
	s := newSetup(t, Config{})
	good := s.login(t, "plain", 0)
	with := func(change func(*clientpb.Hello)) []byte {
		f := s.helloFrame(t, 0)
		change(f.GetHello())
		return mustMarshal(f)
	}
	for _, c := range []struct {
		name string
		raw  []byte
		code proto.Code
	}{
		{"garbage", []byte("\xff\xff\xff"), proto.CodeBadFrame},
		{"empty", nil, proto.CodeBadFrame},
		{"unknown frame", []byte{0x8a, 0x06, 0}, proto.CodeBadFrame},
		{"request before login", mustMarshal(&clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_ListThreads{}}), proto.CodeBadFrame},
		{"bad token", with(func(h *clientpb.Hello) { h.Token = "no" }), proto.CodeBadToken},
		{"expired", with(func(h *clientpb.Hello) { h.Token = s.keys.token(t, time.Now().Add(-time.Hour)) }), proto.CodeTokenExpired},
		{"other device", with(func(h *clientpb.Hello) { h.Device = "d2" }), proto.CodeBadToken},
		{"version", with(func(h *clientpb.Hello) { h.ProtocolVersion = 99 }), proto.CodeBadVersion},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := s.dial(t, "plain")
			p.raw(c.raw)
			p.refused(c.code)
		})
	}
	t.Run("oversized", func(t *testing.T) {
		p := s.dial(t, "plain")
		_, _ = p.Write([]byte{0x7f, 0, 0, 0})
		// 0x7f is not a letter, so this is a native length.
		p.refused(proto.CodeTooBig)
	})
	t.Run("second hello", func(t *testing.T) {
		p := s.login(t, "plain", 0)
		p.say(s.helloFrame(t, 0))
		p.refused(proto.CodeDuplicateHello)
	})
	good.send(5, "still here")
	if f := good.mustHear(); f.Id != 5 {
		t.Fatalf("the other session got %v", f)
	}
}

// A token whose key was published a moment ago is let in as soon as the key is
// here.
func TestKeyThatIsOnItsWay(t *testing.T) {
	s := newSetup(t, Config{})
	s.keys.late.Store(3)
	s.login(t, "tcp", 0)
	if n := s.keys.asked.Load(); n != 4 {
		t.Errorf("the key was looked up %d times, want 4", n)
	}
}

func TestMissedPushIsFetched(t *testing.T) {
	s := newSetup(t, Config{})
	p := s.login(t, "plain", 0)
	s.h1.set(func(h *host) { h.skipPush = 2 })
	for i := range 3 {
		s.h1.publish(fmt.Sprint(i)) // only the third is pushed
	}
	p.updates(1, 3)
}

// TestSlowReader: while a client does not read, the edge holds little for it;
// then it gets everything, in order.
func TestSlowReader(t *testing.T) {
	s := newSetup(t, Config{})
	p := s.login(t, "plain", 0)
	text := strings.Repeat("x", 15<<10)
	const updates = 1200 // 18 MB, above what sockets hold
	for range updates {
		s.h1.publish(text)
	}
	eventually(t, "pushes dropped", func() bool { return s.e.sessions.Stats().Dropped > 0 })
	p.updates(1, updates)
	if s.e.sessions.Stats().Fetches == 0 {
		t.Fatal("nothing was fetched")
	}
}

// TestHostDies: what it left unanswered is repeated once, in order, to the next
// one, whether that takes it with the attach or is of a release that does not.
func TestHostDies(t *testing.T) {
	for _, takes := range []bool{true, false} {
		t.Run(fmt.Sprint("requests taken with the attach ", takes), func(t *testing.T) { hostDies(t, takes) })
	}
}

func hostDies(t *testing.T, takes bool) {
	s := newSetup(t, Config{})
	s.h2.set(func(h *host) { h.takes = takes })
	p := s.login(t, "plain", 0)
	s.h1.publish("one")
	p.updates(1, 1)
	s.h1.set(func(h *host) { h.mute = true })
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint("m", i))
		p.send(uint64(i+1), want[i])
	}
	eventually(t, "the first host has them", func() bool { return len(s.w.requests()) == 20 })
	s.w.moveHost("h2")
	s.h1.server.Stop()
	s.h2.publish("two")
	var answered []string
	seen := false
	for len(answered) < 20 || !seen {
		f := p.mustHear()
		switch {
		case f.GetMessageSent() != nil:
			answered = append(answered, f.GetMessageSent().Thread)
		case f.GetUpdates() != nil && f.GetUpdates().Updates[0].Pts == 2:
			seen = true
		default:
			t.Fatalf("got %v", f)
		}
	}
	if !slices.Equal(answered, want) || !slices.Equal(s.w.requests()[20:], want) {
		t.Fatalf("repeated %v, answered %v", s.w.requests()[20:], answered)
	}
	s.h2.mu.Lock()
	defer s.h2.mu.Unlock()
	if a := s.h2.attaches[len(s.h2.attaches)-1]; a.Pts != 1 || a.Attempt < 2 || string(a.Incarnation) != "incarnation-0001" || len(a.Requests) != 20 {
		t.Fatalf("the second attach was %v", a)
	}
}

func TestSilentHost(t *testing.T) {
	s := newSetup(t, Config{})
	p := s.login(t, "plain", 0)
	s.w.moveHost("h2")
	s.h1.set(func(h *host) { h.deaf = true })
	p.send(1, "x")
	if f := p.mustHear(); f.Id != 1 || f.GetMessageSent() == nil {
		t.Fatalf("got %v", f)
	}
}

// TestRefusedElsewhere: a host that lost its grant answers requests with "not
// here"; the client sees only the success.
func TestRefusedElsewhere(t *testing.T) {
	s := newSetup(t, Config{})
	p := s.login(t, "plain", 0)
	s.w.moveHost("h2")
	for i := range 10 {
		p.send(uint64(i+1), fmt.Sprint(i))
	}
	for i := range 10 {
		if f := p.mustHear(); f.Id != uint64(i+1) || f.GetMessageSent() == nil {
			t.Fatalf("got %v", f)
		}
	}
}

// TestNewerEpoch: the directory names a newer owner while nothing else
// happens; the session goes there and the old host is told.
func TestNewerEpoch(t *testing.T) {
	s := newSetup(t, Config{})
	p := s.login(t, "plain", 0)
	s.w.mu.Lock()
	s.w.host, s.w.epoch, s.w.routes = "h2", 2, nil
	s.w.mu.Unlock()
	eventually(t, "attached at the new host", func() bool {
		s.h2.mu.Lock()
		defer s.h2.mu.Unlock()
		return len(s.h2.attaches) > 0 && s.h2.attaches[0].Epoch == 2
	})
	eventually(t, "the old host was told", func() bool {
		s.h1.mu.Lock()
		defer s.h1.mu.Unlock()
		return s.h1.detached == 1
	})
	s.h2.publish("new")
	p.updates(1, 1)
}

func TestHostEndsSession(t *testing.T) {
	s := newSetup(t, Config{})
	p := s.login(t, "tcp", 0)
	s.h1.end(proto.CodeDisplaced)
	if c := p.mustHear().GetClosing(); proto.Code(c.GetCode()) != proto.CodeDisplaced || c.Message != "why" {
		t.Fatalf("closing: %v", c)
	}
	p.ended()
	eventually(t, "no session", func() bool { return s.e.Sessions() == 0 })
}

func TestNoHostInTime(t *testing.T) {
	s := newSetup(t, Config{Session: session.Config{FirstAttachTimeout: 100 * time.Millisecond, FetchTimeout: 40 * time.Millisecond}})
	s.w.moveHost("nobody")
	p := s.dial(t, "plain")
	p.say(s.helloFrame(t, 0))
	p.refused(proto.CodeNotReady)
}

func TestIdleIsClosed(t *testing.T) {
	s := newSetup(t, Config{Session: session.Config{HeartbeatInterval: 40 * time.Millisecond}})
	p := s.login(t, "plain", 0)
	if f := p.mustHear(); proto.Code(f.GetClosing().GetCode()) != proto.CodeIdle {
		t.Fatalf("got %v", f)
	}
	p.ended()
}

func TestTooManyRequests(t *testing.T) {
	s := newSetup(t, Config{Session: session.Config{MessagesUnderWayMax: -1}})
	s.h1.set(func(h *host) { h.mute = true })
	p := s.login(t, "plain", 0)
	for i := range proto.RequestsInFlightMax + 1 {
		p.send(uint64(i+1), "x")
	}
	f := p.mustHear()
	if e := f.GetError(); f.Id != proto.RequestsInFlightMax+1 || proto.Code(e.GetCode()) != proto.CodeOverloaded || e.RetryMs == 0 {
		t.Fatalf("got %v", f)
	}
}

// TestTooManyMessagesUnderWay: who has one unanswered is told to wait, not to
// leave, and whoever has none is let through.
func TestTooManyMessagesUnderWay(t *testing.T) {
	s := newSetup(t, Config{Session: session.Config{MessagesUnderWayMax: 2}})
	s.h1.set(func(h *host) { h.mute = true })
	p := s.login(t, "plain", 0)
	p.send(1, "first")
	p.send(2, "second")
	f := p.mustHear()
	if e := f.GetError(); f.Id != 2 || proto.Code(e.GetCode()) != proto.CodeOverloaded || e.RetryMs == 0 {
		t.Fatalf("got %v", f)
	}
	if held := s.e.sessions.Stats().Held; held != 1 {
		t.Errorf("%d messages were held", held)
	}
	other := s.login(t, "plain", 0)
	other.send(1, "other")
	eventually(t, "the message of somebody who had none", func() bool { return slices.Contains(s.w.requests(), "other") })
}

// TestOverloadedEdge: while answers are late for many, two messages may be under
// way and not sixteen; when they are in time again, and nobody was refused for a
// second, sixteen may.
func TestOverloadedEdge(t *testing.T) {
	s := newSetup(t, Config{Session: session.Config{MessagesUnderWayMax: 16, MessagesOverloadedMax: 2}})
	s.h1.set(func(h *host) { h.late = 150 * time.Millisecond })
	peers := make([]*peer, 8)
	for i := range peers {
		peers[i] = s.login(t, "plain", 0)
	}
	id := uint64(0)
	round := func() (refused int) { // everybody writes at once
		id++
		for i, p := range peers {
			p.send(id, fmt.Sprintf("%d of %d", id, i))
		}
		for _, p := range peers {
			if e := p.mustHear().GetError(); proto.Code(e.GetCode()) == proto.CodeOverloaded {
				refused++
			}
		}
		return refused
	}
	rounds := 1
	for ; round() == 0; rounds++ {
		if rounds > 100 {
			t.Fatal("nobody is refused")
		}
	}
	if n := round(); n != len(peers)-2 || !s.e.sessions.Stats().Overloaded {
		t.Errorf("of %d messages %d are refused, overloaded: %v", len(peers), n, s.e.sessions.Stats().Overloaded)
	}
	s.h1.set(func(h *host) { h.late = 0 })
	eventually(t, "the end of the overload", func() bool { return !s.e.sessions.Stats().Overloaded })
	if n := round(); n > 0 {
		t.Errorf("afterwards %d are refused", n)
	}
}

var alternatives = []string{"idle.example:443", "other.example:443"}

// An edge that stops sends everybody elsewhere, and waits for those that can
// go there before they leave. One that came through a balancer is closed at
// once, and whoever does not go in time when that is over.
func TestDrain(t *testing.T) {
	s := newSetup(t, Config{DrainTimeout: 2 * time.Second})
	plain, gone, stays := s.login(t, "plain", 0), s.login(t, "tcp", 0), s.login(t, "quic", 0)
	s.stop()
	if c := plain.mustHear().GetClosing(); proto.Code(c.GetCode()) != proto.CodeShuttingDown || len(c.Alternatives) > 0 || c.RetryMs == 0 {
		t.Fatalf("closing: %v", c)
	}
	plain.ended()
	for _, p := range []*peer{gone, stays} {
		if r := p.mustHear().GetRedirect(); len(r.GetAlternatives()) != 2 {
			t.Fatalf("redirect: %v", r)
		}
	}
	if !s.leaving.Load() {
		t.Error("an edge that stops does not say so")
	}
	gone.say(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Logout{Logout: &clientpb.Logout{}}})
	if c := gone.mustHear().GetClosing(); proto.Code(c.GetCode()) != proto.CodeLoggedOut {
		t.Fatalf("closing: %v", c)
	}
	if c := stays.mustHear().GetClosing(); proto.Code(c.GetCode()) != proto.CodeShuttingDown || len(c.Alternatives) != 2 || c.RetryMs == 0 {
		t.Fatalf("closing: %v", c)
	}
	stays.ended()
	select {
	case <-s.done:
	case <-time.After(patience):
		t.Fatal("Run did not return")
	}
}

// Clients without TLS go to edges that say where they take such, and to no
// others; by order as at the end.
func TestDrainOfPlainClients(t *testing.T) {
	s := newSetup(t, Config{DrainPatience: 500 * time.Millisecond, DrainTimeout: 2 * time.Second})
	s.others.Store(&[]session.Alternative{
		{Addr: "busy.example:443", Plain: "busy.example:80", Sessions: 3}, {Addr: "tls.example:443"}, {Addr: "idle.example:443", Plain: "idle.example:80"},
	})
	want := []string{"idle.example:80", "busy.example:80"}
	p := s.login(t, "plain", 0)
	s.e.SetDraining(true)
	if r := p.mustHear().GetRedirect(); !slices.Equal(r.GetAlternatives(), want) {
		t.Fatalf("redirect: %v", r)
	}
	late := s.dial(t, "plain")
	late.say(s.helloFrame(t, 0))
	if c := late.mustHear().GetClosing(); !slices.Equal(c.GetAlternatives(), want) {
		t.Fatalf("a session that comes while the edge is drained: %v", c)
	}
	if c := p.mustHear().GetClosing(); len(c.GetAlternatives()) != 2 || c.Alternatives[0] == "tls.example:443" {
		t.Fatalf("who does not go: %v", c)
	}
	s.e.SetDraining(false)
	eventually(t, "the edge serves again", func() bool { return !s.leaving.Load() })
	p = s.login(t, "plain", 0)
	s.stop()
	if r := p.mustHear().GetRedirect(); !slices.Equal(r.GetAlternatives(), want) {
		t.Fatalf("redirect at the end: %v", r)
	}
	if c := p.mustHear().GetClosing(); !slices.Equal(c.GetAlternatives(), want) {
		t.Fatalf("closing at the end: %v", c)
	}
}

// An edge that is drained goes on for those that are there, turns others away,
// closes who does not go, and can be taken back.
func TestDrainingByOrder(t *testing.T) {
	s := newSetup(t, Config{DrainPatience: 500 * time.Millisecond})
	p := s.login(t, "tcp", 0)
	s.e.SetDraining(true)
	if r := p.mustHear().GetRedirect(); !slices.Equal(r.GetAlternatives(), alternatives) {
		t.Fatalf("redirect: %v", r)
	}
	p.send(1, "still served")
	if f := p.mustHear(); f.Id != 1 || f.GetError() != nil {
		t.Fatalf("answer: %v", f)
	}
	late := s.dial(t, "tcp")
	late.say(s.helloFrame(t, 0))
	if c := late.mustHear().GetClosing(); proto.Code(c.GetCode()) != proto.CodeShuttingDown || !slices.Equal(c.Alternatives, alternatives) {
		t.Fatalf("a session that comes while the edge is drained: %v", c)
	}
	if c := p.mustHear().GetClosing(); proto.Code(c.GetCode()) != proto.CodeShuttingDown || len(c.Alternatives) != 2 {
		t.Fatalf("who does not go: %v", c)
	}
	if !s.leaving.Load() {
		t.Error("an edge that is drained does not say so")
	}
	s.e.SetDraining(false)
	eventually(t, "the edge serves again", func() bool { return !s.leaving.Load() })
	s.login(t, "tcp", 0)
}

// A lone edge is not emptied: better there than nowhere.
func TestDrainingWithoutAlternative(t *testing.T) {
	s := newSetup(t, Config{DrainPatience: 50 * time.Millisecond})
	p := s.login(t, "tcp", 0)
	s.others.Store(new([]session.Alternative))
	s.e.SetDraining(true)
	eventually(t, "the order is taken", s.leaving.Load)
	q := s.login(t, "tcp", 0)
	for _, p := range []*peer{p, q} {
		p.send(1, "served")
		if f := p.mustHear(); f.Id != 1 || f.GetError() != nil {
			t.Fatalf("answer: %v", f)
		}
	}
}

// Sessions are asked at a bounded rate, and spread by load.
func TestDepartureRate(t *testing.T) {
	const sessions = 20
	s := newSetup(t, Config{})
	var peers []*peer
	for range sessions {
		peers = append(peers, s.login(t, "tcp", 0))
	}
	now := time.Now()
	d := s.e.sessions.NewDeparture(now, 0)
	others := []session.Alternative{{Addr: "a:1", Sessions: 4}, {Addr: "b:1"}}
	if left := d.Step(now.Add(time.Second), 5, others); left != sessions {
		t.Fatalf("%d left", left)
	}
	d.Step(now.Add(time.Hour), 5, others) // those of a second at once, however late it is
	first := map[string]int{}
	var rest []*peer
	for _, p := range peers {
		p.say(&clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Heartbeat{Heartbeat: &clientpb.Heartbeat{}}})
		if f := p.mustHear(); f.GetRedirect() != nil {
			first[f.GetRedirect().Alternatives[0]]++
		} else {
			rest = append(rest, p)
		}
	}
	if len(rest) != sessions-10 {
		t.Errorf("%d asked in two steps, want 10", sessions-len(rest))
	}
	for i := range len(rest) / 5 {
		d.Step(now.Add(time.Hour+time.Duration(i+1)*time.Second), 5, others)
	}
	for _, p := range rest {
		first[p.mustHear().GetRedirect().GetAlternatives()[0]]++
	}
	if first["a:1"] != 8 || first["b:1"] != 12 {
		t.Errorf("sent to %v, want 8 and 12", first)
	}
}
