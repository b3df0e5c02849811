package state

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// The rules version says how entries are applied. Whatever changes how an
// existing command is applied takes a new one and keeps the old behaviour for
// the old one, for a release; so two releases in one cluster never apply one
// entry differently. In the code it is asked with [Machine.by].
//
//	version  what it changed
//	1
//	2        a device that was away for 30 days does not hold its user's update
//	         log back, and confirming counts as being there; livestreams, and
//	         messages that announce them
const (
	rulesForgetAway  = 2
	rulesLivestreams = 2
)

// Release is which rules versions a binary applies by.
type Release struct{ Oldest, Newest uint32 }

// ThisRelease is what this binary applies by.
func ThisRelease() Release { return Release{Oldest: proto.OldestRules, Newest: proto.RulesVersion} }

// UpTo is this binary held back: it applies by no newer rules than newest.
func UpTo(newest uint32) Release {
	r := ThisRelease()
	if newest != 0 {
		r.Newest = min(r.Newest, newest)
	}
	return r
}

// check says what to do about rules that this release does not apply by.
func (r Release) check(rng proto.RangeID, rules uint32) error {
	switch {
	case rules > r.Newest:
		return fmt.Errorf("state: range %s is applied by rules %d, this node knows up to %d: run a newer release, or raise cell.rules_max",
			rng, rules, r.Newest)
	case rules < r.Oldest:
		return fmt.Errorf("state: range %s is applied by rules %d, this node knows %d and up: run the release before it until every range has got further",
			rng, rules, r.Oldest)
	}
	return nil
}

// Open is [Open] by the rules of r.
func (r Release) Open(db *pebble.DB, rng proto.RangeID) (*Machine, error) {
	m, err := open(db, rng)
	if err == nil {
		err = r.check(rng, m.committed.Rules)
	}
	if err != nil {
		return nil, err
	}
	m.release = r
	return m, nil
}

// Create is [Create] for a range that begins with the given rules.
func (r Release) Create(db *pebble.DB, d *cellpb.Descriptor, incarnation []byte, rules uint32) (*Machine, error) {
	if err := r.check(proto.RangeID(d.Range), rules); err != nil {
		return nil, err
	}
	if err := create(db, d, incarnation, rules); err != nil {
		return nil, err
	}
	return r.Open(db, proto.RangeID(d.Range))
}

// Open reads the state of a range that [Create] has made.
func Open(db *pebble.DB, r proto.RangeID) (*Machine, error) { return ThisRelease().Open(db, r) }

// Create writes the first state of a range, with the newest rules, and syncs
// it. Doing it again with the same descriptor and incarnation changes nothing.
func Create(db *pebble.DB, d *cellpb.Descriptor, incarnation []byte) (*Machine, error) {
	return ThisRelease().Create(db, d, incarnation, proto.RulesVersion)
}

// by tells whether entries are applied by the given rules, or newer ones.
func (m *Machine) by(rules uint32) bool { return m.state.Rules >= rules }

// setRules raises the rules from the next command on. A replica that does not
// know them stops here, before it has applied anything by others.
func (m *Machine) setRules(c *cellpb.SetRules) *cellpb.Result {
	switch {
	case c.Version <= m.state.Rules:
		return &cellpb.Result{}
	case c.DescriptorVersion != m.newDesc.Version:
		return refuse(unfit("the replicas of range %s have changed since rules %d were found to be supported", m.rng, c.Version))
	case m.release.check(m.rng, c.Version) != nil:
		m.fail(m.release.check(m.rng, c.Version))
		return &cellpb.Result{}
	}
	m.state.Rules = c.Version
	return &cellpb.Result{}
}
