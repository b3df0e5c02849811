package embedetcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const (
	// QuotaBytes is where etcd stops taking writes. 100,000 ranges and 1,000
	// nodes are under 100 MB.
	QuotaBytes = 2 << 30
	// revisionsKept is the history a watcher may be behind before it must
	// list anew; compaction runs every five minutes.
	revisionsKept = "10000"
	// tickMillis and electionMillis: a member alone leads after one election
	// time, which bounds how fast a cluster starts. etcd requires election to
	// be at least five ticks.
	tickMillis     = 50
	electionMillis = 300
	// lockWait is how long to wait for the lock another process has on the
	// data, so that a quick restart works and a second start does not hang.
	lockWait = 500 * time.Millisecond
	// closeTimeout bounds a graceful stop.
	closeTimeout = 5 * time.Second
)

// Config says where one etcd runs.
type Config struct {
	Dir        string // data folder, made when missing, mode 0700
	ClientAddr string // host:port for clients; port 0 is not possible
	PeerAddr   string // host:port for other members
	Name       string // default "etcd"
	// TLS of the client port: files in PEM. All three or none; none is for
	// loopback only.
	CertFile, KeyFile, CAFile string
}

// Validate checks c without changing it.
func (c Config) Validate() error {
	if c.Dir == "" {
		return errors.New("embedetcd: no data folder given")
	}
	for _, addr := range []string{c.ClientAddr, c.PeerAddr} {
		host, port, err := net.SplitHostPort(addr)
		if err != nil || port == "0" || port == "" {
			return fmt.Errorf("embedetcd: %q is not an address with a port", addr)
		}
		if ip := net.ParseIP(host); c.CertFile == "" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("embedetcd: %s is not a loopback address: give certificates, or 127.0.0.1", addr)
		}
	}
	if n := count(c.CertFile, c.KeyFile, c.CAFile); n != 0 && n != 3 {
		return errors.New("embedetcd: certificate, key and authority are needed together")
	}
	return nil
}

func count(s ...string) (n int) {
	for _, x := range s {
		if x != "" {
			n++
		}
	}
	return n
}

// Server is a running etcd.
type Server struct {
	etcd     *embed.Etcd
	endpoint string
}

// Start starts etcd and returns when it serves, usually within half a second,
// or when ctx ends.
//
// Errors name the address that is taken or the folder that another process
// uses.
func Start(ctx context.Context, c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := checkUnlocked(c.Dir); err != nil {
		return nil, err
	}
	conf := embedConfig(c)
	e, err := embed.StartEtcd(conf)
	if err != nil {
		return nil, fmt.Errorf("embedetcd: start in %s on %s: %w", c.Dir, c.ClientAddr, err)
	}
	s := &Server{etcd: e, endpoint: conf.AdvertiseClientUrls[0].String()}
	select {
	case <-e.Server.ReadyNotify():
		return s, nil
	case err = <-e.Err():
	case <-e.Server.StopNotify():
		err = errors.New("stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.Close()
	return nil, fmt.Errorf("embedetcd: start in %s on %s: %w", c.Dir, c.ClientAddr, err)
}

func embedConfig(c Config) *embed.Config {
	conf := embed.NewConfig()
	conf.Name = c.Name
	if conf.Name == "" {
		conf.Name = "etcd"
	}
	conf.Dir = c.Dir
	scheme := "http"
	if c.CertFile != "" {
		scheme = "https"
		conf.ClientTLSInfo = transport.TLSInfo{
			CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile, ClientCertAuth: true,
		}
		conf.PeerTLSInfo = conf.ClientTLSInfo
	}
	client := url.URL{Scheme: scheme, Host: c.ClientAddr}
	peer := url.URL{Scheme: scheme, Host: c.PeerAddr}
	conf.ListenClientUrls, conf.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	conf.ListenPeerUrls, conf.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	conf.InitialCluster = conf.InitialClusterFromName(conf.Name)
	conf.TickMs, conf.ElectionMs = tickMillis, electionMillis
	conf.AutoCompactionMode, conf.AutoCompactionRetention = embed.CompactorModeRevision, revisionsKept
	conf.QuotaBackendBytes = QuotaBytes
	conf.EnableGRPCGateway = false
	quiet := zap.NewNop()
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quiet)
	return conf
}

// checkUnlocked fails when another process has the data open; etcd itself
// would wait for it for ever.
func checkUnlocked(dir string) error {
	file := filepath.Join(dir, "member", "snap", "db")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: lockWait, ReadOnly: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("embedetcd: %s is in use by another process: stop that cluster, or choose another data folder", dir)
	}
	if err != nil {
		return fmt.Errorf("embedetcd: %s cannot be opened: %w: restore it from a backup", file, err)
	}
	return db.Close()
}

// Endpoint is where clients connect.
func (s *Server) Endpoint() string { return s.endpoint }

// Err delivers the error that stopped etcd by itself, such as a full disk.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops etcd. What was acknowledged is on disk.
func (s *Server) Close() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.etcd.Close()
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
		// Clients that hold streams keep a graceful stop waiting; nothing is
		// lost by not waiting for them.
		s.etcd.Server.HardStop()
		<-done
	}
}
