package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// tokenFor is a token issued before now that is valid for so long from now.
func tokenFor(t *testing.T, before, left time.Duration) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	out, err := token.NewSigner(private).Sign(token.Claims{
		User: 17, Device: "phone", SessionNumber: 1, AuthorityVersion: 1, IssuedAt: now.Add(-before), ExpiresAt: now.Add(left),
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A session whose token is past half of its life goes on while refreshes
// fail, and the next Hello has the token that came in the end.
func TestARunningSessionIsNotDisturbedByRefreshing(t *testing.T) {
	e := newFakeEdge(t)
	old, fresh := tokenFor(t, 2*time.Hour, time.Hour), tokenFor(t, 0, 10*time.Hour)
	var calls atomic.Int32
	done := make(chan Tokens, 10)
	r := start(t, e, func(c *Config) {
		c.Token = old
		c.Refresh = func(_ context.Context, have Tokens) (Tokens, error) {
			if calls.Add(1) == 1 {
				return Tokens{}, errors.New("not now")
			}
			done <- have
			return Tokens{Token: fresh}, nil
		}
	})
	conn := e.accept()
	if h := conn.welcome(&clientpb.Welcome{}); h.Token != old {
		t.Error("another token than the one given")
	}
	if have := receive(t, done); have.Token != old {
		t.Errorf("refreshed with %v", have)
	}
	p := r.post("still here")
	id, m := conn.nextSend()
	conn.say(stored(id, m, 1))
	if _, err := r.result(p); err != nil {
		t.Error(err)
	}
	_ = conn.conn.Close()
	if h := e.accept().welcome(&clientpb.Welcome{}); h.Token != fresh {
		t.Error("the second Hello has the old token")
	}
}

// An expired token is refreshed before Hello, also when it is the server that
// says so.
func TestExpiredTokenIsRefreshedFirst(t *testing.T) {
	first, second := tokenFor(t, 0, 10*time.Hour), tokenFor(t, 0, 11*time.Hour)
	e := newFakeEdge(t)
	next := []string{first, second}
	start(t, e, func(c *Config) {
		c.Token = tokenFor(t, 2*time.Hour, -time.Hour)
		c.Refresh = func(context.Context, Tokens) (Tokens, error) {
			out := Tokens{Token: next[0]}
			next = next[1:]
			return out, nil
		}
	})
	conn := e.accept()
	f := conn.next()
	if f.GetHello().GetToken() != first {
		t.Fatal("Hello with the expired token")
	}
	conn.say(refusal(f.Id, proto.CodeTokenExpired))
	_ = conn.conn.Close()
	if h := e.accept().welcome(&clientpb.Welcome{}); h.Token != second {
		t.Error("the refused token was used again")
	}
}

func TestARefusedRefreshEndsOnlyAtHello(t *testing.T) {
	e := newFakeEdge(t)
	asked := make(chan struct{}, 10)
	r := start(t, e, func(c *Config) {
		c.Token = tokenFor(t, 2*time.Hour, time.Hour)
		c.Refresh = func(context.Context, Tokens) (Tokens, error) {
			asked <- struct{}{}
			return Tokens{}, proto.Errorf(proto.CodeSessionEnded, "over")
		}
	})
	conn := e.accept()
	conn.welcome(&clientpb.Welcome{})
	receive(t, asked)
	p := r.post("still here")
	id, m := conn.nextSend()
	conn.say(stored(id, m, 1))
	if _, err := r.result(p); err != nil {
		t.Error(err)
	}

	e = newFakeEdge(t)
	r = start(t, e, func(c *Config) {
		c.Token = tokenFor(t, 2*time.Hour, -time.Hour)
		c.Refresh = func(context.Context, Tokens) (Tokens, error) {
			return Tokens{}, proto.Errorf(proto.CodeSessionEnded, "over")
		}
	})
	if err := r.runEnds(); proto.CodeOf(err) != proto.CodeSessionEnded {
		t.Errorf("ended with %v", err)
	}
}

// A clock that is hours ahead makes no client ask again and again.
func TestAWrongClockRefreshesOnce(t *testing.T) {
	e := newFakeEdge(t)
	var calls atomic.Int32
	r := start(t, e, func(c *Config) {
		c.Token = tokenFor(t, 3*time.Hour, -2*time.Hour)
		c.Refresh = func(context.Context, Tokens) (Tokens, error) {
			calls.Add(1)
			return Tokens{Token: tokenFor(t, 2*time.Hour, -time.Hour)}, nil // as a server behind us makes it
		}
	})
	for range 3 {
		conn := e.accept()
		conn.welcome(&clientpb.Welcome{ServerTimeMs: time.Now().Add(-2 * time.Hour).UnixMilli()})
		p := r.post("hello")
		id, m := conn.nextSend()
		conn.say(stored(id, m, 1))
		if _, err := r.result(p); err != nil {
			t.Error(err)
		}
		_ = conn.conn.Close()
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("refreshed %d times", n)
	}
}
