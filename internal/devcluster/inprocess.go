package devcluster

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/internal/admin"
	"github.com/waggle-im/waggle/internal/daemon"
)

// runner runs nodes, in this process or in others.
type runner interface {
	// start starts a node; it may not be ready yet.
	start(ctx context.Context, cfg daemon.Config) error
	// stop stops the nodes that match, draining, and waits for them.
	stop(match func(daemon.Config) bool)
	// failed delivers the error of a node without which the cluster cannot
	// go on.
	failed() <-chan error
	// checks are the nodes' conditions of readiness.
	checks() []admin.Check
}

// inProcess runs nodes as goroutines of this process.
type inProcess struct {
	env  daemon.Env
	errs chan error

	mu      sync.Mutex // guards running
	running []*runningDaemon
}

type runningDaemon struct {
	cfg    daemon.Config
	daemon *daemon.Daemon
	verbs  *grpc.Server // nil: no operator verbs
	cancel context.CancelFunc
	done   chan struct{}
}

func newInProcess(env daemon.Env) *inProcess {
	return &inProcess{env: env, errs: make(chan error, 1)}
}

// start implements runner.
func (p *inProcess) start(ctx context.Context, cfg daemon.Config) error {
	d, err := daemon.New(ctx, cfg, p.env)
	if err != nil {
		return err
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &runningDaemon{cfg: cfg, daemon: d, verbs: daemon.OperatorServer(d), cancel: cancel, done: make(chan struct{})}
	p.mu.Lock()
	p.running = append(p.running, r)
	p.mu.Unlock()
	go func() { // ended and awaited by stop
		defer close(r.done)
		if err := d.Run(runCtx); err != nil {
			select {
			case p.errs <- fmt.Errorf("node %s: %w", cfg.Node, err):
			default:
			}
		}
	}()
	return nil
}

// stop implements runner.
func (p *inProcess) stop(match func(daemon.Config) bool) {
	p.mu.Lock()
	var mine []*runningDaemon
	p.running = slices.DeleteFunc(p.running, func(r *runningDaemon) bool {
		if match(r.cfg) {
			mine = append(mine, r)
			return true
		}
		return false
	})
	p.mu.Unlock()
	for _, r := range mine {
		r.cancel()
	}
	for _, r := range mine {
		<-r.done
	}
}

// failed implements runner.
func (p *inProcess) failed() <-chan error { return p.errs }

// checks implements runner.
func (p *inProcess) checks() []admin.Check {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []admin.Check
	for _, r := range p.running {
		for _, c := range r.daemon.Checks() {
			c.Name = r.daemon.Name() + " " + c.Name
			out = append(out, c)
		}
	}
	return out
}

// Gather implements prometheus.Gatherer over the nodes that run.
func (p *inProcess) Gather() ([]*dto.MetricFamily, error) {
	p.mu.Lock()
	var all prometheus.Gatherers
	for _, r := range p.running {
		all = append(all, r.daemon.Metrics())
	}
	p.mu.Unlock()
	return all.Gather()
}

// operator is the gRPC server of the control plane among the nodes.
func (p *inProcess) operator() *grpc.Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.running {
		if r.verbs != nil {
			return r.verbs
		}
	}
	return nil
}
