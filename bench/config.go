package bench

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/waggle-im/waggle/client"
)

// Common is what every measurement needs.
type Common struct {
	Server    string // host:port of an edge; for Plain its plaintext address
	Admin     string // host:port of a control plane's admin address
	CA        string // PEM file with the edge's authority; unused by Plain
	Out       string // folder for the results, made if missing
	Transport client.Transport
	Command   string    // the exact command, for the stamp
	Progress  io.Writer // nil: silent
}

// Validate says what is missing.
func (c *Common) Validate() error {
	for _, addr := range []string{c.Server, c.Admin} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("%q is not HOST:PORT: %w", addr, err)
		}
	}
	if c.Out == "" {
		return errors.New("a folder for the results is missing")
	}
	switch c.Transport {
	case client.TCP, client.Plain, client.QUIC:
		return nil
	}
	return fmt.Errorf("transport %q is not one of tcp, plain, quic", c.Transport)
}

func (c *Common) say(format string, args ...any) {
	if c.Progress != nil {
		fmt.Fprintf(c.Progress, format+"\n", args...)
	}
}

// tls trusts the authority of CA; nil for Plain.
func (c *Common) tls() (*tls.Config, error) {
	if c.Transport == client.Plain {
		return nil, nil
	}
	raw, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("the authority of the edge's certificate: %w: name its file with --ca (a dev cluster writes ca.pem into its data directory)", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", c.CA)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, nil
}

// RunConfig says what messages to send. Exactly one of Rate and Window is set.
type RunConfig struct {
	Common
	Users     int           // even; 0: two for each pair
	Pairs     int           // who write to each other, in turns
	Rate      float64       // open loop: messages/s in all
	Window    int           // closed loop: messages outstanding in all
	SizeBytes int           // of a text, at least [SizeBytesMin]
	Duration  time.Duration // measured, after the warm-up
	WarmUp    time.Duration // not measured
	Placement string        // [SameCell], [CrossCell] or [Mixed]
	Procs     int           // client processes; 0 and 1: this one
	// Executable is started as `Executable member` for each of several; empty:
	// all are in this process.
	Executable string

	ackTimeout time.Duration // 0: [ackTimeout]
}

// SizeBytesMin leaves room for what tells messages apart.
const SizeBytesMin = 48

// Validate says what is wrong.
func (c *RunConfig) Validate() error {
	if err := c.Common.Validate(); err != nil {
		return err
	}
	switch {
	case c.Pairs < 1:
		return fmt.Errorf("--pairs %d: from 1", c.Pairs)
	case (c.Rate > 0) == (c.Window > 0):
		return errors.New("give one of --rate (open loop) and --window (closed loop), above 0")
	case c.SizeBytes < SizeBytesMin || c.SizeBytes > sizeBytesMax:
		return fmt.Errorf("--size %d: from %d (room for what tells messages apart) to %d", c.SizeBytes, SizeBytesMin, sizeBytesMax)
	case c.Duration < time.Second:
		return fmt.Errorf("--duration %s: from 1s", c.Duration)
	case c.WarmUp < 0:
		return fmt.Errorf("--warm-up %s: not below 0", c.WarmUp)
	case c.Procs < 0 || c.Procs > c.Pairs:
		return fmt.Errorf("--procs %d: from 1 to the number of pairs", c.Procs)
	case c.Procs > 1 && c.Users != 0 && c.Users != 2*c.Pairs:
		return fmt.Errorf("--users %d: with several --procs two of each pair, since a person's connection is in one process", c.Users)
	case c.Procs > 1 && c.Window > 0 && c.Window < c.Procs:
		return fmt.Errorf("--window %d: at least one for each of %d processes", c.Window, c.Procs)
	case c.Users%2 != 0 || c.Users < 0:
		return fmt.Errorf("--users %d: an even number, or 0 for two of each pair", c.Users)
	}
	switch c.Placement {
	case SameCell, CrossCell, Mixed:
		return nil
	}
	return fmt.Errorf("--placement %q is not one of same-cell, cross-cell, mixed", c.Placement)
}

// IdleConfig says how many silent connections to hold.
type IdleConfig struct {
	Common
	Connections int
	Hold        time.Duration // how long, all of them connected
	Procs       int           // client processes
	Rest        time.Duration // before memory is looked at; 0: 5 s
	Baseline    time.Duration // of watching the servers without connections; 0: 10 s
	Executable  string        // started as `Executable hold` for each; empty: held in this process
}

// Validate says what is wrong.
func (c *IdleConfig) Validate() error {
	if err := c.Common.Validate(); err != nil {
		return err
	}
	switch {
	case c.Connections < 1:
		return fmt.Errorf("--connections %d: from 1", c.Connections)
	case c.Procs < 1 || c.Procs > c.Connections:
		return fmt.Errorf("--procs %d: from 1 to the number of connections", c.Procs)
	case c.Hold < time.Second:
		return fmt.Errorf("--hold %s: from 1s", c.Hold)
	}
	return nil
}
