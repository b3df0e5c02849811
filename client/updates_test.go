package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// watching is a client whose updates the test takes from a channel.
func watching(t *testing.T, e *fakeEdge, change func(*Config)) (*running, chan Update) {
	t.Helper()
	got := make(chan Update, 100)
	c := start(t, e, func(cfg *Config) {
		cfg.OnUpdate = func(u Update) { got <- u }
		if change != nil {
			change(cfg)
		}
	})
	return c, got
}

func wantPts(t *testing.T, got chan Update, pts ...proto.Pts) {
	t.Helper()
	for _, p := range pts {
		if u := receive(t, got); u.Pts != p {
			t.Fatalf("update %d came, want %d", u.Pts, p)
		}
	}
}

func TestResumesFromTheLastUpdate(t *testing.T) {
	e := newFakeEdge(t)
	c, got := watching(t, e, func(cfg *Config) { cfg.FromConfirmed = true })
	first := e.accept()
	hello := first.welcome(&clientpb.Welcome{Incarnation: []byte("life"), ResumeFrom: 5})
	if !hello.FromConfirmed || hello.ProtocolVersion != proto.ClientProtocolVersion || hello.Token != "token" || hello.Device != "phone" || !hello.Subscribe {
		t.Errorf("the first hello is %v", hello)
	}
	first.say(updates(4, 5, 6, 7), updates(7, 8)) // what was seen is passed over
	wantPts(t, got, 6, 7, 8)
	for confirmed := uint64(0); confirmed < 8; {
		f, err := first.read()
		if err != nil {
			t.Fatal(err)
		}
		confirmed = max(confirmed, f.GetConfirm().GetPts())
	}
	_ = first.conn.Close()
	hello = e.accept().welcome(&clientpb.Welcome{Incarnation: []byte("life"), ResumeFrom: 8})
	if hello.FromConfirmed || hello.LastPts != 8 || string(hello.Incarnation) != "life" {
		t.Errorf("the second hello is %v", hello)
	}
	if life, pts := c.Position(); string(life) != "life" || pts != 8 {
		t.Errorf("position %q %d", life, pts)
	}
}

func TestGapInUpdatesReconnects(t *testing.T) {
	e := newFakeEdge(t)
	_, got := watching(t, e, nil)
	first := e.accept()
	first.welcome(&clientpb.Welcome{})
	first.say(updates(1, 2, 4))
	wantPts(t, got, 1, 2)
	first.ended()
	second := e.accept()
	if hello := second.welcome(&clientpb.Welcome{ResumeFrom: 2}); hello.LastPts != 2 {
		t.Errorf("resumed after %d", hello.LastPts)
	}
	second.say(updates(3, 4))
	wantPts(t, got, 3, 4)
}

func TestResyncMovesTheClient(t *testing.T) {
	e := newFakeEdge(t)
	told := make(chan Resync, 10)
	_, got := watching(t, e, func(cfg *Config) {
		cfg.LastPts, cfg.Incarnation = 50, []byte("old")
		cfg.OnResync = func(r Resync) { told <- r }
	})
	conn := e.accept()
	if hello := conn.welcome(&clientpb.Welcome{Incarnation: []byte("new"), ResumeFrom: 10, Resync: true}); hello.LastPts != 50 || string(hello.Incarnation) != "old" {
		t.Errorf("hello %v", hello)
	}
	conn.say(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Resync{Resync: &clientpb.Resync{Pts: 10, Incarnation: []byte("new")}}})
	if r := receive(t, told); r.Pts != 10 || string(r.Incarnation) != "new" {
		t.Errorf("told %v", r)
	}
	conn.say(updates(11))
	wantPts(t, got, 11)
	conn.say(&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Resync{Resync: &clientpb.Resync{Pts: 3, Incarnation: []byte("third"), Reason: "restored"}}}, updates(4))
	if r := receive(t, told); r.Pts != 3 || r.Reason != "restored" {
		t.Errorf("told %v", r)
	}
	wantPts(t, got, 4)
	if len(told) > 0 {
		t.Error("told twice of one gap")
	}
	// The new log's places are below the old one's; they are confirmed too.
	for confirmed := uint64(0); confirmed != 4; {
		f, err := conn.read()
		if err != nil {
			t.Fatalf("update 4 was never confirmed: %v", err)
		}
		confirmed = f.GetConfirm().GetPts()
	}
}

// Each confirmation is a frame for the edge, which the host would join with the
// next one anyway.
func TestConfirmationsOfAStreamOfUpdatesAreApart(t *testing.T) {
	e := newFakeEdge(t)
	_, got := watching(t, e, nil)
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	start := time.Now()
	for pts := uint64(1); pts <= 3; pts++ {
		conn.say(updates(pts))
		wantPts(t, got, proto.Pts(pts))
		for confirmed := uint64(0); confirmed != pts; {
			f, err := conn.read()
			if err != nil {
				t.Fatalf("update %d was never confirmed: %v", pts, err)
			}
			confirmed = f.GetConfirm().GetPts()
		}
	}
	if took, least := time.Since(start), confirmSooner+2*confirmApart; took < least {
		t.Errorf("three updates one after the other were confirmed within %s, want %s at the least", took, least)
	}
}

func TestMissingBodyComesLater(t *testing.T) {
	e := newFakeEdge(t)
	bodies := make(chan Update, 1)
	_, got := watching(t, e, func(cfg *Config) { cfg.OnBody = func(u Update) { bodies <- u } })
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	bare := updates(1)
	event := bare.GetUpdates().Updates[0].GetEvent()
	event.Body, event.BodyMissing = nil, true
	conn.say(bare)
	if u := receive(t, got); !u.Event.BodyMissing {
		t.Errorf("the update is %v", u)
	}
	f := conn.next()
	if q := f.GetReadHistory(); q.GetThread() != thread || q.GetBefore() != 2 || q.GetLimit() != 1 {
		t.Fatalf("asked %v", f)
	}
	conn.say(refusal(f.Id, proto.CodeUnavailable)) // its owner is still away
	f = conn.next()
	full := updates(1).GetUpdates().Updates[0].GetEvent()
	conn.say(&clientpb.ServerFrame{Id: f.Id, Body: &clientpb.ServerFrame_History{History: &clientpb.History{Events: []*clientpb.Event{full}}}})
	if u := receive(t, bodies); u.Pts != 1 || u.Event.GetText().GetText() != "hello" {
		t.Errorf("the body is %v", u)
	}
}

func TestClosingNamesWhereToGo(t *testing.T) {
	old, next := newFakeEdge(t), newFakeEdge(t)
	c := start(t, old, nil)
	conn := old.accept()
	conn.welcome(&clientpb.Welcome{})
	p := c.post("a")
	conn.nextSend()
	conn.say(closing(proto.CodeShuttingDown, next.addr))
	conn.ended()
	moved := next.accept()
	moved.welcome(&clientpb.Welcome{})
	id, m := moved.nextSend()
	moved.say(stored(id, m, 1))
	if _, err := c.result(p); err != nil {
		t.Error(err)
	}
}

// What connecting again cannot mend ends Run; the rest does not.
func TestRefusedHello(t *testing.T) {
	for _, code := range []proto.Code{proto.CodeTokenExpired, proto.CodeBadToken, proto.CodeSessionEnded, proto.CodeBadVersion} {
		e := newFakeEdge(t)
		c := start(t, e, nil)
		conn := e.accept()
		conn.say(refusal(conn.next().Id, code))
		if err := c.runEnds(); proto.CodeOf(err) != code {
			t.Errorf("%s ended Run with %v", code, err)
		}
	}
	e := newFakeEdge(t)
	c := start(t, e, nil)
	conn := e.accept()
	conn.say(refusal(conn.next().Id, proto.CodeNotReady))
	e.accept().welcome(&clientpb.Welcome{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.WaitConnected(ctx); err != nil || c.User() != 17 || c.Transport() != Plain {
		t.Errorf("%v: user %s by %s", err, c.User(), c.Transport())
	}
}

func TestNoReconnectEndsWithTheConnection(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, func(cfg *Config) { cfg.NoReconnect = true })
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	_ = conn.conn.Close()
	if err := c.runEnds(); err == nil {
		t.Error("Run ended without an error")
	}
}

func TestOversizedFrameEndsTheConnection(t *testing.T) {
	e := newFakeEdge(t)
	start(t, e, nil)
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	if _, err := conn.conn.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	conn.ended()
	e.accept().welcome(&clientpb.Welcome{}) // and comes again
}

// Questions wait for the connection and are asked again after it broke.
func TestQuestionsSurviveReconnect(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	found := make(chan string, 1)
	go func() {
		_, name, err := c.FindUser(ctx, "bob")
		if err != nil {
			t.Error(err)
		}
		found <- name
	}()
	first := e.accept()
	first.welcome(&clientpb.Welcome{})
	first.next()
	_ = first.conn.Close()
	second := e.accept()
	second.welcome(&clientpb.Welcome{})
	f := second.next()
	second.say(&clientpb.ServerFrame{Id: f.Id, Body: &clientpb.ServerFrame_UserFound{UserFound: &clientpb.UserFound{User: 1, Name: "bob"}}})
	if name := receive(t, found); name != "bob" {
		t.Errorf("found %q", name)
	}
	// One that nobody waits for any more is forgotten.
	go func() {
		_, err := c.ShowUser(ctx, 1)
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		found <- ""
	}()
	second.next()
	cancel()
	receive(t, found)
	c.mu.Lock()
	left := len(c.requests)
	c.mu.Unlock()
	if left > 0 {
		t.Error("the question is still asked")
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	good := Config{Server: "localhost:1", Token: "t"}
	for name, change := range map[string]func(*Config){
		"no server":         func(c *Config) { c.Server = "" },
		"server, no port":   func(c *Config) { c.Server = "localhost" },
		"alternative":       func(c *Config) { c.Alternatives = []string{"x"} },
		"unknown transport": func(c *Config) { c.Transport = "pigeon" },
		"no token":          func(c *Config) { c.Token = "" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}
