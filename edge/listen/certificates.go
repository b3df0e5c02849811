package listen

import (
	"crypto/tls"
	"sync"

	"github.com/quic-go/quic-go/http3"

	"github.com/waggle-im/waggle/proto"
)

// certificates derives our handshake configurations from the source's, and
// again when the source hands out another one.
type certificates struct {
	source func() *tls.Config

	mu       sync.Mutex // guards the fields below
	last     *tls.Config
	overTCP  *tls.Config
	overQUIC *tls.Config
}

func (c *certificates) tcp() *tls.Config {
	tcp, _ := c.current()
	return tcp
}

// quic is a configuration that follows the source: QUIC listeners take theirs
// once.
func (c *certificates) quic() *tls.Config {
	_, first := c.current()
	outer := first.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		_, quic := c.current()
		return quic, nil
	}
	return outer
}

func (c *certificates) current() (tcp, quic *tls.Config) {
	source := c.source()
	c.mu.Lock()
	defer c.mu.Unlock()
	if source != c.last {
		c.last = source
		c.overTCP = derive(source, proto.ALPN, "h2", "http/1.1")
		c.overTCP.GetConfigForClient = takeTurn
		c.overQUIC = derive(source, proto.ALPN, http3.NextProtoH3)
	}
	return c.overTCP, c.overQUIC
}

func derive(source *tls.Config, protocols ...string) *tls.Config {
	cfg := source.Clone()
	cfg.MinVersion = tls.VersionTLS13
	cfg.NextProtos = protocols
	// Records of full size: fewer of them for a page of updates, and the
	// whole queue is written with one system call anyway.
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}
