package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/waggle-im/waggle/internal/daemon"
)

// Key is one thing an operator sets.
type Key struct {
	Name    string   // as in edge.listen
	Help    string   // one sentence, with the unit
	Roles   []string // who reads it; empty: every role
	Default any      // nil: the type's zero value
	Example any      // what print-default shows where there is no default
	Secret  bool     // may hold a password: no flag sets it

	// PerNode is how `waggle dev` decides the key for each node; empty: all
	// nodes may have the same, so `dev --config` can set it.
	PerNode string

	kind reflect.Type
}

// EnvName is the environment variable that sets k.
func (k Key) EnvName() string {
	return "WAGGLE_" + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// For tells whether a node of the role reads k.
func (k Key) For(role string) bool { return len(k.Roles) == 0 || slices.Contains(k.Roles, role) }

// List tells whether k takes several values.
func (k Key) List() bool { return k.kind.Kind() == reflect.Slice }

// Type is the kind of value k takes, in words.
func (k Key) Type() string {
	switch k.kind.Kind() {
	case reflect.Slice:
		return "list of texts"
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	}
	return "whole number"
}

// value is the default, typed.
func (k Key) value() any {
	if k.Default != nil {
		return k.Default
	}
	return reflect.Zero(k.kind).Interface()
}

const ownByDev = "every node has its own, which `waggle dev` chooses"

// Keys are all keys, in the order of [daemon.Config].
func Keys() []Key {
	node := []string{daemon.RoleControlPlane, daemon.RoleCell, daemon.RoleEdge}
	keys := []Key{
		{Name: "role", Help: "What this node is: controlplane, cell or edge. `waggle start ROLE` must name the same.", PerNode: ownByDev},
		{Name: "node", Help: "This node's name, unique in the cluster.", PerNode: ownByDev},
		{Name: "cluster", Help: "The cluster's name, shown in status.", Default: "waggle"},
		{Name: "mode", Help: "embedded or production, shown in status.", Default: "production"},
		{Name: "data_dir", Help: "Folder for everything the node keeps; one node per folder.", PerNode: "use --data"},
		{Name: "listen", Help: "HOST:PORT of the cluster's own gRPC, by mutual TLS.", Roles: node, Example: "0.0.0.0:7400", PerNode: ownByDev},
		{Name: "admin", Help: "HOST:PORT for probes, metrics and operator verbs. It has no TLS: keep it on loopback or protect it. Empty: none.",
			Default: "127.0.0.1:7480", PerNode: "use --admin"},
		{Name: "advertise", Help: "HOST:PORT others call this node by. Empty: the value of listen.", Roles: node, PerNode: ownByDev},

		{Name: "etcd.endpoints", Help: "etcd's client addresses, all members.",
			Example: []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"}, PerNode: ownByDev},
		{Name: "etcd.cert", Help: "Client certificate for etcd, PEM file. Empty: none.", PerNode: ownByDev},
		{Name: "etcd.key", Help: "Key of etcd.cert, PEM file.", PerNode: ownByDev},
		{Name: "etcd.ca", Help: "etcd's own authority, PEM file. Empty: no TLS towards etcd.", PerNode: ownByDev},

		{Name: "tls.cert", Help: "This node's certificate, PEM file (`waggle certs node`).", Roles: node, PerNode: ownByDev},
		{Name: "tls.key", Help: "Key of tls.cert, PEM file.", Roles: node, PerNode: ownByDev},
		{Name: "tls.ca", Help: "The cluster's authority, PEM file (`waggle certs ca`).", Roles: node, PerNode: ownByDev},

		{Name: "log.level", Help: "What is logged to standard error: debug, info, warn or error.", Default: "info"},
		{Name: "log.format", Help: "text or json.", Default: "text"},
	}
	keys = append(keys, roleKeys()...)
	keys = append(keys, liveKeys()...)
	kinds := fields(reflect.TypeFor[daemon.Config](), "")
	for i := range keys {
		keys[i].kind = kinds[keys[i].Name]
	}
	return keys
}

// liveKeys are the keys of livestreams.
func liveKeys() []Key {
	cell := []string{daemon.RoleCell}
	return []Key{
		{Name: "live.rtsp", Help: "HOST:PORT where livestreams are published and watched by RTSP, of nodes with the resource role. Empty: the host of listen and a free port.", Roles: cell, Example: "0.0.0.0:7554", PerNode: "use --rtsp"},
		{Name: "live.rtmp", Help: "HOST:PORT of the same by RTMP. Empty: the host of listen and a free port.", Roles: cell, Example: "0.0.0.0:7935", PerNode: "use --rtmp"},
		{Name: "live.rtp", Help: "HOST:PORT of RTP, for RTSP over UDP: an even port; the next is for RTCP. Empty: the host of live.rtsp and a free pair.", Roles: cell, PerNode: ownByDev},
		{Name: "live.publishers", Help: "Livestreams that this node carries at once.", Roles: cell, Default: 100},
		{Name: "live.viewers", Help: "Viewers by RTSP and RTMP of this node at once, over all livestreams.", Roles: cell, Default: 1000},
		{Name: "live.publish_bytes_per_second", Help: "What one publisher may send, on average over seconds; one that sends more is ended. Bytes per second.", Roles: cell, Default: 3 << 20},
		{Name: "live.advertise_rtsp", Help: "HOST:PORT that people are told of RTSP. Empty: the host of advertise and the port of live.rtsp.", Roles: cell, PerNode: ownByDev},
		{Name: "live.advertise_rtmp", Help: "HOST:PORT that people are told of RTMP. Empty: the host of advertise and the port of live.rtmp.", Roles: cell, PerNode: ownByDev},
	}
}

// roleKeys are the keys that only one role reads.
func roleKeys() []Key {
	cp, cell := []string{daemon.RoleControlPlane}, []string{daemon.RoleCell}
	edge, etcd := []string{daemon.RoleEdge}, []string{daemon.RoleEtcd}
	return []Key{
		{Name: "controlplane.database", Help: "Accounts: sqlite:PATH or mysql://USER@HOST/DB. Empty: SQLite in the data folder. One with a password belongs in the environment.",
			Roles: cp, Secret: true},
		{Name: "controlplane.replicas", Help: "Voters of ranges in cells registered from now on: 1 or 3.", Roles: cp, Default: uint32(1), PerNode: "use --replicas"},
		{Name: "controlplane.cells", Help: "Cells to register at start; `waggle cells add` adds others later.", Roles: cp,
			Example: []string{"c1"}, PerNode: "use --cells"},
		{Name: "controlplane.redis", Help: "Codes and limits: redis://[USER:PASSWORD@]HOST:PORT, or rediss:// for TLS. Empty: a Redis inside this process, which several control planes do not share. One with a password belongs in the environment.",
			Roles: cp, Secret: true, PerNode: ownByDev},
		{Name: "controlplane.smtp", Help: "Mail server: smtp://[USER:PASSWORD@]HOST[:PORT] for STARTTLS, smtps:// for TLS; ?password_file=FILE and ?ca=FILE may follow. Empty: no mail, so nobody can register. One with a password belongs in the environment.",
			Roles: cp, Secret: true},
		{Name: "controlplane.mail_from", Help: "Sender of mails, as in Waggle <noreply@example.org>.", Roles: cp},

		{Name: "placement.lost_after", Help: "How long a node must be silent, for etcd and for the leaders of its ranges, until its replicas are replaced by others in its cell, as in 10m.",
			Roles: cp, Default: "10m"},
		{Name: "placement.canary", Help: "How often a range that holds nobody but two users made for it is moved to another cell and back, for trying, as in 1h. Empty: never.", Roles: cp},

		{Name: "sessions.policy", Help: "Which devices of an account may be logged in together: multi (up to 8), per-platform (one of each) or single. All control planes must have the same.",
			Roles: cp, Default: "multi"},

		{Name: "limits.trusted_proxies", Help: "Networks of the load balancers whose X-Forwarded-For is believed, as in 10.0.0.0/8. Empty: none, and limits count for whoever connects.",
			Roles: edge, Example: []string{"10.0.0.0/8"}},

		{Name: "cell.name", Help: "The cell this node belongs to.", Roles: cell, Example: "c1", PerNode: ownByDev},
		{Name: "cell.roles", Help: "Of chat, storage and resource (files), those this node has.", Roles: cell, Default: []string{"chat", "storage", "resource"}, PerNode: "use --split-roles"},
		{Name: "cell.cache_bytes", Help: "Block cache, shared by the node's stores, bytes.", Roles: cell, Default: int64(32 << 20)},
		{Name: "cell.memtable_bytes", Help: "Memtable of each store, bytes.", Roles: cell, Default: int(16 << 20)},
		{Name: "cell.disk_spare_bytes", Help: "Writes are refused while the disk has less free than this, bytes; -1: never.", Roles: cell, Default: int64(64 << 20)},
		{Name: "cell.messages_per_second", Help: "Sends of one user; -1: no limit.", Roles: cell, Default: 100},
		{Name: "cell.messages_burst", Help: "Sends of one user at once.", Roles: cell, Default: 500},
		{Name: "cell.rules_max", Help: "The newest rules version this node takes part in; 0: all it knows. Set it to the previous release's while you may want to go back: ranges that were raised stay so.", Roles: cell, Default: 0},
		{Name: "cell.presence_refresh_ms", Help: "How often it is said again who is online, ms. One whose host has died is taken for gone after 2.5 times as long. The same in every cell.", Roles: cell, Default: 10_000},

		{Name: "chat.direct_from", Help: "Who may write to whom in direct threads: anyone who is not blocked, or friends only. Each user can narrow anyone to friends for himself. The same in every cell.",
			Roles: cell, Default: "anyone"},

		{Name: "files.listen", Help: "HOST:PORT for files, by mutual TLS, of nodes with the resource role. Empty: the host of listen and a free port.", Roles: cell, Example: "0.0.0.0:7401", PerNode: ownByDev},
		{Name: "files.advertise", Help: "HOST:PORT others call for files. Empty: the host of advertise and the port of files.listen.", Roles: cell, PerNode: ownByDev},
		{Name: "files.store", Help: "Where complete files are: s3://[KEY:SECRET@]HOST[:PORT]/BUCKET, with ?region=NAME or ?tls=none. Empty: on this node's disk. One with a secret belongs in the environment.",
			Roles: cell, Secret: true},
		{Name: "files.keys", Help: "File with the keys of the cell's files, one ID and 64 hexadecimal digits per line; the first is used for new files. Empty: one of this node alone in the data folder.", Roles: cell},
		{Name: "files.quota_bytes", Help: "What the files of one user may take, bytes.", Roles: cell, Default: int64(32 << 30)},
		{Name: "files.user_bytes_per_second", Help: "Content that one user moves up and down through this node, bytes per second; 0: no limit.", Roles: cell, Default: int64(0)},
		{Name: "files.node_bytes_per_second", Help: "Content that all users move up and down through this node, bytes per second; 0: no limit.", Roles: cell, Default: int64(0)},
		{Name: "files.grace_hours", Help: "How long a file that was never sent is kept, hours.", Roles: cell, Default: 168},
		{Name: "files.collect_seconds", Help: "Pause between two collections of what nobody refers to, seconds.", Roles: cell, Default: 3600},
		{Name: "files.follow_seconds", Help: "The pause between two looks for files whose owners have moved to another cell, seconds.", Roles: cell, Default: 30},
		{Name: "files.orphan_age_hours", Help: "How old content without a file must be to be removed, hours.", Roles: cell, Default: 24},

		{Name: "edge.listen", Help: "HOST:PORT for clients, TCP and UDP.", Roles: edge, Example: "0.0.0.0:7443", PerNode: "use --listen"},
		{Name: "edge.plaintext", Help: "Second HOST:PORT for clients, without TLS, behind a load balancer that ends it. Empty: none.", Roles: edge, PerNode: "use --plaintext"},
		{Name: "edge.plaintext_advertise", Help: "HOST:PORT that clients without TLS are told when they are to leave another edge; none: they come through balancers, which know. Default: edge.plaintext, unless that is all addresses.", Roles: edge, PerNode: ownByDev},
		{Name: "edge.advertise", Help: "HOST:PORT clients are told. Empty: the value of edge.listen.", Roles: edge, PerNode: ownByDev},
		{Name: "edge.cert", Help: "Certificate of the client port, PEM file (`waggle certs web`).", Roles: edge},
		{Name: "edge.key", Help: "Key of edge.cert, PEM file.", Roles: edge},
		{Name: "edge.drain_rate", Help: "Sessions per second that are asked to go elsewhere while the edge is drained.", Roles: edge, Default: 1000},
		{Name: "edge.messages_under_way", Help: "Unanswered messages of all clients of an edge together; more are refused \"retry later\". More bear more, later. -1: no bound.", Roles: edge, Default: 2048},
		{Name: "edge.messages_overloaded", Help: "The same while answers are late for so many: fewer are borne then, in time. -1: edge.messages_under_way holds in overload too.", Roles: edge, Default: 144},
		{Name: "edge.slow_reader_seconds", Help: "How long a client may take nothing of what it is sent before its connection is ended; it misses nothing when it comes back. Seconds.", Roles: edge, Default: 10},
		{Name: "edge.exempt_loopback", Help: "Lift the limits per address for clients on this machine.", Roles: edge, Default: false},

		{Name: "etcd_server.client", Help: "HOST:PORT for etcd's clients.", Roles: etcd, Example: "127.0.0.1:2379", PerNode: ownByDev},
		{Name: "etcd_server.peer", Help: "HOST:PORT for etcd's members.", Roles: etcd, Example: "127.0.0.1:2380", PerNode: ownByDev},
		{Name: "etcd_server.cert", Help: "etcd's certificate, PEM file.", Roles: etcd, PerNode: ownByDev},
		{Name: "etcd_server.key", Help: "Key of etcd_server.cert, PEM file.", Roles: etcd, PerNode: ownByDev},
		{Name: "etcd_server.ca", Help: "Authority of etcd's clients, PEM file.", Roles: etcd, PerNode: ownByDev},
	}
}

// fields are the types of a struct's leaves by key.
func fields(t reflect.Type, prefix string) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name := prefix + f.Tag.Get("koanf")
		if f.Type.Kind() != reflect.Struct {
			out[name] = f.Type
			continue
		}
		for k, v := range fields(f.Type, name+".") {
			out[k] = v
		}
	}
	return out
}

// Find is the key of that name.
func Find(name string) (Key, error) {
	keys := Keys()
	if i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name }); i >= 0 {
		return keys[i], nil
	}
	return Key{}, unknown(name)
}

// section are the names of the keys below a section.
func section(name string) []string {
	var out []string
	for _, k := range Keys() {
		if strings.HasPrefix(k.Name, name+".") {
			out = append(out, k.Name)
		}
	}
	return out
}

// unknown refuses a name and says which one may have been meant.
func unknown(name string) error {
	best, least := "", int(^uint(0)>>1)
	for _, k := range Keys() {
		d := distance(name, k.Name)
		if last(name) == last(k.Name) {
			d = min(d, 3) // the right word in the wrong section, or none
		}
		if d < least {
			best, least = k.Name, d
		}
	}
	return fmt.Errorf("there is no key %s: the nearest is %s", name, best)
}

func last(name string) string { return name[strings.LastIndex(name, ".")+1:] }

// distance is the number of letters to insert, remove or replace (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
