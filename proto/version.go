package proto

const (
	// ClientProtocolVersion is said in Hello. A server speaks this one and
	// names it when it refuses another.
	ClientProtocolVersion = 1
	// ALPN is the native protocol's name in the TLS and QUIC handshakes.
	ALPN = "waggle/1"
	// StateFormat is the version of the stored keys and values. A state
	// store with a newer one is refused.
	StateFormat = 1
	// RulesVersion is the newest rules this binary applies entries by. It
	// also applies RulesVersion-1.
	RulesVersion = 1
)
