package controlplane

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/embedetcd"
	"github.com/waggle-im/waggle/internal/testservers"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

func TestMain(m *testing.M) {
	if code := m.Run(); code != 0 {
		os.Exit(code)
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ranges stands for the ranges of all cells: users and devices in memory.
type ranges struct {
	mu      sync.Mutex
	down    bool
	users   map[string]proto.EntityID // by account key
	next    map[proto.RangeID]proto.EntityID
	devices map[string]*cellpb.Device // by user/device
}

func newRanges() *ranges {
	return &ranges{users: map[string]proto.EntityID{}, next: map[proto.RangeID]proto.EntityID{}, devices: map[string]*cellpb.Device{}}
}

func (r *ranges) Do(_ context.Context, rng proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, proto.Errorf(proto.CodeUnavailable, "down")
	}
	res := &cellpb.Result{}
	switch body := req.Body.(type) {
	case *cellpb.RelayRequest_CreateUser:
		key := string(body.CreateUser.AccountKey)
		if r.users[key] == 0 {
			r.next[rng] = max(r.next[rng], rng.First()-1) + 1
			r.users[key] = r.next[rng]
		}
		res.User = uint64(r.users[key])
	case *cellpb.RelayRequest_LoginDevice:
		c := body.LoginDevice
		key := fmt.Sprint(c.User, "/", c.Device)
		d := r.devices[key]
		if d == nil {
			d = &cellpb.Device{}
			r.devices[key] = d
		}
		if !bytes.Equal(d.Nonce, c.Nonce) {
			d.SessionNumber++
			d.Nonce, d.RefreshHash, d.Platform, d.Ended = c.Nonce, c.RefreshHash, c.Platform, false
		}
		res.SessionNumber, res.AuthorityVersion = d.SessionNumber, 1
	case *cellpb.RelayRequest_LogoutDevice:
		c := body.LogoutDevice
		if d := r.devices[fmt.Sprint(c.User, "/", c.Device)]; d != nil && d.SessionNumber == c.SessionNumber {
			d.Ended = true
		}
	case *cellpb.RelayRequest_ReadUser:
		info := &cellpb.UserInfo{User: body.ReadUser.User}
		for key, d := range r.devices {
			var user uint64
			var device string
			if _, err := fmt.Sscanf(key, "%d/%s", &user, &device); err == nil && user == info.User {
				info.Devices = append(info.Devices, &cellpb.DeviceInfo{Device: device, Row: d})
			}
		}
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_User{User: info}}, nil
	default:
		return nil, proto.Errorf(proto.CodeBadRequest, "unexpected %T", body)
	}
	return &cellpb.RelayReply{Body: &cellpb.RelayReply_Result{Result: res}}, nil
}

// cellNode is a storage node that remembers what it was asked to make.
type cellNode struct {
	cellpb.UnimplementedStorageServer
	cellpb.UnimplementedNodeServer
	name string

	mu   sync.Mutex
	made []*cellpb.Descriptor
}

func (n *cellNode) CreateReplica(_ context.Context, req *cellpb.CreateReplicaRequest) (*cellpb.CreateReplicaReply, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made = append(n.made, req.Descriptor_)
	return &cellpb.CreateReplicaReply{}, nil
}

func (n *cellNode) Ranges(context.Context, *cellpb.RangesRequest) (*cellpb.RangesReply, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	reply := &cellpb.RangesReply{}
	for _, d := range n.made {
		reply.Replicas = append(reply.Replicas, &cellpb.ReplicaStatus{
			Descriptor_: d, Leading: true, Leader: n.name, Host: n.name, Entities: 2, Bytes: 100,
		})
	}
	return reply, nil
}

func (n *cellNode) Sessions(_ context.Context, req *cellpb.SessionsRequest) (*cellpb.SessionsReply, error) {
	return &cellpb.SessionsReply{Sessions: 5, Infos: []*cellpb.SessionInfo{
		{User: req.User, Device: "d1", Edge: "e1", Transport: "quic", SinceMs: 7},
	}}, nil
}

// cluster is an etcd with one cell node, and what control planes share.
type cluster struct {
	t        *testing.T
	etcd     *embedetcd.Server
	endpoint string
	client   *controlclient.Client
	stop     func() // of client
	dialer   *cellclient.Dialer
	ranges   *ranges
	dir      string
	cache    string
}

// background runs f until the test ends or stop is called.
func background(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = f(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	s, err := embedetcd.Start(t.Context(), embedetcd.Config{Dir: t.TempDir(), ClientAddr: testservers.FreeAddr(t), PeerAddr: testservers.FreeAddr(t)})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, etcd: s, endpoint: s.Endpoint(), ranges: newRanges(), dir: t.TempDir(), cache: filepath.Join(t.TempDir(), "cluster.json")}
	t.Cleanup(func() {
		if c.etcd != nil {
			c.etcd.Close()
		}
	})
	c.follow()
	return c
}

// restartClient ends the client, which writes its copy on disk, and makes one
// that begins from there.
func (c *cluster) restartClient() {
	c.stop()
	c.follow()
}

func (c *cluster) follow() {
	c.t.Helper()
	client, err := controlclient.New(controlclient.Config{
		Endpoints: []string{c.endpoint}, CachePath: c.cache, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.client, c.stop = client, background(c.t, client.Run)
	c.t.Cleanup(func() { _ = client.Close() })
	dialer := cellclient.NewDialer(client, nil)
	c.t.Cleanup(func() { _ = dialer.Close() })
	c.dialer = dialer
}

// announce writes a node's records without a lease.
func (c *cluster) announce(rec *controlpb.NodeRecord) {
	c.t.Helper()
	value, err := pb.Marshal(rec)
	if err != nil {
		c.t.Fatal(err)
	}
	id := proto.NodeID(rec.Node)
	for _, key := range []string{controlclient.NodeKey(id), controlclient.AliveKey(id)} {
		if _, err := c.client.Etcd().Put(c.t.Context(), key, string(value)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func serve(t *testing.T, register func(grpc.ServiceRegistrar)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	register(g)
	background(t, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, g.Stop)()
		return g.Serve(l)
	})
	return l.Addr().String()
}

func (c *cluster) addCellNode(cell, name string) {
	c.t.Helper()
	n := &cellNode{name: name}
	addr := serve(c.t, func(g grpc.ServiceRegistrar) {
		cellpb.RegisterStorageServer(g, n)
		cellpb.RegisterNodeServer(g, n)
	})
	c.announce(&controlpb.NodeRecord{Node: name, Cell: cell, Addr: addr, Roles: []string{"chat", "storage"}})
}

// start starts a control plane and clients of its two services.
func (c *cluster) start(name string) (accounts controlpb.AccountsClient, operator controlpb.OperatorClient, stop func()) {
	c.t.Helper()
	cp, err := New(c.t.Context(), Config{Node: proto.NodeID(name), DataDir: filepath.Join(c.dir, "data"), Mode: "embedded", Cluster: "test"}, Deps{
		Cluster: c.client, Dialer: c.dialer, Ranges: c.ranges, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	end := background(c.t, cp.Run)
	addr := serve(c.t, func(g grpc.ServiceRegistrar) { cp.RegisterAccounts(g); cp.RegisterOperator(g) })
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { _ = conn.Close(); end(); _ = cp.Close() })
	c.t.Cleanup(stop)
	return controlpb.NewAccountsClient(conn), controlpb.NewOperatorClient(conn), stop
}

func (c *cluster) eventually(what string, ok func(*controlclient.View) bool) {
	c.t.Helper()
	deadline := time.After(time.Minute)
	for {
		changed := c.client.Changed()
		if ok(c.client.View()) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			c.t.Fatalf("not in time: %s", what)
		}
	}
}

// open waits until every cell named takes users.
func (c *cluster) open(cells ...string) {
	c.t.Helper()
	c.eventually("open ranges", func(v *controlclient.View) bool {
		for _, cell := range cells {
			n := 0
			for _, rec := range v.Ranges {
				if rec.Cell == cell && rec.Created {
					n++
				}
			}
			if n != proto.OpenRangesPerCell {
				return false
			}
		}
		return len(v.Keys) > 0
	})
}
