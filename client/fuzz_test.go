package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"testing"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Whatever a server sends, the client hands out each update once and in order,
// answers each question at most once, and stands.
func FuzzServerFrames(f *testing.F) {
	stream := func(frames ...*clientpb.ServerFrame) (raw []byte) {
		for _, frame := range frames {
			b, err := pb.Marshal(frame)
			if err != nil {
				f.Fatal(err)
			}
			raw = append(binary.BigEndian.AppendUint32(raw, uint32(len(b))), b...)
		}
		return raw
	}
	resync := &clientpb.ServerFrame{Body: &clientpb.ServerFrame_Resync{Resync: &clientpb.Resync{Pts: 3, Incarnation: []byte("x")}}}
	f.Add(stream(updates(1, 2), updates(2, 3), resync, updates(4)))
	f.Add(stream(updates(1, 3)))
	f.Add(stream(refusal(2, proto.CodeOverloaded), refusal(2, proto.CodeBadRequest), refusal(3, proto.CodeNotHost), refusal(0, proto.CodeIdle)))
	f.Add(stream(closing(proto.CodeShuttingDown, "a:1", "a:1", "")))
	f.Add(stream(
		&clientpb.ServerFrame{Id: 3, Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{Seq: 1}}},
		&clientpb.ServerFrame{Id: 3}, &clientpb.ServerFrame{Id: 2, Body: &clientpb.ServerFrame_Threads{Threads: &clientpb.Threads{}}},
		&clientpb.ServerFrame{Body: &clientpb.ServerFrame_HeartbeatAck{HeartbeatAck: &clientpb.HeartbeatAck{}}},
		&clientpb.ServerFrame{Body: &clientpb.ServerFrame_Presence{Presence: &clientpb.Presence{}}},
		&clientpb.ServerFrame{Body: &clientpb.ServerFrame_TypingNow{TypingNow: &clientpb.TypingNow{}}},
	))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var last proto.Pts
		moved := false
		c, err := New(Config{Server: "127.0.0.1:1", Token: "t", Device: "phone", Subscribe: true,
			OnUpdate: func(u Update) {
				if u.Pts != last+1 && !moved {
					t.Errorf("update %d was handed out after %d", u.Pts, last)
				}
				last, moved = u.Pts, false
			},
			OnResync: func(Resync) { moved = true },
		})
		if err != nil {
			t.Fatal(err)
		}
		conn := &connection{wire: &wire{r: bufio.NewReader(bytes.NewReader(raw))}, sends: map[uint64]*Pending{}}
		c.conn = conn
		p, err := c.Post(thread, "hello")
		if err != nil {
			t.Fatal(err)
		}
		question := &request{frame: &clientpb.ClientFrame{Id: 2}, done: make(chan struct{})}
		c.requests, c.nextRequest = []*request{question}, 2
		c.nextSends(conn, time.Now())
		ended, cancel := context.WithCancel(context.Background())
		cancel() // a redirect leads nowhere
		m := &mover{client: c, conn: conn, received: make(chan struct{})}
		defer m.wait()
		if c.receive(ended, conn, m) == nil {
			t.Error("the end of the connection is no error")
		}
		c.detach(conn)
		c.shutDown()
		<-p.done
		<-question.done
		if len(c.servers) == 0 {
			t.Error("no server is left to try")
		}
	})
}
