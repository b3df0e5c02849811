//go:build unix

package testcluster

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/faultlink"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// rebalance has moves made and returns how it ended. started is called once,
// when the first move has.
func (c *Cluster) rebalance(req *controlpb.RunRebalanceRequest, started func()) *controlpb.RebalanceProgress {
	c.t.Helper()
	stream, err := c.verbs.RunRebalance(c.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	var end *controlpb.RebalanceProgress
	for {
		p, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && end != nil:
			return end
		case err != nil:
			c.t.Fatalf("the rebalance broke off: %v", err)
		case p.Done:
			end = p
		case started != nil:
			started()
			started = nil
		}
	}
}

// Everybody writes in c1: a rebalance evens that out, and nobody notices. One
// during which c2 gets slow stops, says why, and cancels what is being copied.
func TestARebalanceStopsWhenPeopleNotice(t *testing.T) {
	c, links := StartLinked(t, devcluster.Options{})
	// What is too slow is far above what any machine needs by itself.
	const never = 20_000
	inC1 := c.StartLoadBetween("c1", "c1", 4, 20)
	across := c.StartLoad(2, 20)
	c.Until("c1 carries more", func() error {
		r, err := c.verbs.Rebalance(c.Context(), &controlpb.RebalanceRequest{})
		if err == nil && len(r.Moves) == 0 {
			err = errors.New("nothing to be done")
		}
		return err
	})
	// What is planned from is what ranges ls shows: of 12 people, 20 messages a
	// second each, on a machine that may not keep up.
	c.Until("the load is reported", func() error {
		list, err := c.verbs.ListRanges(c.Context(), &controlpb.ListRangesRequest{})
		sessions, messages := uint64(0), 0.0
		for _, r := range list.GetRanges() {
			sessions, messages = sessions+r.Sessions, messages+r.MessagesPerS
		}
		if err == nil && (sessions != 12 || messages < 1 || messages > 12*20*2) {
			err = fmt.Errorf("%d sessions and %.1f messages per second", sessions, messages)
		}
		return err
	})
	done := c.rebalance(&controlpb.RunRebalanceRequest{Moves: 1, By: "test", LatencyFloorMs: never}, nil)
	if done.Stopped != "" || done.Planned == 0 || done.Moved != done.Planned || done.Cancelled != 0 {
		t.Errorf("without a slow cell: %v", done)
	}
	c.Until("several ranges are to be moved again", func() error {
		r, err := c.verbs.Rebalance(c.Context(), &controlpb.RebalanceRequest{})
		if err == nil && len(r.Moves) < 2 {
			err = fmt.Errorf("%d", len(r.Moves))
		}
		return err
	})
	// One after the other they take several times as long as it may be slow.
	slow := c.rebalance(&controlpb.RunRebalanceRequest{AtOnce: 1, By: "test", LatencyFloorMs: 300, LatencyForMs: 1000, LatencyFactor: 1}, func() {
		links.Nodes["c2-n1"].Set(faultlink.Quality{Delay: 200 * time.Millisecond})
	})
	links.Nodes["c2-n1"].Set(faultlink.Quality{})
	// A machine that is slow itself may not hear of c2 at all.
	if !strings.Contains(slow.Stopped, "p99 of sends in cell") && !strings.Contains(slow.Stopped, "no chat node of cell") ||
		slow.Moved+slow.Cancelled > slow.Planned || slow.Moved == slow.Planned {
		t.Errorf("with a slow cell: %v", slow)
	}
	log, err := c.verbs.ListAudit(c.Context(), &controlpb.ListAuditRequest{Limit: 2})
	if err != nil || len(log.Records) != 2 || log.Records[0].Outcome != "stopped: "+slow.Stopped || log.Records[0].Who != "test" ||
		log.Records[1].Verb != "ranges rebalance" || !strings.Contains(log.Records[1].Arguments, "1 at a time") {
		t.Errorf("the audit log has %v %v", log, err)
	}
	t.Logf("%v; %d and %d messages", slow, inC1.Check(), across.Check())
	inC1.noLosses()
	across.noLosses()
}
