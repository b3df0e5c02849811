package storage

import (
	"context"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// grantRetry is the wait before a grant that could not be proposed is tried
// again.
const grantRetry = 50 * time.Millisecond

// ledRange is a range whose leader is here.
//
//	(won) ──choose──► proposing ──applied──► active
//	                     ▲  │ refused            │ host's link closed
//	                     └──┴────────────────────┘
//
// It ends when the leadership does. A leader whose cell does not own the range
// grants nobody. One whose cell is about to own it, in the middle of a move,
// grants under the epoch to come: the entry follows the one that ends the joint
// configuration, and is refused if that was.
type ledRange struct {
	epoch  uint64 // at which it is granted
	term   uint64
	number uint64 // of the newest grant proposed
	node   proto.NodeID
	active bool // the newest grant is applied
	busy   bool // a grant is being proposed
}

type eventKind int

const (
	leaderChanged eventKind = iota
	granted
	linkChanged
	descriptorChanged
	tryAgain
)

type event struct {
	kind    eventKind
	rng     proto.RangeID
	term    uint64
	number  uint64
	epoch   uint64 // of granted
	leading bool
	err     error
}

// eventQueue hands events to the granting loop. It needs no bound: there are
// at most a few events per range and link.
type eventQueue struct {
	mu   sync.Mutex // guards list
	list []event
	wake chan struct{}
}

func newEventQueue() *eventQueue { return &eventQueue{wake: make(chan struct{}, 1)} }

func (q *eventQueue) put(e event) {
	q.mu.Lock()
	q.list = append(q.list, e)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) take() []event {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = nil
	return list
}

// runGrants decides about grants, one event after the other.
func (s *Service) runGrants(ctx context.Context) {
	for {
		for _, e := range s.events.take() {
			s.handle(e)
		}
		select {
		case <-s.events.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) handle(e event) {
	switch e.kind {
	case leaderChanged:
		s.leaderChanged(e)
	case granted:
		s.grantDone(e)
	case linkChanged:
		s.mu.RLock()
		var todo []proto.RangeID
		for r, l := range s.led {
			if _, linked := s.links[l.node]; !l.busy && !linked {
				todo = append(todo, r)
			}
		}
		s.mu.RUnlock()
		for _, r := range todo {
			s.grant(r)
		}
	case descriptorChanged, tryAgain:
		s.revokeOld(e.rng)
		s.grantIfNone(e.rng)
	}
}

func (s *Service) leaderChanged(e event) {
	s.mu.Lock()
	old := s.led[e.rng]
	if old != nil && e.leading && old.term == e.term {
		s.mu.Unlock()
		return
	}
	var link *Link
	if old != nil {
		link = s.links[old.node]
		delete(s.led, e.rng)
	}
	if e.leading {
		s.led[e.rng] = &ledRange{term: e.term}
	}
	s.mu.Unlock()
	if old != nil && old.active && link != nil {
		link.deliver(&cellpb.LeadReply{Range: uint64(e.rng), Body: &cellpb.LeadReply_Revoked{
			Revoked: &cellpb.Revoked{Range: uint64(e.rng), Grant: &cellpb.Grant{Term: old.term, Number: old.number}},
		}})
	}
	if e.leading {
		s.grant(e.rng)
	}
}

// revokeOld takes back a grant of an earlier epoch, which its host would go on
// serving in vain: a recovery raises the epoch under its leader.
func (s *Service) revokeOld(r proto.RangeID) {
	s.mu.Lock()
	l := s.led[r]
	if l == nil || !l.active || s.descriptor(r).GetEpoch() <= l.epoch {
		s.mu.Unlock()
		return
	}
	l.active = false
	link, grant := s.links[l.node], &cellpb.Grant{Term: l.term, Number: l.number}
	s.mu.Unlock()
	if link != nil {
		link.deliver(&cellpb.LeadReply{Range: uint64(r), Body: &cellpb.LeadReply_Revoked{Revoked: &cellpb.Revoked{Range: uint64(r), Grant: grant}}})
	}
}

// grantIfNone grants a range led here that nobody hosts.
func (s *Service) grantIfNone(r proto.RangeID) {
	s.mu.RLock()
	l := s.led[r]
	idle := l != nil && !l.active && !l.busy
	s.mu.RUnlock()
	if idle {
		s.grant(r)
	}
}

// grant proposes a host for a range that has none.
func (s *Service) grant(r proto.RangeID) {
	s.mu.Lock()
	l := s.led[r]
	if l == nil || l.busy {
		s.mu.Unlock()
		return
	}
	node, ok := s.chooseHost(r)
	if !ok {
		s.mu.Unlock()
		return // linkChanged comes back here
	}
	epoch, ok := s.epochToGrant(r)
	if !ok {
		s.mu.Unlock()
		return // descriptorChanged comes back here
	}
	l.busy, l.active = true, false
	l.number++
	l.node = node
	e := event{kind: granted, rng: r, term: l.term, number: l.number, epoch: epoch}
	s.mu.Unlock()

	s.node.Propose(r, &cellpb.Entry{
		Range: uint64(r), Epoch: epoch, TimeMs: time.Now().UnixMilli(),
		Commands: []*cellpb.Command{{Body: &cellpb.Command_GrantHost{
			GrantHost: &cellpb.GrantHost{Number: e.number, Node: string(node)},
		}}},
	}, func(applied *cellpb.Applied, err error) {
		e.err = err
		if err == nil && (len(applied.GetResults()) != 1 || applied.Results[0].Code != 0) {
			e.err = proto.Errorf(proto.CodeStaleEpoch, "the grant of range %s was refused", r)
		}
		s.events.put(e)
	})
}

// epochToGrant is the epoch under which this cell owns a range that is led
// here, or is about to.
func (s *Service) epochToGrant(r proto.RangeID) (uint64, bool) {
	switch d := s.descriptor(r); string(s.cfg.Cell) {
	case d.GetCell():
		return d.GetEpoch(), true
	case d.GetNextCell():
		return d.GetEpoch() + 1, true
	}
	return 0, false
}

// chooseHost prefers this node, where host and leader talk by function call;
// else the chat node of the greatest rendezvous hash. It needs mu.
func (s *Service) chooseHost(r proto.RangeID) (proto.NodeID, bool) {
	if _, ok := s.links[s.cfg.Self]; ok {
		return s.cfg.Self, true
	}
	var best proto.NodeID
	var bestScore uint64
	for node := range s.links {
		score := xxh3.HashString(string(node) + "/" + r.String())
		if best == "" || score > bestScore || score == bestScore && node < best {
			best, bestScore = node, score
		}
	}
	return best, best != ""
}

func (s *Service) descriptor(r proto.RangeID) *cellpb.Descriptor {
	d, _ := s.node.Descriptor(r)
	return d
}

func (s *Service) grantDone(e event) {
	s.mu.Lock()
	l := s.led[e.rng]
	if l == nil || l.term != e.term || l.number != e.number {
		s.mu.Unlock()
		return
	}
	l.busy = false
	link := s.links[l.node]
	if e.err != nil || link == nil {
		s.mu.Unlock()
		if e.err != nil {
			s.cfg.Logger.Debug("grant not applied", "range", e.rng, "err", e.err)
		}
		time.AfterFunc(grantRetry, func() { s.events.put(event{kind: tryAgain, rng: e.rng}) })
		return
	}
	d := s.descriptor(e.rng)
	if d.GetEpoch() != e.epoch { // raised since
		s.mu.Unlock()
		s.events.put(event{kind: tryAgain, rng: e.rng})
		return
	}
	l.active, l.epoch = true, e.epoch
	s.mu.Unlock()
	s.cfg.OnRoutes()
	meta, err := state.NewReader(s.cfg.Engine.State, e.rng).Meta()
	if err != nil {
		s.cfg.Logger.Error("range cannot be hosted", "range", e.rng, "err", err)
		return
	}
	link.deliver(&cellpb.LeadReply{Range: uint64(e.rng), Body: &cellpb.LeadReply_Granted{Granted: &cellpb.Granted{
		Range: uint64(e.rng), Grant: &cellpb.Grant{Term: e.term, Number: e.number},
		Descriptor_: d, Incarnation: meta.Incarnation,
	}}})
}
