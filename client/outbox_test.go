package client

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func TestOutboxKeepsOrderAndNamesThePrevious(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, nil)
	var pending []*Pending
	for i := range 5 {
		pending = append(pending, c.post(fmt.Sprint("text ", i)))
	}
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	var after []byte
	var answers []*clientpb.ServerFrame
	for i := range 5 {
		id, m := conn.nextSend()
		if m.Text.Text != fmt.Sprint("text ", i) || !bytes.Equal(m.After, after) {
			t.Errorf("message %d is %q after %x, want after %x", i, m.Text.Text, m.After, after)
		}
		after = m.ClientMsgId
		answers = append(answers, stored(id, m, uint64(i+1)))
	}
	if n := c.Unacknowledged(); n != 5 {
		t.Errorf("%d unacknowledged", n)
	}
	conn.say(refusal(999, proto.CodeOverloaded)) // the answer to nothing
	conn.say(answers...)
	for i, p := range pending {
		if sent, err := c.result(p); err != nil || sent.Seq != proto.Seq(i+1) {
			t.Errorf("message %d: %v, %v", i, sent, err)
		}
	}
}

func TestAnswersEndTheWaitWhateverTheirOrder(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, nil)
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	a, b := c.post("a"), c.post("b")
	idA, sendA := conn.nextSend()
	idB, sendB := conn.nextSend()
	conn.say(stored(idB, sendB, 2), stored(idA, sendA, 1))
	for i, p := range []*Pending{a, b} {
		sent, err := c.result(p)
		if err != nil || sent.Seq != proto.Seq(i+1) || sent.Thread != thread {
			t.Errorf("%v, %v, want seq %d", sent, err, i+1)
		}
	}
	// Nothing is unanswered, so nothing is named.
	c.post("c")
	if _, m := conn.nextSend(); m.After != nil {
		t.Errorf("after an acknowledged message: %x", m.After)
	}
}

// After a reconnect what is unanswered goes out again under the same ids, in
// the same order.
func TestOutboxSurvivesReconnect(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, nil)
	first := e.accept()
	first.welcome(&clientpb.Welcome{})
	a, b := c.post("a"), c.post("b")
	_, sendA := first.nextSend()
	_, sendB := first.nextSend()
	_ = first.conn.Close()
	second := e.accept()
	second.welcome(&clientpb.Welcome{})
	idA, againA := second.nextSend()
	idB, againB := second.nextSend()
	if !bytes.Equal(againA.ClientMsgId, sendA.ClientMsgId) || !bytes.Equal(againB.ClientMsgId, sendB.ClientMsgId) ||
		!bytes.Equal(againB.After, sendA.ClientMsgId) {
		t.Error("sent again under other ids or in another order")
	}
	second.say(stored(idA, againA, 1), stored(idB, againB, 2))
	for _, p := range []*Pending{a, b} {
		if _, err := c.result(p); err != nil {
			t.Error(err)
		}
	}
}

// "Retry later" holds the thread's later messages back, not other threads'.
func TestRetryLaterKeepsTheOrder(t *testing.T) {
	e := newFakeEdge(t)
	c, got := watching(t, e, nil)
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	a := c.post("a")
	idA, sendA := conn.nextSend()
	refused := time.Now()
	conn.say(refusal(idA, proto.CodeOverloaded), updates(1))
	wantPts(t, got, 1) // so the refusal has been taken
	b := c.post("b")
	other, err := c.Post("d/17/5000", "other")
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for range 3 {
		id, m := conn.nextSend()
		order = append(order, m.Text.Text)
		if m.Text.Text == "a" {
			if waited := time.Since(refused); waited < proto.Errorf(proto.CodeOverloaded, "").Retry {
				t.Errorf("sent again after %v", waited)
			}
			if !bytes.Equal(m.ClientMsgId, sendA.ClientMsgId) {
				t.Error("sent again under another id")
			}
		}
		conn.say(stored(id, m, 1))
	}
	if s := strings.Join(order, " "); s != "other a b" && s != "a b other" && s != "a other b" {
		t.Errorf("sent in the order %s", s)
	}
	for _, p := range []*Pending{a, b, other} {
		if _, err := c.result(p); err != nil {
			t.Error(err)
		}
	}
}

// unanswered is the number of messages on the wire.
func (r *running) unanswered() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.outbox {
		if p.inFlight != 0 {
			n++
		}
	}
	return n
}

// A thread of which a message was refused is tried with that message alone, and
// then with more and more.
func TestARefusedThreadComesBackSlowly(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, nil)
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	const messages = 8
	var all []*Pending
	for i := range messages {
		all = append(all, c.post(fmt.Sprint(i)))
	}
	for range messages {
		id, _ := conn.nextSend()
		conn.say(refusal(id, proto.CodeOverloaded))
	}
	next := 0
	for allowed := 1; next < messages; allowed++ {
		ids, sends := map[int]uint64{}, map[int]*clientpb.SendMessage{}
		first := next
		for ; next < min(first+allowed, messages); next++ {
			ids[next], sends[next] = conn.nextSend()
			if text := sends[next].Text.Text; text != fmt.Sprint(next) {
				t.Fatalf("message %s is sent where %d was due", text, next)
			}
		}
		if n := c.unanswered(); n > allowed {
			t.Errorf("%d are unanswered where %d are allowed", n, allowed)
		}
		for i := first; i < next; i++ {
			conn.say(stored(ids[i], sends[i], uint64(i+1)))
		}
	}
	for i, p := range all {
		if _, err := c.result(p); err != nil || p.Refusals() != 1 || p.Took() <= 0 {
			t.Errorf("message %d: %v, refused %d times, took %s", i, err, p.Refusals(), p.Took())
		}
	}
	if c.mu.Lock(); len(c.pace) > 0 {
		t.Errorf("the pace of %v is kept", c.pace)
	}
	c.mu.Unlock()
}

func TestGiveUpEndsOnlyThatMessage(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, nil)
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	a, b := c.post("a"), c.post("b")
	idA, _ := conn.nextSend()
	idB, _ := conn.nextSend()
	// b named a, which will never come: the server cannot know b's place yet.
	conn.say(refusal(idA, proto.CodeNotMember), refusal(idB, proto.CodeAfterUnknown))
	if _, err := c.result(a); proto.CodeOf(err) != proto.CodeNotMember {
		t.Errorf("refused, and the program was told %v", err)
	}
	id, m := conn.nextSend()
	if m.Text.Text != "b" || m.After != nil {
		t.Errorf("sent %q after %x", m.Text.Text, m.After)
	}
	conn.say(stored(id, m, 1))
	if _, err := c.result(b); err != nil {
		t.Error(err)
	}
}

func TestWindowBoundsWhatIsUnanswered(t *testing.T) {
	for name, size := range map[string]int{"messages": 1, "bytes": proto.TextBytesMax} {
		t.Run(name, func(t *testing.T) {
			e := newFakeEdge(t)
			c := start(t, e, nil)
			conn := e.accept()
			conn.welcome(&clientpb.Welcome{})
			want := min(windowMessages, (windowBytes+size-1)/size)
			for range want + 10 {
				c.post(strings.Repeat("x", size))
			}
			for range want {
				conn.nextSend()
			}
			// A question is not held back, so it tells that no message came.
			ctx := t.Context()
			asked := make(chan error, 1)
			go func() {
				_, _, err := c.FindUser(ctx, "bob")
				asked <- err
			}()
			f := conn.next()
			if f.GetFindUser() == nil {
				t.Fatalf("more than %d messages are unanswered: %v", want, f)
			}
			conn.say(&clientpb.ServerFrame{Id: f.Id, Body: &clientpb.ServerFrame_UserFound{UserFound: &clientpb.UserFound{User: 4242, Name: "bob"}}})
			if err := receive(t, asked); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFullOutboxRefuses(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, func(cfg *Config) { cfg.OutboxMax = 2 })
	a, b := c.post("a"), c.post("b")
	if _, err := c.Post(thread, "c"); !errors.Is(err, ErrOutboxFull) {
		t.Error(err)
	}
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	id, m := conn.nextSend()
	conn.say(stored(id, m, 1))
	if _, err := c.result(a); err != nil {
		t.Error(err)
	}
	c.post("c")
	// What is unanswered at the end fails; it may have been stored.
	conn.say(closing(proto.CodeDisplaced))
	if err := c.runEnds(); proto.CodeOf(err) != proto.CodeDisplaced {
		t.Error(err)
	}
	if _, err := c.result(b); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := c.Post(thread, "d"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// Ids are of the server's time, whatever the clock here says.
func TestMessageIDsAreOfTheServersTime(t *testing.T) {
	e := newFakeEdge(t)
	c := start(t, e, nil)
	conn := e.accept()
	server := time.Now().Add(1000 * time.Hour)
	conn.welcome(&clientpb.Welcome{ServerTimeMs: server.UnixMilli()})
	c.post("a")
	_, m := conn.nextSend()
	if off := proto.ClientMsgID(m.ClientMsgId).Time().Sub(server); off < -time.Minute || off > time.Minute {
		t.Errorf("the id's time is %v off the server's", off)
	}
}
