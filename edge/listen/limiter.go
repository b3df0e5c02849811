package listen

import (
	"net/netip"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// limiter counts half-open connections and new ones per address. An address
// costs memory only while it has half-open connections or was seen in the
// current second.
type limiter struct {
	cfg Config

	mu        sync.Mutex // guards the fields below
	total     int
	addresses map[netip.Addr]*addressCount
	second    int64 // Unix time the counts of new connections belong to
}

type addressCount struct {
	halfOpen int
	fresh    int // in this second
}

func newLimiter(cfg Config) *limiter {
	return &limiter{cfg: cfg, addresses: map[netip.Addr]*addressCount{}}
}

// acquire admits one new connection or says why not
// ([proto.CodeTooManyConns]). Every admission wants one release.
func (l *limiter) acquire(addr netip.Addr, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.cfg.HalfOpenMax {
		return proto.Errorf(proto.CodeTooManyConns, "the server has %d connections that have not logged in", l.total)
	}
	if !l.exempt(addr) {
		if second := now.Unix(); second != l.second {
			l.second = second
			for a, c := range l.addresses {
				if c.fresh = 0; c.halfOpen == 0 {
					delete(l.addresses, a)
				}
			}
		}
		c := l.addresses[addr]
		if c == nil {
			c = &addressCount{}
			l.addresses[addr] = c
		}
		if c.halfOpen >= l.cfg.HalfOpenPerAddressMax {
			return proto.Errorf(proto.CodeTooManyConns, "your address has %d connections that have not logged in", c.halfOpen)
		}
		if c.fresh >= l.cfg.NewPerAddressPerSecondMax {
			return proto.Errorf(proto.CodeTooManyConns, "your address opened %d connections in this second", c.fresh)
		}
		c.halfOpen++
		c.fresh++
	}
	l.total++
	return nil
}

// release ends one half-open connection.
func (l *limiter) release(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.exempt(addr) {
		return
	}
	if c := l.addresses[addr]; c != nil {
		c.halfOpen--
	}
}

func (l *limiter) exempt(addr netip.Addr) bool {
	return l.cfg.ExemptLoopback && addr.IsLoopback()
}

// suspicious tells whether a QUIC peer must prove that it has its address.
func (l *limiter) suspicious(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total > quicRetryAbove {
		return true
	}
	c := l.addresses[addr]
	return c != nil && (c.halfOpen >= max(1, l.cfg.HalfOpenPerAddressMax/quicUnprovenShare) ||
		c.fresh >= max(1, l.cfg.NewPerAddressPerSecondMax/quicUnprovenShare))
}

// halfOpen is the number of connections before login.
func (l *limiter) halfOpen() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// halfOpenOf is the number of an address; 0 if that is exempt.
func (l *limiter) halfOpenOf(addr netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.addresses[addr]; c != nil {
		return c.halfOpen
	}
	return 0
}
