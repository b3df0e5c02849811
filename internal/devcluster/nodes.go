package devcluster

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/daemon"
)

// caFile is the authority clients trust, in the data directory.
const caFile = "ca.pem"

// builder makes the nodes' configurations.
type builder struct {
	o     Options
	shape *shape
	ca    *certs.Authority
	etcd  *certs.Authority // etcd has an authority of its own
}

func newBuilder(o Options, s *shape) (*builder, error) {
	b := &builder{o: o, shape: s}
	var err error
	if b.ca, err = certs.EnsureAuthority(filepath.Join(o.DataDir, "ca")); err != nil {
		return nil, err
	}
	if b.etcd, err = certs.EnsureAuthority(filepath.Join(o.DataDir, "etcd-ca")); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(b.ca.CAFile())
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(o.DataDir, caFile), raw, 0o644); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	return b, nil
}

func (b *builder) path(parts ...string) string {
	return filepath.Join(append([]string{b.o.DataDir}, parts...)...)
}

// config is the configuration of one node, its certificates made.
func (b *builder) config(n node) (daemon.Config, error) {
	ports := b.shape.Ports[n.name]
	c := daemon.Config{
		Role: n.role, Node: n.name, Cluster: "dev", Mode: "embedded", DataDir: b.path(n.name),
		Listen: ports.GRPC, Admin: ports.Admin, Advertise: ports.Via,
		Log: daemon.LogConfig{Level: "warn"},
	}
	if err := b.etcdConfig(&c, n); err != nil {
		return c, err
	}
	if n.role != daemon.RoleEtcd {
		pair := certs.PairIn(b.path("certs"), n.name)
		if err := b.ca.EnsureNode(pair, certs.Identity{Role: n.role, Cell: n.cell, Node: n.name}); err != nil {
			return c, err
		}
		c.TLS = daemon.TLSConfig{Cert: pair.CertFile, Key: pair.KeyFile, CA: b.ca.CAFile()}
	}
	switch n.role {
	case daemon.RoleControlPlane:
		c.ControlPlane = daemon.ControlPlaneConfig{
			Database: "sqlite:" + b.path("accounts.db"), Replicas: uint32(b.shape.Replicas), Cells: b.shape.Cells,
			Redis: "redis://" + b.shape.Ports[serviceRedis].called(), MailFrom: mailFrom,
			SMTP: "smtp://" + b.shape.Ports[serviceMail].called() + "?tls=none",
		}
	case daemon.RoleCell:
		c.Cell = daemon.CellConfig{Name: n.cell, Roles: n.roles}
		c.Files = daemon.FilesConfig{Listen: ports.Files}
		c.Live = daemon.LiveConfig{RTSP: ports.RTSP, RTMP: ports.RTMP}
		if n.name == b.shape.firstResource() {
			c.Live.RTSP, c.Live.RTMP = cmp.Or(b.o.RTSP, ports.RTSP), cmp.Or(b.o.RTMP, ports.RTMP)
		}
	case daemon.RoleEdge:
		if err := b.edgeConfig(&c, n, ports); err != nil {
			return c, err
		}
	}
	if b.o.Override != nil {
		if err := b.o.Override(&c); err != nil {
			return c, err
		}
	}
	return c, c.Validate()
}

func (b *builder) etcdConfig(c *daemon.Config, n node) error {
	client := certs.PairIn(b.path("certs"), "etcd-client")
	if err := b.etcd.EnsureNode(client, certs.Identity{Role: certs.RoleEtcd, Node: "etcd-client"}); err != nil {
		return err
	}
	ports := b.shape.Ports["etcd"]
	c.Etcd = daemon.EtcdConfig{
		Endpoints: []string{"https://" + ports.called()}, Cert: client.CertFile, Key: client.KeyFile, CA: b.etcd.CAFile(),
	}
	if n.role != daemon.RoleEtcd {
		return nil
	}
	server := certs.PairIn(b.path("certs"), "etcd-server")
	if err := b.etcd.EnsureNode(server, certs.Identity{Role: certs.RoleEtcd, Node: "etcd-server"}); err != nil {
		return err
	}
	c.EtcdServer = daemon.EtcdServerConfig{
		Client: ports.GRPC, Peer: ports.Peer, Cert: server.CertFile, Key: server.KeyFile, CA: b.etcd.CAFile(),
	}
	return nil
}

func (b *builder) edgeConfig(c *daemon.Config, n node, ports nodePorts) error {
	c.Edge = daemon.EdgeConfig{Listen: ports.Client, ExemptLoopback: true}
	if n.index == 0 {
		c.Edge.Listen, c.Edge.Plaintext = b.o.Listen, b.o.Plaintext
	} else if b.o.Plaintext != "" {
		c.Edge.Plaintext = ports.Plain
	}
	web := certs.PairIn(b.path("certs"), "web")
	var hosts []string
	if host, _, err := net.SplitHostPort(b.o.Listen); err == nil && host != "" {
		hosts = append(hosts, host)
	}
	if err := b.ca.EnsureWeb(web, hosts...); err != nil {
		return err
	}
	c.Edge.Cert, c.Edge.Key = web.CertFile, web.KeyFile
	return nil
}
