package client

import (
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// TestNextSends: what waits holds back its thread and nothing else, and the first
// time at which something may go out is told.
func TestNextSends(t *testing.T) {
	c := &Client{cfg: Config{OutboxMax: 100}, threads: map[string]int{}, pace: map[string]pace{}, wake: make(chan struct{}, 1)}
	conn := &connection{sends: map[uint64]*Pending{}}
	now := time.Now()
	post := func(thread, text string) *Pending {
		t.Helper()
		p, err := c.Post(thread, text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	next := func(again time.Time, want ...string) {
		t.Helper()
		c.mu.Lock()
		defer c.mu.Unlock()
		out, at := c.nextSends(conn, now)
		var got []string
		for _, f := range out {
			got = append(got, f.GetSendMessage().GetText().GetText())
		}
		if len(got) != len(want) || !at.Equal(again) {
			t.Fatalf("sends %v, again at %v; want %v at %v", got, at, want, again)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("sends %v, want %v", got, want)
			}
		}
	}
	answer := func(p *Pending, body *clientpb.ServerFrame) {
		t.Helper()
		c.mu.Lock()
		defer c.mu.Unlock()
		body.Id = p.inFlight
		c.sendAnswered(conn, p, body)
	}
	never := time.Time{}
	a1, a2 := post("a", "a1"), post("a", "a2")
	next(never, "a1", "a2")
	next(never) // all is on its way
	b1 := post("b", "b1")
	next(never, "b1")
	for _, p := range []*Pending{a1, a2} {
		answer(p, &clientpb.ServerFrame{Body: &clientpb.ServerFrame_Error{Error: &clientpb.Error{Code: uint32(proto.CodeOverloaded), RetryMs: 60_000}}})
	}
	next(a1.notTill)
	b2 := post("b", "b2")
	next(a1.notTill, "b2") // beside the thread that waits
	answer(b1, &clientpb.ServerFrame{Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{}}})
	answer(b2, &clientpb.ServerFrame{Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{}}})
	if len(c.threads) != 1 || c.threads["a"] != 2 {
		t.Errorf("threads of the outbox: %v", c.threads)
	}
	next(a1.notTill) // all threads wait
	now = a2.notTill.Add(time.Second)
	next(never, "a1") // alone, for its thread was refused
	answer(a1, &clientpb.ServerFrame{Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{}}})
	next(never, "a2")
	answer(a2, &clientpb.ServerFrame{Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{}}})
	if len(c.threads)+len(c.pace)+len(c.outbox) != 0 {
		t.Errorf("left behind: %v, %v, %d messages", c.threads, c.pace, len(c.outbox))
	}
}
