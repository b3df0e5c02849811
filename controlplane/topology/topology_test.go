package topology

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/topology/seat"
	"github.com/waggle-im/waggle/internal/embedetcd"
	"github.com/waggle-im/waggle/internal/testservers"
	waggle "github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
	"github.com/waggle-im/waggle/sharding"
)

func TestMain(m *testing.M) {
	// goleak after the tests; each test starts and stops its own etcd.
	if code := m.Run(); code != 0 {
		os.Exit(code)
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func startEtcd(t *testing.T) string {
	t.Helper()
	s, err := embedetcd.Start(t.Context(), embedetcd.Config{Dir: t.TempDir(), ClientAddr: testservers.FreeAddr(t), PeerAddr: testservers.FreeAddr(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.Endpoint()
}

func follow(t *testing.T, endpoint string) *controlclient.Client {
	t.Helper()
	c, err := controlclient.New(controlclient.Config{Endpoints: []string{endpoint}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
	t.Cleanup(func() { _ = c.Close() })
	if err := c.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
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

// storage is a storage node that only remembers what it was asked to make.
type storage struct {
	cellpb.UnimplementedStorageServer
	cellpb.UnimplementedNodeServer

	mu       sync.Mutex
	made     map[uint64]*cellpb.CreateReplicaRequest
	calls    int
	entities map[uint64]uint64
	refuse   func(r uint64) error
}

func (s *storage) CreateReplica(_ context.Context, req *cellpb.CreateReplicaRequest) (*cellpb.CreateReplicaReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.refuse != nil {
		if err := s.refuse(req.Descriptor_.Range); err != nil {
			return nil, err
		}
	}
	if old, ok := s.made[req.Descriptor_.Range]; ok && !proto.Equal(old, req) {
		return nil, errors.New("asked to make the same replica differently")
	}
	s.made[req.Descriptor_.Range] = req
	return &cellpb.CreateReplicaReply{}, nil
}

func (s *storage) Ranges(context.Context, *cellpb.RangesRequest) (*cellpb.RangesReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := &cellpb.RangesReply{}
	for r, req := range s.made {
		reply.Replicas = append(reply.Replicas, &cellpb.ReplicaStatus{
			Descriptor_: req.Descriptor_, Replica: req.Replica, Leading: true, Entities: s.entities[r],
		})
	}
	return reply, nil
}

func (s *storage) has(r uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made[r] != nil
}

// addStorage starts a storage node and announces it.
func addStorage(t *testing.T, c *controlclient.Client, cell, name string) *storage {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &storage{made: map[uint64]*cellpb.CreateReplicaRequest{}, entities: map[uint64]uint64{}}
	g := grpc.NewServer()
	cellpb.RegisterStorageServer(g, s)
	cellpb.RegisterNodeServer(g, s)
	background(t, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, g.Stop)()
		return g.Serve(l)
	})
	value, err := proto.Marshal(&controlpb.NodeRecord{Node: name, Cell: cell, Addr: l.Addr().String(), Roles: []string{"chat", "storage"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{controlclient.NodeKey(waggle.NodeID(name)), controlclient.AliveKey(waggle.NodeID(name))} {
		if _, err := c.Etcd().Put(t.Context(), key, string(value)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newKeeper(t *testing.T, c *controlclient.Client, name string) *Keeper {
	t.Helper()
	d := cellclient.NewDialer(c, nil)
	t.Cleanup(func() { _ = d.Close() })
	return NewKeeper(c, NewNodeCalls(d), name, slog.New(slog.DiscardHandler))
}

func addCell(t *testing.T, c *controlclient.Client, cell waggle.CellID, replicas uint32) {
	t.Helper()
	if err := AddCell(t.Context(), c.Etcd(), cell, replicas); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, c *controlclient.Client, what string, ok func(*controlclient.View) bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		changed := c.Changed()
		if ok(c.View()) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not in time: %s; ranges %v", what, c.View().Ranges)
		}
	}
}

// ready counts the ranges of a cell that take users.
func ready(v *controlclient.View, cell string) (n int) {
	for _, rec := range v.Ranges {
		if rec.Cell == cell && rec.Open && rec.Created {
			n++
		}
	}
	return n
}

func TestRangesAreOpenedInEveryCell(t *testing.T) {
	c := follow(t, startEtcd(t))
	n1 := addStorage(t, c, "c1", "c1-n1")
	background(t, newKeeper(t, c, "cp1").Run)
	addCell(t, c, "c1", 1)
	addCell(t, c, "c2", 3) // has no node yet
	eventually(t, c, "c1 open", func(v *controlclient.View) bool { return ready(v, "c1") == waggle.OpenRangesPerCell })
	for id := waggle.RangeID(1); id <= waggle.OpenRangesPerCell; id++ {
		rec := c.View().Ranges[id]
		if rec == nil || rec.Epoch != 1 || len(rec.Incarnation) != 16 || len(rec.Replicas) != 1 || !n1.has(uint64(id)) {
			t.Errorf("range %d: %v", id, rec)
		}
	}
	if nodes := c.View().ByCell(); StateOf(nil, nodes["c2"]) != CellWaiting || StateOf(nil, nodes["c1"]) != CellActive {
		t.Error("wrong states of the cells")
	}
	made := map[string]*storage{}
	for _, name := range []string{"c2-n1", "c2-n2", "c2-n3", "c2-n4"} {
		made[name] = addStorage(t, c, "c2", name)
	}
	eventually(t, c, "c2 open", func(v *controlclient.View) bool { return ready(v, "c2") == waggle.OpenRangesPerCell })
	held := map[string]int{}
	for id, rec := range c.View().Ranges {
		if rec.Cell != "c2" {
			continue
		}
		nodes := map[string]bool{}
		for i, r := range rec.Replicas {
			held[r.Node]++
			nodes[r.Node] = true
			if r.Id != uint64(i+1) || !made[r.Node].has(uint64(id)) {
				t.Errorf("range %d: replica %v was not made", id, r)
			}
		}
		if len(nodes) != 3 {
			t.Errorf("range %d has its replicas on %v", id, nodes)
		}
	}
	if len(c.View().Ranges) != 2*waggle.OpenRangesPerCell {
		t.Errorf("%d ranges in all", len(c.View().Ranges))
	}
}

func TestNearlyFullRangeIsReplaced(t *testing.T) {
	c := follow(t, startEtcd(t))
	n1 := addStorage(t, c, "c1", "c1-n1")
	background(t, newKeeper(t, c, "cp1").Run)
	addCell(t, c, "c1", 1)
	eventually(t, c, "c1 open", func(v *controlclient.View) bool { return ready(v, "c1") == waggle.OpenRangesPerCell })
	n1.mu.Lock()
	n1.entities[3], n1.entities[4] = nearlyFull, closeAt
	n1.mu.Unlock()
	eventually(t, c, "two more ranges, one closed", func(v *controlclient.View) bool {
		return ready(v, "c1") == waggle.OpenRangesPerCell+1 && !v.Ranges[4].Open && v.Ranges[3].Open && v.Ranges[10].GetCreated()
	})
}

func TestBrokenOffOpeningIsResumedByTheNext(t *testing.T) {
	c := follow(t, startEtcd(t))
	n1 := addStorage(t, c, "c1", "c1-n1")
	n1.mu.Lock()
	n1.refuse = func(r uint64) error {
		if r%2 == 0 {
			return errors.New("disk full")
		}
		return nil
	}
	n1.mu.Unlock()
	first := newKeeper(t, c, "cp1")
	stop := background(t, first.Run)
	addCell(t, c, "c1", 1)
	eventually(t, c, "half of the ranges", func(v *controlclient.View) bool { return ready(v, "c1") == waggle.OpenRangesPerCell/2 })
	if _, err := NewChooser(c).Place("c1", 0); err != nil {
		t.Error(err)
	}
	planned := c.View().Ranges[2]
	if planned == nil || planned.Created {
		t.Fatalf("range 2: %v", planned)
	}
	stop()
	n1.mu.Lock()
	n1.refuse = nil
	n1.mu.Unlock()
	second := newKeeper(t, c, "cp2")
	background(t, second.Run)
	eventually(t, c, "all ranges", func(v *controlclient.View) bool { return ready(v, "c1") == waggle.OpenRangesPerCell })
	if got := c.View().Ranges[2]; string(got.Incarnation) != string(planned.Incarnation) || len(c.View().Ranges) != waggle.OpenRangesPerCell {
		t.Errorf("range 2 was planned anew: %v; %d ranges", got, len(c.View().Ranges))
	}
	if first.Elected() || !second.Elected() {
		t.Error("the one that stopped is still elected")
	}
}

func TestOneOfTwoIsElectedAndTheOtherTakesOver(t *testing.T) {
	endpoint := startEtcd(t)
	a, b := follow(t, endpoint), follow(t, endpoint)
	first, second := newKeeper(t, a, "cp1"), newKeeper(t, b, "cp2")
	stop := background(t, first.Run)
	// The seats are keys in etcd: their number says who stands.
	watch := func(n int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		events := a.Etcd().Watch(ctx, controlclient.ElectionPrefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		for {
			got, err := a.Etcd().Get(ctx, controlclient.ElectionPrefix, clientv3.WithPrefix())
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Kvs) == n {
				return
			}
			<-events
		}
	}
	watch(1)
	background(t, second.Run)
	watch(2)
	addCell(t, a, "c1", 1)
	addStorage(t, a, "c1", "c1-n1")
	eventually(t, b, "c1 open", func(v *controlclient.View) bool { return ready(v, "c1") == waggle.OpenRangesPerCell })
	if !first.Elected() || second.Elected() {
		t.Fatalf("elected: %v, %v", first.Elected(), second.Elected())
	}
	stop()
	addCell(t, b, "c2", 1)
	addStorage(t, b, "c2", "c2-n1")
	eventually(t, b, "c2 open", func(v *controlclient.View) bool { return ready(v, "c2") == waggle.OpenRangesPerCell })
	if !second.Elected() {
		t.Error("nobody took over")
	}
}

func TestOneWhoLostTheSeatCannotWrite(t *testing.T) {
	c := follow(t, startEtcd(t))
	s, err := seat.Campaign(t.Context(), c.Etcd(), "cp1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), []clientv3.Op{clientv3.OpPut(controlclient.NextRangeKey, "5")}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Etcd().Delete(t.Context(), controlclient.ElectionPrefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), []clientv3.Op{clientv3.OpPut(controlclient.NextRangeKey, "6")}); err == nil {
		t.Error("wrote without a seat")
	}
	s.Leave()
}

// moving is a cluster in which something is written whenever it is looked at.
type moving struct {
	*controlclient.Client
	t *testing.T
}

func (m moving) View() *controlclient.View {
	r, err := m.Etcd().Put(m.t.Context(), controlclient.Prefix+"test", "")
	if err != nil {
		m.t.Fatal(err)
	}
	for m.Client.View().Revision < r.Header.Revision {
		time.Sleep(time.Millisecond)
	}
	return m.Client.View()
}

// What others write while etcd is asked is no sign of a restored backup.
func TestAViewThatGoesOnIsNoBackup(t *testing.T) {
	c := follow(t, startEtcd(t))
	s, err := seat.Campaign(t.Context(), c.Etcd(), "cp1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Leave()
	k := newKeeper(t, c, "cp1")
	k.cluster = moving{c, t}
	if _, err := k.writePlanned(t.Context(), s, nil); err != nil {
		t.Error(err)
	}
}

type fixed struct{ v *controlclient.View }

func (f fixed) View() *controlclient.View { return f.v }

func TestChooserFollowsHeadroomThenUsers(t *testing.T) {
	v := &controlclient.View{
		Cells:  map[waggle.CellID]*controlpb.CellRecord{},
		Nodes:  map[waggle.NodeID]controlclient.Node{},
		Ranges: map[waggle.RangeID]*controlpb.RangeRecord{},
	}
	var routes []sharding.Route
	for i, cell := range []waggle.CellID{"c1", "c2"} {
		v.Cells[cell] = &controlpb.CellRecord{Cell: string(cell), MaxSessions: 100}
		node := waggle.NodeID(cell + "-n1")
		v.Nodes[node] = controlclient.Node{ID: node, Alive: true, Record: &controlpb.NodeRecord{
			Node: string(node), Cell: string(cell), Roles: []string{"chat", "storage"}, Load: &controlpb.Load{Users: uint64(10 * i)},
		}}
		for j := range 2 {
			id := waggle.RangeID(1 + 2*i + j)
			v.Ranges[id] = &controlpb.RangeRecord{Range: uint64(id), Cell: string(cell), Open: true, Created: true}
			routes = append(routes, sharding.Route{Range: id, Cell: cell, Epoch: 1})
		}
	}
	v.Ranges[9] = &controlpb.RangeRecord{Range: 9, Cell: "c1", Open: true} // not created yet
	v.Routes = sharding.New(routes)
	c := NewChooser(fixed{v})
	now := time.Unix(1, 0)
	c.now = func() time.Time { return now }
	placed := map[waggle.RangeID]int{}
	for range 30 {
		r, err := c.Place("", 0)
		if err != nil {
			t.Fatal(err)
		}
		placed[r]++
	}
	// 10 make c1 equal to c2, then they take turns, each over its two ranges.
	if placed[1] != 10 || placed[2] != 10 || placed[3] != 5 || placed[4] != 5 {
		t.Errorf("placed %v", placed)
	}
	v.Nodes["c2-n1"].Record.Load.Sessions = 50
	v.Nodes["c2-n1"].Record.Load.Users = 0
	c.viewer, now = fixed{&controlclient.View{Cells: v.Cells, Nodes: v.Nodes, Ranges: v.Ranges, Routes: v.Routes}}, now.Add(summaryAge)
	for range 5 {
		if r, err := c.Place("", 0); err != nil || r > 2 {
			t.Errorf("placed in %d, %v, though c2 has half the headroom", r, err)
		}
	}
	if r, err := c.Place("c2", 3); err != nil || r != 4 {
		t.Errorf("asked for c2 without 3: %d, %v", r, err)
	}
	if _, err := c.Place("c2", 4); waggle.CodeOf(err) != waggle.CodeNotReady {
		t.Errorf("every range of c2 is full: %v", err)
	}
	now = now.Add(2 * fullFor)
	if _, err := c.Place("c2", 0); err != nil {
		t.Errorf("full for ever: %v", err)
	}
	if _, err := c.Place("c9", 0); waggle.CodeOf(err) != waggle.CodeUnknownCell {
		t.Errorf("c9: %v", err)
	}
}

func TestCellNames(t *testing.T) {
	for _, bad := range []waggle.CellID{"", "C1", "1c", "c 1", "c/1", "c1234567890123456789012345678901234567890"} {
		if ValidateCell(bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if err := ValidateCell("north-2"); err != nil {
		t.Error(err)
	}
}
