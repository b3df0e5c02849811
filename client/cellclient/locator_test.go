package cellclient

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/sharding"
)

func TestLocatorAsksTheCellAndRemembers(t *testing.T) {
	c := newFakeCluster(t)
	n1, n2 := c.node("n1", "c1"), c.node("n2", "c1")
	c.publish(sharding.Route{Range: 7, Cell: "c1", Epoch: 3, Nodes: []proto.NodeID{"n1"}})
	// n1 knows nothing, n2 knows: each is asked once.
	n2.says(route(7, 3, "n2"))
	var wg sync.WaitGroup
	for range 20 { // questions about one range are joined
		wg.Go(func() {
			target, err := c.locator.Host(within(t), 7)
			if want := (Target{"n2", "c1", 3}); err != nil || target != want {
				t.Errorf("%v, %v, want %v", target, err, want)
			}
		})
	}
	wg.Wait()
	if _, err := c.locator.Host(within(t), 7); err != nil || n1.timesAsked() > 1 || n2.timesAsked() != 1 {
		t.Errorf("%v; n1 was asked %d times, n2 %d times", err, n1.timesAsked(), n2.timesAsked())
	}
	c.locator.Forget(7, "n1") // not believed to be the host
	if _, ok := c.locator.Cached(7); !ok {
		t.Error("forgetting another node forgot the host")
	}
	c.locator.Forget(7, "n2")
	if _, ok := c.locator.Cached(7); ok {
		t.Error("the host was not forgotten")
	}
}

// A node that does not answer holds nobody up: the next one is asked beside it.
func TestLocatorAsksTheNextBesideASilentNode(t *testing.T) {
	c := newFakeCluster(t)
	n1, n2 := c.node("n1", "c1"), c.node("n2", "c1")
	var givenUp atomic.Bool
	n1.hold = func(ctx context.Context) {
		<-ctx.Done()
		givenUp.Store(true)
	}
	n2.hold = func(context.Context) {
		if givenUp.Load() {
			t.Error("the next node was asked when the silent one had been given up")
		}
	}
	n2.says(route(7, 3, "n2"))
	c.publish(sharding.Route{Range: 7, Cell: "c1", Epoch: 3, Nodes: []proto.NodeID{"n1"}})
	if target, err := c.locator.Host(within(t), 7); err != nil || target.Node != "n2" {
		t.Errorf("%v, %v", target, err)
	}
}

func TestLocatorLearnsOnlyForward(t *testing.T) {
	c := newFakeCluster(t)
	l := c.locator
	c.publish(sharding.Route{Range: 7, Cell: "c1", Epoch: 3})
	host := func() proto.NodeID {
		target, _ := l.Cached(7)
		return target.Node
	}
	l.Learn(nil)
	l.Learn(route(7, 0, "n0"))
	if host() != "" {
		t.Error("learnt from nothing")
	}
	l.Learn(route(7, 2, "n2"))
	if host() != "" {
		t.Error("learnt an older route than the published one")
	}
	l.Learn(route(7, 3, "n3"))
	if host() != "n3" {
		t.Errorf("at the published epoch the host is %q", host())
	}
	l.Learn(route(7, 2, "n2"))
	if host() != "n3" {
		t.Errorf("an older route replaced the host by %q", host())
	}
	l.Learn(route(7, 4, "", "n8", "n9")) // moved; the new host is not known
	if r, _ := l.Route(7); r.Epoch != 4 || len(r.Nodes) != 2 || host() != "" {
		t.Errorf("after a newer route: %v, host %q", r, host())
	}
	l.Learn(route(7, 4, "n9"))
	c.publish(sharding.Route{Range: 7, Cell: "c1", Epoch: 4})
	if host() != "n9" {
		t.Error("publishing what was learnt forgot the host")
	}
	c.publish(sharding.Route{Range: 7, Cell: "c2", Epoch: 5})
	if r, _ := l.Route(7); r.Cell != "c2" || host() != "" {
		t.Errorf("after a newer published route: %v, host %q", r, host())
	}
}

func TestLocatorSaysWhyNobodyIsFound(t *testing.T) {
	c := newFakeCluster(t)
	n := c.node("n1", "c1")
	if _, err := c.locator.Host(within(t), 9); proto.CodeOf(err) != proto.CodeNotReady {
		t.Errorf("a range without route: %v", err)
	}
	c.publish(sharding.Route{Range: 9, Cell: "c1", Epoch: 3})
	for _, answer := range []uint64{0, 2} { // knows nothing; knows an earlier owner
		if answer > 0 {
			n.says(route(9, answer, "n1"))
		}
		if _, err := c.locator.Host(within(t), 9); proto.CodeOf(err) != proto.CodeNotReady {
			t.Errorf("nobody hosts: %v", err)
		}
	}
	n.says(route(9, 3, "n1"))
	if target, err := c.locator.Host(within(t), 9); err != nil || target.Node != "n1" {
		t.Errorf("%v, %v", target, err)
	}
}

func TestDialerNeedsAnAddress(t *testing.T) {
	c := newFakeCluster(t)
	if _, err := c.dialer.Conn("n1"); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Error(err)
	}
	c.node("n1", "c1")
	first, err := c.dialer.Conn("n1")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := c.dialer.Conn("n1"); again != first {
		t.Error("a second connection was made")
	}
	c.node("n1", "c1") // at another address
	if moved, _ := c.dialer.Conn("n1"); moved == first {
		t.Error("the node has moved, its connection has not")
	}
	if err := c.dialer.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.dialer.Conn("n1"); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("after Close: %v", err)
	}
}
