package ceiling

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Config says what to measure. Exactly one of Rate and Window is set.
type Config struct {
	Command   []string      // starts a process that calls [Process]
	Dir       string        // for stores, on the disk that is to be measured: folders 0, 1 and 2, which must not be there and are left there
	Copies    int           // 1 or 3
	Pairs     int           // of people who write to each other
	Window    int           // closed loop: messages outstanding in all, at most two for each pair
	Rate      float64       // open loop: messages/s in all
	SizeBytes int           // of a body
	Duration  time.Duration // measured, after the warm-up
	WarmUp    time.Duration // not measured
	// Look is called when the measured time begins and when it ends, with the
	// ids of the server processes, the leader's first. nil: nothing is.
	Look func(pids []int)
}

// Validate says what is wrong.
func (c *Config) Validate() error {
	switch {
	case c.Copies != 1 && c.Copies != 3:
		return fmt.Errorf("--copies %d: 1 or 3", c.Copies)
	case c.Pairs < 1 || c.Pairs > 5000:
		return fmt.Errorf("--pairs %d: from 1 to 5000", c.Pairs)
	case (c.Rate > 0) == (c.Window > 0):
		return errors.New("give one of --rate (open loop) and --window (closed loop), above 0")
	case c.Window > 2*c.Pairs:
		return fmt.Errorf("--window %d: at most two for each of %d pairs", c.Window, c.Pairs)
	case c.SizeBytes < 1 || c.SizeBytes > 32<<10:
		return fmt.Errorf("--size %d: from 1 to %d", c.SizeBytes, 32<<10)
	case c.Duration < time.Second:
		return fmt.Errorf("--duration %s: from 1s", c.Duration)
	case c.WarmUp < 0:
		return fmt.Errorf("--warm-up %s: not below 0", c.WarmUp)
	}
	return nil
}

// Result is what the server bore.
type Result struct {
	Sent, Acked, Pushed int64                   // messages due in the measured time; what came of them is waited for
	Unsent              int64                   // due in it and not sent: of an open loop, see [Run]
	Answered            int64                   // acknowledgements that came in it, for whatever was due when
	Latencies           *hdrhistogram.Histogram // of acknowledgements, from when a send was due, in µs
}

// Run starts the server, loads it and ends it. In an open loop a message is not
// sent if too many of its sender are unanswered, or if the generator is too
// late with it; then it is in [Result.Unsent].
//
// Errors: what kept the measurement from being one, a process or a connection
// that ended early, and messages that were lost.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cert, key, err := certificate()
	if err != nil {
		return nil, fmt.Errorf("ceiling: certificate: %w", err)
	}
	s, err := startServers(ctx, &cfg, order{Cert: cert.Raw, Key: key})
	var r *Result
	if err == nil {
		r, err = load(ctx, cfg, s, cert)
	}
	err = errors.Join(err, s.end())
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err() // the processes were killed, and are no news
	case err != nil:
		return nil, err
	}
	return r, nil
}

// servers are the processes, followers first: the leader needs their addresses.
type servers []*process

// startServers starts one process for each copy. What it has started is there
// with an error too.
func startServers(ctx context.Context, cfg *Config, leader order) (s servers, err error) {
	dir := func(n int) string { return filepath.Join(cfg.Dir, strconv.Itoa(n)) }
	for n := 1; n < cfg.Copies; n++ {
		p, err := start(ctx, cfg.Command, order{Dir: dir(n), Follower: true})
		if err != nil {
			return s, err
		}
		s = append(s, p)
		leader.Followers = append(leader.Followers, p.addr)
	}
	leader.Dir = dir(0)
	p, err := start(ctx, cfg.Command, leader)
	if err != nil {
		return s, err
	}
	return append(s, p), nil
}

func (s servers) leader() *process { return s[len(s)-1] }

func (s servers) pids() []int {
	out := []int{s.leader().cmd.Process.Pid}
	for _, p := range s[:len(s)-1] {
		out = append(out, p.cmd.Process.Pid)
	}
	return out
}

// end ends the leader before its followers, whose going away would be an error
// to it.
func (s servers) end() error {
	var errs []error
	for i := len(s) - 1; i >= 0; i-- {
		errs = append(errs, s[i].end())
	}
	return errors.Join(errs...)
}

// load connects everybody and sends.
func load(ctx context.Context, cfg Config, s servers, cert *x509.Certificate) (*Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	g := newGenerator(cfg, cancel)
	defer g.close()
	if err := g.connect(ctx, s.leader().addr, &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}); err != nil {
		return nil, err
	}
	look := func() {
		if cfg.Look != nil {
			cfg.Look(s.pids())
		}
	}
	return g.run(ctx, look)
}

// rest tells whether the whole time has passed before ctx ended.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// certificate makes one that lasts for a measurement, with its key.
func certificate() (*x509.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ceiling"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	return cert, raw, err
}
