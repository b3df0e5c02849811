package replica

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

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
