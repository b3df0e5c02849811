package session

import (
	"testing"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func TestPeekResponse(t *testing.T) {
	for _, c := range []struct {
		frame *clientpb.ServerFrame
		id    uint64
		code  proto.Code
	}{
		{&clientpb.ServerFrame{Id: 1 << 60, Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{Seq: 60}}}, 1 << 60, 0},
		{&clientpb.ServerFrame{Id: 3, Body: &clientpb.ServerFrame_Error{Error: &clientpb.Error{Code: 62, Message: "m"}}}, 3, proto.CodeNotHost},
		{&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Updates{Updates: &clientpb.Updates{}}}, 0, 0},
	} {
		if id, code := peekResponse(encode(c.frame)); id != c.id || code != c.code {
			t.Errorf("%v: id %d, code %d", c.frame, id, code)
		}
	}
}

// FuzzPeekResponse: it agrees with the full decoder on what that accepts, and
// survives the rest.
func FuzzPeekResponse(f *testing.F) {
	f.Add(encodeError(9, proto.Errorf(proto.CodeNotHost, "x")))
	f.Add([]byte{8, 1, 8, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, _ := peekResponse(b)
		var full clientpb.ServerFrame
		if pb.Unmarshal(b, &full) == nil && full.Id != id {
			t.Fatalf("%x: id %d, want %d", b, id, full.Id)
		}
	})
}
