package operator

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/latency"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// askTimeout bounds the answers of all nodes together.
	askTimeout = 800 * time.Millisecond
	// asksAtOnce bounds the questions under way.
	asksAtOnce = 64
)

// Dialer gives the connection to a node; cellclient.Dialer is one.
type Dialer interface {
	Conn(node proto.NodeID) (*grpc.ClientConn, error)
}

// report is what one node says of itself.
type report struct {
	answered bool
	replicas []*cellpb.ReplicaStatus
	sessions uint64
	loads    []*cellpb.HostedLoad
}

// reports are what the nodes of cells say of themselves.
type reports map[proto.NodeID]report

// ask collects the reports of the cells' nodes that are believed alive; those
// believed gone are asked too when etcd was not heard since the start.
func (s *Service) ask(ctx context.Context, v *controlclient.View) reports {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := reports{}
	var mu sync.Mutex // guards out
	var wg sync.WaitGroup
	slots := make(chan struct{}, asksAtOnce)
	for id, n := range v.Nodes {
		if n.Record.GetCell() == "" || !n.Alive && v.Revision != 0 {
			continue
		}
		slots <- struct{}{} // freed within askTimeout
		wg.Go(func() {
			defer func() { <-slots }()
			r := s.askNode(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			out[id] = r
		})
	}
	wg.Wait()
	return out
}

func (s *Service) askNode(ctx context.Context, id proto.NodeID) (r report) {
	conn, err := s.Dialer.Conn(id)
	if err != nil {
		return r
	}
	client := cellpb.NewNodeClient(conn)
	ranges, err := client.Ranges(ctx, &cellpb.RangesRequest{})
	if err != nil {
		return r
	}
	r.answered, r.replicas = true, ranges.Replicas
	if sessions, err := client.Sessions(ctx, &cellpb.SessionsRequest{LoadSeconds: latency.Seconds}); err == nil {
		r.sessions, r.loads = sessions.Sessions, sessions.Loads
	}
	return r
}

// rangeReport is what all nodes together say of one range.
type rangeReport struct {
	descriptor *cellpb.Descriptor // the newest
	leading    *cellpb.ReplicaStatus
	leader     string
	host       string
	entities   uint64
	bytes      uint64
}

// ranges puts the reports together by range. The replica that leads, at the
// highest epoch and term, is believed before the others.
func (rs reports) ranges() map[proto.RangeID]*rangeReport {
	out := map[proto.RangeID]*rangeReport{}
	for _, rep := range rs {
		for _, st := range rep.replicas {
			if st.Descriptor_ == nil {
				continue // a node of another release, or broken
			}
			id := proto.RangeID(st.Descriptor_.Range)
			r := out[id]
			if r == nil {
				r = &rangeReport{descriptor: st.Descriptor_}
				out[id] = r
			}
			if st.Descriptor_.NewerThan(r.descriptor) {
				r.descriptor = st.Descriptor_
			}
			r.entities, r.bytes = max(r.entities, st.Entities), max(r.bytes, st.Bytes)
			// After a recovery those that were taken for lost may lead too.
			if lead := r.leading.GetDescriptor_(); st.Leading && (lead == nil || st.Descriptor_.Epoch > lead.Epoch ||
				st.Descriptor_.Epoch == lead.Epoch && st.Term > r.leading.Term) {
				r.leading = st
			}
		}
	}
	for _, r := range out {
		if r.leading != nil {
			r.leader, r.host = r.leading.Leader, r.leading.Host
			r.entities, r.bytes = r.leading.Entities, r.leading.Bytes
		}
	}
	return out
}

// loads are what hosts have seen of their ranges. One that has just lost a
// range may still name it: the busier is believed.
func (rs reports) loads() map[proto.RangeID]*cellpb.HostedLoad {
	out := map[proto.RangeID]*cellpb.HostedLoad{}
	for _, rep := range rs {
		for _, h := range rep.loads {
			l := out[proto.RangeID(h.Range)]
			if l == nil {
				l = &cellpb.HostedLoad{Range: h.Range}
				out[proto.RangeID(h.Range)] = l
			}
			l.Sessions, l.Messages = max(l.Sessions, h.Sessions), max(l.Messages, h.Messages)
		}
	}
	return out
}
