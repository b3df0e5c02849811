package replica

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
)

// filesOf lists what a closed store holds of one kind, the largest first.
func filesOf(t *testing.T, fs vfs.FS, dir, ending string) []string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	size := map[string]int64{}
	var out []string
	for _, name := range names {
		if strings.HasSuffix(name, ending) {
			info, err := fs.Stat(path.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, path.Join(dir, name))
			size[path.Join(dir, name)] = info.Size()
		}
	}
	slices.SortFunc(out, func(a, b string) int { return int(size[b] - size[a]) })
	return out
}

// flip changes one bit of a file, at a part of its length.
func flip(t *testing.T, fs vfs.FS, name string, part float64) {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	raw[int(part*float64(len(raw)-1))] ^= 0x10
	out, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = out.Write(raw)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		t.Fatal(err)
	}
}

// settledOnDisk has both stores write tables.
func (n *testNode) settledOnDisk() {
	n.c.t.Helper()
	if err := errors.Join(n.log.Flush(), n.state.Flush()); err != nil {
		n.c.t.Fatal(err)
	}
}

// damagedOptions report a damaged block to its reader, as engine's do.
func damagedOptions(n *testNode) *pebble.Options {
	return &pebble.Options{
		FS: n.fs, FormatMajorVersion: pebble.FormatNewest, Logger: quietPebble{n.c.t},
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}},
	}
}

// tryStart opens the node's stores and replicas, as engine and service do.
func (n *testNode) tryStart() (err error) {
	for _, s := range []struct {
		dir string
		db  **pebble.DB
	}{{"log", &n.log}, {"state", &n.state}} {
		if *s.db, err = pebble.Open(s.dir, damagedOptions(n)); err != nil {
			if s.dir == "state" {
				_ = n.log.Close()
			}
			return err
		}
	}
	n.machines.db = n.state
	n.failed, n.leads = map[proto.RangeID]error{}, map[proto.RangeID]bool{}
	node, err := New(Config{
		Self: n.id, Log: n.log, State: n.state, Machines: n.machines, Observer: n, Transport: memTransport{n},
		FS: n.fs, SnapshotDir: "snapshots", Logger: quietLogger(), Inline: true,
	})
	if err != nil {
		return errors.Join(err, n.log.Close(), n.state.Close())
	}
	n.node = node
	return nil
}

// A bit flipped anywhere in a table of the log or of the state: the store does
// not open, or the replica stops itself and says so. In no case does it serve
// or spread something else than what was written, and the two others go on.
func TestAFlippedBitIsNeverServedNorSpread(t *testing.T) {
	found := map[string]int{}
	for _, dir := range []string{"log", "state"} {
		for _, part := range []float64{0.02, 0.2, 0.4, 0.6, 0.8, 0.99} {
			t.Run(fmt.Sprintf("%s at %v", dir, part), func(t *testing.T) {
				c := newCluster(t, 3, nil)
				c.create(1)
				leader := c.elect(1)
				var want []string
				for i := range 60 {
					want = append(want, fmt.Sprint(i, strings.Repeat(" text", 20)))
					c.must(leader, 1, want[i])
				}
				c.equal(1)
				bad := c.nodes[0]
				bad.settledOnDisk()
				bad.stop()
				flip(t, bad.fs, filesOf(t, bad.fs, dir, ".sst")[0], part)
				err := bad.tryStart()
				how := "at the opening"
				if err == nil {
					how = bad.useDamaged(want)
				}
				found[how]++
				t.Logf("found %s: %v", how, err)
				// The others go on and hold what they held.
				if bad.node != nil {
					c.setCut(bad.id, false)
				}
				next := c.electOther(1, bad)
				c.must(next, 1, "after")
				for _, n := range c.nodes[1:] {
					c.within(60, "the entry everywhere", func() bool { return len(n.list(1)) == len(want)+1 })
					if got := n.list(1); !slices.Equal(got[:len(want)], want) {
						t.Errorf("%s holds other texts than were acknowledged", n.id)
					}
				}
			})
		}
	}
	if found["at the opening"]+found["by the replica"] == 0 {
		t.Errorf("no flipped bit was noticed: %v", found)
	}
}

// Damage that no replica has met, as by a compaction: reading the keys among
// which it lies stops the replica whose rows it is in, and no other.
func TestInspectStopsTheDamagedReplica(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.create(1)
	c.create(2)
	n := c.elect(1)
	c.elect(2)
	for i := range 60 {
		c.must(n, 1, fmt.Sprint(i, strings.Repeat(" text", 20)))
	}
	n.settledOnDisk()
	n.stop()
	flip(t, n.fs, filesOf(t, n.fs, "state", ".sst")[0], 0.5)
	if err := n.tryStart(); err != nil {
		t.Fatal(err)
	}
	everything := engine.Span{Start: []byte{0}, End: []byte{255}}
	n.node.Inspect(engine.Span{Start: engine.EntitySpan(3).Start, End: []byte{255}})
	c.tick()
	if len(n.failed) > 0 {
		t.Fatalf("keys of nobody here stop %v", n.failed)
	}
	n.node.Inspect(everything)
	c.tick()
	if err := n.failed[1]; !pebble.IsCorruptionError(err) || len(n.failed) != 1 {
		t.Errorf("stopped are %v", n.failed)
	}
}

// electOther waits for a leader besides bad.
func (c *cluster) electOther(r proto.RangeID, bad *testNode) *testNode {
	c.t.Helper()
	bad.c.setCut(bad.id, true)
	c.within(200, "a leader among the others", func() bool { return c.leader(r) != nil && c.leader(r) != bad })
	return c.leader(r)
}

// useDamaged has everything of the store read, and holds it to what was
// written.
func (n *testNode) useDamaged(want []string) string {
	t := n.c.t
	for range 40 {
		n.c.tick()
	}
	if n.failed[1] != nil {
		return "by the replica"
	}
	if got, err := list(n.state, 1); err != nil {
		if !pebble.IsCorruptionError(err) {
			t.Errorf("a damaged table is reported as %v", err)
		}
		return "by a read"
	} else if !slices.Equal(got, want) {
		t.Errorf("the damaged replica serves %d texts, not the %d it was given", len(got), len(want))
	}
	return "nowhere: the bit is in no row"
}

// With one replica there is nobody to fetch it from: the node does not start,
// or the range stays stopped, and the error says what to do.
func TestAFlippedBitWithOneReplica(t *testing.T) {
	for _, tc := range []struct{ dir, ending string }{{"raftlog", ".sst"}, {"state", ".sst"}} {
		for _, part := range []float64{0.1, 0.5, 0.9} {
			t.Run(fmt.Sprintf("%s%s at %v", tc.dir, tc.ending, part), func(t *testing.T) {
				fs := vfs.NewMem()
				e, err := engine.Open("data", fs, engine.Config{}, quietLogger())
				if err != nil {
					t.Fatal(err)
				}
				c := &cluster{t: t, cut: map[proto.NodeID]bool{}}
				n := &testNode{c: c, id: "n1", fs: fs, log: e.Log, state: e.State, machines: &listMachines{db: e.State}}
				n.failed, n.leads = map[proto.RangeID]error{}, map[proto.RangeID]bool{}
				c.nodes = []*testNode{n}
				open := func() (*Node, error) {
					return New(Config{Self: n.id, Log: n.log, State: n.state, Machines: n.machines, Observer: n, Transport: memTransport{n}, Logger: quietLogger(), Inline: true})
				}
				if n.node, err = open(); err != nil {
					t.Fatal(err)
				}
				c.create(1)
				for i := range 60 {
					c.must(n, 1, fmt.Sprint(i, strings.Repeat(" text", 20)))
				}
				n.settledOnDisk()
				n.node.Close()
				n.node = nil
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				flip(t, fs, filesOf(t, fs, path.Join("data", tc.dir), tc.ending)[0], part)
				e, err = engine.Open("data", fs, engine.Config{}, quietLogger())
				if err == nil {
					defer e.Close()
					n.log, n.state = e.Log, e.State
					n.machines = &listMachines{db: e.State}
					var node *Node
					if node, err = open(); err == nil {
						defer node.Close()
						n.node = node
						for range 40 {
							c.tick()
						}
						if err = n.failed[1]; err == nil {
							_, err = list(e.State, 1)
						} else {
							err = failedError(1, err)
						}
					}
				}
				if err == nil {
					t.Fatal("the damage was not noticed")
				}
				if !strings.Contains(err.Error(), "corrupt") && !strings.Contains(err.Error(), "damaged") && !strings.Contains(err.Error(), "replace") {
					t.Errorf("the error does not name the damage: %v", err)
				}
				t.Log(err)
			})
		}
	}
}

// A log that has lost its end, or entries in between, while the state goes on:
// it was never so, and must not be taken for a fresh start that forgets what
// was voted and acknowledged.
func TestALogThatLostEntriesIsNotOpened(t *testing.T) {
	for name, lost := range map[string]func(last uint64) uint64{
		"the end": func(last uint64) uint64 { return last }, "one in between": func(last uint64) uint64 { return last - 2 },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1, nil)
			n := c.nodes[0]
			c.create(3)
			for i := range 6 {
				c.must(n, 3, fmt.Sprint("text ", i))
			}
			last := n.status(3).Applied
			n.stop()
			db := openDB(t, n.fs, "log")
			if err := errors.Join(db.Delete(entryKey(3, lost(last)), pebble.Sync), db.Close()); err != nil {
				t.Fatal(err)
			}
			n.start()
			c.settle()
			if !pebble.IsCorruptionError(n.failed[3]) {
				t.Fatalf("the replica was opened: %v", n.failed[3])
			}
			t.Log(n.failed[3])
		})
	}
}

// A replica of which damaged data was read stops, and the others go on.
func TestAReplicaThatReadDamageGivesWay(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	bad := c.elect(1)
	c.must(bad, 1, "before")
	bad.node.Damaged(1, fmt.Errorf("a row: %w", pebble.ErrCorruption))
	c.within(200, "another leader", func() bool { return bad.failed[1] != nil && c.leader(1) != nil && c.leader(1) != bad })
	c.must(c.leader(1), 1, "after")
	if o := bad.propose(1, "to the damaged one"); o.err == nil {
		t.Error("it takes proposals")
	}
}
