package devcluster

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/internal/giveway"
)

// cellsMax and edgesMax bound a development cluster: each node is a process
// or a set of goroutines on one machine.
const (
	cellsMax = 32
	edgesMax = 16
)

// Where a cluster is when nothing else is said; clients and operator verbs
// look there too.
const (
	defaultListen  = "127.0.0.1:7443"
	defaultAdmin   = "127.0.0.1:7480"
	defaultDataDir = "waggle-data"
)

// Options is the shape of a development cluster.
type Options struct {
	Cells      int // 0: as before, at first 2
	Replicas   int // 1 or 3; 0: as before, at first 1
	Edges      int // 0: as before, at first 1
	SplitRoles bool
	SplitSet   bool // SplitRoles was asked for; else it is as before

	Listen    string // the first edge's client address; default 127.0.0.1:7443
	Plaintext string // second client address without TLS; default none
	RTSP      string // of the first cell's first resource node; default: a free port, as the others have
	RTMP      string // the same
	Admin     string // default 127.0.0.1:7480
	DataDir   string // default ./waggle-data

	Procs        bool
	RestartAfter time.Duration // of a child that died; 0: never
	Executable   string        // started for children; default this program

	NoDemo    bool
	ReadyFile string // written when a message has gone round

	// Gate is where files give way to messages, for tests; nil: one of its own.
	// Processes of their own have one each.
	Gate *giveway.Gate
	// Override changes every node's configuration before it runs.
	Override func(*daemon.Config) error
	Out      io.Writer // what people read
	Logger   *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Listen == "" {
		o.Listen = defaultListen
	}
	if o.Admin == "" {
		o.Admin = defaultAdmin
	}
	if o.DataDir == "" {
		o.DataDir = defaultDataDir
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Gate == nil {
		o.Gate = giveway.New()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Validate says what is wrong, naming the flag.
func (o Options) Validate() error {
	switch {
	case o.Cells < 0 || o.Cells > cellsMax:
		return fmt.Errorf("--cells %d: from 1 to %d", o.Cells, cellsMax)
	case o.Edges < 0 || o.Edges > edgesMax:
		return fmt.Errorf("--edges %d: from 1 to %d", o.Edges, edgesMax)
	case o.Replicas != 0 && o.Replicas != 1 && o.Replicas != 3:
		return fmt.Errorf("--replicas %d: 1 or 3", o.Replicas)
	case o.RestartAfter < 0:
		return errors.New("--restart-after: not below 0")
	}
	if o.Admin != "" && !daemon.Loopback(o.Admin) {
		return fmt.Errorf("--admin %s can be reached from outside and asks nobody who he is: use a loopback address", o.Admin)
	}
	for _, a := range []struct{ flag, addr string }{{"--listen", o.Listen}, {"--plaintext", o.Plaintext}, {"--rtsp", o.RTSP}, {"--rtmp", o.RTMP}, {"--admin", o.Admin}} {
		if a.addr == "" {
			continue
		}
		if _, port, err := net.SplitHostPort(a.addr); err != nil || port == "" {
			return fmt.Errorf("%s %s: not HOST:PORT", a.flag, a.addr)
		}
	}
	return nil
}
