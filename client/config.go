package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Transport is how to reach the server.
type Transport string

// The transports. Auto tries QUIC and falls back to TCP with TLS.
const (
	Auto  Transport = ""
	QUIC  Transport = "quic"
	TCP   Transport = "tcp"
	Plain Transport = "plain" // TCP without TLS
)

// State is what a client is doing; see Config.OnState.
type State int

// The states of a connection.
const (
	Connecting State = iota
	Connected
	Disconnected // and about to try again
)

// String names the state.
func (s State) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Connected:
		return "connected"
	}
	return "disconnected"
}

// Update is one update of the user's log. One of the pointers is set; none, if
// the server is newer than this package.
type Update struct {
	Pts     proto.Pts
	Event   *clientpb.Event // BodyMissing: its text comes later, by OnBody
	Mark    *clientpb.Mark
	Contact *clientpb.ContactEvent
	Profile *clientpb.Card
}

// Resync tells that updates between the position asked for and Pts are not to
// be had: read threads and history anew, updates after Pts follow.
type Resync struct {
	Pts         proto.Pts
	Incarnation []byte
	Reason      string
}

// Config is what a client needs. Server and Token are required.
type Config struct {
	Server       string   // host:port
	Alternatives []string // further edges, tried when Server does not answer
	Transport    Transport
	TLS          *tls.Config // roots; nil: the system's
	Token        string
	// RefreshToken, if set, is exchanged for another token at half of the
	// token's life, by HTTP on the server's port. A running session outlasts
	// its token. OnTokens is given what came and must keep it before it
	// returns; on its error the old ones stay in use and are tried again.
	RefreshToken string
	OnTokens     func(Tokens) error
	// Refresh, if set, is called instead, with the tokens in use: for
	// processes that share them. It returns the newer ones, kept already.
	Refresh func(ctx context.Context, have Tokens) (Tokens, error)
	Device  string // must be the token's
	Name    string // of this program, for the server's logs

	// Subscribe asks for updates, from FromConfirmed (where the server
	// knows this device to be), or after (Incarnation, LastPts).
	Subscribe     bool
	FromConfirmed bool
	Incarnation   []byte
	LastPts       proto.Pts

	// OnUpdate is called for each update, in order, never concurrently. When
	// it returns the update counts as processed and is confirmed. It must not
	// wait for the client's own methods.
	OnUpdate func(Update)
	// OnBody is given the event of an update that came without body.
	OnBody func(Update)
	// OnPresence and OnTyping are told of friends, not in order with updates
	// and never concurrently with them. They must not wait for the client's own
	// methods. They are only called with Subscribe.
	OnPresence func(*clientpb.Presence)
	OnTyping   func(*clientpb.TypingNow)
	// OnLiveViewers is told how many watch a livestream of one of the user's
	// threads, as OnTyping is.
	OnLiveViewers func(*clientpb.LiveViewers)
	// OnResync is called before the first update after a gap.
	OnResync func(Resync)
	// OnRefused is told of each refusal after which a message is sent again:
	// for who wants to know how hard a server is pressed. It must not wait for
	// the client's own methods.
	OnRefused func(*proto.Error)
	// OnState is told every change, with the error that caused it.
	OnState func(State, error)

	// NoReconnect makes Run return when the first connection is lost.
	NoReconnect bool
	// OutboxMax bounds the messages not yet acknowledged; default 10,000.
	OutboxMax int
	// DialTimeout bounds one attempt, handshake and Hello included; default 10 s,
	// in which an edge gets through the handshakes of some ten thousand clients
	// that have all lost another.
	DialTimeout time.Duration
	// QUICTimeout is when an attempt by Auto gives QUIC up for TCP; default 1.5 s.
	QUICTimeout time.Duration
	Logger      *slog.Logger // nil: slog.Default
}

// Validate says what is missing or wrong.
func (c *Config) Validate() error {
	if c.Server == "" {
		return errors.New("client: no server is named (host:port)")
	}
	for _, s := range append([]string{c.Server}, c.Alternatives...) {
		if _, _, err := net.SplitHostPort(s); err != nil {
			return fmt.Errorf("client: server %q is not host:port", s)
		}
	}
	switch c.Transport {
	case Auto, QUIC, TCP, Plain:
	default:
		return fmt.Errorf("client: transport %q is not one of quic, tcp, plain", c.Transport)
	}
	if c.Token == "" {
		return errors.New("client: not logged in: there is no token")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.OutboxMax == 0 {
		c.OutboxMax = 10_000
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	if c.QUICTimeout == 0 {
		c.QUICTimeout = 1500 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}
