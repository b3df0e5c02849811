package operator

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// DrainEdge marks an edge, which then sends its sessions to the others and
// turns new ones away, or takes that back. With DryRun it says how things
// stand.
func (s *Service) DrainEdge(ctx context.Context, req *controlpb.DrainEdgeRequest) (*controlpb.DrainEdgeReply, error) {
	reply, err := s.drainEdge(ctx, req)
	if !req.DryRun {
		verb := "edges drain"
		if req.Undo {
			verb = "edges drain --undo"
		}
		s.audit(ctx, req.By, verb, req.Edge, err)
	}
	return reply, controlclient.ToStatus(err)
}

func (s *Service) drainEdge(ctx context.Context, req *controlpb.DrainEdgeRequest) (*controlpb.DrainEdgeReply, error) {
	v, id := s.Cluster.View(), proto.NodeID(req.Edge)
	reply := &controlpb.DrainEdgeReply{}
	for _, st := range edgeStatuses(v) {
		switch other := proto.NodeID(st.Edge); {
		case other == id:
			reply.Edge = st
		case v.Nodes[other].Alive && !v.Leaving(other):
			reply.Alternatives = append(reply.Alternatives, st.Edge)
		}
	}
	switch {
	case reply.Edge == nil:
		return nil, proto.Errorf(proto.CodeBadRequest, "there is no edge %.40q: see `waggle edges ls`", req.Edge)
	case !req.Undo && len(reply.Alternatives) == 0:
		return nil, proto.Errorf(proto.CodeConflict,
			"there is no other edge that could take the sessions of %s: start one first; if %s is stopped all the same, its people wait until it is back", id, id)
	}
	// The edge says itself that it is leaving, together with what it has left.
	leaving := v.Nodes[id].Record.GetLeaving()
	if req.Undo {
		reply.Done = !leaving
	} else {
		reply.Done = !v.Nodes[id].Alive || leaving && reply.Edge.Sessions == 0
	}
	if req.DryRun {
		return reply, nil
	}
	return reply, s.orderEdge(ctx, req)
}

func (s *Service) orderEdge(ctx context.Context, req *controlpb.DrainEdgeRequest) error {
	key := controlclient.EdgeKey(proto.NodeID(req.Edge))
	op := clientv3.OpDelete(key)
	if !req.Undo {
		value, err := pb.Marshal(&controlpb.EdgeRecord{Edge: req.Edge, Drain: true, SinceMs: time.Now().UnixMilli(), By: req.By})
		if err != nil {
			return fmt.Errorf("operator: %w", err)
		}
		op = clientv3.OpPut(key, string(value))
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	if _, err := s.Cluster.Etcd().Do(ctx, op); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "etcd does not take the order for edge %s: %v", req.Edge, err)
	}
	return nil
}

// orderTimeout bounds the writing of an order to etcd.
const orderTimeout = 5 * time.Second
