//go:build unix

package testcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// shape is where every range is, as operators see it.
func (c *Cluster) shape() map[uint64]string {
	c.t.Helper()
	list, err := c.verbs.ListRanges(c.Context(), &controlpb.ListRangesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[uint64]string{}
	for _, r := range list.Ranges {
		out[r.Range] = fmt.Sprintf("%s@%d %v %v", r.Cell, r.Epoch, r.Voters, r.Learners)
	}
	return out
}

// etcd is restored from a backup that lacks a cell, its ranges and a move:
// placement freezes, people go on, and reconciling makes everything as it was;
// no range id is given twice.
func TestEtcdRestoredFromABackup(t *testing.T) {
	c := Start(t, devcluster.Options{})
	ann, bob := c.AddUser("amy", "c1"), c.AddUser("ben", "c2")
	a, b := c.Connect(ann, "tcp", nil), c.Connect(bob, "tcp", nil)
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	dir, backup := filepath.Join(c.options.DataDir, "etcd"), filepath.Join(t.TempDir(), "etcd")
	c.UntilSettled()
	c.StopNode("etcd")
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	c.StartNode("etcd")
	c.UntilSettled()

	c.AddCell("c3")
	zoe := c.AddUser("zoe", "c3")
	r := ann.ID.Range()
	c.UntilMove(c.Move(r, "c2"), "done")
	c.UntilSettled()
	before := c.shape()
	inBackup := 2 * proto.OpenRangesPerCell
	if want := "c2@2"; !strings.HasPrefix(before[uint64(r)], want) || len(before) < 3*proto.OpenRangesPerCell {
		t.Fatalf("before the restore: %v", before)
	}

	c.StopNode("etcd")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	c.StartNode("etcd")
	c.Until("placement is frozen", func() error {
		st, err := c.verbs.Status(c.Context(), &controlpb.StatusRequest{})
		if err != nil || len(st.Problems) == 0 || !strings.Contains(st.Problems[0], "frozen") || !strings.Contains(st.Problems[0], "waggle ranges reconcile") {
			return fmt.Errorf("%v %w", st.GetProblems(), err)
		}
		return nil
	})
	c.Until("moves are refused", func() error {
		_, err := c.verbs.MoveRange(c.Context(), &controlpb.MoveRangeRequest{Range: uint64(zoe.ID.Range()), To: "c1"})
		if proto.CodeOf(controlclient.FromStatus(err)) != proto.CodeConflict {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	for i := range 5 {
		if _, err := a.Send(c.Context(), thread, fmt.Sprint("frozen ", i)); err != nil {
			t.Fatal(err)
		}
	}

	c.StopNode("c3-n1")
	_, err := c.verbs.Reconcile(c.Context(), &controlpb.ReconcileRequest{})
	if proto.CodeOf(controlclient.FromStatus(err)) != proto.CodeConflict || !strings.Contains(err.Error(), "c3-n1") {
		t.Errorf("reconciled although a node does not answer: %v", err)
	}
	c.StartNode("c3-n1")
	var dry *controlpb.ReconcileReply
	c.Until("all nodes answer", func() (err error) {
		dry, err = c.verbs.Reconcile(c.Context(), &controlpb.ReconcileRequest{DryRun: true})
		return err
	})
	if len(dry.Changes) != 1+len(before)-inBackup || dry.NextRange != uint64(len(before))+1 {
		t.Errorf("would change %v", dry)
	}
	for _, change := range dry.Changes {
		if change.Range == uint64(r) && (change.OldCell != "c1" || change.OldEpoch != 1 || change.Cell != "c2" || change.Epoch != 2) {
			t.Errorf("%v", change)
		}
	}
	st, err := c.verbs.Status(c.Context(), &controlpb.StatusRequest{})
	if err != nil || len(st.Problems) == 0 {
		t.Fatalf("a dry run ended the freeze: %v %v", st, err)
	}
	if _, err := c.verbs.Reconcile(c.Context(), &controlpb.ReconcileRequest{By: "test"}); err != nil {
		t.Fatal(err)
	}
	c.UntilSettled()
	c.Until("everything is as before", func() error {
		after := c.shape()
		for id, was := range before {
			if after[id] != was {
				return fmt.Errorf("range %d is %s, and was %s", id, after[id], was)
			}
		}
		if len(after) != len(before) {
			return fmt.Errorf("%d ranges, and there were %d", len(after), len(before))
		}
		return nil
	})
	c.AddCell("c4")
	for id, now := range c.shape() {
		if _, old := before[id]; old == strings.HasPrefix(now, "c4@") {
			t.Errorf("range %d is %s: its id was given twice, or it was lost", id, now)
		}
	}
	c.UntilMove(c.Move(r, "c1"), "done")
	if _, err := a.Send(c.Context(), thread, "after"); err != nil {
		t.Fatal(err)
	}
	if got := c.WaitTexts(b, thread, 6); got[5] != "after" {
		t.Errorf("bob has %q", got)
	}
	c.verifyAll()
}
