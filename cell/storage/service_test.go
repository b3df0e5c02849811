package storage

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/cell/storage/engine"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// patience bounds every wait of these tests; none should come near it.
const patience = 30 * time.Second

// alone is a storage node with one replica, of range 1, and a host's link.
type alone struct {
	s       *Service
	e       *engine.Engine
	link    *Link
	grant   *cellpb.Grant
	answers chan *cellpb.LeadReply
	lastID  uint64
}

func startAlone(t testing.TB) *alone {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	e, err := engine.Open("data", vfs.NewMem(), engine.Config{}, logger)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Self: "n1", Cell: "c1", Engine: e, Logger: logger, Conn: func(proto.NodeID) (*grpc.ClientConn, error) {
		return nil, errors.New("nobody else")
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, e.Close()); err != nil {
			t.Error(err)
		}
	})
	d := &cellpb.Descriptor{Range: 1, Cell: "c1", Epoch: 1, Replicas: []*cellpb.Replica{{Id: 1, Node: "n1"}}}
	if err := s.node.Create(ctx, &cellpb.CreateReplicaRequest{Descriptor_: d, Replica: 1, Incarnation: []byte("one")}); err != nil {
		t.Fatal(err)
	}
	a := &alone{s: s, e: e, answers: make(chan *cellpb.LeadReply, 10000)}
	a.link = s.Connect("n1", func(r *cellpb.LeadReply) { a.answers <- r })
	a.grant = a.next(t).GetGranted().GetGrant()
	if a.grant == nil {
		t.Fatal("the range was not granted")
	}
	return a
}

func (a *alone) next(t testing.TB) *cellpb.LeadReply {
	t.Helper()
	select {
	case r := <-a.answers:
		return r
	case <-time.After(patience):
		t.Fatal("no answer")
		return nil
	}
}

// ask sends a request under the grant and waits for its answer.
func (a *alone) ask(t testing.TB, req *cellpb.LeadRequest) *cellpb.LeadReply {
	t.Helper()
	a.lastID++
	req.Id, req.Range, req.Epoch, req.Grant = a.lastID, 1, 1, a.grant
	a.link.Request(req)
	for {
		if r := a.next(t); r.Id == a.lastID {
			return r
		}
	}
}

func proposal(commands ...*cellpb.Command) *cellpb.LeadRequest {
	return &cellpb.LeadRequest{Body: &cellpb.LeadRequest_Propose{Propose: &cellpb.Proposal{Commands: commands}}}
}

func question(q *cellpb.LeadRead) *cellpb.LeadRequest {
	return &cellpb.LeadRequest{Body: &cellpb.LeadRequest_Read{Read: q}}
}

// A question that meets damaged data stops the replica, which is named, and is
// answered "ask again" and with nothing else.
func TestAReadThatMeetsDamageStopsTheReplica(t *testing.T) {
	a := startAlone(t)
	created := a.ask(t, proposal(&cellpb.Command{Body: &cellpb.Command_CreateUser{CreateUser: &cellpb.CreateUser{
		AccountKey: make([]byte, 16), Name: "ann",
	}}}))
	user := created.GetApplied().GetResults()[0].GetUser()
	q := question(&cellpb.LeadRead{Body: &cellpb.LeadRead_User{User: &cellpb.ReadUser{User: user}}})
	if got := a.ask(t, q).GetRead().GetUser().GetProfile().GetName(); got != "ann" {
		t.Fatalf("read %q", got)
	}
	if err := a.e.State.Set(engine.EntityKey(proto.EntityID(user), engine.TagProfile), []byte{0xff}, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if refused := a.ask(t, q).GetRefused(); proto.Code(refused.GetCode()) != proto.CodeUnavailable {
		t.Errorf("answered %v", refused)
	}
	deadline := time.Now().Add(patience)
	for a.s.Status()[0].Problem == "" && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if st := a.s.Status()[0]; st.Problem == "" || st.Leading {
		t.Errorf("the replica goes on: %v", st)
	}
	if refused := a.ask(t, q).GetRefused(); refused == nil {
		t.Error("a stopped replica answers")
	}
}

// Whatever a host asks of its leader is answered once, and no replica stops.
func FuzzLeadBatch(f *testing.F) {
	seed := func(requests ...*cellpb.LeadRequest) {
		raw, err := pb.Marshal(&cellpb.LeadBatch{Requests: requests})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	thread := proto.DirectThread(4096, 4097).String()
	seed(proposal(&cellpb.Command{Body: &cellpb.Command_AppendMessage{AppendMessage: &cellpb.AppendMessage{Thread: thread, From: 4096}}}, &cellpb.Command{}))
	seed(&cellpb.LeadRequest{}, &cellpb.LeadRequest{Range: 7}, proposal())
	for _, q := range []*cellpb.LeadRead{
		{}, {Body: &cellpb.LeadRead_Updates{Updates: &cellpb.ReadUpdates{User: 4096, After: ^uint64(0)}}},
		{Body: &cellpb.LeadRead_Thread{Thread: &cellpb.ReadThread{Thread: thread, User: 4096, AtMs: 1, Before: ^uint64(0)}}},
		{Body: &cellpb.LeadRead_Threads{Threads: &cellpb.ReadThreads{User: 4096, Cursor: "1.642f343039362f34303937"}}},
		{Body: &cellpb.LeadRead_Threads{Threads: &cellpb.ReadThreads{User: 4096, Cursor: "-1.zz"}}},
		{Body: &cellpb.LeadRead_Channel{Channel: &cellpb.ReadChannel{Dest: ^uint64(0), After: ^uint64(0), Limit: 5}}},
		{Body: &cellpb.LeadRead_ChannelHeads{ChannelHeads: &cellpb.ReadChannelHeads{}}},
		{Body: &cellpb.LeadRead_Contacts{Contacts: &cellpb.ReadContacts{User: 4096, Relations: []clientpb.Relation{1, 99}, After: 7}}},
		{Body: &cellpb.LeadRead_Cards{Cards: &cellpb.ReadCards{Viewer: 4097, Users: []uint64{0, 4096, ^uint64(0)}}}},
		{Body: &cellpb.LeadRead_ThreadRow{ThreadRow: &cellpb.ReadThreadRow{User: 4096, Thread: "d/1"}}},
		{AnyAge: true, Body: &cellpb.LeadRead_ThreadRow{ThreadRow: &cellpb.ReadThreadRow{User: 4096, Thread: thread}}},
	} {
		seed(question(q))
	}
	a := startAlone(f)
	for i := range byte(2) {
		key := make([]byte, 16)
		key[15] = i
		a.ask(f, proposal(&cellpb.Command{Body: &cellpb.Command_CreateUser{CreateUser: &cellpb.CreateUser{AccountKey: key, Name: "ann"}}}))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		batch := new(cellpb.LeadBatch)
		if pb.Unmarshal(raw, batch) != nil || len(batch.Requests) > 100 {
			t.Skip()
		}
		for _, req := range batch.Requests {
			if req.GetPropose() != nil && len(req.GetPropose().Commands) > 0 && req.Grant != nil {
				a.lastID++
				req.Id = a.lastID
				a.link.Request(req) // under whatever grant it names
				if got := a.next(t); got.Id != a.lastID {
					t.Fatalf("answer %d to request %d", got.Id, a.lastID)
				}
			}
			a.ask(t, req)
		}
		if st := a.s.Status()[0]; st.Problem != "" {
			t.Fatalf("the replica stopped: %s", st.Problem)
		}
	})
}
