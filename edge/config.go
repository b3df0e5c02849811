package edge

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/router"
	"github.com/waggle-im/waggle/edge/session"
)

// Config says how an edge runs. The zero value listens on free loopback ports.
type Config struct {
	// Listen are the addresses and limits of connections. With neither
	// address set: 127.0.0.1:0. HTTP and TLS are set by New.
	Listen listen.Config
	// ExemptLoopback lifts the limits on account requests per client address
	// for loopback peers.
	ExemptLoopback bool
	// TrustedProxies are the balancers whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Session tunes client sessions.
	Session session.Config
	// Router tunes the way to hosts.
	Router router.Config
	// DrainTimeout bounds the goodbye to clients when Run ends: three quarters
	// of it are for those that connect elsewhere first. 0: 8 s.
	DrainTimeout time.Duration
	// DrainRate is how many sessions per second are asked to go elsewhere
	// while the edge is emptied; when Run ends it is more if the time would
	// not do. 0: 1000, so that 10,000 take 10 s.
	DrainRate int
	// DrainPatience is how long a session that was asked to go may stay,
	// unless the edge stops before. 0: 10 s.
	DrainPatience time.Duration
	// ReconnectSpread is the time over which clients are asked to come back
	// elsewhere after a goodbye. 0: 2 s.
	ReconnectSpread time.Duration
}

const drainTimeoutMax = 10 * time.Second

// Validate checks c without changing it.
func (c Config) Validate() error {
	if c.DrainTimeout < 0 || c.DrainTimeout > drainTimeoutMax {
		return fmt.Errorf("edge: the drain timeout is %s; it must be within 0 and %s", c.DrainTimeout, drainTimeoutMax)
	}
	if c.DrainRate < 0 || c.DrainPatience < 0 {
		return errors.New("edge: the drain rate and the drain patience must not be negative")
	}
	if c.ReconnectSpread < 0 {
		return errors.New("edge: the reconnect spread must not be negative")
	}
	if h := c.Listen.OutHighBytes; h != 0 && c.Session.OutBytesMax != 0 && h != c.Session.OutBytesMax {
		return fmt.Errorf("edge: the listener's long queue (%d bytes) and the session's (%d) must be equal", h, c.Session.OutBytesMax)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Listen.Addr == "" && c.Listen.PlaintextAddr == "" {
		c.Listen.Addr = "127.0.0.1:0"
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 8 * time.Second
	}
	if c.DrainRate == 0 {
		c.DrainRate = 1000
	}
	if c.DrainPatience == 0 {
		c.DrainPatience = 10 * time.Second
	}
	if c.ReconnectSpread == 0 {
		c.ReconnectSpread = 2 * time.Second
	}
	switch {
	case c.Listen.OutHighBytes == 0:
		c.Listen.OutHighBytes = c.Session.OutBytesMax
	case c.Session.OutBytesMax == 0:
		c.Session.OutBytesMax = c.Listen.OutHighBytes
	}
	return c
}
