package storage

import (
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// Link is one chat node's connection to the ranges led here.
type Link struct {
	s      *Service
	node   proto.NodeID
	sink   func(*cellpb.LeadReply)
	closed atomic.Bool
}

// Connect makes node a candidate for hosting. sink is given grants and
// answers, those of one range in order; it must not block for long. An
// earlier link of the same node is replaced.
func (s *Service) Connect(node proto.NodeID, sink func(*cellpb.LeadReply)) *Link {
	l := &Link{s: s, node: node, sink: sink}
	s.mu.Lock()
	old := s.links[node]
	s.links[node] = l
	if old != nil {
		// The node has lost what was granted to its earlier link.
		for _, led := range s.led {
			if led.node == node {
				led.node, led.active = "", false
			}
		}
	}
	s.mu.Unlock()
	s.events.put(event{kind: linkChanged})
	return l
}

// Close takes the node out of hosting; its ranges are granted to others.
func (l *Link) Close() {
	if l.closed.Swap(true) {
		return
	}
	l.s.mu.Lock()
	if l.s.links[l.node] == l {
		delete(l.s.links, l.node)
		for _, led := range l.s.led {
			if led.node == l.node {
				led.active = false
			}
		}
	}
	l.s.mu.Unlock()
	l.s.events.put(event{kind: linkChanged})
}

func (l *Link) deliver(reply *cellpb.LeadReply) {
	if !l.closed.Load() {
		l.sink(reply)
	}
}

// Request proposes or reads on behalf of the host. The answer comes through
// the sink, with the request's id.
func (l *Link) Request(req *cellpb.LeadRequest) {
	if err := l.check(req); err != nil {
		l.refuse(req, err)
		return
	}
	switch body := req.Body.(type) {
	case *cellpb.LeadRequest_Propose:
		l.propose(req, body.Propose)
	case *cellpb.LeadRequest_Read:
		l.read(req, body.Read)
	default:
		l.refuse(req, proto.Errorf(proto.CodeUnsupported, "a request this release does not know"))
	}
}

// check refuses whoever is not, or no longer, the granted host.
func (l *Link) check(req *cellpb.LeadRequest) *proto.Error {
	l.s.mu.RLock()
	defer l.s.mu.RUnlock()
	led := l.s.led[proto.RangeID(req.Range)]
	switch {
	case led == nil:
		return proto.Errorf(proto.CodeNotLeader, "range %d is not led by %s", req.Range, l.s.cfg.Self)
	case !led.active || led.node != l.node || led.term != req.Grant.GetTerm() || led.number != req.Grant.GetNumber():
		return proto.Errorf(proto.CodeStaleGrant, "range %d is not granted to %s as %d.%d", req.Range, l.node,
			req.Grant.GetTerm(), req.Grant.GetNumber())
	}
	return nil
}

func (l *Link) refuse(req *cellpb.LeadRequest, err error) {
	e := proto.AsError(err)
	l.deliver(&cellpb.LeadReply{Id: req.Id, Range: req.Range, Body: &cellpb.LeadReply_Refused{
		Refused: &cellpb.Refused{Code: uint32(e.Code), Message: e.Message, RetryMs: e.RetryMillis()},
	}})
}

func (l *Link) propose(req *cellpb.LeadRequest, p *cellpb.Proposal) {
	entry := &cellpb.Entry{
		// The leader's clock, not the host's: one clock per range moves its
		// time, which never goes back.
		Range: req.Range, Epoch: req.Epoch, TimeMs: time.Now().UnixMilli(), Commands: p.Commands,
		Grant: &cellpb.GrantRef{Term: req.Grant.GetTerm(), Number: req.Grant.GetNumber()},
	}
	l.s.node.Propose(proto.RangeID(req.Range), entry, func(applied *cellpb.Applied, err error) {
		if err != nil {
			l.refuse(req, err)
			return
		}
		l.deliver(&cellpb.LeadReply{Id: req.Id, Range: req.Range, Body: &cellpb.LeadReply_Applied{Applied: applied}})
	})
}

func (l *Link) read(req *cellpb.LeadRequest, q *cellpb.LeadRead) {
	r := proto.RangeID(req.Range)
	read := func(err error) {
		if err != nil {
			l.refuse(req, err)
			return
		}
		answer := func() {
			result, err := state.NewReader(l.s.cfg.Engine.State, r).Read(q)
			if pebble.IsCorruptionError(err) {
				l.s.node.Damaged(r, err)
				// Another replica has what this one lost: ask it.
				err = proto.Errorf(proto.CodeUnavailable, "this node's replica of range %s is damaged and stops", r)
			}
			if err != nil {
				l.refuse(req, err)
				return
			}
			l.deliver(&cellpb.LeadReply{Id: req.Id, Range: req.Range, Body: &cellpb.LeadReply_Read{Read: result}})
		}
		select {
		case l.s.reads <- answer:
		default:
			l.refuse(req, proto.Errorf(proto.CodeOverloaded, "range %s: too many reads wait", r))
		}
	}
	if q.AnyAge {
		read(nil)
		return
	}
	l.s.node.Read(r, read)
}
