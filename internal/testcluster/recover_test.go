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

	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/faultlink"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// verifyAll expects equal digests of all replicas of every range.
func (c *Cluster) verifyAll() {
	c.t.Helper()
	c.Until("all replicas of every range are equal", func() error {
		list, err := c.verbs.ListRanges(c.Context(), &controlpb.ListRangesRequest{})
		if err != nil {
			return err
		}
		for _, r := range list.Ranges {
			v, err := c.verbs.VerifyRange(c.Context(), &controlpb.VerifyRangeRequest{Range: r.Range})
			if err != nil || !v.Equal || len(v.Replicas) != len(r.Voters)+len(r.Learners) {
				return fmt.Errorf("range %d: %v %w", r.Range, v, err)
			}
		}
		return nil
	})
}

// lost are the ranges without a leader.
func (c *Cluster) lost() (out []uint64) {
	c.t.Helper()
	list, err := c.verbs.ListRanges(c.Context(), &controlpb.ListRangesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range list.Ranges {
		if r.Leader == "" {
			out = append(out, r.Range)
		}
	}
	return out
}

// Two of three nodes of a cell lose their data: every range of the cell goes on
// with the third one's replica, gets its three again, and people write on.
func TestRecoverWithOneOfThree(t *testing.T) {
	c := StartProcesses(t, devcluster.Options{Replicas: 3, RestartAfter: 10 * time.Second})
	ann, bob := c.AddUser("ann", "c1"), c.AddUser("bob", "c2")
	a, b := c.Connect(ann, "tcp", nil), c.Connect(bob, "tcp", nil)
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	for i := range 20 {
		if _, err := a.Send(c.Context(), thread, fmt.Sprintf("before %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	c.verifyAll()
	r := ann.ID.Range()
	_, err := c.verbs.RecoverRange(c.Context(), &controlpb.RecoverRangeRequest{Range: uint64(r), Cell: "c1"})
	if err == nil || !strings.Contains(err.Error(), "it needs no recovery") {
		t.Fatalf("recovered although it has a leader: %v", err)
	}
	for _, node := range []string{"c1-n2", "c1-n3"} {
		c.Signal(node, syscall.SIGKILL)
		if err := os.RemoveAll(filepath.Join(c.options.DataDir, node)); err != nil {
			t.Fatal(err)
		}
	}
	c.Until("both are back, with nothing", func() error {
		if pids := c.Pids(); pids["c1-n2"] == 0 || pids["c1-n3"] == 0 {
			return fmt.Errorf("%v", pids)
		}
		return nil
	})
	if n := len(c.Replicas("c1-n2")); n != 0 {
		t.Fatalf("c1-n2 still holds %d replicas: the test shows nothing", n)
	}
	var lost []uint64
	c.Until("the ranges of c1 have no leader", func() error {
		if lost = c.lost(); len(lost) < proto.OpenRangesPerCell {
			return fmt.Errorf("%v", lost)
		}
		return nil
	})
	for _, id := range lost {
		var reply *controlpb.RecoverRangeReply
		c.Until("range is recovered", func() (err error) {
			reply, err = c.verbs.RecoverRange(c.Context(), &controlpb.RecoverRangeRequest{Range: id, Cell: "c1", By: "test"})
			return err
		})
		if !reply.MayMiss || reply.Node != "c1-n1" || len(reply.Silent) != 2 || reply.Epoch != 3 {
			t.Errorf("%v", reply)
		}
	}
	for i := range 20 {
		if _, err := a.Send(c.Context(), thread, fmt.Sprintf("after %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	// One at a time is added to a range, and two of a cell's ranges are copied
	// at a time.
	for _, id := range lost {
		c.Until("the range has three replicas", func() error {
			if st := c.Range(proto.RangeID(id)); len(st.Voters) != 3 || len(st.Learners) != 0 || st.Epoch != 3 {
				return fmt.Errorf("%v", st)
			}
			return nil
		})
	}
	c.UntilSettled()
	c.verifyAll()
	if got := c.WaitTexts(b, thread, 40); len(got) != 40 || got[0] != "before 0" || got[39] != "after 19" {
		t.Errorf("bob has %q", got)
	}
	if got := c.History(a, thread); len(got) != 40 {
		t.Errorf("ann reads %d messages", len(got))
	}
}

// While a range is in the joint configuration all its target nodes are lost.
// Its old side, which has not left, goes on with all that was acknowledged; the
// move ends by itself; and what comes back later does no harm.
func TestRecoverFromAJointConfiguration(t *testing.T) {
	if !long() {
		t.Skip("a minute: LONG_TESTS=1 or make torture runs it")
	}
	// The target nodes stay away for as long as the recovery takes.
	c, links := StartLinked(t, devcluster.Options{Replicas: 3, DataDir: t.TempDir(), Procs: true, RestartAfter: 40 * time.Second})
	ann, bea := c.AddUser("ann", "c1"), c.AddUser("bea", "c1")
	a, b := c.Connect(ann, "tcp", nil), c.Connect(bea, "tcp", nil)
	thread := proto.DirectThread(ann.ID, bea.ID).String()
	r := ann.ID.Range()
	targets := []string{"c2-n1", "c2-n2", "c2-n3"}
	pids := c.Pids()
	id := c.Move(r, "c2")
	c.UntilMove(id, "catching-up")
	// Slow links keep the joint configuration long enough to be met.
	for _, node := range targets {
		links.Nodes[node].Set(faultlink.Quality{Delay: 25 * time.Millisecond})
	}
	sent := 0
	send := func() error {
		_, err := a.Send(c.Context(), thread, fmt.Sprint(sent))
		if err == nil {
			sent++
		}
		return err
	}
	for range 10 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	leader := c.Range(r).Leader
	c.Until("the range is in the joint configuration", func() error {
		for _, st := range c.Replicas(leader) {
			if st.Descriptor_.GetRange() == uint64(r) && st.Descriptor_.Joint() {
				return nil
			}
		}
		return fmt.Errorf("not yet")
	})
	for _, node := range targets {
		if err := syscall.Kill(pids[node], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	var reply *controlpb.RecoverRangeReply
	c.Until("the range is recovered", func() (err error) {
		reply, err = c.verbs.RecoverRange(c.Context(), &controlpb.RecoverRangeRequest{Range: uint64(r), Cell: "c1", By: "test"})
		return err
	})
	t.Logf("%v", reply)
	if reply.MayMiss && !strings.Contains(reply.Why, "new owner") {
		t.Errorf("%v", reply)
	}
	for range 10 {
		if err := send(); err != nil {
			moves, _ := c.verbs.ListMoves(c.Context(), &controlpb.ListMovesRequest{})
			t.Fatalf("%v: %v, %v, %v", err, c.Range(r), c.Range(bea.ID.Range()), moves)
		}
	}
	c.Until("the move is over", func() error {
		list, err := c.verbs.ListMoves(c.Context(), &controlpb.ListMovesRequest{Move: id})
		if err != nil || list.Moves[0].State != "cancelled" || !strings.Contains(list.Moves[0].Error, "epoch") {
			return fmt.Errorf("%v %w", list, err)
		}
		return nil
	})
	for _, node := range targets {
		links.Nodes[node].Set(faultlink.Quality{})
	}
	c.UntilSettled() // the lost are back
	c.Until("nothing of theirs is left", func() error {
		for _, node := range targets {
			for _, st := range c.Replicas(node) {
				if st.Descriptor_.GetRange() == uint64(r) {
					return fmt.Errorf("%s holds %v", node, st)
				}
			}
		}
		return nil
	})
	c.Until("the range has three replicas", func() error {
		if st := c.Range(r); st.Cell != "c1" || len(st.Voters) != 3 || len(st.Learners) > 0 {
			return fmt.Errorf("%v", st)
		}
		return nil
	})
	c.verifyAll()
	got := c.WaitTexts(b, thread, sent)
	for i, text := range got {
		if text != fmt.Sprint(i) {
			t.Fatalf("bea has %q", got)
		}
	}
}
