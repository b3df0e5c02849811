//go:build unix

package testcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/faultlink"
)

// faultLasts is how long a fault lasts that has a duration.
const faultLasts = 5 * time.Second

// arena is a cluster in which faults are tried, and a load's view of it.
type arena struct {
	c     *Cluster
	links *Links
	disks map[string]string // node → the small disk its data is on
	nodes map[string]string // victim → node
}

// fault breaks something about a node and gives what mends it. A nil mend
// means that nothing is left to mend; skip says why it cannot be tried.
type fault struct {
	name   string
	inject func(a *arena, node string) (mend func(), skip string)
}

func faults() []fault {
	return []fault{
		{"kill", func(a *arena, node string) (func(), string) {
			if node == supervisor {
				a.c.KillSupervisor()
				a.c.StartSupervisor()
				return nil, ""
			}
			a.c.Kill(node)
			return nil, ""
		}},
		{"stop 5 s", func(a *arena, node string) (func(), string) {
			pid := a.c.Pids()[node]
			if node == supervisor {
				pid = a.c.supervisor.Process.Pid
			}
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				a.c.t.Fatal(err)
			}
			return func() { _ = syscall.Kill(pid, syscall.SIGCONT) }, ""
		}},
		{"cut link 5 s", linkFault(faultlink.Quality{Cut: true})},
		{"slow link 5 s", linkFault(faultlink.Quality{
			Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond, BytesPerSecond: 256 << 10, Loss: 0.05, Double: 0.02,
		})},
		{"slow disk 5 s", slowDisk},
		{"full disk 5 s", fullDisk},
	}
}

// linkFault makes the links over which a node is called bad. The edge is
// called by clients.
func linkFault(q faultlink.Quality) func(*arena, string) (func(), string) {
	return func(a *arena, node string) (func(), string) {
		switch {
		case node == supervisor:
			return nil, "nobody calls it"
		case a.nodes["edge"] == node:
			a.links.Edge(q)
			return func() { a.links.Edge(faultlink.Quality{}) }, ""
		}
		a.links.Nodes[node].Set(q)
		return func() { a.links.Nodes[node].Set(faultlink.Quality{}) }, ""
	}
}

// writesPerSecond is what a slow disk does: each message of the load needs one
// or two.
const writesPerSecond = 20

// slowDisk bounds the writes of a node's process by a control group of its
// own.
func slowDisk(a *arena, node string) (func(), string) {
	var at syscall.Stat_t
	const groups = "/sys/fs/cgroup/blkio"
	if _, err := os.Stat(filepath.Join(groups, "blkio.throttle.write_iops_device")); err != nil {
		return nil, "no control groups for disks (cgroup v1) on this machine"
	}
	if node == supervisor || a.disks[node] != "" {
		return nil, "its data is not on a disk of its own"
	}
	if err := syscall.Stat(a.c.options.DataDir, &at); err != nil {
		a.c.t.Fatal(err)
	}
	group := filepath.Join(groups, fmt.Sprintf("waggle-test-%d-%s", os.Getpid(), node))
	if err := os.Mkdir(group, 0o755); err != nil {
		return nil, "no control group may be made: " + err.Error()
	}
	put := func(file, value string) {
		if err := os.WriteFile(filepath.Join(group, file), []byte(value), 0o644); err != nil {
			a.c.t.Fatal(err)
		}
	}
	device := fmt.Sprintf("%d:%d", at.Dev>>8&0xfff, at.Dev&0xff)
	put("blkio.throttle.write_iops_device", fmt.Sprint(device, " ", writesPerSecond))
	put("cgroup.procs", fmt.Sprint(a.c.Pids()[node]))
	return func() {
		pid := a.c.Pids()[node]
		put("blkio.throttle.write_iops_device", device+" 0")
		if err := os.WriteFile(filepath.Join(groups, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0o644); err != nil {
			a.c.t.Fatal(err)
		}
		_ = os.Remove(group)
	}, ""
}

// fullDisk fills the small disk a node's data is on.
func fullDisk(a *arena, node string) (func(), string) {
	dir := a.disks[node]
	if dir == "" {
		return nil, "its data is not on a disk of its own"
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		a.c.t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 64<<10)); err != nil {
			break
		}
	}
	return func() { _ = os.Remove(filler) }, ""
}

// smallDisks mounts a disk of its own for each node. It tells why it cannot.
func smallDisks(t *testing.T, dataDir string, nodes []string) (map[string]string, string) {
	disks := map[string]string{}
	for _, node := range nodes {
		if !strings.Contains(node, "-n") {
			continue
		}
		dir := filepath.Join(dataDir, node)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := mountMemory(dir, 256<<20); err != nil {
			return nil, "no small disk can be mounted: " + err.Error()
		}
		t.Cleanup(func() { _ = unmount(dir) })
		disks[node] = dir
	}
	return disks, ""
}

const supervisor = "supervisor"

// outcome is one cell of the matrix.
type outcome struct {
	victim, fault    string
	replicas         int
	skip             string
	tcp, quic        time.Duration // slowest acknowledgement
	tcpLost, quLost  int           // connections
	errors, messages int
	failed           bool // the checker's verdict or a wait in vain
}

func (o outcome) String() string {
	if o.skip != "" {
		return "– " + o.skip
	}
	verdict := "nothing lost, doubled or reordered"
	if o.failed {
		verdict = "**FAILED**"
	}
	return fmt.Sprintf("pause TCP %s, QUIC %s; %d errors; %d + %d connections lost; %d messages, %s",
		o.tcp.Round(10*time.Millisecond), o.quic.Round(10*time.Millisecond), o.errors, o.tcpLost, o.quLost, o.messages, verdict)
}

// try runs a load over one fault.
func (a *arena) try(t *testing.T, victim string, f fault, replicas int) outcome {
	out := outcome{victim: victim, fault: f.name, replicas: replicas}
	t.Run(strings.ReplaceAll(fmt.Sprintf("%d replicas/%s/%s", replicas, victim, f.name), " ", "-"), func(t *testing.T) {
		whole := a.c
		a.c = whole.In(t)
		// What a subtest starts the others go on with.
		defer func() { whole.supervisor, whole.died = a.c.supervisor, a.c.died; a.c = whole }()
		defer func() { out.failed = t.Failed() }()
		l := a.c.StartLoad(5, 10)
		node := a.find(l, victim)
		if node == "" {
			out.skip = "there is none"
			t.Skip(out.skip)
		}
		time.Sleep(500 * time.Millisecond) // the load runs; nothing depends on how far
		l.Slowest()
		mend, skip := f.inject(a, node)
		if skip != "" {
			out.skip = skip
			t.Skip(skip)
		}
		if mend != nil {
			time.Sleep(faultLasts) // the fault itself
			mend()
		}
		a.c.UntilSettled()
		out.messages = l.Check()
		out.tcp, out.quic = l.SlowestOn(client.TCP), l.SlowestOn(client.QUIC)
		out.tcpLost, out.quLost = l.Losses(client.TCP), l.Losses(client.QUIC)
		out.errors = len(l.failures)
		t.Log(out)
	})
	return out
}

// find is the node that a victim is for this load.
func (a *arena) find(l *Load, victim string) string {
	if node := a.nodes[victim]; node != "" {
		return node
	}
	r := a.c.Range(l.people[0].device.User.ID.Range())
	switch victim {
	case "storage leader":
		return r.Leader
	case "chat host":
		if r.Host == r.Leader {
			return "" // one process: as the leader
		}
		return r.Host
	case "follower":
		for _, v := range r.Voters {
			if v != r.Leader && v != r.Host {
				return v
			}
		}
	}
	return ""
}

func newArena(t *testing.T, replicas int, disks bool) (*arena, string) {
	t.Helper()
	o := devcluster.Options{Replicas: replicas, SplitRoles: replicas > 1, DataDir: t.TempDir(), Procs: true}
	a := &arena{nodes: map[string]string{"edge": "e1", "control plane": "cp1", "etcd": "etcd", supervisor: supervisor}}
	if disks {
		nodes, err := devcluster.Nodes(o)
		if err != nil {
			t.Fatal(err)
		}
		var skip string
		if a.disks, skip = smallDisks(t, o.DataDir, nodes); skip != "" {
			return nil, skip
		}
	}
	a.c, a.links = StartLinked(t, o)
	return a, ""
}

// The matrix in a short form: what is cheap to break and likely to hurt.
func TestMatrixShort(t *testing.T) {
	a, _ := newArena(t, 3, false)
	byName := map[string]fault{}
	for _, f := range faults() {
		byName[f.name] = f
	}
	for _, one := range []struct{ victim, fault string }{
		{"storage leader", "cut link 5 s"}, {"chat host", "stop 5 s"}, {"chat host", "cut link 5 s"}, {"edge", "slow link 5 s"},
	} {
		a.try(t, one.victim, byName[one.fault], 3)
	}
}

// Every victim and every fault, with one and three replicas, on TCP and QUIC
// at once. TORTURE_REPORT names the file the report goes to.
func TestMatrixLong(t *testing.T) {
	if os.Getenv("LONG_TESTS") == "" {
		t.Skip("half an hour: LONG_TESTS=1 or make torture runs it")
	}
	var all []outcome
	for _, replicas := range []int{3, 1} {
		for _, disks := range []bool{false, true} {
			a, skip := newArena(t, replicas, disks)
			for _, victim := range []string{"storage leader", "follower", "chat host", "edge", "control plane", "etcd", supervisor} {
				for _, f := range faults() {
					onDisk := f.name == "full disk 5 s"
					switch {
					case onDisk != disks:
					case skip != "":
						all = append(all, outcome{victim: victim, fault: f.name, replicas: replicas, skip: skip})
					default:
						all = append(all, a.try(t, victim, f, replicas))
					}
				}
			}
		}
	}
	writeReport(t, all)
}

func writeReport(t *testing.T, all []outcome) {
	var b strings.Builder
	fmt.Fprintf(&b, "# Torture: the matrix\n\n%s. Five pairs of people in two cells, half on TCP, half on QUIC, 10 messages/s each, whatever happens; "+
		"a pause is the slowest acknowledgement. Every history was checked.\n\n| replicas | victim | fault | outcome |\n| --- | --- | --- | --- |\n", time.Now().UTC().Format(time.DateOnly))
	for _, o := range all {
		fmt.Fprintf(&b, "| %d | %s | %s | %s |\n", o.replicas, o.victim, o.fault, o)
	}
	t.Log("\n" + b.String())
	if file := os.Getenv("TORTURE_REPORT"); file != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
