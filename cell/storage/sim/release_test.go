package sim

import (
	"slices"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Two releases in one cluster: nodes of the one before know the rules up to
// proto.OldestRules.

// While one node of a range is of the release before, under all weather, its
// rules stay; nothing else goes wrong either.
func TestOneOldNodeKeepsTheRules(t *testing.T) {
	for seed := range uint64(3) {
		tr := check(t, options{seed: seed, nodes: 3, ranges: 4, ticks: 200, rules: func(n *node) uint32 {
			if n.index == 2 {
				return proto.OldestRules
			}
			return proto.RulesVersion
		}})
		if n := tr.counts["rules raised"]; n > 0 {
			t.Errorf("seed %d: rules were raised %d times beside a node that does not know them", seed, n)
		}
		if tr.counts["acknowledged"] < 20 {
			t.Errorf("seed %d: only %d sends were acknowledged", seed, tr.counts["acknowledged"])
		}
	}
}

// Nodes become the new release as they are started again, with ranges that
// move too; the last ones at the end. Then every range is raised.
func TestRulesAreRaisedOnceAllNodesKnowThem(t *testing.T) {
	for _, opt := range []options{
		{seed: 1, nodes: 3, ranges: 4, ticks: 200},
		{seed: 2, nodes: 5, ranges: 6, ticks: 200},
		movesOf(1), movesOf(2),
	} {
		opt.rules = func(n *node) uint32 {
			if n.life == 1 {
				return proto.OldestRules
			}
			return proto.RulesVersion
		}
		opt.settled = func(w *world) {
			for _, n := range w.nodes {
				if n.rules != proto.RulesVersion {
					n.stop()
					n.start()
				}
			}
			w.untilRaised()
		}
		if tr := check(t, opt); tr.counts["rules raised"] == 0 {
			t.Errorf("seed %d: no rules were raised", opt.seed)
		}
	}
}

// untilRaised goes on until every replica applies by the newest rules, and
// settles again: the judge compares replicas at rest.
func (w *world) untilRaised() {
	raised := func() bool {
		return !slices.ContainsFunc(w.ranges, func(r proto.RangeID) bool {
			return slices.ContainsFunc(w.holders(r), func(n *node) bool {
				return n.rep == nil || n.status(r).Rules != proto.RulesVersion
			})
		})
	}
	for end := w.moment + settleTicks*momentsPerTick*len(w.nodes); !raised(); w.next() {
		if w.moment > end {
			w.judge.violate("the rules of a range were never raised")
			return
		}
	}
	w.settle()
}

// raiseAnyway raises the rules of ranges that the node leads, whatever the
// others support.
func (n *node) raiseAnyway() {
	for _, s := range n.rep.Status() {
		if !s.Leading || s.Rules >= n.rules {
			continue
		}
		n.rep.Propose(proto.RangeID(s.Descriptor.GetRange()), &cellpb.Entry{
			Range: s.Descriptor.GetRange(), Epoch: s.Descriptor.GetEpoch(),
			Commands: []*cellpb.Command{{Body: &cellpb.Command_SetRules{
				SetRules: &cellpb.SetRules{Version: n.rules, DescriptorVersion: s.Descriptor.GetVersion()},
			}}},
		}, func(*cellpb.Applied, error) {})
	}
}

// A leader that does not wait for the others: they stop, and say what to do,
// instead of guessing what the newer rules are.
func TestPlantedRaiseAnyway(t *testing.T) {
	bad, _ := simulate(t, options{seed: 1, nodes: 3, ranges: 2, ticks: 100, fault: fault{raiseAnyway: true}, rules: func(n *node) uint32 {
		if n.index == 2 {
			return proto.OldestRules
		}
		return proto.RulesVersion
	}})
	if !slices.ContainsFunc(bad, func(b string) bool {
		return strings.Contains(b, "has stopped itself") && strings.Contains(b, "run a newer release")
	}) {
		t.Errorf("found instead: %q", bad)
	}
}
