package replica

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// behind makes three nodes of which one lacks what the others have cut off
// their logs. It returns the leader and the one that is cut off.
func behind(t *testing.T, tune func(*Config)) (c *cluster, leader, late *testNode) {
	t.Helper()
	c = newCluster(t, 3, func(cfg *Config) {
		cfg.LogKeepBytes, cfg.TruncateTicks = 1<<10, 5
		if tune != nil {
			tune(cfg)
		}
	})
	c.create(1)
	c.create(2) // a neighbour that must stay as it is
	leader = c.elect(1)
	c.must(leader, 1, "first")
	c.must(c.elect(2), 2, "neighbour")
	c.equal(1)
	c.equal(2)
	for _, n := range c.nodes {
		if n != leader && n != c.leader(2) {
			late = n
		}
	}
	c.setCut(late.id, true)
	for i := range 400 {
		c.must(leader, 1, fmt.Sprintf("%d %s", i, strings.Repeat("x", 100)))
	}
	c.within(100, "the log cut off", func() bool {
		return leader.node.groups[1].store.truncated.index > late.status(1).Applied
	})
	return c, leader, late
}

func TestASnapshotReplacesWhatTheFollowerHad(t *testing.T) {
	c, leader, late := behind(t, nil)
	// Rows that the leader does not have, in both spans.
	stray := append(binary.BigEndian.AppendUint64(nil, uint64(proto.RangeID(1).First())+9), 'z')
	local := engine.AccountKeyKey(1, []byte("stray"))
	if err := errors.Join(late.state.Set(stray, []byte("s"), pebble.Sync), late.state.Set(local, []byte("s"), pebble.Sync)); err != nil {
		t.Fatal(err)
	}
	c.setCut(late.id, false)
	c.sent = func(from, _ *testNode, _ *cellpb.RaftBatch) {
		if from != late {
			return
		}
		if s := late.status(1); s.Applied > s.LastIndex {
			t.Errorf("it has applied up to %d and tells of a log that ends at %d", s.Applied, s.LastIndex)
		}
	}
	c.eventually("the snapshot installed", func() bool { return value(t, late.node.metrics.snapshotsInstalled) > 0 })
	c.equal(1)
	c.equal(2)
	for _, key := range [][]byte{stray, local} {
		if _, found, err := get(late.state, key); found || err != nil {
			t.Errorf("key %x survived the snapshot: %v", key, err)
		}
	}
	if got := late.list(2); len(got) != 1 {
		t.Errorf("the neighbour's list is %v", got)
	}
	if names, err := late.fs.List("snapshots"); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
	// It goes on from the log, restarts, and can lead.
	c.must(leader, 1, "after")
	c.equal(1)
	late.stop()
	late.start()
	c.equal(1)
	leader.stop()
	c.must(c.elect(1), 1, "more")
	c.equal(1)
}

func TestABrokenSnapshotChangesNothing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		mangle func(chunk *cellpb.SnapshotChunk) error
	}{
		{"a flipped bit", func(chunk *cellpb.SnapshotChunk) error {
			if len(chunk.Pairs) > 0 {
				v := append([]byte(nil), chunk.Pairs[0].Value...)
				v[0] ^= 1
				chunk.Pairs[0].Value = v
			}
			return nil
		}},
		{"a sender that dies", func(chunk *cellpb.SnapshotChunk) error {
			if chunk.Last {
				return errors.New("dead")
			}
			return nil
		}},
		{"a key of another range", func(chunk *cellpb.SnapshotChunk) error {
			if len(chunk.Pairs) > 0 {
				chunk.Pairs = append(chunk.Pairs, &cellpb.KeyValue{Key: listKey(2, 7), Value: []byte("evil")})
				chunk.Checksum = pairsChecksum(chunk.Pairs)
			}
			return nil
		}},
		{"another index than claimed", func(chunk *cellpb.SnapshotChunk) error {
			for _, p := range chunk.Pairs {
				if string(p.Key) == string(engine.RangeStateKey(1)) {
					s := new(cellpb.RangeState)
					if err := pb.Unmarshal(p.Value, s); err != nil {
						return err
					}
					s.AppliedIndex++
					p.Value, _ = pb.Marshal(s)
				}
			}
			chunk.Checksum = pairsChecksum(chunk.Pairs)
			return nil
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, leader, late := behind(t, nil)
			before := late.status(1)
			c.mangle = tc.mangle
			c.setCut(late.id, false)
			c.eventually("two failures", func() bool { return value(t, leader.node.metrics.snapshotsFailed) >= 2 })
			if s := late.status(1); s.Applied != before.Applied || s.RunningHash != before.RunningHash || s.Err != nil {
				t.Fatalf("a broken snapshot changed %+v to %+v", before, s)
			}
			if got := late.list(1); len(got) != 1 {
				t.Fatalf("list is %v", got)
			}
			// A sender that runs may be between two chunks: stop it first.
			c.eventually("no sender", func() bool { return leader.node.groups[1].sending == 0 })
			c.mangle = nil
			c.equal(1) // it is sent again
		})
	}
}

// A crash at any point of an install is completed at the next start.
func TestInstallIsRedoneAfterACrash(t *testing.T) {
	for _, stage := range []string{"noted", "first span replaced", "both spans replaced"} {
		t.Run(stage, func(t *testing.T) {
			c, leader, late := behind(t, nil)
			want := leader.status(1)
			// What the worker does, up to the crash.
			snap := leader.state.NewSnapshot()
			stream := &scripted{}
			chunks := chunker{send: func(chunk *cellpb.SnapshotChunk, _ int) error {
				stream.chunks = append(stream.chunks, chunk)
				return nil
			}}
			if err := errors.Join(chunks.copy(snap, 1), snap.Close()); err != nil {
				t.Fatal(err)
			}
			in, err := late.node.writeTables(stream, 1, "snapshots/1-x")
			if err != nil {
				t.Fatal(err)
			}
			note, err := json.Marshal(installNote{Index: in.at.index, Term: in.at.term, Dir: in.dir, Files: in.files})
			if err != nil {
				t.Fatal(err)
			}
			if err := late.log.Set(logKey(1, tagInstall), note, pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if stage == "first span replaced" {
				err = errors.Join(late.node.ingestSpan(engine.Spans(1)[0], in.files[0]))
			}
			if stage == "both spans replaced" {
				err = late.node.ingest(1, in.files)
			}
			if err != nil {
				t.Fatal(err)
			}
			crashed := late.fs.CrashClone(vfs.CrashCloneCfg{})
			late.stop()
			late.fs = crashed
			late.start() // still cut off
			c.settle()
			if s := late.status(1); s.Applied != want.Applied || s.RunningHash != want.RunningHash || s.Err != nil {
				t.Errorf("after the restart %+v, want %+v", s, want)
			}
			if _, found, err := get(late.log, logKey(1, tagInstall)); found || err != nil {
				t.Errorf("the note is still there: %v", err)
			}
			c.setCut(late.id, false)
			c.must(c.elect(1), 1, "after")
			c.equal(1)
			c.equal(2)
		})
	}
}

// scripted plays a fixed stream to the receiver.
type scripted struct {
	SnapshotReceiver
	chunks []*cellpb.SnapshotChunk
}

func (s *scripted) Recv() (*cellpb.SnapshotChunk, error) {
	if len(s.chunks) == 0 {
		return nil, errors.New("the script is over")
	}
	chunk := s.chunks[0]
	s.chunks = s.chunks[1:]
	return chunk, nil
}

// The log is cut only where the state is durable: a crash right after every
// cut finds everything.
func TestTheLogIsNeverCutBeyondTheDurableState(t *testing.T) {
	c := newCluster(t, 1, func(cfg *Config) { cfg.TruncateTicks, cfg.QuietTicks = 2, 5 })
	n := c.nodes[0]
	c.create(1)
	number := 0
	for round := range 8 {
		for range 40 + 10*round {
			c.must(n, 1, fmt.Sprint(number))
			number++
		}
		for range 3 * round {
			c.tick()
		}
		c.crashAll(vfs.CrashCloneCfg{})
		c.settle()
		if n.failed[1] != nil {
			t.Fatal(n.failed[1])
		}
		if got := n.list(1); len(got) != number {
			t.Fatalf("round %d: %d of %d texts are left", round, len(got), number)
		}
	}
	c.within(100, "quiet, its log cut off", func() bool {
		s := n.node.groups[1].store
		return n.status(1).Quiet && s.truncated == s.last
	})
	c.must(n, 1, "woken")
}
