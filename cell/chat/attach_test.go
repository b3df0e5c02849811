package chat

import (
	"context"
	"slices"
	"testing"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// sent is what waits for the edge.
func (fz *fuzzed) sent(t *testing.T) (frames []*cellpb.HostFrame) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fz.edge.send(nil, 0) // so that there is something to take
	_ = fz.edge.queue.Drain(ctx, func(batch []*cellpb.HostFrame) error {
		frames = append(frames, slices.DeleteFunc(batch, func(f *cellpb.HostFrame) bool { return f == nil })...)
		return context.Canceled
	})
	return frames
}

// A request that comes with the attach is served once the session is known to
// be good, and a thread that is known here is found without asking a quorum.
func TestAttachBringsRequests(t *testing.T) {
	fz := newFuzzed(t)
	fz.sent(t)
	fz.leader.requests = nil
	id := proto.ClientMsgID{1, 2, 3, 4, 5, 6, 0x70, 1, 0x80}
	request := marshal(t, &clientpb.ClientFrame{Id: 2, Body: &clientpb.ClientFrame_SendMessage{SendMessage: &clientpb.SendMessage{
		Thread: "d/4096/4097", ClientMsgId: id[:], Text: &clientpb.TextMessage{Text: "hello"},
	}}})
	attach := func(device string) {
		fz.s.edgeFrames(fz.edge, []*cellpb.EdgeFrame{{Session: 8, Body: &cellpb.EdgeFrame_Attach{Attach: &cellpb.AttachSession{
			Range: 1, Epoch: 1, User: 4096, Device: device, Attempt: 1, Requests: [][]byte{request},
		}}}})
		fz.drain()
	}
	user := func(*cellpb.LeadRequest) *cellpb.LeadReply {
		return &cellpb.LeadReply{Body: &cellpb.LeadReply_Read{Read: &cellpb.ReadResult{User: &cellpb.UserInfo{
			Profile: &cellpb.Profile{Name: "ann"}, Devices: []*cellpb.DeviceInfo{{Device: "phone", Row: &cellpb.Device{}}}, Pts: 2,
		}}}}
	}
	asked := func() *cellpb.LeadRequest {
		t.Helper()
		if len(fz.leader.requests) != 1 {
			t.Fatalf("the leader is asked %v", fz.leader.requests)
		}
		return fz.leader.requests[0]
	}

	attach("stolen")
	if asked().GetRead().GetUser() == nil {
		t.Fatalf("first the user is not read, but %v", asked())
	}
	fz.answerAll(user)
	if frames := fz.sent(t); len(frames) != 1 || frames[0].GetRefused() == nil || len(fz.leader.requests) != 0 {
		t.Fatalf("a device that is not known: told %v, asked %v", frames, fz.leader.requests)
	}

	attach("phone")
	fz.answerAll(user)
	if frames := fz.sent(t); len(frames) != 1 || !frames[0].GetAttached().GetRequestsTaken() {
		t.Fatalf("told %v", frames)
	}
	if row := asked().GetRead(); row.GetThreadRow() == nil || !row.AnyAge {
		t.Fatalf("asked for %v", row)
	}
	fz.answerAll(func(*cellpb.LeadRequest) *cellpb.LeadReply {
		return &cellpb.LeadReply{Body: &cellpb.LeadReply_Read{Read: &cellpb.ReadResult{
			Threads: []*cellpb.JoinedThreadRow{{Thread: "d/4096/4097", Row: &cellpb.JoinedThread{PeerName: "bob"}}},
		}}}
	})
	commands := asked().GetPropose().GetCommands()
	if len(commands) != 1 || commands[0].GetAppendMessage().GetText().GetText() != "hello" || commands[0].GetAppendMessage().GetToName() != "bob" {
		t.Fatalf("proposed %v", commands)
	}
	fz.answerAll(func(*cellpb.LeadRequest) *cellpb.LeadReply {
		return &cellpb.LeadReply{Body: &cellpb.LeadReply_Applied{Applied: &cellpb.Applied{Results: []*cellpb.Result{{Seq: 7}}}}}
	})
	answer := new(clientpb.ServerFrame)
	if frames := fz.sent(t); len(frames) != 1 || pb.Unmarshal(frames[0].GetResponse(), answer) != nil || answer.GetMessageSent().GetSeq() != 7 {
		t.Fatalf("answered %v", frames)
	}
}
