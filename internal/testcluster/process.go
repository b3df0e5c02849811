//go:build unix

package testcluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/testservers"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// buildOnce builds the waggle command once per test program.
var buildOnce = sync.OnceValues(func() (string, error) {
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("this file's place is not known")
	}
	dir, err := os.MkdirTemp("", "waggle-bin-")
	if err != nil {
		return "", err
	}
	exe := filepath.Join(dir, "waggle")
	cmd := exec.Command("go", "build", "-o", exe, "./cmd/waggle")
	cmd.Dir = filepath.Join(filepath.Dir(here), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build waggle: %w: %s", err, out)
	}
	return exe, nil
})

// Executable builds the waggle command and says where it is.
func Executable(t testing.TB) string {
	t.Helper()
	exe, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// StartProcesses runs `waggle dev --procs` as people do: a supervisor with a
// process per node, which can be killed. Of o the shape and the addresses
// count.
func StartProcesses(t testing.TB, o devcluster.Options) *Cluster {
	t.Helper()
	return StartConfigured(t, o, "")
}

// StartConfigured is [StartProcesses] with keys for all nodes, in YAML.
func StartConfigured(t testing.TB, o devcluster.Options, yaml string) *Cluster {
	t.Helper()
	for _, addr := range []*string{&o.Listen, &o.Plaintext, &o.RTSP, &o.RTMP, &o.Admin} {
		if *addr == "" {
			*addr = testservers.FreeAddr(t)
		}
	}
	if o.DataDir == "" {
		o.DataDir = t.TempDir()
	}
	if o.RestartAfter == 0 {
		o.RestartAfter = time.Second
	}
	o.ReadyFile = filepath.Join(o.DataDir, "ready.json")
	o.Procs = true
	c := &Cluster{t: t, options: o, processes: true}
	if yaml != "" {
		c.config = filepath.Join(t.TempDir(), "nodes.yaml")
		if err := os.WriteFile(c.config, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.StartSupervisor()
	t.Cleanup(func() {
		c.stopSupervisor()
		if t.Failed() {
			c.printLogs()
		}
	})
	conn, err := grpc.NewClient("passthrough:///"+o.Admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c.conn, c.verbs = conn, controlpb.NewOperatorClient(conn)
	return c
}

// StartSupervisor starts the supervisor and waits until a message has gone
// round.
func (c *Cluster) StartSupervisor() {
	c.t.Helper()
	_ = os.Remove(c.options.ReadyFile)
	args := []string{
		"dev", "--procs", "--no-demo", "--data", c.options.DataDir, "--ready-file", c.options.ReadyFile,
		"--listen", c.options.Listen, "--plaintext", c.options.Plaintext, "--rtsp", c.options.RTSP, "--rtmp", c.options.RTMP, "--admin", c.options.Admin,
		"--restart-after", c.options.RestartAfter.String(),
	}
	if c.options.Cells > 0 {
		args = append(args, "--cells", strconv.Itoa(c.options.Cells))
	}
	if c.options.Replicas > 0 {
		args = append(args, "--replicas", strconv.Itoa(c.options.Replicas))
	}
	if c.options.Edges > 0 {
		args = append(args, "--edges", strconv.Itoa(c.options.Edges))
	}
	if c.options.SplitRoles {
		args = append(args, "--split-roles")
	}
	if c.config != "" {
		args = append(args, "--config", c.config)
	}
	cmd := exec.Command(Executable(c.t), args...)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.supervisor = cmd
	died := make(chan struct{})
	c.died = died
	go func() { // ends with the process, which the clean-up ends
		_ = cmd.Wait()
		close(died)
	}()
	c.Until("the cluster is ready", func() error {
		select {
		case <-died:
			c.t.Fatalf("waggle dev ended while starting: %v\n%s", cmd.ProcessState, out)
		default:
		}
		_, err := os.Stat(c.options.ReadyFile)
		return err
	})
}

// KillSupervisor kills the supervisor with SIGKILL. Its children end by
// themselves.
func (c *Cluster) KillSupervisor() {
	c.t.Helper()
	pids := c.Pids()
	if err := c.supervisor.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	<-c.died
	for node, pid := range pids {
		c.Until(node+" has ended with its supervisor", func() error {
			if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
				return nil
			}
			return fmt.Errorf("process %d is there", pid)
		})
	}
}

func (c *Cluster) stopSupervisor() {
	select {
	case <-c.died:
		return
	default:
	}
	_ = c.supervisor.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.died:
		if code := c.supervisor.ProcessState.ExitCode(); code != 0 {
			c.t.Errorf("waggle dev exited with %d after SIGTERM", code)
		}
	case <-time.After(Wait):
		_ = c.supervisor.Process.Kill()
		c.t.Errorf("waggle dev did not stop within %s of SIGTERM", Wait)
		<-c.died
	}
}

func (c *Cluster) printLogs() {
	files, _ := filepath.Glob(filepath.Join(c.options.DataDir, "logs", "*.log"))
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil || len(bytes.TrimSpace(raw)) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		c.t.Logf("last lines of %s:\n%s", filepath.Base(f), strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// Pids are the processes of the nodes that are alive.
func (c *Cluster) Pids() map[string]int {
	c.t.Helper()
	out := map[string]int{}
	c.Until("nodes are listed", func() error {
		list, err := c.verbs.ListNodes(c.Context(), &controlpb.ListNodesRequest{})
		if err != nil {
			return err
		}
		for _, n := range list.Nodes {
			if n.State == "alive" && n.Pid != 0 {
				out[n.Node] = int(n.Pid)
			}
		}
		return nil
	})
	return out
}

// Signal sends a signal to a node's process.
func (c *Cluster) Signal(node string, sig syscall.Signal) {
	c.t.Helper()
	pid := c.Pids()[node]
	if pid == 0 {
		c.t.Fatalf("node %s has no process", node)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		c.t.Fatalf("signal %s: %v", node, err)
	}
}

// Kill kills a node with SIGKILL and waits until the supervisor has started
// it again.
func (c *Cluster) Kill(node string) {
	c.t.Helper()
	before := c.Pids()[node]
	c.Signal(node, syscall.SIGKILL)
	c.Until(node+" has been started again", func() error {
		if pid := c.Pids()[node]; pid == 0 || pid == before {
			return fmt.Errorf("its process is %d", pid)
		}
		return nil
	})
}
