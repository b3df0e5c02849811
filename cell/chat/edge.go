package chat

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/internal/outqueue"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// edgeQueueBytes bounds what waits to be written to one edge. An edge that
	// does not read it loses the stream and attaches its sessions anew.
	edgeQueueBytes = 64 << 20
	// edgeBatchBytes and edgeBatchFrames bound one write.
	edgeBatchBytes  = 512 << 10
	edgeBatchFrames = 1024
)

// edgeConn is the stream of one edge.
type edgeConn struct {
	name  string
	fail  func(error)
	queue *outqueue.Queue[*cellpb.HostFrame]

	mu       sync.Mutex // guards sessions
	sessions map[uint64]*session
}

// Attach implements the RPC's body: the stream of one edge.
func (s *Service) Attach(stream grpc.BidiStreamingServer[cellpb.EdgeBatch, cellpb.HostBatch]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := certs.CheckPeer(stream.Context(), first.Edge); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	c := &edgeConn{
		name: first.Edge, fail: func(err error) { cancel(err) }, sessions: map[uint64]*session{},
		queue: outqueue.New[*cellpb.HostFrame](outqueue.Limits{Size: edgeQueueBytes, BatchItems: edgeBatchFrames, BatchSize: edgeBatchBytes}),
	}
	s.mu.Lock()
	s.edges[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.edges, c)
		s.mu.Unlock()
		s.dropEdge(c)
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		c.fail(c.queue.Drain(ctx, func(frames []*cellpb.HostFrame) error {
			// Signs of life are no frames, but the batch they make is sent.
			frames = slices.DeleteFunc(frames, func(f *cellpb.HostFrame) bool { return f == nil })
			return stream.Send(&cellpb.HostBatch{Frames: frames})
		}))
	})
	received := make(chan error, 1)
	go func() { // ends with the stream, which ends when this handler returns
		batch, err := first, error(nil)
		for ; err == nil; batch, err = stream.Recv() {
			if len(batch.Frames) == 0 {
				c.send(nil, 0) // a sign of life is answered with one
			} else {
				s.edgeFrames(c, batch.Frames)
			}
		}
		received <- err
	}()
	select {
	case err := <-received:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// edgeFrames hands the frames of one batch to the shards, in order.
func (s *Service) edgeFrames(c *edgeConn, frames []*cellpb.EdgeFrame) {
	type part struct {
		ses   *session
		frame *cellpb.EdgeFrame
	}
	arrived := time.Now()
	var parts [shards][]part
	c.mu.Lock()
	for _, f := range frames {
		if a := f.GetAttach(); a != nil {
			i := a.Range % shards
			parts[i] = append(parts[i], part{nil, f})
			continue
		}
		if ses := c.sessions[f.Session]; ses != nil {
			i := uint64(ses.host.rng) % shards
			parts[i] = append(parts[i], part{ses, f})
		} else {
			// An attach of the same batch may come first on its shard; what
			// has no session by then is for one that is gone.
			for i := range parts {
				if len(parts[i]) > 0 {
					parts[i] = append(parts[i], part{nil, f})
				}
			}
		}
	}
	c.mu.Unlock()
	for i, list := range parts {
		if len(list) == 0 {
			continue
		}
		sh := s.shards[i]
		sh.postWaiting(func() {
			sh.arrived = arrived
			for _, p := range list {
				s.edgeFrame(sh, c, p.ses, p.frame)
			}
		})
	}
}

func (s *Service) edgeFrame(sh *shard, c *edgeConn, ses *session, f *cellpb.EdgeFrame) {
	if a := f.GetAttach(); a != nil {
		if old := c.find(f.Session); old != nil && old.host.shard == sh {
			old.drop() // the same connection attaches again
		}
		h := sh.hosts[proto.RangeID(a.Range)]
		if h == nil {
			c.refuse(f.Session, a.Attempt, proto.Errorf(proto.CodeNotHost, "range %d is not hosted by %s", a.Range, s.cfg.Self), s.guess(a.Range))
			return
		}
		h.attach(c, f.Session, a)
		return
	}
	if ses == nil {
		ses = c.find(f.Session)
	}
	if ses == nil || ses.closed || ses.host.shard != sh {
		return
	}
	switch body := f.Body.(type) {
	case *cellpb.EdgeFrame_Detach:
		ses.drop()
	case *cellpb.EdgeFrame_Confirm:
		ses.confirm(body.Confirm)
	case *cellpb.EdgeFrame_Fetch:
		ses.fetch(body.Fetch)
	case *cellpb.EdgeFrame_Request:
		ses.frame(body.Request)
	}
}

// guess is the best route known of a range that is not hosted here.
func (s *Service) guess(r uint64) *cellpb.Route {
	known, ok := s.cfg.Locator.Route(proto.RangeID(r))
	if !ok {
		return nil
	}
	out := &cellpb.Route{Range: r, Cell: string(known.Cell), Epoch: uint64(known.Epoch)}
	for _, n := range known.Nodes {
		out.Nodes = append(out.Nodes, string(n))
	}
	if t, ok := s.cfg.Locator.Cached(proto.RangeID(r)); ok && t.Node != s.cfg.Self {
		out.Host = string(t.Node)
	}
	return out
}

// dropEdge forgets the sessions of a stream that has ended.
func (s *Service) dropEdge(c *edgeConn) {
	for _, sh := range s.shards {
		sh.post(func() {
			c.mu.Lock()
			var mine []*session
			for _, ses := range c.sessions {
				if ses.host.shard == sh {
					mine = append(mine, ses)
				}
			}
			c.mu.Unlock()
			for _, ses := range mine {
				ses.drop()
			}
		})
	}
}

func (c *edgeConn) add(ses *session) {
	c.mu.Lock()
	c.sessions[ses.id] = ses
	c.mu.Unlock()
}

func (c *edgeConn) remove(ses *session) {
	c.mu.Lock()
	if c.sessions[ses.id] == ses {
		delete(c.sessions, ses.id)
	}
	c.mu.Unlock()
}

func (c *edgeConn) find(id uint64) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions[id]
}

// send queues a frame of about size bytes; nil stands for a sign of life.
func (c *edgeConn) send(f *cellpb.HostFrame, size int) {
	if !c.queue.Put(f, size+1) {
		c.fail(errors.New("chat: the edge does not read what it is sent"))
	}
}

func (c *edgeConn) refuse(id uint64, attempt uint32, err *proto.Error, route *cellpb.Route) {
	c.send(&cellpb.HostFrame{Sessions: []uint64{id}, Body: &cellpb.HostFrame_Refused{Refused: &cellpb.Refused{
		Code: uint32(err.Code), Message: err.Message, RetryMs: err.RetryMillis(), Route: route, Attempt: attempt,
	}}}, 200)
}

func (ses *session) answer(frame []byte) {
	if !ses.closed {
		ses.edge.send(&cellpb.HostFrame{Sessions: []uint64{ses.id}, Body: &cellpb.HostFrame_Response{Response: frame}}, len(frame)+30)
	}
}
