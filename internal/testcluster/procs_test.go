//go:build unix

package testcluster

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/devcluster"
)

// What is acknowledged survives SIGKILL of every part of the system, one
// after the other, under load: a storage leader, a follower, a chat host, the
// edge, etcd, a control plane and the supervisor with everything at once.
func TestPromise1DurableWhateverIsKilled(t *testing.T) {
	c := StartProcesses(t, devcluster.Options{Replicas: 3})
	l := c.StartLoad(5, 20)
	r := c.Range(l.people[0].device.User.ID.Range())
	follower := ""
	for _, v := range r.Voters {
		if v != r.Leader && v != r.Host {
			follower = v
		}
	}
	for _, victim := range []struct{ what, node string }{
		{"storage leader", r.Leader}, {"follower", follower}, {"edge", "e1"}, {"etcd", "etcd"}, {"control plane", "cp1"},
	} {
		l.Slowest()
		c.Kill(victim.node)
		c.UntilSettled()
		t.Logf("%-15s %-6s killed: slowest acknowledgement %v", victim.what, victim.node, l.Slowest().Round(time.Millisecond))
	}
	c.KillSupervisor()
	c.StartSupervisor()
	c.UntilSettled()
	t.Logf("supervisor killed: slowest acknowledgement %v", l.Slowest().Round(time.Millisecond))
	n := l.Check()
	t.Logf("%d messages", n)
}

// With chat nodes apart from storage, a host's death moves its ranges to the
// other chat node.
func TestHostKilledIsReplaced(t *testing.T) {
	c := StartProcesses(t, devcluster.Options{Replicas: 3, SplitRoles: true})
	l := c.StartLoad(5, 20)
	r := c.Range(l.people[0].device.User.ID.Range())
	if r.Host == r.Leader {
		t.Fatalf("host and leader are both %s", r.Host)
	}
	for _, victim := range []struct{ what, node string }{{"chat host", r.Host}, {"storage leader", r.Leader}} {
		l.Slowest()
		c.Kill(victim.node)
		c.UntilSettled()
		t.Logf("%-15s %-6s killed: slowest acknowledgement %v", victim.what, victim.node, l.Slowest().Round(time.Millisecond))
	}
	l.Check()
}

// A process that is stopped for seconds is replaced meanwhile, and does no
// harm when it wakes.
func TestStoppedNodeWakesHarmlessly(t *testing.T) {
	c := StartProcesses(t, devcluster.Options{Replicas: 3})
	l := c.StartLoad(5, 20)
	for _, node := range []string{c.Range(l.people[0].device.User.ID.Range()).Leader, "etcd"} {
		l.Slowest()
		pid := c.Pids()[node]
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // the fault itself: it lasts so long
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		c.UntilSettled()
		t.Logf("%s stopped for 5 s: slowest acknowledgement %v", node, l.Slowest().Round(time.Millisecond))
	}
	l.Check()
}

// With etcd, the control planes, SQL, Redis and the mail server away, for ten
// minutes in the long form, no send fails; an edge that is killed meanwhile
// takes its people again, a storage leader and a chat host are replaced. When
// all are back nothing is repaired that works.
func TestEtcdAwayUnderLoad(t *testing.T) {
	away := 5 * time.Second
	if long() {
		away = 10 * time.Minute
	}
	c := StartProcesses(t, devcluster.Options{Replicas: 3, SplitRoles: true})
	l := c.StartLoad(5, 20)
	r := c.Range(l.people[0].device.User.ID.Range())
	pids, admins := c.Pids(), c.Admins()
	signal := func(sig syscall.Signal, nodes ...string) {
		for _, node := range nodes {
			pid := pids[node]
			if node == supervisor {
				pid = c.supervisor.Process.Pid // Redis and the mail server are in it
			}
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatalf("signal %s: %v", node, err)
			}
		}
	}
	l.Slowest()
	signal(syscall.SIGSTOP, "etcd", "cp1", "cp2") // SQL is in the control planes
	signal(syscall.SIGKILL, "e1")
	c.Until("everybody is connected again", func() error {
		if c.Gauges(admins["e1"])["waggle_edge_sessions"] < float64(len(l.people)) {
			return errors.New("sessions are missing")
		}
		return nil
	})
	t.Logf("edge killed without etcd: slowest acknowledgement %v", l.Slowest().Round(time.Millisecond))
	signal(syscall.SIGSTOP, supervisor)
	signal(syscall.SIGKILL, r.Leader, r.Host)
	time.Sleep(away) // the fault itself: it lasts so long
	t.Logf("etcd, control planes, Redis and mail stopped for %s, %s and %s killed: slowest acknowledgement %v",
		away, r.Leader, r.Host, l.Slowest().Round(time.Millisecond))
	// First the dead come back, on what they know; then etcd.
	signal(syscall.SIGCONT, supervisor)
	c.untilServing(admins, r.Leader, r.Host)
	before := c.repairs(admins)
	signal(syscall.SIGCONT, "etcd", "cp1", "cp2")
	c.UntilSettled()
	time.Sleep(away / 2) // what would be repaired is repaired by then
	for what, n := range c.repairs(admins) {
		grown := n - before[what]
		t.Logf("after the return of etcd: %s +%.0f", what, grown)
		if grown > repairsMax {
			t.Errorf("after the return of etcd %s has grown by %.0f", what, grown)
		}
	}
	l.Check()
}

// repairsMax is what may be repaired by chance when a busy machine delays
// heartbeats: far less than one for each of the 16 ranges.
const repairsMax = 8

// repairs counts what a cluster does to mend itself, over all nodes that
// answer.
func (c *Cluster) repairs(admins map[string]string) map[string]float64 {
	sum := map[string]float64{}
	for node, admin := range admins {
		if !strings.Contains(node, "-n") && node != "e1" {
			continue
		}
		g := c.Gauges(admin)
		for _, name := range []string{
			"waggle_chat_grants_total", "waggle_replica_leader_changes_total", "waggle_replica_replicas",
			"waggle_replica_snapshots_sent_total", "waggle_edge_attaches_total", "waggle_edge_host_streams_broken_total",
		} {
			sum[name] += g[name]
		}
	}
	return sum
}

// untilServing waits until nodes that were killed answer, and until nothing
// moves any more because of that.
func (c *Cluster) untilServing(admins map[string]string, nodes ...string) {
	c.t.Helper()
	for _, node := range nodes {
		c.Until(node+" is back", func() error {
			resp, err := http.Get("http://" + admins[node] + "/livez")
			if err == nil {
				_ = resp.Body.Close()
			}
			return err
		})
	}
	last, since := c.repairs(admins), time.Now()
	c.Until("nothing moves any more", func() error {
		now := c.repairs(admins)
		if !maps.Equal(now, last) {
			last, since = now, time.Now()
		}
		if time.Since(since) < 2*time.Second {
			return fmt.Errorf("%v", now)
		}
		return nil
	})
}
