package chat

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/sharding"
)

// growingDirectory is a [nowhereDirectory] that hears of more ranges.
type growingDirectory struct {
	nowhereDirectory
	now atomic.Pointer[sharding.Map]
}

func (d *growingDirectory) Routes() *sharding.Map { return d.now.Load() }

// Who registers in a range that was opened a moment ago exists, also for a host
// that has not heard of the range yet. It used to refuse messages to him.
func TestUserOfARangeJustOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := new(growingDirectory)
		dir.now.Store(sharding.New([]sharding.Route{{Range: 1, Cell: "c1", Epoch: 1}}))
		h := &host{
			s:     &Service{cfg: Config{Locator: cellclient.NewLocator(dir, nil)}},
			shard: &shard{wake: make(chan struct{}, 1)}, rng: 1,
		}
		box := func() []func() {
			h.shard.mu.Lock()
			defer h.shard.mu.Unlock()
			defer func() { h.shard.box = nil }()
			return h.shard.box
		}
		wait := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				time.Sleep(cellclient.RouteLook)
				synctest.Wait()
				for _, f := range box() {
					f()
				}
			}
		}

		exists := make(chan bool, 1)
		h.routed(2, func(yes bool) { exists <- yes })
		wait(cellclient.RouteWait / 2)
		if len(exists) != 0 {
			t.Fatalf("range 2 is decided on before it can have been heard of: %v", <-exists)
		}
		dir.now.Store(dir.now.Load().With(sharding.Route{Range: 2, Cell: "c2", Epoch: 1}))
		wait(2 * cellclient.RouteLook)
		if len(exists) != 1 || !<-exists {
			t.Fatal("range 2 is not seen")
		}

		var refused *proto.Error
		h.readUser(3<<12, func(_ *cellpb.UserInfo, err *proto.Error) { refused = err })
		if wait(cellclient.RouteWait / 2); refused != nil {
			t.Fatalf("a user of range 3 is refused at once: %v", refused)
		}
		if wait(cellclient.RouteWait); refused == nil || refused.Code != proto.CodeUnknownUser {
			t.Fatalf("a user of a range that nobody opened: %v", refused)
		}

		refused = nil
		ses := &session{host: h, user: &hostedUser{id: 4096}}
		ses.findByID(3<<12, func(_ *clientpb.Card, err *proto.Error) { refused = err })
		if wait(cellclient.RouteWait / 2); refused != nil {
			t.Fatalf("somebody of range 3 is not found, at once: %v", refused)
		}
		if wait(cellclient.RouteWait); refused == nil || refused.Code != proto.CodeUnknownUser {
			t.Fatalf("looking for somebody of a range that nobody opened: %v", refused)
		}
	})
}
