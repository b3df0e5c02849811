package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// crashUnderLoad proposes on three nodes, takes the power from all of them at
// once in the middle of it, several times, and checks that everything that
// was acknowledged is there once and in order of acknowledgement. The ranges
// are created synced; everything after is written as sync says.
func crashUnderLoad(t *testing.T, seed uint64, crashes int, sync *pebble.WriteOptions) error {
	survive := int(seed%2) * 40
	const groups = 3
	rng := rand.New(rand.NewPCG(seed, 1))
	asked := sync
	sync = pebble.Sync
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.SyncWrites = sync
		cfg.TruncateTicks = 7
		cfg.LogKeepBytes = 1 << 10
	})
	for r := range proto.RangeID(groups) {
		c.create(r)
	}
	sync = asked
	for _, n := range c.nodes {
		n.node.cfg.SyncWrites = sync
	}
	acked := map[proto.RangeID][]string{}
	live := 0 // crashes so far: what is answered after one is not counted
	number := 0
	for range crashes {
		for r := range proto.RangeID(groups) {
			c.elect(r)
		}
		generation := live
		var disks []*vfs.MemFS // once the power is gone
		until := 60 + rng.IntN(120)
		c.sent = func(_, to *testNode, _ *cellpb.RaftBatch) {
			// Others go on while the sender is between sending and syncing.
			if rng.IntN(2) == 0 {
				to.step(false)
			}
			if until--; until <= 0 && disks == nil {
				// Some of what was not synced may have reached the disk.
				disks = c.disks(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rng})
				live++
			}
		}
		for steps := 0; disks == nil && steps < 10_000; steps++ {
			for range rng.IntN(4) {
				r := proto.RangeID(rng.IntN(groups))
				leader := c.leader(r)
				if leader == nil {
					continue
				}
				number++
				text := fmt.Sprint(number)
				leader.node.Propose(r, textEntry(r, text), ackInto(acked, r, text, &live, generation))
			}
			c.nodes[rng.IntN(len(c.nodes))].step(rng.IntN(5) == 0)
		}
		c.sent = nil
		if disks == nil {
			t.Fatal("the nodes say nothing to each other")
		}
		c.restartFrom(disks)
	}
	total := 0
	for _, texts := range acked {
		total += len(texts)
	}
	if total == 0 {
		t.Fatal("nothing was acknowledged: the test tests nothing")
	}
	t.Logf("%d proposed, %d acknowledged", number, total)
	return c.judge(acked)
}

// judge compares what was acknowledged with what is there, and the replicas
// with each other.
func (c *cluster) judge(acked map[proto.RangeID][]string) (bad error) {
	for r, texts := range acked {
		c.elect(r)
		bad = errors.Join(bad, checkAcked(r, texts, c.upToDate(r).list(r)))
	}
	for r := range acked {
		if bad == nil {
			c.equal(r)
		}
	}
	return bad
}

func checkAcked(r proto.RangeID, acked, stored []string) error {
	at := map[string]int{}
	for i, text := range stored {
		if _, twice := at[text]; twice {
			return fmt.Errorf("range %s: %q is stored twice", r, text)
		}
		at[text] = i
	}
	last := -1
	for _, text := range acked {
		i, ok := at[text]
		if !ok {
			return fmt.Errorf("range %s: %q was acknowledged and is lost", r, text)
		}
		if i < last {
			return fmt.Errorf("range %s: %q was acknowledged after and stored before another", r, text)
		}
		last = i
	}
	return nil
}

func TestNothingAcknowledgedIsLostWhenAllLosePower(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			if err := crashUnderLoad(t, seed, 4, pebble.Sync); err != nil {
				t.Error(err)
			}
		})
	}
}

// The same test must fail when the log is not synced: else it proves nothing.
func TestTheCrashTestNoticesMissingSyncs(t *testing.T) {
	for _, seed := range []uint64{0, 2, 4} {
		if err := crashUnderLoad(t, seed, 1, pebble.NoSync); err == nil {
			t.Errorf("with sync off nothing was found lost with seed %d", seed)
		}
	}
}

func TestCheckAcked(t *testing.T) {
	for _, tc := range []struct {
		name          string
		acked, stored []string
		ok            bool
	}{
		{"equal", []string{"a", "b"}, []string{"a", "b"}, true},
		{"more stored", []string{"b"}, []string{"a", "b", "c"}, true},
		{"lost", []string{"a", "b"}, []string{"a"}, false},
		{"twice", []string{"a"}, []string{"a", "a"}, false},
		{"reordered", []string{"a", "b"}, []string{"b", "a"}, false},
	} {
		if err := checkAcked(1, tc.acked, tc.stored); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// One node after another restarts in order while proposals go on.
func TestRollingRestarts(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.TruncateTicks = 5; cfg.LogKeepBytes = 1 << 10 })
	c.create(1)
	var acked []string
	for i := range 60 {
		leader := c.elect(1)
		text := fmt.Sprint(i)
		leader.node.Propose(1, textEntry(1, text), ackOne(&acked, text))
		c.settle()
		if i%10 == 9 {
			n := c.nodes[i/10%3]
			n.stop()
			c.elect(1)
			n.start()
		}
	}
	c.equal(1)
	if err := checkAcked(1, acked, c.elect(1).list(1)); err != nil || len(acked) < 50 {
		t.Errorf("%d acknowledged: %v", len(acked), err)
	}
	if !slices.IsSortedFunc(acked, func(a, b string) int { return len(a) - len(b) }) {
		t.Errorf("acknowledged out of order: %v", acked)
	}
}

func ackInto(acked map[proto.RangeID][]string, r proto.RangeID, text string, live *int, generation int) func(*cellpb.Applied, error) {
	return func(_ *cellpb.Applied, err error) {
		if err == nil && *live == generation {
			acked[r] = append(acked[r], text)
		}
	}
}

func ackOne(acked *[]string, text string) func(*cellpb.Applied, error) {
	return func(_ *cellpb.Applied, err error) {
		if err == nil {
			*acked = append(*acked, text)
		}
	}
}

// upToDate is the leader of r once it has answered a read, so that it has
// applied all that is committed.
func (c *cluster) upToDate(r proto.RangeID) *testNode {
	c.t.Helper()
	for range 20 {
		leader, answered := c.elect(r), false
		leader.node.Read(r, func(err error) { answered = err == nil })
		for range 10 {
			c.tick()
		}
		if answered {
			return leader
		}
	}
	c.t.Fatalf("range %s answers no read", r)
	return nil
}

// Every message that promises something durable is judged by what a crash at
// the moment of its sending would leave on the sender's disk.
func TestPromisesAreOnDiskWhenTheyAreSent(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.create(1)
	appends, votes := 0, 0
	c.sent = func(from, _ *testNode, b *cellpb.RaftBatch) {
		for _, raw := range b.GetMessages() {
			m := new(raftpb.Message)
			if err := pb.Unmarshal(raw.GetMessage(), m); err != nil {
				t.Fatal(err)
			}
			granted := m.GetType() == raftpb.MsgVoteResp && !m.GetReject()
			if (m.GetType() != raftpb.MsgAppResp || m.GetReject()) && m.GetType() != raftpb.MsgVote && !granted {
				continue
			}
			db := openDB(t, from.fs.CrashClone(vfs.CrashCloneCfg{}), "log")
			s, found, err := openLogStore(db, 1, 0)
			if err != nil || !found {
				t.Fatal(err)
			}
			switch {
			case m.GetType() == raftpb.MsgAppResp:
				appends++
				if s.last.index < m.GetIndex() || s.hard.GetTerm() < m.GetTerm() {
					t.Errorf("%s acknowledges entry %d of term %d and has synced %+v", from.id, m.GetIndex(), m.GetTerm(), s.last)
				}
				if told := from.status(1).LastIndex; told < m.GetIndex() {
					t.Errorf("%s acknowledges entry %d and tells of a log that ends at %d", from.id, m.GetIndex(), told)
				}
			case granted && s.hard.GetTerm() == m.GetTerm() && s.hard.GetVote() == m.GetTo(),
				m.GetType() == raftpb.MsgVote && s.hard.GetTerm() == m.GetTerm() && s.hard.GetVote() == m.GetFrom():
				votes++
			default:
				t.Errorf("%s sends %s and has synced %v", from.id, m.GetType(), s.hard)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for range 3 {
		old := c.elect(1)
		for i := range 5 {
			c.must(old, 1, fmt.Sprint(i))
		}
		c.setCut(old.id, true)
		c.elect(1)
		c.setCut(old.id, false)
		c.within(60, "the old leader told", func() bool { _, _, leading := old.node.Leader(1); return !leading })
	}
	if appends < 15 || votes < 3 {
		t.Errorf("only %d appends and %d votes were seen", appends, votes)
	}
}
