package client

import (
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// A dropped connection ends without a goodbye, and the client comes back with
// what it had not sent.
func TestDropBreaksAndComesBack(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, nil)
	first := e.accept()
	first.welcome(&clientpb.Welcome{})
	p := c.post("a")
	_, sent := first.nextSend()
	c.Drop()
	for {
		f, err := first.read()
		if err != nil {
			break
		}
		if f.GetLogout() != nil {
			t.Error("a dropped connection says goodbye")
		}
	}
	second := e.accept()
	second.welcome(&clientpb.Welcome{})
	id, again := second.nextSend()
	if string(again.ClientMsgId) != string(sent.ClientMsgId) {
		t.Error("sent again under another id")
	}
	second.say(stored(id, again, 1))
	if _, err := c.result(p); err != nil {
		t.Error(err)
	}
}

func TestDropWithoutConnection(t *testing.T) {
	c, err := New(Config{Server: "127.0.0.1:1", Token: "t", Device: "d"})
	if err != nil {
		t.Fatal(err)
	}
	c.Drop()
}

// OnRefused is told what Result hides: refusals after which a message is sent
// again.
func TestOnRefused(t *testing.T) {
	e := newFakeEdge(t)
	refused := make(chan *proto.Error, 10)
	c := start(t, e, func(cfg *Config) { cfg.OnRefused = func(err *proto.Error) { refused <- err } })
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	p := c.post("a")
	id, _ := conn.nextSend()
	conn.say(refusal(id, proto.CodeOverloaded))
	select {
	case err := <-refused:
		if err.Code != proto.CodeOverloaded {
			t.Errorf("told of %v", err)
		}
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	id, m := conn.nextSend()
	conn.say(stored(id, m, 1))
	if _, err := c.result(p); err != nil {
		t.Error(err)
	}
	if len(refused) > 0 {
		t.Error("told of more than one refusal")
	}
}
