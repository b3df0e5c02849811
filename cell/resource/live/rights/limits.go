package rights

import (
	"sync"

	"golang.org/x/time/rate"

	"github.com/waggle-im/waggle/proto"
)

const (
	// asksPerSecond and asksBurst limit what one user asks of livestreams at one
	// node: a page that shows some asks for a ticket each.
	asksPerSecond = 5
	asksBurst     = 20
	// askersMax bounds the users that are remembered.
	askersMax = 10_000
)

// limits holds people back who ask too much.
type limits struct {
	mu    sync.Mutex // guards users
	users map[proto.EntityID]*rate.Limiter
}

func newLimits() *limits { return &limits{users: map[proto.EntityID]*rate.Limiter{}} }

func (l *limits) take(user proto.EntityID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.users[user]
	if u == nil {
		if len(l.users) >= askersMax {
			clear(l.users)
		}
		u = rate.NewLimiter(asksPerSecond, asksBurst)
		l.users[user] = u
	}
	if u.Allow() {
		return nil
	}
	return proto.Errorf(proto.CodeRateLimited, "too many requests about livestreams: at most %d per second", asksPerSecond)
}
