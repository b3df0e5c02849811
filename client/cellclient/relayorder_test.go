package cellclient

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// calls makes calls number from … until-1 to range 7, each of which must
// succeed, and returns what waits for them.
func calls(t *testing.T, r *Relay, from, until uint64) (wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	for i := from; i < until; i++ {
		wg.Add(1)
		r.Go(7, readUser(i), patience, func(reply *cellpb.RelayReply, err error) {
			defer wg.Done()
			wantUser(t, reply, err, i)
		})
	}
	return wg.Wait
}

// arrived is the users asked for by what has reached a node.
func (n *fakeNode) arrived() []uint64 {
	var out []uint64
	for len(n.got) > 0 {
		out = append(out, (<-n.got).GetReadUser().GetUser())
	}
	return out
}

func wantInOrder(t *testing.T, got []uint64, from, until uint64) {
	t.Helper()
	for i, n := range got {
		if n != from+uint64(i) {
			t.Fatalf("request %d of the new host is %d: %v", i, n, got)
		}
	}
	if uint64(len(got)) != until-from {
		t.Errorf("%d requests arrived, want %d", len(got), until-from)
	}
}

// Calls that a former host still has are sent to the next one ahead of those
// made later, and what the former one says then of its own is not heard.
func TestRelayKeepsOrderWhenTheRangeMoves(t *testing.T) {
	c := newFakeCluster(t)
	n1, n2 := c.node("n1", "c1"), c.node("n2", "c1")
	c.hosted(3, "n1")
	moved := make(chan struct{})
	n1.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		<-moved
		return refused(req, proto.CodeNotMember, nil), nil
	})
	n2.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		if req.GetReadUser().User == 0 {
			close(moved)
			time.Sleep(50 * time.Millisecond) // for the former host's word
		}
		return done(req), nil
	})
	r := c.relay(nil)
	before := calls(t, r, 0, 20)
	<-n1.got
	c.hosted(4, "n2")
	after := calls(t, r, 20, 40)
	before()
	after()
	wantInOrder(t, n2.arrived(), 0, 40)
}

// What is refused goes ahead of what is called while the next host is looked
// for.
func TestRelayKeepsOrderAfterARefusal(t *testing.T) {
	c := newFakeCluster(t)
	n1, n2 := c.node("n1", "c1"), c.node("n2", "c1")
	c.hosted(3, "n1")
	r := c.relay(nil)
	later := make(chan func(), 1)
	n1.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		if req.GetReadUser().User == 19 {
			n1.says(route(7, 4, "n2"))
			later <- calls(t, r, 20, 40)
		}
		return refused(req, proto.CodeNotHost, nil), nil
	})
	before := calls(t, r, 0, 20)
	(<-later)()
	before()
	wantInOrder(t, n2.arrived(), 0, 40)
}

func TestRelayKeepsOrderAfterTheStreamBroke(t *testing.T) {
	c := newFakeCluster(t)
	n1, n2 := c.node("n1", "c1"), c.node("n2", "c1")
	c.hosted(3, "n1")
	n2.says(route(7, 3, "n2"))
	n1.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		if req.GetReadUser().User < 30 {
			return nil, nil // taken, and never answered
		}
		return nil, errors.New("broken")
	})
	calls(t, c.relay(nil), 0, 40)()
	wantInOrder(t, n2.arrived(), 0, 40)
}

// "The previous message has not arrived yet" is no answer for the caller while
// that message may be on its way here.
func TestRelayRepeatsWhatCameBeforeItsPredecessor(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	c.hosted(3, "n1")
	tries := map[uint64]int{}
	n.answers(func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
		user := req.GetReadUser().User
		tries[user]++
		switch {
		case user == 0 && tries[0] == 1:
			return refused(req, proto.CodeNotReady, nil), nil
		case user == 1 && tries[0] < 2:
			return refused(req, proto.CodeAfterUnknown, nil), nil
		}
		return done(req), nil
	})
	calls(t, c.relay(nil), 0, 2)()
	if tries[0] != 2 || tries[1] < 2 {
		t.Errorf("sent %v times", tries)
	}
}
