package replica

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	pb "google.golang.org/protobuf/proto"

	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// That an entry is committed is not told in a message of its own: it rides
// with the next entries, or goes out with the next tick.
func TestCommitsRideWithTheNextEntries(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1, c.nodes...)
	lead := c.elect(1)
	for range 3 {
		c.tick()
	}
	kinds := map[string]int{}
	c.sent = func(from, _ *testNode, b *cellpb.RaftBatch) {
		for _, raw := range b.Messages {
			m := new(raftpb.Message)
			if err := pb.Unmarshal(raw.Message, m); err != nil {
				t.Error(err)
			}
			kinds[fmt.Sprint(m.GetType(), len(m.GetEntries()) > 0, from == lead)]++
		}
	}
	const messages = 5
	for i := range messages {
		c.must(lead, 1, fmt.Sprint(i))
	}
	if n := kinds["MsgApp true true"]; n != 2*messages {
		t.Errorf("%d messages with entries for %d entries and two followers: %v", n, messages, kinds)
	}
	if n := kinds["MsgApp false true"]; n != 0 {
		t.Errorf("%d messages that bring a commit index only: %v", n, kinds)
	}
	last := lead.status(1).Applied
	behind := func() int {
		n := 0
		for _, node := range c.nodes {
			if node.status(1).Applied < last {
				n++
			}
		}
		return n
	}
	if behind() != 2 {
		t.Errorf("%d replicas do not know that the last entry is committed, want both followers", behind())
	}
	c.tick()
	if behind() != 0 {
		t.Errorf("%d replicas do not know it after a tick", behind())
	}
}

// A commit index that came alone is written with the next entries, or by the
// next tick, and is not missed after a crash before that.
func TestCommitIndexesAreWrittenLate(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.create(1, c.nodes...)
	lead := c.elect(1)
	c.tick()
	c.tick()
	g, err := lead.node.group(1)
	if err != nil {
		t.Fatal(err)
	}
	onDisk := func() uint64 {
		raw, found, err := get(lead.log, logKey(1, tagHardState))
		if err != nil || !found {
			t.Fatal(found, err)
		}
		h, err := decodeHardState(raw)
		if err != nil {
			t.Fatal(err)
		}
		return h.GetCommit()
	}
	before := onDisk()
	if before != g.commit {
		t.Fatalf("commit index %d is written at rest, want %d", before, g.commit)
	}
	c.must(lead, 1, "a")
	if onDisk() != before {
		t.Error("the commit index of an entry was written by itself")
	}
	c.must(lead, 1, "b")
	if got := onDisk(); got != before+1 {
		t.Errorf("the next entry brought commit index %d to disk, want %d", got, before+1)
	}
	c.tick()
	c.tick()
	if got := onDisk(); got != before+2 {
		t.Errorf("a tick brought commit index %d to disk, want %d", got, before+2)
	}
	c.must(lead, 1, "c")
	c.crashAll(vfs.CrashCloneCfg{})
	lead = c.elect(1)
	c.must(lead, 1, "d")
	if got := fmt.Sprint(lead.list(1)); got != "[a b c d]" {
		t.Errorf("after a crash there is %s", got)
	}
}
