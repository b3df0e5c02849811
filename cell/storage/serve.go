package storage

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/outqueue"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// leadQueue bounds the answers waiting to be written to one chat node. A
// chat node that does not read them loses its link, and with it its grants.
const leadQueue = 16384

// leadBatch is the most answers of one write.
const leadBatch = 256

// Server serves the Storage RPCs.
type Server struct {
	cellpb.UnimplementedStorageServer
	service *Service
}

// NewServer makes the RPC server of s.
func NewServer(s *Service) *Server { return &Server{service: s} }

// Raft implements the RPC.
func (s *Server) Raft(stream grpc.BidiStreamingServer[cellpb.RaftBatch, cellpb.RaftAck]) error {
	return s.service.node.HandleRaft(checkedRaft{stream})
}

// checkedRaft lets only those batches through that come from whom they name.
type checkedRaft struct {
	grpc.BidiStreamingServer[cellpb.RaftBatch, cellpb.RaftAck]
}

// Recv checks the name that the first batch carries.
func (s checkedRaft) Recv() (*cellpb.RaftBatch, error) {
	batch, err := s.BidiStreamingServer.Recv()
	if err == nil && batch.From != "" {
		err = certs.CheckPeer(s.Context(), batch.From)
	}
	return batch, err
}

// Snapshot implements the RPC.
func (s *Server) Snapshot(stream grpc.BidiStreamingServer[cellpb.SnapshotChunk, cellpb.SnapshotAck]) error {
	return s.service.node.HandleSnapshot(stream)
}

// CreateReplica implements the RPC.
func (s *Server) CreateReplica(ctx context.Context, req *cellpb.CreateReplicaRequest) (*cellpb.CreateReplicaReply, error) {
	if err := s.service.node.Create(ctx, req); err != nil {
		return nil, controlclient.ToStatus(err)
	}
	return &cellpb.CreateReplicaReply{}, nil
}

// Lead implements the RPC: one chat node's link.
func (s *Server) Lead(stream grpc.BidiStreamingServer[cellpb.LeadBatch, cellpb.LeadReplyBatch]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := certs.CheckPeer(stream.Context(), first.From); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	if err := s.service.untilCallable(ctx, proto.NodeID(first.From)); err != nil {
		return err
	}
	q := outqueue.New[*cellpb.LeadReply](outqueue.Limits{Size: leadQueue, BatchItems: leadBatch, BatchSize: leadBatch})
	link := s.service.Connect(proto.NodeID(first.From), func(reply *cellpb.LeadReply) {
		if !q.Put(reply, 1) {
			cancel(errors.New("storage: answers are not read"))
		}
	})
	defer link.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		cancel(q.Drain(ctx, func(replies []*cellpb.LeadReply) error {
			return stream.Send(&cellpb.LeadReplyBatch{Replies: replies})
		}))
	})
	wg.Go(func() { cancel(s.service.watchCallable(ctx, proto.NodeID(first.From))) })
	defer wg.Wait()
	defer cancel(nil)
	received := make(chan error, 1)
	go func() { // ends with the stream, which ends when this handler returns
		for {
			batch, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			for _, req := range batch.Requests {
				link.Request(req)
			}
		}
	}()
	select {
	case err := <-received:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Routes answers who hosts ranges whose replicas are here, as far as known.
func (s *Service) Routes(ranges []uint64) []*cellpb.Route {
	var out []*cellpb.Route
	for _, id := range ranges {
		r := proto.RangeID(id)
		if route := s.route(r); route != nil {
			out = append(out, route)
		}
	}
	return out
}

// Holds tells whether a replica of r is here, so that its host becomes known
// here.
func (s *Service) Holds(r proto.RangeID) bool {
	d, here := s.node.Descriptor(r)
	return here && d.GetEpoch() != 0
}

func (s *Service) route(r proto.RangeID) *cellpb.Route {
	d, here := s.node.Descriptor(r)
	if !here || d.GetEpoch() == 0 {
		// It may have been here: then its tombstone tells where it went.
		if d, here = s.node.Tombstone(r); !here {
			return nil
		}
		return routeOf(d)
	}
	route := routeOf(d)
	s.mu.RLock()
	led := s.led[r]
	leading := led != nil
	if leading && led.active {
		route.Host = string(led.node)
	}
	s.mu.RUnlock()
	if leader, term, _ := s.node.Leader(r); !leading && leader != "" {
		// A follower knows the grant its leader has committed. One of an
		// earlier leader is void, and naming its host would send people back
		// to where they come from.
		if rs, err := state.NewReader(s.cfg.Engine.State, r).State(); err == nil && rs.GrantTerm == term {
			route.Host = rs.GrantNode
		}
	}
	return route
}

// routeOf is the route a descriptor stands for, voters first: they know most.
func routeOf(d *cellpb.Descriptor) *cellpb.Route {
	route := &cellpb.Route{Range: d.Range, Cell: d.Cell, Epoch: d.Epoch}
	for _, learner := range []bool{false, true} {
		for _, rep := range d.Replicas {
			if rep.Learner == learner {
				route.Nodes = append(route.Nodes, rep.Node)
			}
		}
	}
	return route
}

// StatusOf reports on the replicas here of the named ranges, with what their
// leader knows of the others.
//
// Errors: the context's.
func (s *Service) StatusOf(ctx context.Context, ranges []uint64) ([]*cellpb.ReplicaStatus, error) {
	out := s.status(func(r proto.RangeID) bool { return slices.Contains(ranges, uint64(r)) })
	for _, one := range out {
		if !one.Leading {
			continue
		}
		var err error
		if one.Progress, err = s.node.Progress(ctx, proto.RangeID(one.GetDescriptor_().GetRange())); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Status reports on every replica here.
func (s *Service) Status() []*cellpb.ReplicaStatus {
	return s.status(func(proto.RangeID) bool { return true })
}

func (s *Service) status(wanted func(proto.RangeID) bool) []*cellpb.ReplicaStatus {
	var out []*cellpb.ReplicaStatus
	for _, st := range s.node.Status() {
		r := proto.RangeID(st.Descriptor.GetRange())
		if !wanted(r) {
			continue
		}
		one := &cellpb.ReplicaStatus{
			Descriptor_: st.Descriptor, Replica: uint64(st.Replica), Leader: string(st.Leader), Term: st.Term,
			Applied: st.Applied, Committed: st.Committed, FirstIndex: st.First, RunningHash: st.RunningHash, Quiet: st.Quiet, Leading: st.Leading,
			LastIndex: st.LastIndex, LastTerm: st.LastTerm, Empty: st.Empty, Rules: st.Rules, NodeRules: state.UpTo(s.cfg.Rules).Newest, PauseUs: uint64(st.Pause.Microseconds()),
		}
		if st.Err != nil {
			one.Problem = st.Err.Error()
		}
		if route := s.route(r); route != nil {
			one.Host = route.Host
		}
		// A range that cannot be measured just now is reported without size.
		reader := state.NewReader(s.cfg.Engine.State, r)
		one.Entities, one.Bytes, _ = reader.Size()
		if meta, err := reader.Meta(); err == nil {
			one.Incarnation = meta.Incarnation
		}
		out = append(out, one)
	}
	return out
}
