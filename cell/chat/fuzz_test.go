package chat

import (
	"log/slog"
	"testing"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/internal/outqueue"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/sharding"
)

// nowhereDirectory knows a second range, and no address of anybody.
type nowhereDirectory struct{ routes *sharding.Map }

func (d nowhereDirectory) Routes() *sharding.Map                 { return d.routes }
func (d nowhereDirectory) NodeAddr(proto.NodeID) (string, bool)  { return "", false }
func (d nowhereDirectory) CellNodes(proto.CellID) []proto.NodeID { return nil }

// fuzzed is a service that hosts range 1 with one session of user 4096, driven
// by the fuzz target's own goroutine.
type fuzzed struct {
	s      *Service
	leader *askedLeader
	edge   *edgeConn
}

func newFuzzed(t testing.TB) *fuzzed {
	t.Helper()
	dir := nowhereDirectory{sharding.New([]sharding.Route{{Range: 1, Cell: "c1", Epoch: 1}, {Range: 2, Cell: "c2", Epoch: 1}})}
	dialer := cellclient.NewDialer(dir, nil)
	fz := &fuzzed{leader: new(askedLeader)}
	fz.s = New(Config{
		Self: "n1", Dialer: dialer, Locator: cellclient.NewLocator(dir, dialer), Logger: slog.New(slog.DiscardHandler), MessagesPerSecond: -1,
	})
	t.Cleanup(func() {
		fz.s.relay.Close()
		_ = dialer.Close()
	})
	q := outqueue.New[*cellpb.HostFrame](outqueue.Limits{Size: 1 << 26, BatchItems: 1000, BatchSize: 1 << 26})
	fz.edge = &edgeConn{name: "e1", fail: func(error) {}, sessions: map[uint64]*session{}, queue: q}
	fz.s.LeadReply(fz.leader, &cellpb.LeadReply{Range: 1, Body: &cellpb.LeadReply_Granted{Granted: &cellpb.Granted{
		Range: 1, Grant: &cellpb.Grant{Term: 1, Number: 1}, Descriptor_: &cellpb.Descriptor{Range: 1, Epoch: 1},
	}}})
	fz.drain()
	fz.leader.requests = nil
	fz.s.edgeFrames(fz.edge, []*cellpb.EdgeFrame{{Session: 7, Body: &cellpb.EdgeFrame_Attach{Attach: &cellpb.AttachSession{
		Range: 1, Epoch: 1, User: 4096, Device: "phone", Subscribe: true, Attempt: 1,
	}}}})
	fz.drain()
	fz.answerAll(func(*cellpb.LeadRequest) *cellpb.LeadReply {
		return &cellpb.LeadReply{Body: &cellpb.LeadReply_Read{Read: &cellpb.ReadResult{User: &cellpb.UserInfo{
			Profile: &cellpb.Profile{Name: "ann"}, Devices: []*cellpb.DeviceInfo{{Device: "phone", Row: &cellpb.Device{}}}, Pts: 2,
		}}}}
	})
	return fz
}

// drain runs what was posted to the shards.
func (fz *fuzzed) drain() {
	for again := true; again; {
		again = false
		for _, sh := range fz.s.shards {
			sh.mu.Lock()
			box := sh.box
			sh.box = nil
			sh.mu.Unlock()
			for _, f := range box {
				f()
				again = true
			}
			for _, h := range sh.hosts {
				h.flush()
			}
		}
	}
}

// answerAll answers what was asked of the leader, once.
func (fz *fuzzed) answerAll(answer func(*cellpb.LeadRequest) *cellpb.LeadReply) {
	asked := fz.leader.requests
	fz.leader.requests = nil
	for _, req := range asked {
		reply := answer(req)
		reply.Id, reply.Range = req.Id, req.Range
		fz.s.LeadReply(fz.leader, reply)
	}
	fz.drain()
}

// refuseAll ends whatever still waits and looks whether the host stands.
func (fz *fuzzed) refuseAll(t *testing.T) {
	t.Helper()
	for range 20 {
		fz.answerAll(func(*cellpb.LeadRequest) *cellpb.LeadReply {
			return &cellpb.LeadReply{Body: &cellpb.LeadReply_Refused{Refused: &cellpb.Refused{Code: uint32(proto.CodeUnavailable)}}}
		})
	}
	for _, sh := range fz.s.shards {
		for _, h := range sh.hosts {
			h.housekeep()
			if h.inFlight < 0 || h.inFlight > proposalsInFlight {
				t.Errorf("%d proposals under way", h.inFlight)
			}
		}
	}
}

func marshal(t testing.TB, m pb.Message) []byte {
	t.Helper()
	raw, err := pb.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// clientFrames is one of each kind that a client can say.
func clientFrames() []*clientpb.ClientFrame {
	id := proto.ClientMsgID{1, 2, 3, 4, 5, 6, 0x70, 1, 0x80}
	return []*clientpb.ClientFrame{
		{Id: 2, Body: &clientpb.ClientFrame_SendMessage{SendMessage: &clientpb.SendMessage{
			Thread: "d/4096/8192", ClientMsgId: id[:], Text: &clientpb.TextMessage{Text: "hello"},
		}}},
		{Id: 3, Body: &clientpb.ClientFrame_ReadHistory{ReadHistory: &clientpb.ReadHistory{Thread: "d/4096/4097", Before: 9, Limit: 3}}},
		{Id: 4, Body: &clientpb.ClientFrame_ListThreads{ListThreads: &clientpb.ListThreads{Cursor: "1.642f31", Limit: 5}}},
		{Id: 5, Body: &clientpb.ClientFrame_MarkRead{MarkRead: &clientpb.MarkRead{Thread: "d/4096/4097", Seq: 3}}},
		{Body: &clientpb.ClientFrame_Typing{Typing: &clientpb.Typing{Thread: "d/4096/4097"}}},
		{Id: 6, Body: &clientpb.ClientFrame_FindUser{FindUser: &clientpb.FindUser{User: 4097}}},
		{Id: 7, Body: &clientpb.ClientFrame_FindPeople{FindPeople: &clientpb.FindPeople{Prefix: "an"}}},
		{Id: 8, Body: &clientpb.ClientFrame_ChangeContact{ChangeContact: &clientpb.ChangeContact{
			User: 4097, Action: clientpb.ContactAction_CONTACT_ACTION_REQUEST, ClientId: id[:], Greeting: "hi",
		}}},
		{Id: 9, Body: &clientpb.ClientFrame_EditContact{EditContact: &clientpb.EditContact{User: 4097, Alias: "x", Tags: []string{"a"}}}},
		{Id: 10, Body: &clientpb.ClientFrame_ListContacts{ListContacts: &clientpb.ListContacts{Cursor: "4097", Relations: []clientpb.Relation{clientpb.Relation_RELATION_FRIEND}}}},
		{Id: 11, Body: &clientpb.ClientFrame_ReadProfile{ReadProfile: &clientpb.ReadProfile{}}},
		{Id: 12, Body: &clientpb.ClientFrame_SetProfile{SetProfile: &clientpb.SetProfile{Nick: pb.String("n")}}},
		{Id: 13, Body: &clientpb.ClientFrame_ListDevices{ListDevices: &clientpb.ListDevices{}}},
		{Id: 14, Body: &clientpb.ClientFrame_EndDevice{EndDevice: &clientpb.EndDevice{Device: "phone"}}},
		{Id: 15, Body: &clientpb.ClientFrame_EndAllDevices{EndAllDevices: &clientpb.EndAllDevices{}}},
	}
}

// Whatever an edge sends, for a session or without one, the host stands.
func FuzzEdgeBatch(f *testing.F) {
	for _, frame := range clientFrames() {
		f.Add(marshal(f, &cellpb.EdgeBatch{Frames: []*cellpb.EdgeFrame{{Session: 7, Body: &cellpb.EdgeFrame_Request{Request: marshal(f, frame)}}}}))
	}
	f.Add(marshal(f, &cellpb.EdgeBatch{Frames: []*cellpb.EdgeFrame{
		{Session: 8, Body: &cellpb.EdgeFrame_Attach{Attach: &cellpb.AttachSession{Range: 1, Epoch: 1, User: 4097, Device: "tv", Pts: 5}}},
		{Session: 7, Body: &cellpb.EdgeFrame_Confirm{Confirm: 2}}, {Session: 7, Body: &cellpb.EdgeFrame_Fetch{Fetch: 1}},
		{Session: 7, Body: &cellpb.EdgeFrame_Detach{Detach: &cellpb.DetachSession{}}}, {Session: 9},
	}}))
	f.Add(marshal(f, &cellpb.EdgeBatch{Frames: []*cellpb.EdgeFrame{{Session: 7, Body: &cellpb.EdgeFrame_Attach{Attach: &cellpb.AttachSession{
		Range: 1, Epoch: 1, User: 4096, Device: "phone", Attempt: 2, Requests: [][]byte{marshal(f, clientFrames()[0]), {0xff}, marshal(f, clientFrames()[13])},
	}}}}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		batch := new(cellpb.EdgeBatch)
		if pb.Unmarshal(raw, batch) != nil {
			t.Skip()
		}
		fz := newFuzzed(t)
		fz.s.edgeFrames(fz.edge, batch.Frames)
		fz.drain()
		fz.refuseAll(t)
	})
}

// Whatever another node relays, it is answered once and the host stands.
func FuzzRelayBatch(f *testing.F) {
	thread := "d/4096/4097"
	for _, req := range []*cellpb.RelayRequest{
		{Body: &cellpb.RelayRequest_Append{Append: &cellpb.AppendMessage{Thread: thread, From: 4096, Text: &cellpb.TextBody{Text: "x"}}}},
		{Body: &cellpb.RelayRequest_ChannelRows{ChannelRows: &cellpb.ChannelRows{Source: 2, Rows: []*cellpb.ChannelRow{{
			Dest: 1, Number: 1, Body: &cellpb.ChannelRow_Message{Message: &cellpb.MessageRow{Thread: thread, Seq: 1}}, Event: &cellpb.StoredEvent{From: 4097},
		}}}}},
		{Body: &cellpb.RelayRequest_ReadEvents{ReadEvents: &cellpb.ReadEvents{Refs: []*cellpb.EventRef{{Thread: thread, Seq: 1}}}}},
		{Body: &cellpb.RelayRequest_ReadThread{ReadThread: &cellpb.ReadThread{Thread: thread, User: 4096}}},
		{Body: &cellpb.RelayRequest_CreateUser{CreateUser: &cellpb.CreateUser{Name: "ann"}}},
		{Body: &cellpb.RelayRequest_LoginDevice{LoginDevice: &cellpb.LoginDevice{User: 4096, Device: "phone"}}},
		{Body: &cellpb.RelayRequest_LogoutDevice{LogoutDevice: &cellpb.LogoutDevice{User: 4096, Device: "phone"}}},
		{Body: &cellpb.RelayRequest_RaiseAuthority{RaiseAuthority: &cellpb.RaiseAuthority{User: 4096}}},
		{Body: &cellpb.RelayRequest_RefreshDevice{RefreshDevice: &cellpb.RefreshDevice{User: 4096, Device: "phone"}}},
		{Body: &cellpb.RelayRequest_ReadUser{ReadUser: &cellpb.ReadUser{User: 4096}}},
		{Body: &cellpb.RelayRequest_ChangeContact{ChangeContact: &cellpb.ChangeContact{Thread: thread, From: 4096}}},
		{Body: &cellpb.RelayRequest_ReadCards{ReadCards: &cellpb.ReadCards{Viewer: 4097, Users: []uint64{4096}}}},
		{Body: &cellpb.RelayRequest_CloseSessions{CloseSessions: &cellpb.CloseSessions{User: 4096}}},
		{Body: &cellpb.RelayRequest_Signals{Signals: &cellpb.Signals{Signals: []*cellpb.Signal{
			{From: 4097, To: []uint64{4096}, Body: &cellpb.Signal_Probe{Probe: &cellpb.PresenceProbe{}}},
			{From: 4097, To: []uint64{4096}, Body: &cellpb.Signal_Typing{Typing: &clientpb.TypingNow{Thread: thread}}},
			{From: 4097, To: []uint64{4096}, Body: &cellpb.Signal_Presence{Presence: &clientpb.FriendPresence{Online: true}}},
		}}}},
	} {
		req.Id, req.Range, req.Epoch = 3, 1, 1
		f.Add(marshal(f, &cellpb.RelayBatch{Requests: []*cellpb.RelayRequest{req}}))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		batch := new(cellpb.RelayBatch)
		if pb.Unmarshal(raw, batch) != nil || len(batch.Requests) > 100 {
			t.Skip()
		}
		fz := newFuzzed(t)
		answers := 0
		fz.s.relayBatch(batch.Requests, func(*cellpb.RelayReply) { answers++ })
		fz.drain()
		fz.refuseAll(t)
		if answers != len(batch.Requests) {
			t.Errorf("%d answers to %d requests", answers, len(batch.Requests))
		}
	})
}

// Whatever a leader answers to whatever a client asked, the host stands, and
// nobody waits for ever.
func FuzzLeadReply(f *testing.F) {
	read := func(r *cellpb.ReadResult) []byte {
		return marshal(f, &cellpb.LeadReply{Body: &cellpb.LeadReply_Read{Read: r}})
	}
	for i := range clientFrames() {
		which := uint8(i)
		f.Add(which, read(&cellpb.ReadResult{User: &cellpb.UserInfo{Profile: &cellpb.Profile{}, Devices: []*cellpb.DeviceInfo{{Device: "phone"}}}}))
		f.Add(which, read(&cellpb.ReadResult{Threads: []*cellpb.JoinedThreadRow{{Thread: "d/4096/8192", Row: &cellpb.JoinedThread{LastSeq: 1}}, {}}}))
		f.Add(which, read(&cellpb.ReadResult{Events: &cellpb.Events{Refs: []*cellpb.EventRef{{Thread: "d/4096/4097", Seq: 1}}}}))
		f.Add(which, read(&cellpb.ReadResult{Contacts: []*clientpb.Contact{{User: 4097}, {User: 5}}}))
		f.Add(which, read(&cellpb.ReadResult{Cards: &cellpb.Cards{Cards: []*clientpb.Card{{User: 4097}}}}))
		f.Add(which, marshal(f, &cellpb.LeadReply{Body: &cellpb.LeadReply_Applied{Applied: &cellpb.Applied{
			Results: []*cellpb.Result{{Seq: 1}}, Updates: []*cellpb.LoggedUpdate{{User: 4096, Pts: 3}}, ChannelRows: []*cellpb.ChannelRow{{Dest: 2, Number: 1}},
		}}}))
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		reply := new(cellpb.LeadReply)
		if pb.Unmarshal(raw, reply) != nil {
			t.Skip()
		}
		fz := newFuzzed(t)
		frames := clientFrames()
		frame := frames[int(which)%len(frames)]
		fz.s.edgeFrames(fz.edge, []*cellpb.EdgeFrame{{Session: 7, Body: &cellpb.EdgeFrame_Request{Request: marshal(t, frame)}}})
		fz.drain()
		for range 5 {
			fz.answerAll(func(*cellpb.LeadRequest) *cellpb.LeadReply { return pb.CloneOf(reply) })
		}
		fz.refuseAll(t)
	})
}
