package cellclient

import (
	"context"
	"time"

	"github.com/waggle-im/waggle/proto"
	"github.com/waggle-im/waggle/sharding"
)

const (
	// RouteWait is how long a range that is not in the route map is waited for
	// before its users are said not to exist: ranges are opened while people
	// register, and who registers in a new one may be written to before every
	// node has heard of it. What etcd tells is there within milliseconds; nodes
	// that all start at once on a busy machine take longer.
	RouteWait = 2 * time.Second
	// RouteLook is the time between two looks.
	RouteLook = 20 * time.Millisecond
)

// AwaitRoute is the route of r in the newest map that routes gives, and whether
// there was one before ctx ended or [RouteWait] had passed.
func AwaitRoute(ctx context.Context, routes func() *sharding.Map, r proto.RangeID) (sharding.Route, bool) {
	route, ok := routes().Lookup(r)
	if ok {
		return route, true
	}
	ctx, cancel := context.WithTimeout(ctx, RouteWait)
	defer cancel()
	look := time.NewTicker(RouteLook)
	defer look.Stop()
	for !ok && ctx.Err() == nil {
		select {
		case <-look.C:
		case <-ctx.Done():
		}
		route, ok = routes().Lookup(r)
	}
	return route, ok
}
