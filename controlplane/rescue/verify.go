package rescue

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// The margin is how many entries lie between what the leader has applied
	// and the index that is asked for: it is to be ahead of every replica when
	// the question arrives. A busy range writes some hundred batches a second.
	marginMin = 32
	marginMax = 4096
	// headStart is what followers get to hear the question, before the leader
	// fills its log up to the index; it doubles with every try.
	headStart = 10 * time.Millisecond
	// digestTimeout bounds one try: a node digests some 100 MB/s.
	digestTimeout = 30 * time.Second
	// verifyTries bounds the tries to get ahead of a busy range.
	verifyTries = 8
)

// Verify digests all replicas of a range at one applied index. What one of
// them could not answer is told in its row.
//
// Errors: [proto.CodeBadRequest] when there is no such range;
// [proto.CodeUnavailable] without a leader.
func (r *Rescue) Verify(ctx context.Context, id proto.RangeID) (*controlpb.VerifyRangeReply, error) {
	v := r.cluster.View()
	if v.Ranges[id] == nil {
		return nil, proto.Errorf(proto.CodeBadRequest, "there is no range %d: `waggle ranges ls` lists them", id)
	}
	try := digestTry{margin: marginMin, start: headStart}
	var reply *controlpb.VerifyRangeReply
	for i := range verifyTries {
		leader, status := r.leader(ctx, id)
		if status == nil {
			return nil, proto.Errorf(proto.CodeUnavailable, "range %d has no leader just now: see `waggle ranges show %d`", id, id)
		}
		var late bool
		try.last = i == verifyTries-1
		if reply, late = r.digest(ctx, leader, status, try); !late || ctx.Err() != nil {
			break
		}
		try.margin, try.start = min(2*try.margin, marginMax), 2*try.start
	}
	return reply, nil
}

// leader is the node that leads a range at the newest descriptor. The nodes of
// the route table are asked first, all others only if none of them leads.
func (r *Rescue) leader(ctx context.Context, id proto.RangeID) (proto.NodeID, *cellpb.ReplicaStatus) {
	v := r.cluster.View()
	for _, replica := range v.Ranges[id].GetReplicas() {
		callCtx, cancel := context.WithTimeout(ctx, askTimeout)
		got, err := r.nodes.Ranges(callCtx, proto.NodeID(replica.Node), []uint64{uint64(id)})
		cancel()
		if err == nil && len(got) == 1 && got[0].Leading {
			return proto.NodeID(replica.Node), got[0]
		}
	}
	var node proto.NodeID
	var best *cellpb.ReplicaStatus
	for n, st := range held(r.ask(ctx, v, []uint64{uint64(id)}), id) {
		if st.Leading && st.Descriptor_.NewerThan(best.GetDescriptor_()) {
			node, best = n, st
		}
	}
	return node, best
}

type digestTry struct {
	margin uint64
	start  time.Duration
	last   bool // its answers are taken as they are
}

// digest asks every replica once. late tells that a range was too fast.
func (r *Rescue) digest(ctx context.Context, leader proto.NodeID, status *cellpb.ReplicaStatus, try digestTry) (reply *controlpb.VerifyRangeReply, late bool) {
	reply = &controlpb.VerifyRangeReply{Range: status.Descriptor_.Range, Index: status.Applied + try.margin}
	req := &cellpb.DigestRangeRequest{Range: reply.Range, Index: reply.Index}
	ctx, cancel := context.WithTimeout(ctx, digestTimeout)
	defer cancel()
	var mu sync.Mutex // guards reply and late
	var wg sync.WaitGroup
	ask := func(replica *cellpb.Replica) {
		row := &controlpb.ReplicaDigest{Node: replica.Node, Replica: replica.Id}
		reply.Replicas = append(reply.Replicas, row)
		wg.Go(func() {
			got, err := r.nodes.Digest(ctx, proto.NodeID(replica.Node), req)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				row.Error = err.Error()
				if proto.CodeOf(err) == proto.CodeNotReady && !try.last {
					late = true
					cancel() // the others' answers are of no use
				}
				return
			}
			row.Digest, row.Keys, row.Bytes = got.Digest, got.Keys, got.Bytes
		})
	}
	mu.Lock()
	for _, replica := range status.Descriptor_.Replicas {
		if replica.Node != string(leader) {
			ask(replica)
		}
	}
	mu.Unlock()
	sleep(ctx, try.start)
	mu.Lock()
	if replica := status.Descriptor_.ReplicaOn(string(leader)); replica != nil {
		ask(replica)
	}
	mu.Unlock()
	wg.Wait()
	slices.SortFunc(reply.Replicas, func(a, b *controlpb.ReplicaDigest) int { return cmp.Compare(a.Replica, b.Replica) })
	reply.Equal = len(reply.Replicas) > 0
	for _, row := range reply.Replicas {
		reply.Equal = reply.Equal && row.Error == "" && row.Digest == reply.Replicas[0].Digest
	}
	return reply, late
}
