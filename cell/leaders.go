package cell

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/waggle-im/waggle/cell/storage"
	"github.com/waggle-im/waggle/internal/outqueue"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// leadQueue bounds the requests waiting for one storage node; leadBatch
	// those of one write.
	leadQueue = 16384
	leadBatch = 256
	// leadRetry is the wait before a broken stream is opened again. It is
	// under the 500 ms after which a host gives up its ranges.
	leadRetry = 100 * time.Millisecond
	// leadOpen bounds the opening of a stream.
	leadOpen = time.Second
)

// followLeaders offers this node as a host to every storage node of its cell:
// to itself by function call, to the others by a stream each.
func (n *Node) followLeaders(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if n.storage != nil {
		wg.Go(func() { n.followSelf(ctx) })
	}
	following := map[proto.NodeID]context.CancelFunc{}
	for {
		changed := n.deps.Cluster.Changed()
		var now []proto.NodeID
		for _, node := range n.deps.Cluster.View().InCell(n.cfg.Cell) {
			id := proto.NodeID(node.Record.GetNode())
			if id != n.cfg.Node && node.Has(RoleStorage) {
				now = append(now, id)
			}
		}
		for id, stop := range following {
			if !slices.Contains(now, id) {
				stop()
				delete(following, id)
			}
		}
		for _, id := range now {
			if following[id] == nil {
				leaderCtx, stop := context.WithCancel(ctx)
				following[id] = stop
				wg.Go(func() { n.followLeader(leaderCtx, id) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			for _, stop := range following {
				stop()
			}
			return
		}
	}
}

// followSelf links the two roles of one process.
func (n *Node) followSelf(ctx context.Context) {
	l := new(localLeader)
	l.ready = make(chan struct{})
	l.link = n.storage.Connect(n.cfg.Node, func(reply *cellpb.LeadReply) { n.chat.LeadReply(l, reply) })
	close(l.ready)
	<-ctx.Done()
	l.link.Close()
}

// localLeader is the storage role of the same process.
type localLeader struct {
	ready chan struct{}
	link  *storage.Link
}

// Request implements chat.Leader.
func (l *localLeader) Request(req *cellpb.LeadRequest) {
	<-l.ready // a grant may be quicker than Connect returns
	l.link.Request(req)
}

// followLeader keeps a stream to another storage node.
func (n *Node) followLeader(ctx context.Context, node proto.NodeID) {
	for ctx.Err() == nil {
		l := &remoteLeader{queue: outqueue.New[*cellpb.LeadRequest](outqueue.Limits{
			Size: leadQueue, BatchItems: leadBatch, BatchSize: leadBatch,
		})}
		err := n.lead(ctx, node, l)
		n.chat.LeaderLost(l)
		n.logger.Debug("stream to a leader ended", "leader", node, "err", err)
		select {
		case <-time.After(leadRetry):
		case <-ctx.Done():
		}
	}
}

// lead serves one stream until it breaks.
func (n *Node) lead(ctx context.Context, node proto.NodeID, l *remoteLeader) error {
	conn, err := n.dialer.Conn(node)
	if err != nil {
		return err
	}
	ctx, l.fail = context.WithCancel(ctx)
	defer l.fail()
	opening := time.AfterFunc(leadOpen, l.fail)
	stream, err := cellpb.NewStorageClient(conn).Lead(ctx)
	if !opening.Stop() && err == nil {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return err
	}
	if err := stream.Send(&cellpb.LeadBatch{From: string(n.cfg.Node)}); err != nil {
		return err
	}
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer l.fail()
	receiving.Go(func() {
		defer l.fail()
		for {
			batch, err := stream.Recv()
			if err != nil {
				return
			}
			for _, reply := range batch.Replies {
				n.chat.LeadReply(l, reply)
			}
		}
	})
	return l.queue.Drain(ctx, func(requests []*cellpb.LeadRequest) error {
		return stream.Send(&cellpb.LeadBatch{Requests: requests})
	})
}

// remoteLeader is the storage role of another node.
type remoteLeader struct {
	queue *outqueue.Queue[*cellpb.LeadRequest]
	fail  context.CancelFunc
}

// Request implements chat.Leader. A full queue means that the leader does not
// read: the stream is given up and with it the grants.
func (l *remoteLeader) Request(req *cellpb.LeadRequest) {
	if !l.queue.Put(req, 1) {
		l.fail()
	}
}
