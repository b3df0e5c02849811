package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"

	"github.com/waggle-im/waggle/internal/admin"
	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/internal/daemon"
)

const (
	// stopTimeout is how long a child may drain before it is killed. The
	// three stages together stay within the 10 s promised for SIGTERM.
	stopTimeout = 3 * time.Second
	// earlyDeath is a life so short that the start itself failed, as when a
	// port or lock of a dying predecessor is still held; it is tried again
	// after earlyRetry, whatever the restart time.
	earlyDeath = 2 * time.Second
	earlyRetry = 300 * time.Millisecond
	earlyTries = 20
	// readyTimeout bounds one question to a child.
	readyTimeout = 500 * time.Millisecond
)

// processes runs each node as a child process. A child holds the reading end
// of a pipe as its standard input and ends when the supervisor does, however
// that ends.
type processes struct {
	o    Options
	errs chan error

	mu       sync.Mutex // guards children
	children []*child
}

type child struct {
	cfg    daemon.Config
	stop   chan struct{}
	done   chan struct{}
	mu     sync.Mutex // guards cmd
	cmd    *exec.Cmd
	parent io.WriteCloser
}

func newProcesses(o Options) *processes { return &processes{o: o, errs: make(chan error, 1)} }

// start implements runner.
func (p *processes) start(_ context.Context, cfg daemon.Config) error {
	file := filepath.Join(p.o.DataDir, cfg.Node+".yaml")
	if err := writeConfig(file, cfg); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(p.o.DataDir, "logs"), 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	c := &child{cfg: cfg, stop: make(chan struct{}), done: make(chan struct{})}
	if err := p.spawn(c, file); err != nil {
		return err
	}
	p.mu.Lock()
	p.children = append(p.children, c)
	p.mu.Unlock()
	go p.watch(c, file) // ended and awaited by stop
	return nil
}

func writeConfig(file string, cfg daemon.Config) error {
	values := map[string]any{}
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{TagName: "koanf", Result: &values})
	if err == nil {
		err = decoder.Decode(cfg)
	}
	var raw []byte
	if err == nil {
		raw, err = yaml.Parser().Marshal(values)
	}
	if err == nil {
		err = atomicfile.Write(file, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// spawn starts the child's process.
func (p *processes) spawn(c *child, file string) error {
	exe := p.o.Executable
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
	}
	log, err := os.OpenFile(filepath.Join(p.o.DataDir, "logs", c.cfg.Node+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of %s: %w", c.cfg.Node, err)
	}
	defer log.Close()
	cmd := exec.Command(exe, "start", c.cfg.Role, "--config", file, "--parent-pipe")
	cmd.Env = childEnv(os.Environ(), runtime.NumCPU())
	cmd.Stdout, cmd.Stderr = log, log
	parent, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", c.cfg.Node, err)
	}
	start := cmd.Start
	if slices.Contains(cmd.Env, oneCPU) {
		start = func() error { return startWithSlack(cmd) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("start %s: %w", c.cfg.Node, err)
	}
	c.mu.Lock()
	c.cmd, c.parent = cmd, parent
	c.mu.Unlock()
	return nil
}

// oneCPU lets a child use one CPU at a time. Only such children get more timer
// slack: where a runtime has several, a thread that takes another's work sleeps
// for microseconds first, which the slack would make milliseconds.
const oneCPU = "GOMAXPROCS=1"

// childEnv is the environment of a child: that of the supervisor, with half the
// CPUs for each child unless GOMAXPROCS is set. Children outnumber the CPUs of
// most machines. Each takes work in small pieces, and its runtime wakes a second
// thread that looks for more in vain, on a CPU that another child waits for: with
// ten children on two CPUs a message took a quarter more CPU.
func childEnv(environ []string, cpus int) []string {
	const name = "GOMAXPROCS="
	for _, v := range environ {
		if strings.HasPrefix(v, name) {
			return environ
		}
	}
	return append(environ[:len(environ):len(environ)], name+strconv.Itoa(max(1, cpus/2)))
}

// watch starts the child again when it dies.
func (p *processes) watch(c *child, file string) {
	defer close(c.done)
	early := 0
	for {
		started := time.Now()
		err := c.cmd.Wait()
		_ = c.parent.Close()
		select {
		case <-c.stop:
			return
		default:
		}
		wait := p.o.RestartAfter
		if time.Since(started) < earlyDeath && exitedByItself(err) {
			if early++; early < earlyTries {
				wait = earlyRetry
			}
		} else {
			early = 0
			fmt.Fprintf(p.o.Out, "%s died (%v)%s\n", c.cfg.Node, err, again(wait))
		}
		if early >= earlyTries {
			p.fail(fmt.Errorf("%s does not start: see %s", c.cfg.Node, filepath.Join(p.o.DataDir, "logs", c.cfg.Node+".log")))
			return
		}
		if wait == 0 {
			<-c.stop
			return
		}
		select {
		case <-time.After(wait):
		case <-c.stop:
			return
		}
		if err := p.spawn(c, file); err != nil {
			p.fail(err)
			return
		}
	}
}

func again(wait time.Duration) string {
	if wait == 0 {
		return ""
	}
	return fmt.Sprintf(", starting it again in %s", wait)
}

// exitedByItself tells an exit from a death by signal.
func exitedByItself(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return err == nil || ok && exit.ExitCode() >= 0
}

func (p *processes) fail(err error) {
	select {
	case p.errs <- err:
	default:
	}
}

// stop implements runner.
func (p *processes) stop(match func(daemon.Config) bool) {
	p.mu.Lock()
	var mine, rest []*child
	for _, c := range p.children {
		if match(c.cfg) {
			mine = append(mine, c)
		} else {
			rest = append(rest, c)
		}
	}
	p.children = rest
	p.mu.Unlock()
	for _, c := range mine {
		close(c.stop)
		c.signal(syscall.SIGTERM)
	}
	deadline := time.After(stopTimeout)
	for _, c := range mine {
		select {
		case <-c.done:
		case <-deadline:
			c.signal(syscall.SIGKILL)
			<-c.done
		}
	}
}

func (c *child) signal(s os.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_ = c.cmd.Process.Kill() // systems without SIGTERM
	}
}

// failed implements runner.
func (p *processes) failed() <-chan error { return p.errs }

// checks implements runner: every child is asked.
func (p *processes) checks() []admin.Check {
	p.mu.Lock()
	children := append([]*child(nil), p.children...)
	p.mu.Unlock()
	out := make([]admin.Check, len(children))
	var wg sync.WaitGroup
	for i, c := range children {
		wg.Go(func() {
			out[i] = admin.Check{Name: c.cfg.Node, Err: askReady(c.cfg.Admin)}
		})
	}
	wg.Wait()
	return out
}

func askReady(addr string) error {
	client := http.Client{Timeout: readyTimeout}
	resp, err := client.Get("http://" + addr + "/readyz")
	if err != nil {
		return errors.New("does not answer")
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("is not ready")
	}
	return nil
}

// controlPlanes are the admin addresses of the control planes.
func (p *processes) controlPlanes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, c := range p.children {
		if c.cfg.Role == daemon.RoleControlPlane {
			out = append(out, c.cfg.Admin)
		}
	}
	return out
}
