package cell

import (
	"context"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// whoHostsWaitMax bounds how long the answer to "who hosts this range" waits
// for a host.
const whoHostsWaitMax = time.Second

// notice wakes whoever waits for a change. The zero value is ready.
type notice struct {
	mu   sync.Mutex // guards next
	next chan struct{}
}

// changed is closed at the next change.
func (n *notice) changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next == nil {
		n.next = make(chan struct{})
	}
	return n.next
}

// tell says that there is a change.
func (n *notice) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next != nil {
		close(n.next)
		n.next = nil
	}
}

// WhoHosts implements the RPC. Whoever asks while a range changes hosts would
// have to ask again and again, and senders would wait for the pauses between;
// so the answer waits where the next host becomes known.
func (s *nodeServer) WhoHosts(ctx context.Context, req *cellpb.WhoHostsRequest) (*cellpb.WhoHostsReply, error) {
	wait := min(time.Duration(req.WaitMs)*time.Millisecond, whoHostsWaitMax)
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		changed := s.node.routes.changed()
		out := s.whoHosts(req.Ranges)
		if wait == 0 || !s.unsettled(out.Routes) {
			return out, nil
		}
		select {
		case <-changed:
		case <-over.C:
			return out, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// whoHosts is what is known now: what is hosted here is certain, what a replica
// here knows is likely.
func (s *nodeServer) whoHosts(ranges []uint64) *cellpb.WhoHostsReply {
	out := new(cellpb.WhoHostsReply)
	certain := map[uint64]bool{}
	if s.node.chat != nil {
		out.Routes = s.node.chat.Routes(ranges)
		for _, r := range out.Routes {
			certain[r.Range] = true
		}
	}
	if s.node.storage == nil {
		return out
	}
	for _, r := range s.node.storage.Routes(ranges) {
		if certain[r.Range] {
			continue
		}
		if r.Host == string(s.node.cfg.Node) {
			r.Host = "" // granted to us and not here: not any more, or not yet
		}
		out.Routes = append(out.Routes, r)
	}
	return out
}

// unsettled tells whether a host is missing that will become known here.
func (s *nodeServer) unsettled(routes []*cellpb.Route) bool {
	for _, r := range routes {
		if r.Host == "" && s.node.storage != nil && s.node.storage.Holds(proto.RangeID(r.Range)) {
			return true
		}
	}
	return false
}
