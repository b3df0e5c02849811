//go:build unix

package testcluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// edge is what operators see of an edge.
func (c *Cluster) edge(name string) (*controlpb.EdgeStatus, error) {
	list, err := c.verbs.ListEdges(c.Context(), &controlpb.ListEdgesRequest{})
	if err != nil {
		return nil, err
	}
	for _, e := range list.Edges {
		if e.Edge == name {
			return e, nil
		}
	}
	return nil, errors.New("there is no edge " + name)
}

func (l *Load) noLosses() {
	l.t.Helper()
	for _, transport := range []client.Transport{client.TCP, client.QUIC} {
		if n := l.Losses(transport); n > 0 {
			l.t.Errorf("%d times somebody was disconnected on %q", n, transport)
		}
	}
}

// An edge is drained while people write, ended, started again and taken back;
// then the other gets SIGTERM without being drained before. Nobody is
// disconnected and nothing is lost.
func TestDrainEdges(t *testing.T) {
	c := StartProcesses(t, devcluster.Options{Edges: 2})
	l := c.StartLoad(5, 20)
	// One without TLS too: the other edge's record says where it takes such.
	plain := c.Connect(c.AddUser("plain", "c1"), client.Plain, nil)
	drain := func(edge string, undo bool, want string) {
		t.Helper()
		if _, err := c.verbs.DrainEdge(c.Context(), &controlpb.DrainEdgeRequest{Edge: edge, Undo: undo}); err != nil {
			t.Fatal(err)
		}
		c.Until(edge+" is "+want, func() error {
			e, err := c.edge(edge)
			if err == nil && (e.State != want || !undo && e.Sessions > 0) {
				err = errors.New(e.String())
			}
			return err
		})
	}
	l.Slowest()
	drain("e1", false, "draining")
	c.Until("e2 has everybody", func() error { // edges tell their numbers each at its own time
		e, err := c.edge("e2")
		if err == nil && e.Sessions < uint64(len(l.people))+1 {
			err = errors.New(e.String())
		}
		return err
	})
	t.Logf("e1 drained: slowest acknowledgement %v", l.Slowest().Round(time.Millisecond))
	if _, err := c.verbs.DrainEdge(c.Context(), &controlpb.DrainEdgeRequest{Edge: "e2"}); err == nil || !strings.Contains(err.Error(), "no other edge") {
		t.Errorf("the last edge may be drained: %v", err)
	}
	c.end("e1")
	if e, err := c.edge("e1"); err != nil || e.State != "draining" {
		t.Errorf("an edge that was drained is started again: %v %v", e, err)
	}
	drain("e1", true, "alive")
	l.Slowest()
	c.end("e2")
	t.Logf("e2 ended by SIGTERM: slowest acknowledgement %v", l.Slowest().Round(time.Millisecond))
	l.Check()
	l.noLosses()
	if n := plain.Disconnects(); n > 0 {
		t.Errorf("%d times somebody without TLS was disconnected", n)
	}
}

// end sends SIGTERM to a node and waits until the supervisor has started it
// again.
func (c *Cluster) end(node string) {
	c.t.Helper()
	before := c.Pids()[node]
	c.Signal(node, syscall.SIGTERM)
	c.Until(node+" has been started again", func() error {
		if pid := c.Pids()[node]; pid == 0 || pid == before {
			return errors.New("not yet")
		}
		return nil
	})
}

// rules counts the ranges by the rules version of their leaders.
func (c *Cluster) rules() (map[uint32]int, error) {
	list, err := c.verbs.ListRanges(c.Context(), &controlpb.ListRangesRequest{})
	counts := map[uint32]int{}
	for _, r := range list.GetRanges() {
		counts[r.Rules]++
	}
	return counts, err
}

// Every node of a cluster is restarted, one by one, while people write, to a
// release with newer rules: nobody is disconnected and no send fails, and once
// the last node is back every range is applied by the newer rules.
func TestRollingRestart(t *testing.T) {
	old := fmt.Sprintf("cell:\n  rules_max: %d\n", proto.OldestRules)
	cells := 1 // each of its nodes takes eight seconds
	if long() {
		cells = 2
	}
	c := StartConfigured(t, devcluster.Options{Cells: cells, Replicas: 3, Edges: 2}, old)
	l := c.StartLoadBetween("c1", fmt.Sprintf("c%d", cells), 5, 20)
	before := c.Pids()
	if counts, err := c.rules(); err != nil || len(counts) != 1 || counts[proto.OldestRules] == 0 {
		t.Errorf("ranges by rules, before: %v %v", counts, err)
	}
	held := ""
	cmd := exec.Command("sh", filepath.Join("..", "..", "docs", "runbook", "rolling-restart.sh"))
	// What installs the newer release on a node: from then on it is held back
	// no more.
	install := `sed -i.bak 's/rules_max: [0-9]*/rules_max: 0/' "` + c.options.DataDir + `/$NODE.yaml"; kill -TERM "$PID"`
	cmd.Env = append(os.Environ(), "WAGGLE="+Executable(t), "WAGGLE_ADMIN="+c.options.Admin, "RESTART="+install)
	lines := &told{slowest: l.Slowest, t: t, line: func(line string) {
		if line != "c1-n2 restarted" {
			return
		}
		counts, err := c.rules() // c1-n3 does not know the newer rules
		held = fmt.Sprint(counts, err)
		if counts[proto.OldestRules] == 0 {
			t.Error("rules were raised beside a node that does not know them")
		}
	}}
	cmd.Stdout, cmd.Stderr = lines, lines
	if err := cmd.Run(); err != nil {
		t.Fatalf("rolling restart: %v", err)
	}
	for node, pid := range c.Pids() {
		if pid == before[node] {
			t.Errorf("%s was not restarted", node)
		}
	}
	if held == "" {
		t.Error("nobody looked at the rules in between")
	}
	t.Logf("ranges by rules before the last node of c1: %s", held)
	c.Until("every range is raised", func() error {
		counts, err := c.rules()
		if err == nil && len(counts) != 1 || counts[proto.RulesVersion] == 0 {
			err = fmt.Errorf("ranges by rules: %v", counts)
		}
		return err
	})
	t.Logf("%d messages", l.Check())
	l.noLosses()
}

// told prints what the script says, with the pause since it last said
// something.
type told struct {
	slowest func() time.Duration
	t       testing.TB
	line    func(string) // told of each
}

func (w *told) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		w.line(strings.TrimSpace(line))
	}
	w.t.Logf("%s (slowest acknowledgement until here %v)", strings.TrimSpace(string(b)), w.slowest().Round(time.Millisecond))
	return len(b), nil
}
