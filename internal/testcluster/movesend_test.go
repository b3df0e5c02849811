//go:build unix

package testcluster

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// Until the joint change a move can be cancelled, and the range is as it was;
// from then on that is refused with words. While the old replicas stand by it
// can be reverted, and not before or after.
func TestMovesAreCancelledAndReverted(t *testing.T) {
	c := Start(t, devcluster.Options{})
	l := c.StartLoad(2, 10)
	r := l.people[0].device.User.ID.Range()
	for _, step := range []string{"planned", "seeding", "catching-up", "ready"} {
		before := c.Range(r)
		id := c.Move(r, otherCell(before.Cell))
		reached := c.UntilMove(id, step).State
		if _, err := c.verbs.RevertMove(c.Context(), &controlpb.MoveRequest{Move: id}); proto.CodeOf(controlclient.FromStatus(err)) != proto.CodeConflict {
			t.Errorf("a move that is %s was reverted: %v", reached, err)
		}
		_, err := c.verbs.CancelMove(c.Context(), &controlpb.MoveRequest{Move: id})
		var over string
		c.Until("the move is over", func() error {
			reply, err := c.verbs.ListMoves(c.Context(), &controlpb.ListMovesRequest{Move: id})
			if err != nil || len(reply.Moves) != 1 {
				return fmt.Errorf("%v, %w", reply, err)
			}
			if over = reply.Moves[0].State; over != "cancelled" && over != "done" {
				return fmt.Errorf("it is %s", over)
			}
			return nil
		})
		after := c.Range(r)
		t.Logf("cancelled when it was %s (%v): %s", reached, err, over)
		switch {
		case over == "done": // the joint change was quicker
			if after.Cell == before.Cell {
				t.Errorf("the move is done and the range is in %s", after.Cell)
			}
		case err != nil:
			t.Errorf("the move was cancelled all the same: %v", err)
		case after.Cell != before.Cell || after.Epoch != before.Epoch || !slices.Equal(after.Voters, before.Voters) || len(after.Learners) > 0:
			t.Errorf("the range was %v and is %v after a cancelled move", before, after)
		}
	}
	home := c.Range(r)
	reply, err := c.verbs.MoveRange(c.Context(), &controlpb.MoveRangeRequest{Range: uint64(r), To: otherCell(home.Cell), StandbyMs: time.Hour.Milliseconds()})
	if err != nil {
		t.Fatal(err)
	}
	id := reply.Move.Move
	c.UntilMove(id, "standby")
	if _, err := c.verbs.CancelMove(c.Context(), &controlpb.MoveRequest{Move: id}); proto.CodeOf(controlclient.FromStatus(err)) != proto.CodeConflict || !strings.Contains(err.Error(), "revert") {
		t.Errorf("a move that stands by was cancelled, or refused without a way out: %v", err)
	}
	back, err := c.verbs.RevertMove(c.Context(), &controlpb.MoveRequest{Move: id})
	if err != nil {
		t.Fatal(err)
	}
	c.UntilMove(back.Move.Move, "standby")
	if st := c.Range(r); st.Cell != home.Cell || st.Epoch != home.Epoch+2 {
		t.Errorf("after the revert the range is %v, and was %v", st, home)
	}
	l.Check()
}

// A range moves away from a cell one of whose nodes is dead for good.
func TestMoveAwayFromACellWithADeadNode(t *testing.T) {
	c := StartProcesses(t, devcluster.Options{Replicas: 3, RestartAfter: time.Hour})
	l := c.StartLoad(3, 10)
	r := l.people[0].device.User.ID.Range()
	before := c.Range(r)
	dead := before.Voters[slices.IndexFunc(before.Voters, func(v string) bool { return v != before.Leader })]
	c.Signal(dead, syscall.SIGKILL)
	id := c.Move(r, otherCell(before.Cell))
	c.UntilMove(id, "done")
	if st := c.Range(r); st.Cell != otherCell(before.Cell) || len(st.Voters) != 3 || len(st.Learners) > 0 {
		t.Errorf("the range is %v", st)
	}
	if n := l.Losses(client.TCP) + l.Losses(client.QUIC); n > 0 {
		t.Errorf("%d connections were lost", n)
	}
	l.Check()
}

// With etcd and the control planes away in the middle of a move, for ten
// minutes in the long form, people write on, and the move ends when they are
// back.
func TestEtcdAwayInTheMiddleOfAMove(t *testing.T) {
	away := 5 * time.Second
	if long() {
		away = 10 * time.Minute
	}
	c := StartProcesses(t, devcluster.Options{Replicas: 3})
	l := c.StartLoad(3, 10)
	r := l.people[0].device.User.ID.Range()
	to := otherCell(c.Range(r).Cell)
	id := c.Move(r, to)
	c.UntilMove(id, "ready")
	pids := c.Pids()
	for _, node := range []string{"etcd", "cp1", "cp2"} {
		if err := syscall.Kill(pids[node], syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	l.Slowest()
	time.Sleep(away) // the fault itself
	t.Logf("slowest acknowledgement in %s without etcd: %v", away, l.Slowest().Round(time.Millisecond))
	for _, node := range []string{"etcd", "cp1", "cp2"} {
		if err := syscall.Kill(pids[node], syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	c.UntilMove(id, "done")
	c.UntilSettled()
	if st := c.Range(r); st.Cell != to {
		t.Errorf("the range is %v", st)
	}
	if n := l.Losses(client.TCP) + l.Losses(client.QUIC); n > 0 {
		t.Errorf("%d connections were lost", n)
	}
	l.Check()
}
