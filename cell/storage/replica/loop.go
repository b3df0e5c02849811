package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// appendWork is one group's part of a round's disk write.
type appendWork struct {
	g *group
	m *raftpb.Message // MsgStorageAppend
}

// round takes what waits, steps it, writes once for all groups and sends what
// the write allows. It tells whether something is left to do at once.
func (n *Node) round() (more bool, err error) {
	n.metrics.rounds.Inc()
	n.stepWork(n.inbox.take())
	dirty := n.dirty
	n.dirty = nil

	var appends []appendWork
	var early outbox // promises nothing: may go out beside the disk write
	var late outbox
	mustSync := false
	for _, g := range dirty {
		g.dirty = false
		m, sync := n.collect(g, &early, &late)
		if m != nil {
			appends = append(appends, appendWork{g: g, m: m})
		}
		mustSync = mustSync || sync
	}
	n.flush(&early)
	if err := n.writeLog(appends, dirty, mustSync); err != nil {
		return false, err
	}
	for _, a := range appends {
		n.afterWrite(a.g, a.m.GetResponses(), &late)
	}
	n.flush(&late)
	if n.cfg.Inline {
		n.workers.runInline()
	}
	return len(n.dirty) > 0 || n.inbox.waiting(), nil
}

// stepWork gives Raft everything that came in.
func (n *Node) stepWork(w work) {
	for _, call := range w.calls {
		call()
	}
	for i := range w.items {
		n.stepReceived(&w.items[i])
	}
	for _, p := range w.props {
		if p.g.failed {
			p.finish(nil, failedError(p.g.rng, p.g.pub.failed))
			continue
		}
		p.g.proposals = append(p.g.proposals, p)
		n.touch(p.g)
	}
	for _, r := range w.reads {
		if r.g.failed {
			r.done(failedError(r.g.rng, r.g.pub.failed))
			continue
		}
		r.g.reads = append(r.g.reads, r.done)
		n.touch(r.g)
	}
}

// touch wakes a group and has the round look at it.
func (n *Node) touch(g *group) {
	n.wake(g)
	n.markDirty(g)
}

func (n *Node) markDirty(g *group) {
	if !g.dirty && !g.failed {
		g.dirty = true
		n.dirty = append(n.dirty, g)
	}
}

// stepReceived gives one message of another node to its replica.
func (n *Node) stepReceived(in *received) {
	n.heard(in.from)
	if in.alive {
		n.heardRules(in.from, in.rules)
		return
	}
	n.mu.RLock()
	g := n.groups[in.rng]
	n.mu.RUnlock()
	if g == nil || g.failed || g.installing || in.to != 0 && in.to != g.id {
		return
	}
	if in.joint != nil {
		n.jointNoted(g, in.joint)
		return
	}
	if in.quiet != nil {
		n.offers = append(n.offers, quietOffer{g: g, q: in.quiet})
		return
	}
	if in.msg.GetType() != raftpb.MsgHeartbeatResp {
		g.idle = 0
	}
	g.heardOf(in, n.ticks)
	if g.empty && in.msg.GetType() == raftpb.MsgApp && in.msg.GetIndex() == 0 {
		// The log from its very beginning, of a range older than FirstIndex:
		// of no use without the first state.
		return
	}
	if n.noSpace != nil && len(in.msg.GetEntries()) > 0 {
		return // what is left of the disk is for compactions; the leader sends it again
	}
	n.step(g, in.msg)
}

// step steps one message and touches the group.
func (n *Node) step(g *group, m *raftpb.Message) {
	n.touch(g)
	err := g.guard(func() error {
		_ = g.raft.Step(m) // what it refuses concerns the sender, which asks again
		return nil
	})
	if err != nil {
		n.fail(g, err)
	}
}

// collect steps a group's proposals and reads, takes its Ready apart and
// returns what is to be written.
func (n *Node) collect(g *group, early, late *outbox) (write *raftpb.Message, sync bool) {
	if g.failed || g.installing {
		return nil, false
	}
	n.leaveFirst(g)
	err := g.guard(func() error {
		proposed := n.stepProposals(g)
		n.issueReads(g)
		if !g.raft.HasReady() {
			return nil
		}
		rd := g.raft.Ready()
		n.fileProposals(g, proposed, rd.Entries)
		n.notice(g, &rd)
		for _, m := range rd.Messages {
			switch {
			case m.GetTo() == raft.LocalAppendThread:
				write = m
			case m.GetTo() == raft.LocalApplyThread:
				n.dispatch(g, m)
			case m.GetType() == raftpb.MsgSnap:
				n.queueSnapshot(g, m)
			case promisesNothing(m.GetType()):
				n.send(g, m, early)
			default:
				n.send(g, m, late)
			}
		}
		sync = rd.MustSync
		for _, rs := range rd.ReadStates {
			n.confirmReads(g, rs)
		}
		if !raft.IsEmptySnap(rd.Snapshot) {
			n.install(g, write)
			write, sync = nil, false
		}
		return nil
	})
	if err == nil {
		err = g.store.err
	}
	if err != nil {
		n.fail(g, err)
		return nil, false
	}
	n.discardUnused(g)
	return write, sync
}

// promisesNothing tells which messages may leave before this round's write:
// the leader's appends, so that leader and follower sync at the same time,
// and heartbeats both ways. A candidate's request is not among them: whoever
// grants it goes by a log that must still be there after a crash.
func promisesNothing(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		return true
	}
	return false
}

// stepProposals proposes what waits and returns what Raft appended, in order.
func (n *Node) stepProposals(g *group) []*proposal {
	if len(g.proposals) == 0 {
		return nil
	}
	props := g.proposals
	g.proposals = nil
	g.idle = 0
	refuse := func(err error) []*proposal {
		for _, p := range props {
			p.finish(nil, err)
		}
		return nil
	}
	st := g.raft.BasicStatus()
	if st.RaftState != raft.StateLeader {
		return refuse(notLeader(g.rng, g.nodes[st.Lead]))
	}
	if n.noSpace != nil {
		props = slices.DeleteFunc(props, func(p *proposal) bool {
			if !p.own {
				p.finish(nil, n.noSpace)
			}
			return !p.own
		})
		if len(props) == 0 {
			return nil
		}
	}
	changing := g.changeAt > st.Applied
	props = slices.DeleteFunc(props, func(p *proposal) bool {
		if p.change == nil {
			return false
		}
		if err := n.checkChange(g, p.change, changing); err != nil {
			p.finish(nil, err)
			return true
		}
		changing = true
		return false
	})
	if len(props) == 0 {
		return nil
	}
	entries := make([]*raftpb.Entry, len(props))
	for i, p := range props {
		entries[i] = &raftpb.Entry{Data: p.data}
		if p.change != nil {
			entries[i].Type = raftpb.EntryConfChangeV2.Enum()
		}
		p.term = st.GetTerm()
	}
	err := g.raft.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(g.id), Entries: entries})
	switch {
	case err == nil:
		return props
	case errors.Is(err, raft.ErrProposalDropped) && st.LeadTransferee != raft.None:
		return refuse(notLeader(g.rng, g.nodes[st.LeadTransferee]))
	}
	return refuse(proto.Errorf(proto.CodeOverloaded, "range %s has too much waiting for its followers: ask again later", g.rng))
}

// fileProposals learns the places of what was proposed. Nothing was stepped
// since, so they are the last entries of the Ready, in order.
func (n *Node) fileProposals(g *group, props []*proposal, entries []*raftpb.Entry) {
	if len(props) == 0 {
		return
	}
	tail := entries[len(entries)-len(props):]
	for i, p := range props {
		p.index = tail[i].GetIndex()
		if p.change != nil {
			g.changeAt = p.index
		}
		g.appended(p)
	}
	n.metrics.proposals.Add(float64(len(props)))
}

// issueReads asks Raft for the read index of everything that waits, at once.
func (n *Node) issueReads(g *group) {
	if len(g.reads) == 0 {
		return
	}
	g.idle = 0
	st := g.raft.BasicStatus()
	if st.RaftState != raft.StateLeader {
		reads := g.reads
		g.reads = nil
		for _, done := range reads {
			done(notLeader(g.rng, g.nodes[st.Lead]))
		}
		return
	}
	// A new leader of a single voter would be answered with a commit index
	// from before its crash, which may be below what it acknowledged.
	if g.term != st.GetTerm() || !g.committedInTerm() {
		return
	}
	g.readSeq++
	g.readIndex[g.readSeq] = g.reads
	g.reads = nil
	g.raft.ReadIndex(binary.BigEndian.AppendUint64(nil, g.readSeq))
}

func (n *Node) confirmReads(g *group, rs raft.ReadState) {
	if len(rs.RequestCtx) != 8 {
		return
	}
	seq := binary.BigEndian.Uint64(rs.RequestCtx)
	waiters := g.readIndex[seq]
	delete(g.readIndex, seq)
	g.awaitApplied(rs.Index, waiters)
}

// notice takes over the group's term, commit and leader, and tells the
// Observer of changes.
func (n *Node) notice(g *group, rd *raft.Ready) {
	before := announcement{term: g.term, lead: g.lead, leading: g.leading}
	if len(rd.Entries) > 0 {
		g.idle = 0
	}
	if h := rd.HardState; !raft.IsEmptyHardState(h) {
		g.term, g.commit = h.GetTerm(), h.GetCommit()
	}
	if rd.SoftState != nil {
		g.lead, g.leading = rd.Lead, rd.RaftState == raft.StateLeader
	}
	g.publish()
	now := announcement{term: g.term, lead: g.lead, leading: g.leading}
	if !before.leading && now.leading {
		g.changeAt = max(g.changeAt, g.store.last.index)
	}
	if before != now && before.leading && (!now.leading || now.term != before.term) {
		n.lostLeadership(g)
	}
	if len(g.reads) > 0 {
		n.markDirty(g) // the commit of this term may be what they wait for
	}
	if now == g.announced {
		return
	}
	g.announced = now
	n.metrics.leaderChanges.Inc()
	n.cfg.Observer.LeaderChanged(g.rng, now.term, g.nodes[now.lead], now.leading)
}

// lostLeadership fails the reads in flight and starts the clock of the
// proposals in flight, whose entries may still be committed by the successor.
func (n *Node) lostLeadership(g *group) {
	if g.hasPending() && g.lostAt == 0 {
		g.lostAt = n.ticks
	}
	err := notLeader(g.rng, g.nodes[g.lead])
	for seq, waiters := range g.readIndex {
		delete(g.readIndex, seq)
		for _, done := range waiters {
			done(err)
		}
	}
}

// expireLost ends the wait of proposals of a term that is over.
func (n *Node) expireLost(g *group) {
	if g.lostAt == 0 || n.ticks-g.lostAt < uint64(2*n.cfg.ElectionTicks) {
		return
	}
	g.lostAt = 0
	for _, p := range g.takePending(func(p *proposal) bool { return !g.leading || p.term != g.term }) {
		p.finish(nil, outcomeUnknown(g.rng))
	}
}

// writeLog writes the entries and hard states of all groups as one batch with
// at most one sync. Cuts of the log ride along.
func (n *Node) writeLog(appends []appendWork, touched []*group, mustSync bool) error {
	b := n.cfg.Log.NewBatch()
	defer b.Close()
	entries := 0
	for _, a := range appends {
		n.writeTo(b, a.g, a.m)
		entries += len(a.m.GetEntries())
	}
	for _, g := range touched {
		if g.failed {
			continue
		}
		if g.cut != nil || g.store.hardLate && g.store.lateSince != n.ticks {
			g.store.writeHard(b)
		}
		if g.cut != nil {
			if g.cut.index > g.store.truncated.index && g.cut.index <= g.store.last.index {
				g.store.truncate(b, *g.cut)
			}
			g.cut = nil
			g.publish()
		}
	}
	if b.Empty() {
		return nil
	}
	opts := pebble.NoSync
	if mustSync {
		opts = n.cfg.SyncWrites
		n.metrics.syncs.Inc()
		n.unsealed = sealRecords
	}
	n.metrics.entries.Add(float64(entries))
	if entries > 0 {
		n.cfg.Gate.Message()
	}
	if err := b.Commit(opts); err != nil {
		return fmt.Errorf("replica: node %s cannot write its log: %w", n.cfg.Self, err)
	}
	for _, a := range appends {
		a.g.publish()
	}
	return nil
}

// sealRecords is how many empty records end the log: Pebble notes how far it
// has synced only after it has told whoever waited, so one that is written at
// once may not know.
const sealRecords = 2

// sealLog writes an empty record behind what was synced since the last tick.
// It says up to where the log was synced: only by that can damage to the last
// entries be told from a write that a crash broke off (engine's DESIGN.md).
func (n *Node) sealLog() {
	if n.unsealed > 0 {
		n.unsealed--
		// If it fails so does the next write, which is judged.
		_ = n.cfg.Log.LogData(nil, pebble.NoSync)
	}
}

// writeTo adds what Raft wants written. A commit index that came alone waits
// for the next entries, or for the next tick: nobody relies on it after a
// crash, what is applied says more, and written alone it would double the
// writes of a range that is not busy.
func (n *Node) writeTo(b *pebble.Batch, g *group, m *raftpb.Message) {
	g.store.append(b, m.GetEntries())
	if m.Term == nil && m.Vote == nil && m.Commit == nil {
		if len(m.GetEntries()) > 0 && g.store.hardLate {
			g.store.writeHard(b)
		}
		return
	}
	h := &raftpb.HardState{Term: new(m.GetTerm()), Vote: new(m.GetVote()), Commit: new(m.GetCommit())}
	was := g.store.hard
	if len(m.GetEntries()) == 0 && h.GetTerm() == was.GetTerm() && h.GetVote() == was.GetVote() {
		if !g.store.hardLate {
			g.store.hardLate, g.store.lateSince = true, n.ticks
		}
		g.store.hard = h
		return
	}
	g.store.setHard(b, h)
}

// afterWrite delivers what waited for the write: answers to others, and
// Raft's own note that the entries are durable.
func (n *Node) afterWrite(g *group, responses []*raftpb.Message, late *outbox) {
	if g.failed {
		return
	}
	if g.store.err != nil {
		n.fail(g, g.store.err)
		return
	}
	for _, r := range responses {
		if r.GetTo() != g.id {
			n.send(g, r, late)
			continue
		}
		if err := g.guard(func() error { _ = g.raft.Step(r); return nil }); err != nil {
			n.fail(g, err)
			return
		}
	}
	n.markDirty(g)
}

// fail stops a replica for good; the others go on.
func (n *Node) fail(g *group, err error) {
	if g.failed {
		return
	}
	g.failed = true
	delete(n.active, g.rng)
	wasLeading := g.leading
	g.leading, g.lead = false, raft.None
	g.mu.Lock()
	g.pub.failed, g.pub.leading, g.pub.leader, g.pub.quiet = err, false, "", false
	g.mu.Unlock()
	n.metrics.failed.Inc()
	n.cfg.Logger.Error("replica has stopped itself: replace it", "range", g.rng, "err", err)
	for _, p := range g.proposals {
		p.finish(nil, failedError(g.rng, err))
	}
	g.proposals = nil
	n.discardUnused(g)
	g.abandon(failedUnknown(g.rng, err))
	if wasLeading {
		n.wakeFollowers(g)
		n.cfg.Observer.LeaderChanged(g.rng, g.term, "", false)
	}
	n.cfg.Observer.ReplicaFailed(g.rng, err)
}

// wakeFollowers sends the last heartbeat of a leader that stops itself: its
// followers may rest on this node's, which goes on. They then elect another.
func (n *Node) wakeFollowers(g *group) {
	var o outbox
	for id := range g.nodes {
		n.send(g, &raftpb.Message{
			Type: raftpb.MsgHeartbeat.Enum(), From: new(g.id), To: new(id), Term: new(g.term), Commit: new(uint64(0)),
		}, &o)
	}
	n.flush(&o)
}

// failedUnknown is what proposals in flight are told: they may be committed.
func failedUnknown(r proto.RangeID, err error) error {
	return proto.Errorf(proto.CodeUnavailable, "this node's replica of range %s has stopped (%v): send it again with the same id", r, err)
}

// abandon tells everyone who waits for the group. Only when its loop does not
// run any more or the group has failed.
func (g *group) abandon(err error) {
	for _, p := range g.proposals {
		p.finish(nil, err)
	}
	for _, p := range g.takePending(func(*proposal) bool { return true }) {
		p.finish(nil, err)
	}
	reads := g.reads
	for _, waiters := range g.readIndex {
		reads = append(reads, waiters...)
	}
	g.proposals, g.reads, g.readIndex = nil, nil, map[uint64][]func(error){}
	g.mu.Lock()
	for _, waiting := range g.digests {
		for _, done := range waiting {
			done <- digested{err: err}
		}
	}
	g.digests = nil
	for _, w := range g.readWaits {
		reads = append(reads, w.done)
	}
	g.readWaits = nil
	g.mu.Unlock()
	for _, done := range reads {
		done(err)
	}
}

// adopt takes an opened group into the loop.
func (n *Node) adopt(g *group) {
	n.active[g.rng] = g
	n.learnPeers(g)
	n.metrics.replicas.Inc()
	if g.singleVoter() {
		if err := g.guard(func() error { return g.raft.Campaign() }); err != nil {
			n.fail(g, err)
			return
		}
	}
	n.markDirty(g)
}

// outbox collects messages by node.
type outbox struct {
	order []proto.NodeID
	byTo  map[proto.NodeID]*cellpb.RaftBatch
}

func (o *outbox) to(node proto.NodeID) *cellpb.RaftBatch {
	if o.byTo == nil {
		o.byTo = map[proto.NodeID]*cellpb.RaftBatch{}
	}
	b := o.byTo[node]
	if b == nil {
		b = &cellpb.RaftBatch{}
		o.byTo[node] = b
		o.order = append(o.order, node)
	}
	return b
}

// send encodes a message into the outbox.
func (n *Node) send(g *group, m *raftpb.Message, o *outbox) {
	node, ok := g.nodes[m.GetTo()]
	if !ok || node == n.cfg.Self {
		return
	}
	raw, err := marshalMessage(m)
	if err != nil {
		n.cfg.Logger.Error("raft message cannot be encoded", "range", g.rng, "err", err)
		return
	}
	b := o.to(node)
	b.Messages = append(b.Messages, &cellpb.RaftMessage{
		Range: uint64(g.rng), FromReplica: g.id, ToReplica: m.GetTo(), Message: raw, Epoch: g.epoch,
	})
}

// flush hands the outbox to the transport. What does not fit is lost; Raft
// notices, and sooner when it is told.
func (n *Node) flush(o *outbox) {
	for _, node := range o.order {
		b := o.byTo[node]
		n.metrics.sent.Add(float64(len(b.Messages)))
		if !n.transport.Send(node, b) {
			n.metrics.dropped.Add(float64(len(b.Messages)))
			n.inbox.call(func() { n.unreachable(node) })
		}
	}
}

// unreachable tells every group that leads that messages to node are lost.
func (n *Node) unreachable(node proto.NodeID) {
	for _, g := range n.activeInOrder() {
		if !g.leading || g.installing {
			continue
		}
		for id, at := range g.nodes {
			if at == node {
				if err := g.guard(func() error { g.raft.ReportUnreachable(id); return nil }); err != nil {
					n.fail(g, err)
				}
			}
		}
	}
}
