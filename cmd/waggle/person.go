package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/version"
	"github.com/waggle-im/waggle/proto"
)

const (
	defaultServer = "127.0.0.1:7443"
	// devCA is the authority of a development cluster in its usual place.
	devCA = "waggle-data/ca.pem"
	// connectTimeout is how long to try for a first connection. A restarted
	// edge is back within it.
	connectTimeout = 10 * time.Second
	// refusedTimeout is how long a port where nobody listens is tried.
	refusedTimeout = 2 * time.Second
)

// person is what every verb of people takes.
type person struct {
	a       *app
	server  string // empty: the profile's
	given   func(flag string) bool
	ca      string // empty: the profile's, or devCA if it is there
	dir     string // empty: the default
	output  choice
	timeout time.Duration
}

func (a *app) personFlags(cmd *cobra.Command) *person {
	p := &person{a: a, output: choice{value: "text", allowed: []string{"text", "json"}}}
	f := cmd.Flags()
	p.given = f.Changed
	f.StringVar(&p.server, "server", a.getenv("WAGGLE_SERVER", ""), "`HOST:PORT` (WAGGLE_SERVER); default: the profile's, else "+defaultServer)
	f.StringVar(&p.ca, "ca", a.getenv("WAGGLE_CA", ""), "`FILE` with the authority of the server's certificate (WAGGLE_CA); default: ./"+devCA+" if present")
	f.StringVar(&p.dir, "profile", a.getenv("WAGGLE_PROFILE", ""), "`DIR` of the profile (WAGGLE_PROFILE); default: waggle in your configuration directory")
	f.VarP(&p.output, "output", "o", "how to print")
	f.DurationVar(&p.timeout, "timeout", connectTimeout, "how long to wait for a connection, and for the answer to a question")
	return p
}

func (p *person) json() bool { return p.output.value == "json" }

// profileDir is where the profile is.
func (p *person) profileDir() (string, error) {
	if p.dir != "" {
		return p.dir, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usagef("there is no configuration directory (%w): give --profile DIR", err)
	}
	return filepath.Join(dir, "waggle"), nil
}

// check refuses flags that cannot be right.
func (p *person) check() error {
	if p.server != "" {
		if _, port, err := net.SplitHostPort(p.server); err != nil || port == "" {
			return usagef("--server %s: not HOST:PORT", p.server)
		}
	}
	if p.timeout <= 0 {
		return usagef("--timeout %s: above 0", p.timeout)
	}
	return nil
}

// loggedIn is the profile, with what the flags change.
func (p *person) loggedIn() (profile, error) {
	if err := p.check(); err != nil {
		return profile{}, err
	}
	dir, err := p.profileDir()
	if err != nil {
		return profile{}, err
	}
	prof, err := loadProfile(dir)
	if err != nil {
		return prof, err
	}
	// WAGGLE_SERVER is where most profiles connect; one for plaintext has an
	// address of another kind.
	use := p.given("server") || prof.Transport != string(client.Plain)
	if use && p.server != "" && p.server != prof.Server {
		prof.Server, prof.Edges = p.server, nil
	}
	if p.ca != "" {
		prof.CA = p.ca
	}
	return prof, nil
}

// roots is how to check a server's certificate.
func roots(ca string) (*tls.Config, error) {
	if ca == "" {
		if _, err := os.Stat(devCA); errors.Is(err, fs.ErrNotExist) {
			return &tls.Config{MinVersion: tls.VersionTLS13}, nil // the system's
		}
		ca = devCA
	}
	pool, err := certs.LoadPool(ca)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, nil
}

// session is a running client.
type session struct {
	*client.Client
	me     proto.EntityID
	server string
	cancel context.CancelFunc
	limit  time.Duration // of one question
	done   chan struct{} // closed when Run has returned
	err    error         // Run's, once done is closed

	refused chan error // nobody listens there
}

// watch notices a server that is not there, to say so before the time for
// connecting is up.
func (s *session) watch(cfg *client.Config) {
	start, tell := time.Now(), cfg.OnState
	cfg.OnState = func(state client.State, err error) {
		if tell != nil {
			tell(state, err)
		}
		if errors.Is(err, syscall.ECONNREFUSED) && time.Since(start) > refusedTimeout {
			select {
			case s.refused <- err:
			default:
			}
		}
	}
}

// connect logs the profile's device in and waits for the connection to stand.
// The session must be closed.
func (p *person) connect(ctx context.Context, configure func(*client.Config)) (*session, error) {
	prof, err := p.loggedIn()
	if err != nil {
		return nil, err
	}
	me, err := prof.user()
	if err != nil {
		return nil, err
	}
	cfg := client.Config{
		Server: prof.Server, Transport: client.Transport(prof.Transport), Token: prof.Token, Device: prof.Device,
		Name:   "waggle/" + version.Commit(),
		Logger: slog.New(slog.DiscardHandler),
	}
	if cfg.Transport != client.Plain {
		if cfg.TLS, err = roots(prof.CA); err != nil {
			return nil, err
		}
		cfg.Alternatives = slices.DeleteFunc(slices.Clone(prof.Edges), func(e string) bool { return e == prof.Server })
	}
	dir, err := p.profileDir()
	if err != nil {
		return nil, err
	}
	if prof.RefreshToken != "" {
		cfg.Refresh = sharedRefresh(dir, cfg)
	}
	if configure != nil {
		configure(&cfg)
	}
	s := &session{me: me, server: prof.Server, limit: p.timeout, done: make(chan struct{}), refused: make(chan error, 1)}
	s.watch(&cfg)
	if s.Client, err = client.New(cfg); err != nil {
		return nil, err
	}
	// What Run works with ends by Close, so that its end can be polite.
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go func() {
		defer close(s.done)
		s.err = errEnded // Run may be left from within; see tail
		s.err = s.Run(runCtx)
	}()
	if err := s.wait(ctx, p.timeout); err != nil {
		s.close()
		return nil, explain(prof.Server, err)
	}
	return s, nil
}

// errEnded is Run's error where it did not return by itself.
var errEnded = errors.New("the client was stopped")

// wait waits for the first connection.
func (s *session) wait(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ready := make(chan error, 1)
	go func() { ready <- s.WaitConnected(ctx) }() // ends with ctx
	select {
	case err := <-ready:
		return err
	case err := <-s.refused:
		return err
	case <-s.done:
		return s.err
	}
}

// close ends the connection and waits for the client to end.
func (s *session) close() {
	s.cancel()
	<-s.done
}

// do asks a question and waits for the answer, at most the time given by
// --timeout.
func (s *session) do(ctx context.Context, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	err := ask(limited)
	if errors.Is(err, client.ErrClosed) {
		<-s.done
		err = s.err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return explain(s.server, err)
}

// explain names the server and the way out.
func explain(server string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*proto.Error](err); ok {
		switch e.Code {
		case proto.CodeBadToken, proto.CodeTokenExpired, proto.CodeSessionEnded, proto.CodeDisplaced:
			return fmt.Errorf("%w (`waggle login NAME`)", e)
		}
		return e
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("the certificate of %s is not of an authority known here: name its file with --ca (a development cluster has it in %s)", server, devCA)
	case errors.As(err, &name):
		return fmt.Errorf("the certificate of %s is for another name (%w): connect by a name it has", server, name)
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, syscall.ECONNREFUSED):
		return timedOut(fmt.Errorf("%s did not answer in time: is it the right address? --server names another", server))
	}
	return &statusError{statusFailed, fmt.Errorf("cannot reach %s (%w): is it running? `make run` starts one, --server names another", server, err)}
}
