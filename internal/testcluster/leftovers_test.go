//go:build unix

package testcluster

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/devcluster"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// A node that is dead while its replica is to be removed does not hold up the
// move; when it is back the replica goes, and the range can move there again.
func TestALeftoverReplicaIsRemoved(t *testing.T) {
	if !long() {
		t.Skip("a minute: LONG_TESTS=1 or make torture runs it")
	}
	// The node stays away longer than the old replicas are kept and its lease
	// lasts after that.
	c := StartProcesses(t, devcluster.Options{Replicas: 3, RestartAfter: 20 * time.Second})
	l := c.StartLoad(2, 10)
	r := l.people[0].device.User.ID.Range()
	before := c.Range(r)
	to := otherCell(before.Cell)
	reply, err := c.verbs.MoveRange(c.Context(), &controlpb.MoveRangeRequest{Range: uint64(r), To: to, StandbyMs: 3000, By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	c.UntilMove(reply.Move.Move, "standby")
	away := before.Voters[0]
	c.Signal(away, syscall.SIGKILL)
	c.UntilMove(reply.Move.Move, "done")
	if slices.Contains(c.aliveNodes(), away) {
		t.Fatalf("%s is back before its replica was to be removed: the test shows nothing", away)
	}
	c.UntilSettled() // it is back
	c.Until("its replica is removed", func() error {
		for _, st := range c.Replicas(away) {
			if st.Descriptor_.GetRange() == uint64(r) {
				return fmt.Errorf("node %s holds replica %d", away, st.Replica)
			}
		}
		return nil
	})
	c.UntilMove(c.Move(r, before.Cell), "done")
	if st := c.Range(r); st.Cell != before.Cell || !slices.Contains(st.Voters, away) {
		t.Errorf("the range is %v", st)
	}
	c.Until("it has caught up", func() error {
		i := slices.IndexFunc(c.Replicas(away), func(st *cellpb.ReplicaStatus) bool { return st.Descriptor_.GetRange() == uint64(r) && !st.Empty })
		if i < 0 {
			return fmt.Errorf("node %s has no replica with state", away)
		}
		return nil
	})
	c.UntilSettled()
	l.Check()
}

func (c *Cluster) aliveNodes() []string {
	var out []string
	for node := range c.Pids() {
		out = append(out, node)
	}
	return out
}
