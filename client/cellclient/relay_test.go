package cellclient

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

func (c *fakeCluster) relay(local LocalHosts) *Relay {
	r := NewRelay("me", c.dialer, c.locator, local)
	c.t.Cleanup(r.Close)
	return r
}

// hosted publishes range 7 and tells the locator who hosts it.
func (c *fakeCluster) hosted(epoch uint64, host string) {
	c.publish(sharding.Route{Range: 7, Cell: "c1", Epoch: proto.Epoch(epoch)})
	c.locator.Learn(route(7, epoch, host))
}

func wantUser(t *testing.T, reply *cellpb.RelayReply, err error, user uint64) {
	t.Helper()
	if err != nil || reply.GetUser().GetUser() != user {
		t.Errorf("answered %v, %v, want user %d", reply, err, user)
	}
}

func TestRelayKeepsOrder(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	c.hosted(3, "n1")
	r := c.relay(nil)
	const calls = 3000
	var wg sync.WaitGroup
	for i := range uint64(calls) {
		wg.Add(1)
		r.Go(7, readUser(i), patience, func(reply *cellpb.RelayReply, err error) {
			defer wg.Done()
			wantUser(t, reply, err, i)
		})
	}
	wg.Wait()
	for i := range uint64(calls) {
		if req := <-n.got; req.GetReadUser().User != i || req.Range != 7 || req.Epoch != 3 {
			t.Fatalf("request %d is %v", i, req)
		}
	}
}

// Calls made while nobody knows the host wait for one look-up and go on in
// order.
func TestRelayKeepsOrderWhileLooking(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	c.publish(sharding.Route{Range: 7, Cell: "c1", Epoch: 3, Nodes: []proto.NodeID{"n1"}})
	n.says(route(7, 3, "n1"))
	r := c.relay(nil)
	const calls = 3000
	var wg sync.WaitGroup
	for i := range uint64(calls) {
		wg.Add(1)
		r.Go(7, readUser(i), patience, func(reply *cellpb.RelayReply, err error) {
			defer wg.Done()
			wantUser(t, reply, err, i)
		})
	}
	wg.Wait()
	for i := range uint64(calls) {
		if req := <-n.got; req.GetReadUser().User != i {
			t.Fatalf("request %d is %v", i, req)
		}
	}
	if asked := n.timesAsked(); asked != 1 {
		t.Errorf("the node was asked %d times who hosts", asked)
	}
}

func TestRelayGoesWhereItIsSent(t *testing.T) {
	c := newFakeCluster(t)
	n1, n2 := c.node("n1", "c1"), c.node("n2", "c1")
	c.hosted(3, "n1")
	n1.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		return refused(req, proto.CodeStaleEpoch, route(7, 4, "n2")), nil
	})
	reply, err := c.relay(nil).Do(within(t), 7, readUser(5))
	wantUser(t, reply, err, 5)
	if req := <-n2.got; req.Epoch != 4 {
		t.Errorf("the new host was asked at epoch %d", req.Epoch)
	}
}

// A host that refuses without knowing better is not asked again before the
// cell was asked who hosts.
func TestRelayAsksWhoHostsAfterABareRefusal(t *testing.T) {
	c := newFakeCluster(t)
	n1, n2 := c.node("n1", "c1"), c.node("n2", "c1")
	c.hosted(3, "n1")
	n1.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		return refused(req, proto.CodeNotHost, nil), nil
	})
	n1.says(route(7, 3, "n2"))
	reply, err := c.relay(nil).Do(within(t), 7, readUser(5))
	wantUser(t, reply, err, 5)
	if len(n1.got) != 1 || len(n2.got) != 1 {
		t.Errorf("n1 was asked %d times, n2 %d times", len(n1.got), len(n2.got))
	}
}

func TestRelayRepeatsWhatIsNotReady(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	c.hosted(3, "n1")
	tries := 0
	n.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		if tries++; tries < 4 {
			return refused(req, proto.CodeNotReady, nil), nil
		}
		return done(req), nil
	})
	reply, err := c.relay(nil).Do(within(t), 7, readUser(5))
	wantUser(t, reply, err, 5)
}

func TestRelayPassesOtherRefusalsOn(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	c.hosted(3, "n1")
	for _, code := range []proto.Code{proto.CodeNotMember, proto.CodeAfterUnknown, proto.CodeOverloaded} {
		n.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
			return &cellpb.RelayReply{Id: req.Id, Body: &cellpb.RelayReply_Result{Result: &cellpb.Result{Code: uint32(code), Message: "no"}}}, nil
		})
		if _, err := c.relay(nil).Do(within(t), 7, readUser(5)); proto.CodeOf(err) != code || err.Error() != "no" {
			t.Errorf("%s came back as %v", code, err)
		}
		if <-n.got; len(n.got) > 0 {
			t.Errorf("%s was asked again", code)
		}
	}
}

// The host takes the request and is silent: after an attempt's time it is
// asked again, and the late first answer is not taken for another's.
func TestRelayRepeatsAfterALostAnswer(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	n.says(route(7, 3, "n1"))
	c.hosted(3, "n1")
	lost := true
	n.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		if lost {
			lost = false
			return nil, nil
		}
		return done(req), nil
	})
	start := time.Now()
	reply, err := c.relay(nil).Do(within(t), 7, readUser(5))
	wantUser(t, reply, err, 5)
	if waited := time.Since(start); waited < relayAttempt {
		t.Errorf("repeated after %v, an attempt has %v", waited, relayAttempt)
	}
}

func TestRelayRepeatsAfterTheStreamBroke(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	n.says(route(7, 3, "n1"))
	c.hosted(3, "n1")
	breaks := 3
	n.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		if breaks--; breaks >= 0 {
			return nil, errors.New("broken")
		}
		return done(req), nil
	})
	r := c.relay(nil)
	var wg sync.WaitGroup
	for i := range uint64(50) {
		wg.Add(1)
		r.Go(7, readUser(i), patience, func(reply *cellpb.RelayReply, err error) {
			defer wg.Done()
			wantUser(t, reply, err, i)
		})
	}
	wg.Wait()
}

func TestRelayGivesUpInTime(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	c.hosted(3, "n1")
	n.says(route(7, 3, "n1"))
	n.answers(func(*cellpb.RelayRequest) (*cellpb.RelayReply, error) { return nil, nil })
	r := c.relay(nil)
	for name, rng := range map[string]proto.RangeID{"a silent host": 7, "a range without route": 99} {
		failed := make(chan error, 1)
		r.Go(rng, readUser(1), 100*time.Millisecond, func(_ *cellpb.RelayReply, err error) { failed <- err })
		select {
		case err := <-failed:
			if code := proto.CodeOf(err); code != proto.CodeUnavailable && code != proto.CodeNotReady {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			t.Fatalf("%s: never given up", name)
		}
	}
}

// Calls that wait, are under way or are made later fail when it is closed.
func TestRelayCloseFailsEveryCall(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	c.hosted(3, "n1")
	n.answers(func(*cellpb.RelayRequest) (*cellpb.RelayReply, error) { return nil, nil })
	r := c.relay(nil)
	failed := make(chan error, 3)
	fail := func(_ *cellpb.RelayReply, err error) { failed <- err }
	r.Go(7, readUser(1), patience, fail)  // unanswered
	r.Go(99, readUser(1), patience, fail) // between two attempts
	<-n.got
	r.Close()
	r.Go(7, readUser(1), patience, fail)
	for range 3 {
		select {
		case err := <-failed:
			if err == nil {
				t.Error("a call succeeded")
			}
		case <-time.After(patience):
			t.Fatal("a call was never ended")
		}
	}
}

type localHosts struct{ replies []*cellpb.RelayReply }

func (l *localHosts) Relay(req *cellpb.RelayRequest, answer func(*cellpb.RelayReply)) {
	reply := done(req)
	if len(l.replies) > 0 {
		reply, l.replies = l.replies[0], l.replies[1:]
	}
	answer(reply)
}

func TestRelayToOurselvesNeedsNoStream(t *testing.T) {
	c := newFakeCluster(t) // has no address of "me"
	c.hosted(3, "me")
	reply, err := c.relay(new(localHosts)).Do(within(t), 7, readUser(5))
	wantUser(t, reply, err, 5)
}

func TestRelayLeavesUsWhenWeHostNoMore(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	c.hosted(3, "me")
	local := &localHosts{replies: []*cellpb.RelayReply{refused(readUser(5), proto.CodeNotHost, route(7, 3, "n1"))}}
	reply, err := c.relay(local).Do(within(t), 7, readUser(5))
	wantUser(t, reply, err, 5)
	if len(n.got) != 1 {
		t.Errorf("the other host was asked %d times", len(n.got))
	}
}
