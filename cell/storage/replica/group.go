package replica

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// group is this node's replica of one range.
//
//	        ┌────────── wake: any message, proposal, read, silent peer ───────────┐
//	ticking ┴─ idle, everybody caught up ─► quiet ────────────────────────────────┘
//	   │ a snapshot arrived ─► installing ─► ticking
//	   └─ error ─► failed (for good)
type group struct {
	rng      proto.RangeID
	id       uint64 // of the replica
	worker   int
	machine  Machine       // owned by the apply worker once the group runs
	installs atomic.Uint64 // snapshots begun to install; a copy being sent is void then

	// Owned by the loop.
	raft       *raft.RawNode
	store      *logStore
	nodes      map[uint64]proto.NodeID // of each replica id
	desc       *cellpb.Descriptor
	epoch      uint64
	dirty      bool
	quiet      bool
	installing bool
	failed     bool
	idle       int    // ticks without anything happening
	lostAt     uint64 // tick at which leadership or term was lost with proposals pending
	term       uint64
	commit     uint64
	lead       uint64
	leading    bool
	announced  announcement
	proposals  []*proposal
	reads      []func(error)
	readSeq    uint64
	readIndex  map[uint64][]func(error) // asked of Raft, by context
	cut        *place                   // to truncate with the next batch
	offered    *incoming                // a received snapshot Raft has been told of
	snapAfter  uint64                   // tick before which no snapshot is made
	sending    int                      // snapshots queued or being sent
	handedOver uint64                   // tick at which the leadership was last given away for want of space, 0: never
	empty      bool                     // waits for its first snapshot: there is no machine
	heard      map[uint64]uint64        // tick of the last message of each other replica
	joint      jointState
	changeAt   uint64                   // index of the newest entry that may be a membership change
	raising    bool                     // newer rules are proposed
	recovering chan struct{}            // closed when the descriptor names this replica; nil: it does
	copied     map[uint64]*atomic.Int64 // bytes sent of the newest snapshot to each replica
	gaveAway   time.Time                // when the leadership was last given away in a joint configuration

	mu            sync.Mutex // guards the fields below
	pub           published
	grantTerm     uint64 // of the newest grant applied
	grantNumber   uint64
	admitted      int
	admittedBytes int
	admittedReads int
	pending       map[uint64]*proposal // by index
	readWaits     []readWait
	digests       map[uint64][]chan digested // asked for, by index
}

// published is what others may ask about a group.
type published struct {
	desc    *cellpb.Descriptor
	applied uint64
	appTerm uint64
	hash    uint64
	rules   uint32
	term    uint64
	commit  uint64
	first   uint64 // the oldest entry the log holds
	last    place  // of the log
	leader  proto.NodeID
	leading bool
	quiet   bool
	empty   bool
	pause   time.Duration // the last time a change of owner stopped the writes here
	failed  error
}

type announcement struct {
	term, lead uint64
	leading    bool
}

// openGroup opens the replica id says is on disk.
func (n *Node) openGroup(r proto.RangeID, id identity) (*group, error) {
	installed, err := n.redoInstall(r, id)
	if err != nil {
		return nil, err
	}
	store, found, err := openLogStore(n.cfg.Log, r, n.cfg.CacheBytes)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("replica: the log of range %s is lost: %w", r, pebble.ErrCorruption)
	}
	if id.stage == stageEmpty && !installed {
		return n.newGroup(store, nil, id.replica)
	}
	m, err := n.cfg.Machines.Open(r)
	if err != nil {
		return nil, err
	}
	if err := n.matchLog(store, m); err != nil {
		return nil, err
	}
	return n.newGroupOf(store, m, id)
}

// newGroupOf is newGroup of a replica with state; one that recovers decides
// alone, whatever its descriptor says.
func (n *Node) newGroupOf(s *logStore, m Machine, id identity) (*group, error) {
	if id.stage != stageRecovering {
		return n.newGroup(s, m, id.replica)
	}
	s.conf = &raftpb.ConfState{Voters: []uint64{id.replica}, AutoLeave: new(false)}
	g, err := n.newGroup(s, m, id.replica)
	if err == nil {
		g.recovering = make(chan struct{})
	}
	return g, err
}

// matchLog compares where the state and the log stand. What is applied was
// synced in the log before, and installing a snapshot is noted and repeated:
// a log that ends before the state has lost entries that were acknowledged.
func (n *Node) matchLog(s *logStore, m Machine) error {
	index, term := m.Applied()
	have, err := s.Term(index)
	switch {
	case index < s.truncated.index:
		return fmt.Errorf("replica: the state of range %s is at entry %d and its log starts after %d: %w",
			s.rng, index, s.truncated.index, pebble.ErrCorruption)
	case index > s.last.index:
		return fmt.Errorf("replica: the log of range %s ends at entry %d and its state is at %d: acknowledged entries are lost: %w",
			s.rng, s.last.index, index, pebble.ErrCorruption)
	case err == nil && have != term:
		return fmt.Errorf("replica: entry %d of range %s is of term %d in the log and of %d in the state: %w",
			index, s.rng, have, term, pebble.ErrCorruption)
	case err != nil:
		return err
	}
	if c := s.hard.GetCommit(); c > s.last.index {
		return fmt.Errorf("replica: the log of range %s ends at %d and %d is known to be committed: %w",
			s.rng, s.last.index, c, pebble.ErrCorruption)
	}
	// What was applied was committed; the note of it may have been lost.
	if s.hard.GetCommit() < index {
		s.hard = &raftpb.HardState{Term: new(max(s.hard.GetTerm(), term)), Vote: new(s.hard.GetVote()), Commit: new(index)}
	}
	return nil
}

// newGroup makes a group of what is on disk; m is nil when there is no state
// yet.
func (n *Node) newGroup(s *logStore, m Machine, replica uint64) (*group, error) {
	d := &cellpb.Descriptor{Range: uint64(s.rng)}
	var at place
	st := new(cellpb.RangeState)
	if m != nil {
		d, st = m.Descriptor(), m.State()
		at.index, at.term = m.Applied()
	}
	g := &group{
		rng: s.rng, id: replica, machine: m, store: s,
		worker:    int(uint64(s.rng)*0x9e3779b97f4a7c15>>33) % max(1, n.cfg.ApplyWorkers),
		readIndex: map[uint64][]func(error){},
		pending:   map[uint64]*proposal{},
		heard:     map[uint64]uint64{},
	}
	g.empty = m == nil
	g.pub = published{desc: d, applied: at.index, appTerm: at.term, hash: st.GetRunningHash(), rules: st.GetRules(), empty: g.empty}
	g.desc = d
	g.setNodes(d)
	if s.conf == nil {
		s.conf = confState(d)
	}
	s.snapshot = func() (*raftpb.Snapshot, error) { return n.snapshotMetadata(g) }
	g.term, g.commit = s.hard.GetTerm(), s.hard.GetCommit()
	g.pub.term, g.pub.commit, g.pub.last = g.term, g.commit, g.store.last
	err := g.guard(func() error {
		var err error
		g.raft, err = raft.NewRawNode(&raft.Config{
			ID: replica, ElectionTick: n.cfg.ElectionTicks, HeartbeatTick: n.cfg.GroupHeartbeatTicks,
			Storage: s, Applied: at.index, AsyncStorageWrites: true,
			MaxSizePerMsg: 512 << 10, MaxCommittedSizePerReady: 4 << 20,
			MaxUncommittedEntriesSize: 4 * uint64(n.cfg.ProposalBytesMax),
			MaxInflightMsgs:           64, MaxInflightBytes: 8 << 20,
			CheckQuorum: true, PreVote: true, ReadOnlyOption: raft.ReadOnlySafe,
			DisableProposalForwarding: true, StepDownOnRemoval: true,
			// See checkChange. Raft's own check would have a new leader wait for
			// a commit before it may end a joint configuration.
			DisableConfChangeValidation: true,
			Logger:                      raftLogger{logger: n.cfg.Logger, rng: s.rng},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (g *group) setNodes(d *cellpb.Descriptor) {
	g.epoch = d.GetEpoch()
	g.nodes = make(map[uint64]proto.NodeID, len(d.GetReplicas()))
	for _, r := range d.GetReplicas() {
		g.nodes[r.GetId()] = proto.NodeID(r.GetNode())
	}
}

// heardOf notes a sign of life of another replica, and where it lives: one
// that is behind may not know of those that came since.
func (g *group) heardOf(in *received, tick uint64) {
	from := in.msg.GetFrom()
	g.heard[from] = tick
	if g.nodes[from] == "" {
		g.nodes[from] = in.from
	}
}

// guard turns a panic of Raft, which is how it reports a storage that fails,
// into an error. The group is not usable afterwards.
func (g *group) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("replica: range %s: raft: %v", g.rng, p)
			if g.store != nil && g.store.err != nil {
				err = g.store.err
			}
		}
	}()
	return f()
}

// committedInTerm tells whether the leader has committed an entry of its own
// term. Before that its commit index may lag behind what was acknowledged.
func (g *group) committedInTerm() bool {
	t, err := g.store.Term(g.commit)
	return err == nil && t == g.term
}

// singleVoter tells whether this replica alone decides.
func (g *group) singleVoter() bool {
	return len(g.store.conf.Voters) == 1 && g.store.conf.Voters[0] == g.id && len(g.store.conf.VotersOutgoing) == 0
}

// publish copies what the loop knows to where others may read it. What they
// read of the log chooses the replica that a lost range restarts from, so it
// follows every write.
func (g *group) publish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pub.term, g.pub.commit, g.pub.first, g.pub.last = g.term, g.commit, g.store.truncated.index+1, g.store.last
	g.pub.leader, g.pub.leading, g.pub.quiet = g.nodes[g.lead], g.leading, g.quiet
}

func (g *group) appliedPlace() place {
	g.mu.Lock()
	defer g.mu.Unlock()
	return place{index: g.pub.applied, term: g.pub.appTerm}
}
