package state

import (
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func TestCreateIsRepeatable(t *testing.T) {
	b, thread := pair(t)
	wantCode(t, b.send(thread, thread.Low, b.id(0)), proto.CodeOK)
	d := &cellpb.Descriptor{Range: 1, Cell: "c1", Epoch: 1}
	again, err := Create(b.db, d, incarnationOf(1))
	if err != nil {
		t.Fatal(err)
	}
	if again.RunningHash() != b.m.RunningHash() {
		t.Error("creating again changed the range")
	}
	if _, err := Create(b.db, d, []byte("another")); err == nil {
		t.Error("a range of another incarnation was created over it")
	}
	if _, err := Create(b.db, &cellpb.Descriptor{Range: 9, Epoch: 1}, incarnationOf(9)); err != nil {
		t.Fatal(err)
	}
	if have, err := Ranges(b.db); err != nil || !slices.Equal(have, []proto.RangeID{1, 9}) {
		t.Errorf("ranges %v, %v", have, err)
	}
}

func TestNewerStateIsRefused(t *testing.T) {
	for _, s := range []*cellpb.RangeState{
		{Format: proto.StateFormat + 1, Rules: proto.RulesVersion},
		{Format: proto.StateFormat, Rules: proto.RulesVersion + 1},
	} {
		b := forTest(t, newRig(t, 1))
		raw, err := pb.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.db.Set(engine.RangeStateKey(1), raw, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(b.db, 1); err == nil || !strings.Contains(err.Error(), "newer release") {
			t.Errorf("opened, or refused without the way out: %v", err)
		}
	}
	b := forTest(t, newRig(t, 1))
	if _, err := Open(b.db, 2); err == nil {
		t.Error("a range that was never created was opened")
	}
}

// What a command wrote in another order, or not at all, shows in the hash.
func TestRunningHashTellsLogsApart(t *testing.T) {
	hash := func(build func(b *rig)) uint64 {
		b := forTest(t, newRig(t, 1))
		build(b)
		b.commit()
		return b.m.RunningHash()
	}
	base := hash(func(b *rig) { b.addUser(); b.addUser() })
	if hash(func(b *rig) { b.addUser(); b.addUser() }) != base {
		t.Error("the same log gives two hashes")
	}
	for name, build := range map[string]func(b *rig){
		"another order":   func(b *rig) { b.do(createUser(2)); b.do(createUser(1)) },
		"an entry less":   func(b *rig) { b.addUser() },
		"an empty entry":  func(b *rig) { b.addUser(); b.addUser(); b.m.Apply(99, 3, nil) },
		"another term":    func(b *rig) { b.addUser(); b.term++; b.newGrant() },
		"another content": func(b *rig) { b.do(createUser(1)); b.do(createUser(7)) },
	} {
		if hash(build) == base {
			t.Errorf("%s gives the same hash", name)
		}
	}
}

// FuzzApply: whatever bytes a log holds, applying neither panics nor fails,
// and two machines that apply them agree in every key, wherever the entries
// are cut into batches.
func FuzzApply(f *testing.F) {
	seed := newRig(f, 1)
	low, high := seed.addUser(), seed.addUser()
	thread := proto.DirectThread(low, high)
	seed.send(thread, low, seed.id(0))
	seed.do(login(low, "phone", "n"))
	seed.do(confirm(low, "phone", 1))
	seed.do(logout(low, "phone", 1))
	seed.do(takeRows(2, []*cellpb.ChannelRow{channelRow(1, thread, low)}))
	seed.do(&cellpb.Command{Body: &cellpb.Command_MarkThread{MarkThread: &cellpb.MarkThread{User: uint64(low), Thread: thread.String(), ReadSeq: 1}}})
	seed.do(&cellpb.Command{Body: &cellpb.Command_TrimChannel{TrimChannel: &cellpb.TrimChannel{Dest: 2}}})
	seed.do(changeCommand(change(low, high, ask, seed.id(0))))
	seed.do(changeCommand(change(high, low, accept, seed.id(0))))
	seed.do(editCommand(low, high, "alias", "tag"))
	seed.do(changeCommand(change(low, high, block, seed.id(0))))
	seed.do(profileCommand(low, &clientpb.SetProfile{Nick: pb.String("nick")}))
	seed.do(&cellpb.Command{Body: &cellpb.Command_RaiseAuthority{RaiseAuthority: &cellpb.RaiseAuthority{User: uint64(low)}}})
	seed.do(&cellpb.Command{Body: &cellpb.Command_RefreshDevice{RefreshDevice: &cellpb.RefreshDevice{User: uint64(low), Device: "phone"}}})
	seed.do(&cellpb.Command{Body: &cellpb.Command_SetRules{SetRules: &cellpb.SetRules{Version: 1}}})
	for _, e := range seed.log {
		f.Add(e.data)
	}
	setup := seed.log[:3]
	seed.close()
	f.Add([]byte("not an entry"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var hashes, digests []uint64
		for _, cut := range []bool{false, true} {
			b := bare(t, 1)
			for _, e := range setup {
				b.m.Apply(e.index, e.term, e.data)
				if cut {
					b.commit()
				}
			}
			entry := new(cellpb.Entry)
			if len(data) > 0 && pb.Unmarshal(data, entry) == nil && slices.ContainsFunc(entry.Commands, func(c *cellpb.Command) bool {
				return c.GetSetRules().GetVersion() > proto.RulesVersion
			}) {
				b.close()
				return // stops the replica, see TestUnknownRulesStopTheReplica
			}
			out := b.m.Apply(4, 3, data)
			entry = new(cellpb.Entry)
			if len(data) > 0 && pb.Unmarshal(data, entry) == nil && len(out.Results) != len(entry.Commands) {
				t.Errorf("%d results for %d commands", len(out.Results), len(entry.Commands))
			}
			if cut {
				b.commit()
				b.m.forgetCaches()
			}
			b.m.Apply(5, 3, data) // and once more: the answer was lost
			b.commit()
			hashes = append(hashes, b.m.RunningHash())
			digests = append(digests, digest(t, b.db, 1))
			b.close()
		}
		if hashes[0] != hashes[1] || digests[0] != digests[1] {
			t.Error("two machines differ")
		}
	})
}
