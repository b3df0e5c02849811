package replica

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// server is one node as it runs: its own goroutines, sockets on loopback and
// files on disk.
type server struct {
	cellpb.UnimplementedStorageServer
	t      *testing.T
	id     proto.NodeID
	dir    string
	lis    net.Listener
	addr   string
	others map[proto.NodeID]*server

	node   *Node
	log    *pebble.DB
	state  *pebble.DB
	grpc   *grpc.Server
	conns  map[proto.NodeID]*grpc.ClientConn
	cancel context.CancelFunc
	done   chan error
}

func (s *server) Raft(stream grpc.BidiStreamingServer[cellpb.RaftBatch, cellpb.RaftAck]) error {
	return s.node.HandleRaft(stream)
}

func (s *server) Snapshot(stream grpc.BidiStreamingServer[cellpb.SnapshotChunk, cellpb.SnapshotAck]) error {
	return s.node.HandleSnapshot(stream)
}

func startServers(t *testing.T, size int) []*server {
	all := map[proto.NodeID]*server{}
	var out []*server
	for i := range size {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &server{t: t, id: proto.NodeID(fmt.Sprintf("n%d", i+1)), dir: t.TempDir(), lis: lis, addr: lis.Addr().String(), others: all}
		all[s.id] = s
		out = append(out, s)
	}
	for _, s := range out {
		s.start()
	}
	t.Cleanup(func() {
		for _, s := range out {
			s.stop()
		}
	})
	return out
}

func (s *server) start() {
	t := s.t
	if s.lis == nil {
		var err error
		if s.lis, err = net.Listen("tcp", s.addr); err != nil {
			t.Fatal(err)
		}
	}
	s.log, s.state = openDB(t, vfs.Default, filepath.Join(s.dir, "log")), openDB(t, vfs.Default, filepath.Join(s.dir, "state"))
	s.conns = map[proto.NodeID]*grpc.ClientConn{}
	for id, other := range s.others {
		conn, err := grpc.NewClient("passthrough:///"+other.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		s.conns[id] = conn
	}
	var err error
	s.node, err = New(Config{
		Self: s.id, Log: s.log, State: s.state, Machines: &listMachines{db: s.state},
		Conn: func(id proto.NodeID) (*grpc.ClientConn, error) {
			if conn := s.conns[id]; conn != nil {
				return conn, nil
			}
			return nil, errors.New("no such node")
		},
		SnapshotDir: filepath.Join(s.dir, "snapshots"), Logger: quietLogger(),
		Tick: 20 * time.Millisecond, TruncateTicks: 5, LogKeepBytes: 1 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.grpc = grpc.NewServer()
	cellpb.RegisterStorageServer(s.grpc, s)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan error, 2)
	lis, srv := s.lis, s.grpc
	s.lis = nil
	go func() { s.done <- s.node.Run(ctx) }()
	go func() { s.done <- srv.Serve(lis) }()
}

func (s *server) stop() {
	if s.grpc == nil {
		return
	}
	s.cancel()
	s.grpc.Stop()
	if err := errors.Join(<-s.done, <-s.done); err != nil {
		s.t.Error(err)
	}
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	if err := errors.Join(s.log.Close(), s.state.Close()); err != nil {
		s.t.Error(err)
	}
	s.grpc = nil
}

// until waits for cond; only a hang is slow enough for its deadline.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

func createOn(t *testing.T, servers []*server, r proto.RangeID) {
	t.Helper()
	d := &cellpb.Descriptor{Range: uint64(r), Cell: "c1", Epoch: 1, Version: 1}
	for i, s := range servers {
		d.Replicas = append(d.Replicas, &cellpb.Replica{Id: uint64(i + 1), Node: string(s.id)})
	}
	for i, s := range servers {
		err := s.node.Create(t.Context(), &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: uint64(i + 1), Incarnation: []byte("one")})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// send proposes text at whoever leads until it is acknowledged; it counts
// unknown outcomes, after which the text may be stored twice.
func send(servers []*server, r proto.RangeID, text string) error {
	deadline := time.Now().Add(time.Minute)
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for ; time.Now().Before(deadline); <-pause.C {
		for _, s := range servers {
			if _, _, leading := s.node.Leader(r); !leading {
				continue
			}
			done := make(chan error, 1)
			s.node.Propose(r, textEntry(r, text), func(_ *cellpb.Applied, err error) { done <- err })
			if err := <-done; err == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("range %s: %q was never acknowledged", r, text)
}

func applied(s *server, r proto.RangeID) Status {
	for _, st := range s.node.Status() {
		if st.Descriptor.GetRange() == uint64(r) {
			return st
		}
	}
	return Status{}
}

// What load sends.
const ranges, senders, each = 4, 8, 60

// load has many senders send to all ranges, by nodes that are up.
func load(t *testing.T, up []*server, from string) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, senders)
	for i := range senders {
		wg.Go(func() {
			for k := range each {
				text := fmt.Sprintf("%s/%d/%d %s", from, i, k, strings.Repeat("x", 200))
				if err := send(up, proto.RangeID(k%ranges), text); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func TestNodesOverGRPCSurviveALossAndCatchUp(t *testing.T) {
	servers := startServers(t, 3)
	for r := range proto.RangeID(ranges) {
		createOn(t, servers, r)
	}
	load(t, servers, "all")
	had := applied(servers[2], 0).Applied
	servers[2].stop()
	load(t, servers[:2], "two")
	until(t, "what node 3 lacks cut off the leader's log", func() bool {
		for _, s := range servers[:2] {
			l, _, err := openLogStore(s.log, 0, 0)
			if _, _, leading := s.node.Leader(0); leading && err == nil && l.truncated.index > had {
				return true
			}
		}
		return false
	})
	servers[2].start()
	load(t, servers, "again")
	until(t, "a snapshot installed", func() bool { return value(t, servers[2].node.metrics.snapshotsInstalled) > 0 })
	for r := range proto.RangeID(ranges) {
		until(t, "equal applied indexes", func() bool {
			a, b, c := applied(servers[0], r), applied(servers[1], r), applied(servers[2], r)
			return a.Applied == b.Applied && b.Applied == c.Applied && a.Applied > 0
		})
		want := applied(servers[0], r)
		first, err := list(servers[0].state, r)
		if err != nil {
			t.Fatal(err)
		}
		distinct := slices.Compact(slices.Sorted(slices.Values(first)))
		if len(distinct) != 3*senders*each/ranges {
			t.Errorf("range %s holds %d texts, want %d", r, len(distinct), 3*senders*each/ranges)
		}
		for _, s := range servers[1:] {
			if got := applied(s, r); got.RunningHash != want.RunningHash {
				t.Errorf("range %s: running hashes of n1 and %s differ", r, s.id)
			}
			if l, err := list(s.state, r); err != nil || !slices.Equal(l, first) {
				t.Errorf("range %s: n1 and %s differ: %v", r, s.id, err)
			}
		}
	}
	until(t, "quiet groups", func() bool {
		for _, s := range servers {
			for _, st := range s.node.Status() {
				if !st.Quiet {
					return false
				}
			}
		}
		return true
	})
}

func TestRunStopsWhenTheStoreCannotWrite(t *testing.T) {
	fs := vfs.NewMem()
	log, state := openDB(t, fs, "log"), openDB(t, fs, "state")
	defer log.Close()
	defer state.Close()
	fatal := make(chan error, 1)
	node, err := New(Config{
		Self: "n1", Log: log, State: state, Machines: &listMachines{db: state}, Transport: nowhere{},
		Logger: quietLogger(), Fatal: fatal,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- node.Run(t.Context()) }()
	fatal <- errors.New("no space left on device")
	if err := <-done; err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("Run returned %v", err)
	}
	node.Propose(1, textEntry(1, "x"), func(_ *cellpb.Applied, err error) {
		if err == nil {
			t.Error("a proposal was acknowledged")
		}
	})
}

type nowhere struct{}

func (nowhere) Send(proto.NodeID, *cellpb.RaftBatch) bool { return true }
func (nowhere) Snapshot(context.Context, proto.NodeID) (SnapshotStream, error) {
	return nil, errors.New("nowhere")
}

func TestReceiveRefusesMalformedBatches(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.create(1)
	good, err := marshalMessage(heartbeat(2, 1))
	if err != nil {
		t.Fatal(err)
	}
	prop, err := marshalMessage(proposalMessage(2, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		m    *cellpb.RaftMessage
		ok   bool
	}{
		{"a heartbeat", &cellpb.RaftMessage{Range: 1, FromReplica: 2, ToReplica: 1, Message: good}, true},
		{"noise", &cellpb.RaftMessage{Range: 1, FromReplica: 2, ToReplica: 1, Message: []byte{255, 1}}, false},
		{"another sender", &cellpb.RaftMessage{Range: 1, FromReplica: 3, ToReplica: 1, Message: good}, false},
		{"a forwarded proposal", &cellpb.RaftMessage{Range: 1, FromReplica: 2, ToReplica: 1, Message: prop}, false},
	} {
		err := c.nodes[0].node.Receive("n2", &cellpb.RaftBatch{Messages: []*cellpb.RaftMessage{tc.m}})
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	c.settle()
}
