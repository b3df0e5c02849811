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

// ask collects the reports of all cells' nodes.
func (s *Service) ask(ctx context.Context, v *controlclient.View) reports {
	nodes := make([]proto.NodeID, 0, len(v.Nodes))
	for id := range v.Nodes {
		nodes = append(nodes, id)
	}
	return s.askEach(ctx, v, nodes, func(ctx context.Context, client cellpb.NodeClient) (r report) {
		ranges, err := client.Ranges(ctx, &cellpb.RangesRequest{})
		if err != nil {
			return r
		}
		r.answered, r.replicas = true, ranges.Replicas
		if sessions, err := client.Sessions(ctx, &cellpb.SessionsRequest{LoadSeconds: latency.Seconds}); err == nil {
			r.sessions, r.loads = sessions.Sessions, sessions.Loads
		}
		return r
	})
}

// askRanges collects what these nodes say of these ranges, with what their
// leaders know of the other replicas.
func (s *Service) askRanges(ctx context.Context, v *controlclient.View, nodes []proto.NodeID, ranges []uint64) reports {
	if len(ranges) == 0 {
		return reports{} // an empty list would ask for all
	}
	return s.askEach(ctx, v, nodes, func(ctx context.Context, client cellpb.NodeClient) report {
		reply, err := client.Ranges(ctx, &cellpb.RangesRequest{Ranges: ranges})
		return report{answered: err == nil, replicas: reply.GetReplicas()}
	})
}

// askEach asks those of the nodes that are of a cell and believed alive; those
// believed gone are asked too when etcd was not heard since the start.
func (s *Service) askEach(ctx context.Context, v *controlclient.View, nodes []proto.NodeID, one func(context.Context, cellpb.NodeClient) report) reports {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := reports{}
	var mu sync.Mutex // guards out
	var wg sync.WaitGroup
	slots := make(chan struct{}, asksAtOnce)
	for _, id := range nodes {
		n := v.Nodes[id]
		if n.Record.GetCell() == "" || !n.Alive && v.Revision != 0 {
			continue
		}
		slots <- struct{}{} // freed within askTimeout
		wg.Go(func() {
			defer func() { <-slots }()
			var r report
			if conn, err := s.Dialer.Conn(id); err == nil {
				r = one(ctx, cellpb.NewNodeClient(conn))
			}
			mu.Lock()
			defer mu.Unlock()
			out[id] = r
		})
	}
	wg.Wait()
	return out
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
