package listen

import (
	"crypto/tls"

	"github.com/quic-go/quic-go/http3"

	"github.com/waggle-im/waggle/proto"
)

// overTCP is the configuration of handshakes over TCP.
func overTCP(certificates *tls.Config) *tls.Config {
	cfg := derive(certificates, proto.ALPN, "h2", "http/1.1")
	cfg.GetConfigForClient = takeTurn
	// Records of full size: fewer of them for a page of updates, and the
	// whole queue is written with one system call anyway.
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}

// overQUIC is the configuration of QUIC handshakes. It has no
// GetConfigForClient: quic-go copies what that returns for each connection,
// beside its copy of this.
func overQUIC(certificates *tls.Config) *tls.Config {
	return derive(certificates, proto.ALPN, http3.NextProtoH3)
}

// derive gives no tickets: the SDK resumes no TLS session, and each would be a
// record more per connection, which QUIC keeps in memory.
func derive(certificates *tls.Config, protocols ...string) *tls.Config {
	cfg := certificates.Clone()
	cfg.MinVersion = tls.VersionTLS13
	cfg.NextProtos = protocols
	cfg.SessionTicketsDisabled = true
	return cfg
}
