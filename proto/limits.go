package proto

import "time"

// Every limit of the protocol, in one place. Each says its unit and why it is
// what it is.
const (
	// FrameBytesMaxBeforeLogin bounds a frame of a connection that has not
	// shown a token: a Hello is under 1 KiB.
	FrameBytesMaxBeforeLogin = 4 << 10
	// FrameBytesMax bounds a frame of a logged-in connection: a text of the
	// greatest size and its envelope fit three times.
	FrameBytesMax = 64 << 10
	// TextBytesMax bounds the text of a message, in bytes of UTF-8.
	TextBytesMax = 16 << 10
	// RequestsInFlightMax bounds the unanswered requests of one connection.
	RequestsInFlightMax = 1024
	// SessionPendingBytesMax bounds the unanswered requests an edge holds for
	// one session, so that it can repeat them at another host.
	SessionPendingBytesMax = 1 << 20
	// SessionOutBytesMax bounds what is queued towards one client. Past it
	// pushes are dropped and the session catches up from the log.
	SessionOutBytesMax = 256 << 10
	// UpdatesPerFrameMax bounds the updates of one frame.
	UpdatesPerFrameMax = 100
	// UpdatesBytesPerFrame is where a frame of updates is closed: with one
	// more text of the greatest size it still fits FrameBytesMax.
	UpdatesBytesPerFrame = 32 << 10
	// PageMax bounds the rows of one page of history or threads.
	PageMax = 200
	// PageDefault is the page when the client names no limit.
	PageDefault = 50
	// DevicesMax bounds the active devices of a user.
	DevicesMax = 8
	// DeviceIDBytesMax bounds a device's name.
	DeviceIDBytesMax = 64
	// NameBytesMax bounds a user name.
	NameBytesMax = 32
	// ChannelRowsMax is the length past which sends that need a channel are
	// answered "retry later".
	ChannelRowsMax = 10_000_000
	// OpenRangesPerCell is how many ranges of a cell take new users.
	OpenRangesPerCell = 8

	// HelloTimeout bounds the time from accept to a complete Hello.
	HelloTimeout = 5 * time.Second
	// HandshakeTimeout bounds a TLS or QUIC handshake.
	HandshakeTimeout = 3 * time.Second
	// HeartbeatInterval is announced to clients; silence of
	// HeartbeatSilenceFactor intervals closes the connection.
	HeartbeatInterval = 30 * time.Second
	// HeartbeatSilenceFactor is in tenths: 25 means 2.5 intervals.
	HeartbeatSilenceFactor = 25
	// CloseFlushTimeout bounds the writing of what was queued before the
	// server closes a connection.
	CloseFlushTimeout = time.Second
	// HostSilentTimeout is how long an edge waits for a sign of a host
	// before it re-attaches the host's sessions elsewhere.
	HostSilentTimeout = time.Second

	// ClientMsgIDPast and ClientMsgIDFuture bound a client message id's time
	// around the server's. Ids are forgotten after ClientMsgIDPast, so an
	// older one could be stored twice and is refused.
	ClientMsgIDPast   = 7 * 24 * time.Hour
	ClientMsgIDFuture = time.Hour

	// TokenLifetime is a token's validity; the SDK refreshes at half of it.
	TokenLifetime = 24 * time.Hour
)
