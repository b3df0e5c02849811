package daemon

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/waggle-im/waggle/controlplane/login"
	"github.com/waggle-im/waggle/edge/gateway"
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
	Sessions     SessionsConfig     `koanf:"sessions"`
	Limits       LimitsConfig       `koanf:"limits"`
	Cell         CellConfig         `koanf:"cell"`
	Chat         ChatConfig         `koanf:"chat"`
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
	Roles             []string `koanf:"roles"`               // of chat, storage; default both
	CacheBytes        int64    `koanf:"cache_bytes"`         // block cache; default 32 MiB
	MemtableBytes     int      `koanf:"memtable_bytes"`      // per store; default 16 MiB
	DiskSpareBytes    int64    `koanf:"disk_spare_bytes"`    // refuse writes below this much free space; default 64 MiB
	MessagesPerSecond int      `koanf:"messages_per_second"` // per user; default 100, -1: no limit
	MessagesBurst     int      `koanf:"messages_burst"`      // per user; default 500
	PresenceRefreshMs int      `koanf:"presence_refresh_ms"` // how often it is said again who is online; default 10,000
}

// ChatConfig is read by cell nodes: what people may do.
type ChatConfig struct {
	DirectFrom string `koanf:"direct_from"` // who may write to whom: anyone or friends; default anyone
}

// EdgeConfig is read by edges.
type EdgeConfig struct {
	Listen         string `koanf:"listen"`          // host:port for clients, TCP and UDP
	Plaintext      string `koanf:"plaintext"`       // host:port for clients without TLS; default none
	Advertise      string `koanf:"advertise"`       // host:port clients are told; default: listen
	Cert           string `koanf:"cert"`            // certificate of the client port, PEM file
	Key            string `koanf:"key"`             // its key, PEM file
	ExemptLoopback bool   `koanf:"exempt_loopback"` // lift the limits per address for loopback peers
}

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
		{"etcd_server.client", c.EtcdServer.Client}, {"etcd_server.peer", c.EtcdServer.Peer},
	} {
		if a.addr == "" {
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
	if _, err := login.ParsePolicy(c.Sessions.Policy); err != nil {
		return fmt.Errorf("sessions.policy: %w", err)
	}
	if _, err := gateway.ParseProxies(c.Limits.TrustedProxies); err != nil {
		return fmt.Errorf("limits.trusted_proxies: %w", err)
	}
	for _, role := range c.Cell.Roles {
		if role != "chat" && role != "storage" {
			return fmt.Errorf("cell.roles: %q is not chat or storage", role)
		}
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
