package client

import (
	"testing"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func redirect(to ...string) *clientpb.ServerFrame {
	return &clientpb.ServerFrame{Body: &clientpb.ServerFrame_Redirect{Redirect: &clientpb.Redirect{Alternatives: to}}}
}

// A client that is asked to go elsewhere stands there before it leaves, takes
// what still comes here, and repeats what is unanswered; neither its state nor
// NoReconnect notice.
func TestRedirectIsNotALoss(t *testing.T) {
	from, to := newFakeEdge(t), newFakeEdge(t)
	states := make(chan State, 100)
	got := make(chan proto.Pts, 100)
	c := start(t, from, func(cfg *Config) {
		cfg.NoReconnect = true
		cfg.OnState = func(s State, _ error) { states <- s }
		cfg.OnUpdate = func(u Update) { got <- u.Pts }
	})
	old := from.accept()
	old.welcome(&clientpb.Welcome{Incarnation: []byte("log")})
	old.say(updates(1, 2))
	receive(t, got)
	receive(t, got)
	p := c.post("unanswered")
	id, m := old.nextSend()
	old.say(redirect("127.0.0.1:1", to.addr)) // the first does not answer
	next := to.accept()
	// Until the welcome everything goes on here.
	q := c.post("answered here")
	id2, m2 := old.nextSend()
	old.say(stored(id2, m2, 7))
	if _, err := c.result(q); err != nil {
		t.Fatal(err)
	}
	hello := next.welcome(&clientpb.Welcome{Incarnation: []byte("log"), ResumeFrom: 2})
	if hello.LastPts != 2 || string(hello.Incarnation) != "log" || hello.FromConfirmed {
		t.Errorf("hello: %v", hello)
	}
	if f := old.next(); f.GetLogout() == nil {
		t.Fatalf("the last frame here is %v", f)
	}
	old.say(updates(3), closing(proto.CodeLoggedOut))
	if pts := receive(t, got); pts != 3 {
		t.Errorf("update %d", pts)
	}
	next.say(updates(3, 4)) // the first for the second time
	if pts := receive(t, got); pts != 4 {
		t.Errorf("update %d, want 4: each once", pts)
	}
	id3, m3 := next.nextSend()
	if string(m3.ClientMsgId) != string(m.ClientMsgId) || id3 == id {
		t.Errorf("repeated as %d %x, was %d %x", id3, m3.ClientMsgId, id, m.ClientMsgId)
	}
	next.say(stored(id3, m3, 6))
	if _, err := c.result(p); err != nil {
		t.Fatal(err)
	}
	old.ended()
	for _, want := range []State{Connecting, Connected} {
		if s := receive(t, states); s != want {
			t.Fatalf("state %s, want %s", s, want)
		}
	}
	if len(states) > 0 {
		t.Errorf("the state became %s", <-states)
	}
}

// With no alternative that answers the client stays, and may be asked again.
func TestRedirectInVain(t *testing.T) {
	from, to := newFakeEdge(t), newFakeEdge(t)
	c := start(t, from, func(cfg *Config) { cfg.NoReconnect = true })
	old := from.accept()
	old.welcome(&clientpb.Welcome{})
	old.say(redirect(to.addr))
	refused := to.accept()
	refused.next()
	refused.say(closing(proto.CodeShuttingDown))
	refused.ended()
	p := c.post("hello")
	id, m := old.nextSend()
	old.say(stored(id, m, 1))
	if _, err := c.result(p); err != nil {
		t.Fatal(err)
	}
	// Lost while it is moving: it arrives all the same.
	old.say(redirect(to.addr))
	next := to.accept()
	_ = old.conn.Close()
	next.welcome(&clientpb.Welcome{})
	p = c.post("hello again")
	id, m = next.nextSend()
	next.say(stored(id, m, 2))
	if _, err := c.result(p); err != nil {
		t.Fatal(err)
	}
}
