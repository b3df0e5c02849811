//go:build unix

package testcluster

import (
	"os"
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

// With etcd and every control plane away, for a minute in the long form, no
// send fails, and a storage leader that dies meanwhile is replaced.
func TestEtcdAwayUnderLoad(t *testing.T) {
	away := 5 * time.Second
	if os.Getenv("LONG_TESTS") != "" {
		away = time.Minute
	}
	c := StartProcesses(t, devcluster.Options{Replicas: 3})
	l := c.StartLoad(5, 20)
	leader := c.Range(l.people[0].device.User.ID.Range()).Leader
	pids := c.Pids()
	stopped := []string{"etcd", "cp1", "cp2"}
	for _, node := range stopped {
		if err := syscall.Kill(pids[node], syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(pids[leader], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(away) // the fault itself: it lasts so long
	t.Logf("etcd and control planes stopped for %s, %s killed: slowest acknowledgement %v", away, leader, l.Slowest().Round(time.Millisecond))
	for _, node := range stopped {
		if err := syscall.Kill(pids[node], syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	c.UntilSettled()
	l.Check()
}
