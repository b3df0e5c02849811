package cellclient

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waggle-im/waggle/sharding"
)

// A range that was opened a moment ago is found when its route comes; one that
// nobody opened is not, after a while.
func TestAwaitRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var routes atomic.Pointer[sharding.Map]
		routes.Store(sharding.New([]sharding.Route{{Range: 1, Cell: "c1", Epoch: 1}}))
		start := time.Now()
		if route, ok := AwaitRoute(t.Context(), routes.Load, 1); !ok || route.Cell != "c1" || time.Since(start) != 0 {
			t.Errorf("what is known: %v, %v, after %v", route, ok, time.Since(start))
		}

		time.AfterFunc(RouteWait/2, func() {
			routes.Store(routes.Load().With(sharding.Route{Range: 2, Cell: "c2", Epoch: 1}))
		})
		if route, ok := AwaitRoute(t.Context(), routes.Load, 2); !ok || route.Cell != "c2" {
			t.Errorf("what is opened meanwhile: %v, %v", route, ok)
		}
		if late := time.Since(start) - RouteWait/2; late > RouteLook {
			t.Errorf("it is seen %v after it came", late)
		}

		start = time.Now()
		if route, ok := AwaitRoute(t.Context(), routes.Load, 3); ok || time.Since(start) != RouteWait {
			t.Errorf("what nobody opens: %v, %v, after %v", route, ok, time.Since(start))
		}

		ctx, cancel := context.WithTimeout(t.Context(), RouteWait/4)
		defer cancel()
		start = time.Now()
		if _, ok := AwaitRoute(ctx, routes.Load, 3); ok || time.Since(start) != RouteWait/4 {
			t.Errorf("until nobody waits: %v, after %v", ok, time.Since(start))
		}
	})
}
