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
	// RulesVersion is the newest rules this binary applies entries by; what
	// each version changed is in cell/storage/state/rules.go.
	RulesVersion = 2
	// OldestRules are those of the release before, which it also applies.
	OldestRules = RulesVersion - 1
	// FirstRules is what whoever does not speak of rules means: there were no
	// others when it was written.
	FirstRules = 1
)
