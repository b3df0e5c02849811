package cellclient

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; none should come near it.
const patience = 30 * time.Second

// fakeCluster is a directory and the nodes in it.
type fakeCluster struct {
	t       *testing.T
	dialer  *Dialer
	locator *Locator

	mu     sync.Mutex // guards the fields below
	routes *sharding.Map
	addrs  map[proto.NodeID]string
	cells  map[proto.CellID][]proto.NodeID
}

func newFakeCluster(t *testing.T) *fakeCluster {
	t.Helper()
	c := &fakeCluster{t: t, addrs: map[proto.NodeID]string{}, cells: map[proto.CellID][]proto.NodeID{}}
	c.dialer = NewDialer(c, nil)
	c.locator = NewLocator(c, c.dialer)
	t.Cleanup(func() {
		if err := c.dialer.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *fakeCluster) Routes() *sharding.Map {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.routes
}

func (c *fakeCluster) NodeAddr(n proto.NodeID) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addr, ok := c.addrs[n]
	return addr, ok
}

func (c *fakeCluster) CellNodes(cell proto.CellID) []proto.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.cells[cell])
}

func (c *fakeCluster) publish(routes ...sharding.Route) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.routes = c.routes.With(routes...)
}

// fakeNode is a cell node that answers as it is told.
type fakeNode struct {
	cellpb.UnimplementedChatServer
	cellpb.UnimplementedNodeServer
	name   proto.NodeID
	server *grpc.Server
	got    chan *cellpb.RelayRequest // every request, by order of arrival
	hold   func(context.Context)     // run before a question is answered; may be nil

	mu     sync.Mutex // guards the fields below
	hosts  map[uint64]*cellpb.Route
	asked  int
	answer func(*cellpb.RelayRequest) (*cellpb.RelayReply, error) // nil reply: none; an error breaks the stream
}

func (c *fakeCluster) node(name proto.NodeID, cell proto.CellID) *fakeNode {
	c.t.Helper()
	n := &fakeNode{name: name, server: grpc.NewServer(), got: make(chan *cellpb.RelayRequest, 10_000), hosts: map[uint64]*cellpb.Route{}}
	n.answer = func(req *cellpb.RelayRequest) (*cellpb.RelayReply, error) { return done(req), nil }
	cellpb.RegisterChatServer(n.server, n)
	cellpb.RegisterNodeServer(n.server, n)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = n.server.Serve(l)
	}()
	c.t.Cleanup(func() {
		n.server.Stop()
		<-served
	})
	c.mu.Lock()
	c.addrs[name] = l.Addr().String()
	c.cells[cell] = append(c.cells[cell], name)
	c.mu.Unlock()
	return n
}

// done is the answer that names who was asked for what.
func done(req *cellpb.RelayRequest) *cellpb.RelayReply {
	return &cellpb.RelayReply{Id: req.Id, Body: &cellpb.RelayReply_User{User: &cellpb.UserInfo{
		User: req.GetReadUser().GetUser(), Profile: new(cellpb.Profile),
	}}}
}

func refused(req *cellpb.RelayRequest, code proto.Code, route *cellpb.Route) *cellpb.RelayReply {
	e := proto.Errorf(code, "refused")
	return &cellpb.RelayReply{Id: req.Id, Body: &cellpb.RelayReply_Refused{Refused: &cellpb.Refused{
		Code: uint32(code), Message: e.Message, RetryMs: e.RetryMillis(), Route: route,
	}}}
}

func (n *fakeNode) answers(f func(*cellpb.RelayRequest) (*cellpb.RelayReply, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = f
}

func (n *fakeNode) says(route *cellpb.Route) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[route.Range] = route
}

func (n *fakeNode) timesAsked() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func (n *fakeNode) WhoHosts(ctx context.Context, req *cellpb.WhoHostsRequest) (*cellpb.WhoHostsReply, error) {
	n.mu.Lock()
	n.asked++
	n.mu.Unlock()
	if n.hold != nil {
		n.hold(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	out := new(cellpb.WhoHostsReply)
	for _, r := range req.Ranges {
		if route := n.hosts[r]; route != nil {
			out.Routes = append(out.Routes, route)
		}
	}
	return out, nil
}

func (n *fakeNode) Relay(stream grpc.BidiStreamingServer[cellpb.RelayBatch, cellpb.RelayReplyBatch]) error {
	first := true
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		if first && batch.From != "me" {
			return errors.New("the first batch does not name its sender")
		}
		first = false
		for _, req := range batch.Requests {
			n.got <- req
			n.mu.Lock()
			answer := n.answer
			n.mu.Unlock()
			reply, err := answer(req)
			if err != nil {
				return err
			}
			if reply == nil {
				continue
			}
			if err := stream.Send(&cellpb.RelayReplyBatch{Replies: []*cellpb.RelayReply{reply}}); err != nil {
				return err
			}
		}
	}
}

func readUser(n uint64) *cellpb.RelayRequest {
	return &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadUser{ReadUser: &cellpb.ReadUser{User: n}}}
}

func route(r proto.RangeID, epoch uint64, host string, nodes ...string) *cellpb.Route {
	return &cellpb.Route{Range: uint64(r), Cell: "c1", Epoch: epoch, Host: host, Nodes: nodes}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
