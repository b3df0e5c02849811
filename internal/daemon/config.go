package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-im/waggle/controlplane/login"
	"github.com/waggle-im/waggle/edge/gateway"
	"github.com/waggle-im/waggle/proto"
)

// The roles of a daemon.
const (
	RoleControlPlane = "controlplane"
	RoleCell         = "cell"
	RoleEdge         = "edge"
	RoleEtcd         = "etcd"
)

// Config is everything an operator sets of one node. Keys are those of the
// YAML file; a nested key is written with a dot in flags and error messages
// (edge.listen) and with an underscore in the environment
// (WAGGLE_EDGE_LISTEN).
type Config struct {
	Role    string `koanf:"role"`     // controlplane, cell or edge
	Node    string `koanf:"node"`     // this node's name, unique in the cluster, as in c1-n1
	Cluster string `koanf:"cluster"`  // the cluster's name, shown in status
	Mode    string `koanf:"mode"`     // embedded or production, shown in status
	DataDir string `koanf:"data_dir"` // everything the node keeps; one node per directory
	Listen  string `koanf:"listen"`   // host:port for the cluster's own gRPC
	Admin   string `koanf:"admin"`    // host:port for probes, metrics and operator verbs; protect it

	// Advertise is the address others call this node by; default: Listen.
	Advertise string `koanf:"advertise"`

	Etcd         EtcdConfig         `koanf:"etcd"`
	TLS          TLSConfig          `koanf:"tls"`
	Log          LogConfig          `koanf:"log"`
	ControlPlane ControlPlaneConfig `koanf:"controlplane"`
	Placement    PlacementConfig    `koanf:"placement"`
	Sessions     SessionsConfig     `koanf:"sessions"`
	Limits       LimitsConfig       `koanf:"limits"`
	Cell         CellConfig         `koanf:"cell"`
	Chat         ChatConfig         `koanf:"chat"`
	Files        FilesConfig        `koanf:"files"`
	Live         LiveConfig         `koanf:"live"`
	Edge         EdgeConfig         `koanf:"edge"`
	EtcdServer   EtcdServerConfig   `koanf:"etcd_server"`
}

// EtcdConfig is how to reach etcd.
type EtcdConfig struct {
	Endpoints []string `koanf:"endpoints"` // as in https://10.0.0.1:2379
	Cert      string   `koanf:"cert"`      // client certificate, PEM file
	Key       string   `koanf:"key"`       // its key, PEM file
	CA        string   `koanf:"ca"`        // etcd's own authority, PEM file
}

// TLSConfig is this node's identity towards other nodes.
type TLSConfig struct {
	Cert string `koanf:"cert"` // node certificate, PEM file (waggle certs node)
	Key  string `koanf:"key"`  // its key, PEM file
	CA   string `koanf:"ca"`   // the cluster's authority, PEM file
}

// LogConfig is what is written to standard error.
type LogConfig struct {
	Level  string `koanf:"level"`  // debug, info, warn or error; default info
	Format string `koanf:"format"` // text or json; default text
}

// ControlPlaneConfig is read by control planes.
type ControlPlaneConfig struct {
	Database string   `koanf:"database"` // sqlite:PATH or mysql://USER@HOST/DB; default SQLite in the data directory
	Replicas uint32   `koanf:"replicas"` // voters of new ranges, 1 or 3; default 1
	Cells    []string `koanf:"cells"`    // cells to register at start, as in [c1, c2]

	Redis    string `koanf:"redis"`     // codes and limits: redis://… or rediss://…; default: one inside this process, not shared
	SMTP     string `koanf:"smtp"`      // mail server: smtp://… (STARTTLS) or smtps://… (TLS); default: none
	MailFrom string `koanf:"mail_from"` // sender of mails, as in Waggle <noreply@example.org>
}

// PlacementConfig is read by control planes.
type PlacementConfig struct {
	// LostAfter is how long a node must be silent, for etcd and for the leaders
	// of its ranges, until its replicas are replaced, as in 10m; default 10m.
	LostAfter string `koanf:"lost_after"`
	// Canary is how often a range without people is moved to another cell and
	// back, for trying, as in 1h; empty: never.
	Canary string `koanf:"canary"`
}

// canary is Canary as a duration; 0: never.
func (c PlacementConfig) canary() (time.Duration, error) { return positive(c.Canary) }

// lostAfter is LostAfter as a duration; 0: the default.
func (c PlacementConfig) lostAfter() (time.Duration, error) {
	return positive(c.LostAfter)
}

// positive reads a duration above 0; empty is 0.
func positive(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%s is not above 0", s)
	}
	return d, err
}

// SessionsConfig is read by control planes, which must all have the same.
type SessionsConfig struct {
	// Policy is which devices of an account may be logged in together: multi
	// (up to 8), per-platform (one of each) or single; default multi.
	Policy string `koanf:"policy"`
}

// LimitsConfig is read by edges.
type LimitsConfig struct {
	// TrustedProxies are the networks, as in 10.0.0.0/8, of the balancers whose
	// word on a client's address is believed; default none.
	TrustedProxies []string `koanf:"trusted_proxies"`
}

// CellConfig is read by cell nodes.
type CellConfig struct {
	Name              string   `koanf:"name"`                // the cell, as in c1
	Roles             []string `koanf:"roles"`               // of chat, storage, resource; default all
	CacheBytes        int64    `koanf:"cache_bytes"`         // block cache; default 32 MiB
	MemtableBytes     int      `koanf:"memtable_bytes"`      // per store; default 16 MiB
	DiskSpareBytes    int64    `koanf:"disk_spare_bytes"`    // refuse writes below this much free space; default 64 MiB
	MessagesPerSecond int      `koanf:"messages_per_second"` // per user; default 100, -1: no limit
	MessagesBurst     int      `koanf:"messages_burst"`      // per user; default 500
	PresenceRefreshMs int      `koanf:"presence_refresh_ms"` // how often it is said again who is online; default 10,000
	RulesMax          int      `koanf:"rules_max"`           // take part in no newer rules version than this; 0: all this release knows
}

// ChatConfig is read by cell nodes: what people may do.
type ChatConfig struct {
	DirectFrom string `koanf:"direct_from"` // who may write to whom: anyone or friends; default anyone
}

// FilesConfig is read by cell nodes with the resource role.
type FilesConfig struct {
	Listen    string `koanf:"listen"`    // host:port for HTTP/2 of edges and other nodes; default: the host of listen, a free port
	Advertise string `koanf:"advertise"` // the address others call; default: the host of advertise, the port of files.listen

	Store      string `koanf:"store"`       // s3://[KEY:SECRET@]HOST[:PORT]/BUCKET; default: this node's disk
	Keys       string `koanf:"keys"`        // file with the cell's keys; default: made in the data directory
	QuotaBytes int64  `koanf:"quota_bytes"` // what one user's files may take; default 32 GiB

	UserBytesPerSecond int64 `koanf:"user_bytes_per_second"` // up and down; default no limit
	NodeBytesPerSecond int64 `koanf:"node_bytes_per_second"` // up and down; default no limit

	GraceHours     int `koanf:"grace_hours"`      // how long a file that was never sent is kept; default 168
	CollectSeconds int `koanf:"collect_seconds"`  // the pause between two collections; default 3600
	OrphanAgeHours int `koanf:"orphan_age_hours"` // how old content without a file must be to be removed; default 24
	FollowSeconds  int `koanf:"follow_seconds"`   // the pause between two looks for files whose owners have moved; default 30
}

// EdgeConfig is read by edges.
type EdgeConfig struct {
	Listen    string `koanf:"listen"`    // host:port for clients, TCP and UDP
	Plaintext string `koanf:"plaintext"` // host:port for clients without TLS; default none
	Advertise string `koanf:"advertise"` // host:port clients are told; default: listen
	// PlaintextAdvertise is the host:port that clients without TLS are told
	// when they are to leave another edge; none: they come through balancers,
	// which know; default: plaintext, unless that is all addresses.
	PlaintextAdvertise string `koanf:"plaintext_advertise"`

	Cert           string `koanf:"cert"`            // certificate of the client port, PEM file
	Key            string `koanf:"key"`             // its key, PEM file
	ExemptLoopback bool   `koanf:"exempt_loopback"` // lift the limits per address for loopback peers
	DrainRate      int    `koanf:"drain_rate"`      // sessions asked per second to go elsewhere; default 1000

	SlowReaderSeconds  int `koanf:"slow_reader_seconds"` // what a client that takes nothing is waited for; default 10
	MessagesUnderWay   int `koanf:"messages_under_way"`  // unanswered ones of all clients; default 2048, -1: no bound
	MessagesOverloaded int `koanf:"messages_overloaded"` // the same in overload; default 144, -1: no other bound
}

// plain is where the edge takes clients without TLS, as others are told; empty:
// nobody is.
func (c EdgeConfig) plain() string {
	host, _, err := net.SplitHostPort(c.Plaintext)
	switch addr, parsed := netip.ParseAddr(host); {
	case c.Plaintext == "" || c.PlaintextAdvertise == noAdvertise:
		return ""
	case c.PlaintextAdvertise != "":
		return c.PlaintextAdvertise
	case err != nil || host == "" || parsed == nil && addr.IsUnspecified():
		return ""
	}
	return c.Plaintext
}

// noAdvertise is the value of edge.plaintext_advertise for "nobody is told".
const noAdvertise = "none"

// EtcdServerConfig is read by the embedded etcd.
type EtcdServerConfig struct {
	Client string `koanf:"client"` // host:port for clients
	Peer   string `koanf:"peer"`   // host:port for members
	Cert   string `koanf:"cert"`   // server certificate, PEM file
	Key    string `koanf:"key"`    // its key, PEM file
	CA     string `koanf:"ca"`     // authority of clients, PEM file
}

// Validate says what is missing or contradicts itself, naming the key.
func (c Config) Validate() error {
	if !slices.Contains([]string{RoleControlPlane, RoleCell, RoleEdge, RoleEtcd}, c.Role) {
		return fmt.Errorf("role: %q is not one of controlplane, cell, edge", c.Role)
	}
	required := []struct{ key, value string }{{"node", c.Node}, {"data_dir", c.DataDir}}
	if len(c.Etcd.Endpoints) == 0 {
		return errors.New("etcd.endpoints: at least one is needed")
	}
	if c.Role != RoleEtcd {
		required = append(required,
			struct{ key, value string }{"listen", c.Listen},
			struct{ key, value string }{"tls.cert", c.TLS.Cert},
			struct{ key, value string }{"tls.key", c.TLS.Key},
			struct{ key, value string }{"tls.ca", c.TLS.CA})
	}
	switch c.Role {
	case RoleCell:
		required = append(required, struct{ key, value string }{"cell.name", c.Cell.Name})
	case RoleEdge:
		required = append(required, struct{ key, value string }{"edge.listen", c.Edge.Listen},
			struct{ key, value string }{"edge.cert", c.Edge.Cert}, struct{ key, value string }{"edge.key", c.Edge.Key})
	case RoleEtcd:
		required = append(required, struct{ key, value string }{"etcd_server.client", c.EtcdServer.Client},
			struct{ key, value string }{"etcd_server.peer", c.EtcdServer.Peer})
	}
	for _, r := range required {
		if r.value == "" {
			return fmt.Errorf("%s: is missing", r.key)
		}
	}
	return c.validateValues()
}

func (c Config) validateValues() error {
	for _, a := range []struct{ key, addr string }{
		{"listen", c.Listen}, {"admin", c.Admin}, {"advertise", c.Advertise}, {"edge.listen", c.Edge.Listen},
		{"edge.plaintext", c.Edge.Plaintext}, {"edge.advertise", c.Edge.Advertise},
		{"edge.plaintext_advertise", c.Edge.PlaintextAdvertise},
		{"etcd_server.client", c.EtcdServer.Client}, {"etcd_server.peer", c.EtcdServer.Peer},
		{"files.listen", c.Files.Listen}, {"files.advertise", c.Files.Advertise},
		{"live.rtsp", c.Live.RTSP}, {"live.rtmp", c.Live.RTMP}, {"live.rtp", c.Live.RTP},
		{"live.advertise_rtsp", c.Live.AdvertiseRTSP}, {"live.advertise_rtmp", c.Live.AdvertiseRTMP},
	} {
		if a.addr == "" || a.key == "edge.plaintext_advertise" && a.addr == noAdvertise {
			continue
		}
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			return fmt.Errorf("%s: %q is not host:port", a.key, a.addr)
		}
	}
	if c.Admin != "" && !Loopback(c.Admin) {
		return fmt.Errorf("admin: %s can be reached from outside and asks nobody who he is: use a loopback address, and a tunnel to it", c.Admin)
	}
	if r := c.ControlPlane.Replicas; r != 0 && r != 1 && r != 3 {
		return fmt.Errorf("controlplane.replicas: %d is not 1 or 3", r)
	}
	if c.ControlPlane.SMTP != "" && c.ControlPlane.MailFrom == "" {
		return errors.New("controlplane.mail_from: is missing, and controlplane.smtp needs it")
	}
	if _, err := c.Placement.lostAfter(); err != nil {
		return fmt.Errorf("placement.lost_after: %w", err)
	}
	if _, err := c.Placement.canary(); err != nil {
		return fmt.Errorf("placement.canary: %w", err)
	}
	if _, err := login.ParsePolicy(c.Sessions.Policy); err != nil {
		return fmt.Errorf("sessions.policy: %w", err)
	}
	if _, err := gateway.ParseProxies(c.Limits.TrustedProxies); err != nil {
		return fmt.Errorf("limits.trusted_proxies: %w", err)
	}
	for _, role := range c.Cell.Roles {
		if role != "chat" && role != "storage" && role != "resource" {
			return fmt.Errorf("cell.roles: %q is not chat, storage or resource", role)
		}
	}
	if r := c.Cell.RulesMax; r != 0 && (r < proto.OldestRules || r > proto.RulesVersion) {
		return fmt.Errorf("cell.rules_max: %d is not 0 or from %d to %d, which this release knows", r, proto.OldestRules, proto.RulesVersion)
	}
	if c.Files.Store != "" && c.Files.Keys == "" {
		return errors.New("files.keys: is missing, and files.store needs it: nodes that share a bucket need the same keys")
	}
	if (c.Etcd.Cert == "") != (c.Etcd.Key == "") {
		return errors.New("etcd.cert and etcd.key: give both or none")
	}
	if !slices.Contains([]string{"", "debug", "info", "warn", "error"}, c.Log.Level) {
		return fmt.Errorf("log.level: %q is not one of debug, info, warn, error", c.Log.Level)
	}
	if !slices.Contains([]string{"", "text", "json"}, c.Log.Format) {
		return fmt.Errorf("log.format: %q is not text or json", c.Log.Format)
	}
	if !slices.Contains([]string{"", "embedded", "production"}, c.Mode) {
		return fmt.Errorf("mode: %q is not embedded or production", c.Mode)
	}
	return nil
}

// Loopback tells whether addr, host:port, can only be reached from this
// machine.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
