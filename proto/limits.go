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
	// EndedDevicesKept is how many ended devices of a user are remembered
	// once EndedDeviceLifetime is over: to tell them why. EndedDevicesMax
	// bounds them before.
	EndedDevicesKept = 16
	EndedDevicesMax  = 64
	// DeviceIDBytesMax bounds a device's name.
	DeviceIDBytesMax = 64
	// NameBytesMax bounds a user name.
	NameBytesMax = 32
	// NickBytesMax, DescriptionBytesMax and SexBytesMax bound a card, so that a
	// page of contacts with cards fits a frame.
	NickBytesMax        = 64
	DescriptionBytesMax = 512
	SexBytesMax         = 32
	// GreetingBytesMax bounds the greeting of a friend request.
	GreetingBytesMax = 512
	// AliasBytesMax, TagsMax and TagBytesMax bound what a user notes of a
	// contact.
	AliasBytesMax = 64
	TagsMax       = 16
	TagBytesMax   = 32
	// ContactsMax bounds a user's contacts: every change of his card goes to
	// each friend.
	ContactsMax = 10_000
	// PlaceNameBytesMax bounds the name of a location.
	PlaceNameBytesMax = 200
	// PeopleMax and PeopleDefault bound the cards of one search, PrefixBytesMin
	// what it must begin with.
	PeopleMax      = 50
	PeopleDefault  = 20
	PrefixBytesMin = 2
	// ChannelRowsMax is the length past which sends that need a channel are
	// answered "retry later".
	ChannelRowsMax = 10_000_000
	// FileBytesMax bounds a file: what one upload over days still brings home.
	FileBytesMax = 16 << 30
	// FileNameBytesMax bounds a file's name: what usual file systems take.
	FileNameBytesMax = 255
	// FileTypeBytesMax bounds a file's content type.
	FileTypeBytesMax = 100
	// ThumbnailBytesMax bounds the picture inside a message, so that a frame
	// of updates with one message more still fits FrameBytesMax.
	ThumbnailBytesMax = 8 << 10
	// UploadsMax bounds the uploads of a user that are under way, parts
	// counted: they stand in one row.
	UploadsMax = 64
	// LivesMax bounds the livestreams of a user; an older one that is not on
	// makes way for a new one.
	LivesMax = 16
	// LiveTitleBytesMax and LiveTextBytesMax bound a livestream's title, and
	// each of what its node says of it: codecs, and why it ended.
	LiveTitleBytesMax = 100
	LiveTextBytesMax  = 200
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

	// MarkInterval is the least time between two marks of one kind, thread and
	// member.
	MarkInterval = time.Second
	// PresenceRefresh is how often a host says again who of its users is
	// online; PresenceLifetime is how long it is believed, so that the death of
	// a host does not leave people online for more than 30 s.
	PresenceRefresh  = 10 * time.Second
	PresenceLifetime = 25 * time.Second
	// TypingInterval is the least time between two signs of typing of one user
	// and thread that are passed on; TypingLifetime is how long one holds.
	TypingInterval = 2 * time.Second
	TypingLifetime = 5 * time.Second

	// ClientMsgIDPast and ClientMsgIDFuture bound a client message id's time
	// around the server's. Ids are forgotten after ClientMsgIDPast, so an
	// older one could be stored twice and is refused.
	ClientMsgIDPast   = 7 * 24 * time.Hour
	ClientMsgIDFuture = time.Hour

	// DeviceActive is how long a device that is away holds its user's update
	// log back; one that comes back later resynchronises.
	DeviceActive = 30 * 24 * time.Hour
	// EndedDeviceLifetime is how long an ended device is remembered at least: a
	// login that comes again late, which its request's timeout of seconds
	// bounds, must find it.
	EndedDeviceLifetime = 10 * time.Minute

	// UploadLifetime is how long an upload may take from its creation: days, so
	// that it can be taken up again after a journey.
	UploadLifetime = 7 * 24 * time.Hour

	// LiveTicketLifetime is how long a ticket lets its user begin to watch.
	LiveTicketLifetime = time.Minute

	// TokenLifetime is a token's validity; the SDK refreshes at half of it.
	TokenLifetime = 24 * time.Hour
)
