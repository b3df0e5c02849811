package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/version"
)

const (
	// baselineDefault is how long the servers' own idling is watched, to be taken
	// off what they use with connections.
	baselineDefault = 10 * time.Second
	// restDefault lets servers come to rest after many logins, before memory is
	// looked at: batches in flight, confirmations, parking.
	restDefault = 5 * time.Second
)

// holding is a client process at work.
type holding struct {
	in   io.WriteCloser
	out  *json.Decoder
	wait func() error
	pid  int // 0: in this process
}

// Idle holds connections that say nothing but heartbeats, each with an account
// of its own, and writes what they cost the servers to a folder.
func Idle(ctx context.Context, cfg IdleConfig) (*Result, error) {
	if cfg.Rest == 0 {
		cfg.Rest = restDefault
	}
	if cfg.Baseline == 0 {
		cfg.Baseline = baselineDefault
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if _, err := cfg.tls(); err != nil {
		return nil, err
	}
	c, err := openCluster(ctx, cfg.Admin)
	if err != nil {
		return nil, err
	}
	defer c.close()
	perProc := (cfg.Connections + cfg.Procs - 1) / cfg.Procs
	servers := cfg.Connections
	if cfg.Transport == client.QUIC {
		perProc, servers = perProc/perSocket+1, 0
	}
	if err := c.enoughDescriptors(perProc, servers); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return nil, fmt.Errorf("bench: make the folder for the results: %w", err)
	}
	cells := make([]string, cfg.Connections)
	for i := range cells {
		cells[i] = c.cells[i%len(c.cells)]
	}
	cfg.say("making %d accounts in %d cells", len(cells), len(c.cells))
	accounts, err := c.addAccounts(ctx, cells)
	if err != nil {
		return nil, err
	}
	m, err := cfg.measure(ctx, c, accounts)
	if err != nil {
		return nil, err
	}
	r := cfg.result(m)
	if err := writeResult(cfg.Out, r); err != nil {
		return nil, err
	}
	return r, writeReport(cfg.Out, r, cfg.notes(c, m), nil, charts{})
}

// idleMeasured is what an idle run saw.
type idleMeasured struct {
	bareFrom, bareTo, bare usage // before connecting; bare: after a collection
	connected              usage // all connected, after a collection
	heldFrom, heldTo       usage // the time of holding
	end                    usage // after it, and a collection
	took                   time.Duration
	disconnects            int64
	heartbeats             int64 // answered
}

func (cfg *IdleConfig) measure(ctx context.Context, c *cluster, accounts []account) (m idleMeasured, err error) {
	cfg.say("watching the servers without connections for %s", cfg.Baseline)
	if err := rest(ctx, cfg.Rest); err != nil {
		return m, err
	}
	m.bareFrom = c.measure()
	if err := rest(ctx, cfg.Baseline); err != nil {
		return m, err
	}
	m.bareTo = c.measure()
	if m.bare, err = c.measureCollected(ctx); err != nil {
		return m, err
	}
	cfg.say("connecting %d by %s from %d processes", cfg.Connections, cfg.Transport, cfg.Procs)
	procs, err := cfg.startHolders(ctx, accounts)
	defer func() {
		for _, p := range procs {
			_ = p.in.Close()
			err = errors.Join(err, p.wait())
		}
	}()
	if err != nil {
		return m, err
	}
	for _, p := range procs {
		var report holdReport
		if err := p.out.Decode(&report); err != nil {
			return m, fmt.Errorf("a client process ended early: %w", err)
		}
		if report.Error != "" {
			return m, fmt.Errorf("%s (are the limits per address lifted, `edge.exempt_loopback: true`?)", report.Error)
		}
		m.took = max(m.took, time.Duration(report.TookUs)*time.Microsecond)
	}
	cfg.say("connected after %s; holding for %s", m.took.Round(time.Millisecond), cfg.Hold)
	if err := rest(ctx, cfg.Rest); err != nil {
		return m, err
	}
	if m.connected, err = c.measureCollected(ctx); err != nil {
		return m, err
	}
	m.heldFrom = c.measure()
	if err := rest(ctx, cfg.Hold); err != nil {
		return m, err
	}
	m.heldTo = c.measure()
	if m.end, err = c.measureCollected(ctx); err != nil {
		return m, err
	}
	for _, p := range procs {
		_ = p.in.Close()
		var report holdReport
		if err := p.out.Decode(&report); err != nil {
			return m, fmt.Errorf("a client process ended without its report: %w", err)
		}
		m.disconnects += report.Disconnects
		m.heartbeats += report.Heartbeats
	}
	return m, nil
}

// measureCollected measures after the servers have given back what they can:
// twice, since the first collection only empties the pools.
func (c *cluster) measureCollected(ctx context.Context) (usage, error) {
	for range 2 {
		if err := c.collectGarbage(ctx); err != nil {
			return usage{}, err
		}
	}
	return c.measure(), nil
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startHolders starts the client processes and hands each its share.
func (cfg *IdleConfig) startHolders(ctx context.Context, accounts []account) ([]*holding, error) {
	orders, err := cfg.orders(accounts)
	if err != nil {
		return nil, err
	}
	var out []*holding
	for _, order := range orders {
		p, err := cfg.startHolder(ctx)
		if err != nil {
			return out, err
		}
		out = append(out, p)
		if err := json.NewEncoder(p.in).Encode(order); err != nil {
			return out, fmt.Errorf("give a client process its order: %w", err)
		}
	}
	return out, nil
}

// orders shares the accounts out among the client processes.
func (cfg *IdleConfig) orders(accounts []account) ([]holdOrder, error) {
	order := holdOrder{Server: cfg.Server, Transport: cfg.Transport}
	if cfg.Transport != client.Plain {
		var err error
		if order.CA, err = os.ReadFile(cfg.CA); err != nil {
			return nil, err
		}
	}
	host, _, _ := net.SplitHostPort(cfg.Server)
	loopback := net.ParseIP(host).To4() != nil && net.ParseIP(host).IsLoopback()
	var out []holdOrder
	source := 1
	for i := range cfg.Procs {
		mine := order
		mine.Accounts = accounts[i*len(accounts)/cfg.Procs : (i+1)*len(accounts)/cfg.Procs]
		if loopback && cfg.Connections > perSource {
			for n := 0; n < len(mine.Accounts); n += perSource {
				mine.Sources = append(mine.Sources, fmt.Sprintf("127.0.%d.%d", source/250, source%250+1))
				source++
			}
		}
		out = append(out, mine)
	}
	return out, nil
}

func (cfg *IdleConfig) startHolder(ctx context.Context) (*holding, error) {
	return startChild(ctx, cfg.Executable, "hold", Hold)
}

// startChild starts `executable verb`, or runs serve in this process where the
// first is empty. Its process is killed when ctx ends.
func startChild(ctx context.Context, executable, verb string, serve func(context.Context, io.Reader, io.Writer) error) (*holding, error) {
	if executable == "" {
		orderR, orderW := io.Pipe()
		reportR, reportW := io.Pipe()
		var g errgroup.Group
		g.Go(func() error {
			err := serve(ctx, orderR, reportW)
			_ = reportW.CloseWithError(io.EOF)
			_ = orderR.Close()
			return err
		})
		return &holding{in: orderW, out: json.NewDecoder(reportR), wait: func() error {
			_ = reportR.Close() // a report nobody waits for must not keep it
			return g.Wait()
		}}, nil
	}
	cmd := exec.CommandContext(ctx, executable, verb)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a client process: %w", err)
	}
	return &holding{in: in, out: json.NewDecoder(out), wait: cmd.Wait, pid: cmd.Process.Pid}, nil
}

func (cfg *IdleConfig) result(m idleMeasured) *Result {
	n := float64(cfg.Connections)
	r := &Result{
		Mode: "idle", Commit: version.Commit(), Command: cfg.Command, Machine: machine(), Transport: string(cfg.Transport),
		Connections: cfg.Connections, Disconnects: m.disconnects, Errors: map[string]int{},
		ConnectsPerSecond: some(round(n / m.took.Seconds())), LimitedBy: "the number of connections asked for",
	}
	if m.bare.missing != nil || m.end.missing != nil || m.heldTo.missing != nil {
		return r
	}
	r.ServerBytesPerConnection = some(round(float64(m.end.memoryTotal()-m.bare.memoryTotal()) / n))
	r.ServerBytesByNode = growth(m.bare, m.end)
	r.KernelBytesPerConnection = some(round(float64(m.end.slab-m.bare.slab) / n))
	r.CPUUsPerIdleConnection = perIdle(m.withConnections()-m.without(), cfg.Connections)
	return r
}

// without is how many CPUs the servers use with no connections.
func (m idleMeasured) without() float64 {
	return cores(m.bareTo.serverCPU-m.bareFrom.serverCPU, m.bareFrom, m.bareTo)
}

// withConnections is how many they use while all are held.
func (m idleMeasured) withConnections() float64 {
	return cores(m.heldTo.serverCPU-m.heldFrom.serverCPU, m.heldFrom, m.heldTo)
}

func (cfg *IdleConfig) notes(c *cluster, m idleMeasured) []note {
	out := append(clusterNotes(c),
		note{"clients", fmt.Sprintf("%d processes, a heartbeat every 30 s, subscribed, an account for each connection", cfg.Procs)},
		note{"held", fmt.Sprintf("%s, %d heartbeats answered", cfg.Hold, m.heartbeats)},
	)
	if err := errors.Join(m.bare.missing, m.end.missing); err != nil {
		return append(out, note{"servers' CPU and memory", fmt.Sprintf("not known: %v", err)})
	}
	n := int64(cfg.Connections)
	return append(out,
		note{"server memory without connections", fmt.Sprintf("%d KiB", m.bare.memoryTotal()>>10)},
		note{"server bytes per connection once connected, and after holding", fmt.Sprintf("%d, %d",
			(m.connected.memoryTotal()-m.bare.memoryTotal())/n, (m.end.memoryTotal()-m.bare.memoryTotal())/n)},
		note{"servers' CPU without connections, and holding them", fmt.Sprintf("%.3f, %.3f CPUs", m.without(), m.withConnections())},
		note{"kernel slab memory without connections, and at the end", fmt.Sprintf("%d, %d KiB", m.bare.slab>>10, m.end.slab>>10)},
		note{"kernel socket buffers without connections, and at the end", fmt.Sprintf("%d, %d KiB", m.bare.sockets>>10, m.end.sockets>>10)},
	)
}
