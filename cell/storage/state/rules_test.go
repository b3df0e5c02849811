package state

import (
	"strings"
	"testing"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

func setRules(version uint32, descriptor uint64) *cellpb.Entry {
	return &cellpb.Entry{Range: 1, Epoch: 1, Commands: []*cellpb.Command{{Body: &cellpb.Command_SetRules{
		SetRules: &cellpb.SetRules{Version: version, DescriptorVersion: descriptor},
	}}}}
}

// ofRules makes the range begin with the given rules.
func (b *rig) ofRules(rules uint32) *rig {
	b.commit()
	b.m.committed.Rules, b.m.state.Rules = rules, rules
	b.m.Apply(b.lastIndex()+1, b.term, nil)
	b.log = append(b.log, logged{index: b.lastIndex() + 1, term: b.term})
	b.commit()
	return b
}

func (b *rig) lastIndex() uint64 { return b.log[len(b.log)-1].index }

func TestRulesOnlyRise(t *testing.T) {
	b := forTest(t, newRig(t, 1)).ofRules(proto.OldestRules)
	for _, step := range []struct {
		version    uint32
		descriptor uint64
		code       proto.Code
		rules      uint32
	}{
		{proto.RulesVersion, 7, proto.CodeStaleVersion, proto.OldestRules}, // a replica came meanwhile
		{proto.RulesVersion, 0, proto.CodeOK, proto.RulesVersion},
		{proto.OldestRules, 0, proto.CodeOK, proto.RulesVersion}, // an earlier leader's, late
	} {
		wantCode(t, b.entry(setRules(step.version, step.descriptor)).Results[0], step.code)
		if got := b.m.State().Rules; got != step.rules {
			t.Errorf("rules %d after %+v", got, step)
		}
	}
}

// Whoever does not know the rules stops, before he applies anything by others,
// and says what to do; run as the newer release he goes on from there.
func TestUnknownRulesStopTheReplica(t *testing.T) {
	b := forTest(t, newRig(t, 1)).ofRules(proto.OldestRules)
	old := UpTo(proto.OldestRules)
	held, err := old.Open(b.db, 1)
	if err != nil {
		t.Fatal(err)
	}
	before := held.RunningHash()
	raw, err := pb.Marshal(setRules(proto.RulesVersion, 0))
	if err != nil {
		t.Fatal(err)
	}
	held.Apply(b.lastIndex()+1, b.term, raw)
	if err := held.Commit(); err == nil || !strings.Contains(err.Error(), "run a newer release") {
		t.Errorf("committed, or stopped without the way out: %v", err)
	}
	_ = held.batch.Close()
	again, err := Open(b.db, 1)
	if err != nil {
		t.Fatal(err)
	}
	if again.RunningHash() != before {
		t.Error("something of the entry was written")
	}
	again.Apply(b.lastIndex()+1, b.term, raw)
	if err := again.Commit(); err != nil || again.State().Rules != proto.RulesVersion {
		t.Errorf("the newer release: rules %d, %v", again.State().Rules, err)
	}
	if _, err := old.Open(b.db, 1); err == nil || !strings.Contains(err.Error(), "run a newer release") {
		t.Errorf("the older release opens it afterwards, or is refused without the way out: %v", err)
	}
	if _, err := (Release{Oldest: proto.RulesVersion + 1, Newest: proto.RulesVersion + 2}).Open(b.db, 1); err == nil || !strings.Contains(err.Error(), "release before") {
		t.Errorf("a release that has forgotten the rules opens it, or is refused without the way out: %v", err)
	}
}

func TestARangeBeginsWithRules(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	d := &cellpb.Descriptor{Range: 9, Epoch: 1}
	if _, err := UpTo(proto.OldestRules).Create(b.db, d, incarnationOf(9), proto.RulesVersion); err == nil {
		t.Error("a range of rules that are not known was made")
	}
	m, err := ThisRelease().Create(b.db, d, incarnationOf(9), proto.OldestRules)
	if err != nil || m.State().Rules != proto.OldestRules {
		t.Errorf("rules %d, %v", m.State().GetRules(), err)
	}
}

// By rules 1 a device that never comes back holds the update log back for
// ever, by rules 2 for 30 days. One that confirms is there, however long ago it
// logged in.
func TestAForgottenDeviceHoldsTheLogBackFor30Days(t *testing.T) {
	const day = 24 * 3_600_000
	b, thread := pair(t)
	b.ofRules(1)
	wantCode(t, b.do(login(thread.Low, "drawer", "n")), proto.CodeOK)
	wantCode(t, b.do(login(thread.Low, "phone", "n")), proto.CodeOK)
	b.nowMs += 2 * day
	wantCode(t, b.do(login(thread.Low, "tablet", "n")), proto.CodeOK)
	b.nowMs += 29 * day
	b.manual = true
	const n = 2*updatesKept + 50
	for i := range n {
		b.send(thread, thread.High, b.id(0))
		if i%1000 == 0 {
			b.commit()
		}
	}
	b.commit()
	b.manual = false
	trimmed := func(confirmed uint64) bool {
		t.Helper()
		wantCode(t, b.do(confirm(thread.Low, "phone", confirmed)), proto.CodeOK)
		r := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: &cellpb.ReadUpdates{User: uint64(thread.Low), After: 0, Limit: 1}}})
		return r.Trimmed
	}
	if trimmed(n - 12) {
		t.Error("by rules 1, the drawer is away for 31 days: trimmed")
	}
	wantCode(t, b.entry(setRules(2, 0)).Results[0], proto.CodeOK)
	if trimmed(n - 11) {
		t.Error("by rules 2, the tablet is away for 29 days: trimmed")
	}
	b.nowMs += 2 * day
	if !trimmed(n - 10) {
		t.Error("by rules 2, all others are away for 31 days: not trimmed")
	}
	r := b.read(&cellpb.LeadRead{Body: &cellpb.LeadRead_Updates{Updates: &cellpb.ReadUpdates{User: uint64(thread.Low), After: n - 10 - updatesKept, Limit: 1}}})
	if r.Trimmed {
		t.Error("what the phone may still want was trimmed")
	}
}
