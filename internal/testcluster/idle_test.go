//go:build unix

package testcluster

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// village is a person in every open range of two cells; everybody has a thread
// with everybody, so that every range owns some.
type village struct {
	c       *Cluster
	people  []*Device
	threads []villageThread
}

type villageThread struct {
	from *Device
	id   proto.ThreadID
}

func newVillage(c *Cluster) *village {
	c.t.Helper()
	v := &village{c: c}
	ranges := map[proto.RangeID]bool{}
	for i := 0; len(ranges) < 2*proto.OpenRangesPerCell; i++ {
		if i > 8*proto.OpenRangesPerCell {
			c.t.Fatalf("%d people are in %d ranges only", i, len(ranges))
		}
		u := c.AddUser(fmt.Sprintf("villager%d", i), fmt.Sprintf("c%d", i%2+1))
		if ranges[u.ID.Range()] {
			continue
		}
		ranges[u.ID.Range()] = true
		v.people = append(v.people, c.Connect(u, client.TCP, nil))
	}
	owners := map[proto.RangeID]bool{}
	for i, ann := range v.people {
		for _, bob := range v.people[:i] {
			id := proto.DirectThread(ann.User.ID, bob.User.ID)
			owners[id.OwnerRange()] = true
			v.threads = append(v.threads, villageThread{ann, id})
		}
	}
	if len(owners) != len(ranges) {
		c.t.Fatalf("%d of %d ranges own a thread", len(owners), len(ranges))
	}
	return v
}

// writeToAll sends a message to every thread at once and says how long the
// slowest took, since began.
func (v *village) writeToAll(began time.Time, text string) (slowest time.Duration, where proto.ThreadID) {
	v.c.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	ctx := v.c.Context()
	for _, th := range v.threads {
		wg.Go(func() {
			if _, err := th.from.Send(ctx, th.id.String(), text); err != nil {
				v.c.t.Errorf("%s to %s: %v", text, th.id, err)
			}
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			if took > slowest {
				slowest, where = took, th.id
			}
		})
	}
	wg.Wait()
	return slowest, where
}

// untilAtRest waits until every group of the nodes rests.
func (v *village) untilAtRest(admins map[string]string) {
	v.c.t.Helper()
	v.c.Until("all groups rest", func() error {
		for node, admin := range admins {
			if g := v.c.Gauges(admin); g["waggle_replica_quiet"] != g["waggle_replica_replicas"] {
				return fmt.Errorf("on %s rest %.0f of %.0f", node, g["waggle_replica_quiet"], g["waggle_replica_replicas"])
			}
		}
		return nil
	})
}

// victim is the node that most ranges of c1 have as leader or as host.
func (v *village) victim(of func(*controlpb.RangeStatus) string) string {
	v.c.t.Helper()
	list, err := v.c.verbs.ListRanges(v.c.Context(), &controlpb.ListRangesRequest{})
	if err != nil {
		v.c.t.Fatal(err)
	}
	count, most := map[string]int{}, ""
	for _, r := range list.Ranges {
		if node := of(r); r.Cell == "c1" && node != "" {
			if count[node]++; most == "" || count[node] > count[most] {
				most = node
			}
		}
	}
	if most == "" {
		v.c.t.Fatalf("no range of c1 has one: %v", list.Ranges)
	}
	return most
}

// After a storage leader's death, and after a chat host's, every thread takes
// writes again soon, those of groups that were at rest too. The bars are 2 s
// and 1 s; the test fails far above them only.
func TestEveryThreadWritableAfterDeath(t *testing.T) {
	const hardBound = 20 * time.Second
	rounds := 1
	if long() {
		rounds = 10
	}
	c := StartProcesses(t, devcluster.Options{Replicas: 3, SplitRoles: true, RestartAfter: 3 * time.Second})
	v := newVillage(c)
	calm, _ := v.writeToAll(time.Now(), "calm")
	t.Logf("%d threads, nothing broken: slowest %s", len(v.threads), calm.Round(time.Millisecond))
	for round := range rounds {
		for _, kind := range []struct {
			what string
			of   func(*controlpb.RangeStatus) string
			bar  time.Duration
		}{
			{"storage leader", func(r *controlpb.RangeStatus) string { return r.Leader }, 2 * time.Second},
			{"chat host", func(r *controlpb.RangeStatus) string { return r.Host }, time.Second},
		} {
			c.UntilSettled()
			v.untilAtRest(c.Admins())
			node := v.victim(kind.of)
			pid := c.Pids()[node]
			c.Signal(node, syscall.SIGKILL)
			slowest, where := v.writeToAll(time.Now(), fmt.Sprintf("%s, round %d", kind.what, round))
			t.Logf("round %d: %s %s killed at rest: slowest of %d threads %s (%s, range %s); the bar is %s", round, kind.what, node,
				len(v.threads), slowest.Round(time.Millisecond), where, where.OwnerRange(), kind.bar)
			if slowest > hardBound {
				t.Errorf("a thread took no writes for %s after the death of %s", slowest, node)
			}
			c.Until(node+" is back", func() error {
				if now := c.Pids()[node]; now == 0 || now == pid {
					return fmt.Errorf("its process is %d", now)
				}
				return nil
			})
		}
	}
	for _, d := range v.people {
		if n := d.Disconnects(); n != 0 {
			t.Errorf("%s was disconnected %d times", d.User.Name, n)
		}
	}
}
