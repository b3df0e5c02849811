package session

import (
	"crypto/ed25519"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/edge/listen"
	"github.com/waggle-im/waggle/edge/router"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/sharding"
)

// fuzzConn keeps what a session says.
type fuzzConn struct {
	said   []*clientpb.ServerFrame
	closed bool
	bad    error
}

func (c *fuzzConn) keep(frame []byte) {
	f := new(clientpb.ServerFrame)
	if err := pb.Unmarshal(frame, f); err != nil {
		c.bad = err
	}
	c.said = append(c.said, f)
}

func (c *fuzzConn) Send(frames ...[]byte) (int, bool) {
	for _, frame := range frames {
		c.keep(frame)
	}
	return 0, !c.closed
}

func (c *fuzzConn) Close(final []byte) {
	if !c.closed && final != nil {
		c.keep(final)
	}
	c.closed = true
}
func (c *fuzzConn) SetLoggedIn()                {}
func (c *fuzzConn) Remote() netip.AddrPort      { return netip.AddrPort{} }
func (c *fuzzConn) Transport() listen.Transport { return listen.TransportPlain }

type oneKey struct{ key ed25519.PublicKey }

func (k oneKey) PublicKey(string) (ed25519.PublicKey, bool) { return k.key, true }

type noDirectory struct{}

func (noDirectory) Routes() *sharding.Map                 { return nil }
func (noDirectory) NodeAddr(proto.NodeID) (string, bool)  { return "", false }
func (noDirectory) CellNodes(proto.CellID) []proto.NodeID { return nil }

// fuzzServer is a server whose router is never run: hosts are the test's to
// play. good is a token that it takes.
func fuzzServer(t testing.TB) (s *Server, good string) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signer := token.NewSigner(private)
	now := time.Now()
	good, err := signer.Sign(token.Claims{User: 4096, Device: "phone", SessionNumber: 1, IssuedAt: now, ExpiresAt: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	dialer := cellclient.NewDialer(noDirectory{}, nil)
	r := router.New(router.Config{}, router.Deps{Edge: "e1", Directory: noDirectory{}, Dialer: dialer, Locator: cellclient.NewLocator(noDirectory{}, dialer)})
	return New(Config{}, Deps{Edge: "e1", Router: r, Keys: oneKey{signer.PublicKey()}}), good
}

func must(t testing.TB, m pb.Message) []byte {
	t.Helper()
	raw, err := pb.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// cutFrames reads frames of one length byte pair each, as the listener would
// hand them over.
func cutFrames(raw []byte) (frames [][]byte) {
	for len(raw) >= 2 && len(frames) < 50 {
		n := min(int(binary.BigEndian.Uint16(raw)), len(raw)-2)
		frames = append(frames, raw[2:2+n])
		raw = raw[2+n:]
	}
	return frames
}

func framed(frames ...[]byte) (raw []byte) {
	for _, f := range frames {
		raw = append(binary.BigEndian.AppendUint16(raw, uint16(len(f))), f...)
	}
	return raw
}

func saidByClients(t testing.TB) [][]byte {
	id := make([]byte, 16)
	var out [][]byte
	for _, f := range []*clientpb.ClientFrame{
		{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{ProtocolVersion: proto.ClientProtocolVersion, Token: "x.y.z", Device: "phone", Subscribe: true}}},
		{Id: 2, Body: &clientpb.ClientFrame_SendMessage{SendMessage: &clientpb.SendMessage{Thread: "d/4096/8192", ClientMsgId: id, Text: &clientpb.TextMessage{Text: "hi"}}}},
		{Id: 3, Body: &clientpb.ClientFrame_Heartbeat{Heartbeat: &clientpb.Heartbeat{}}},
		{Body: &clientpb.ClientFrame_Confirm{Confirm: &clientpb.Confirm{Pts: 1}}},
		{Body: &clientpb.ClientFrame_Typing{Typing: &clientpb.Typing{Thread: "d/4096/8192"}}},
		{Id: 4, Body: &clientpb.ClientFrame_ListThreads{ListThreads: &clientpb.ListThreads{Cursor: "1.00"}}},
		{Id: 5, Body: &clientpb.ClientFrame_ReadHistory{ReadHistory: &clientpb.ReadHistory{Thread: "d/4096/8192"}}},
		{Id: 6, Body: &clientpb.ClientFrame_MarkRead{MarkRead: &clientpb.MarkRead{Thread: "d/4096/8192", Seq: 2}}},
		{Id: 7, Body: &clientpb.ClientFrame_ChangeContact{ChangeContact: &clientpb.ChangeContact{User: 8192, ClientId: id}}},
		{Id: 8, Body: &clientpb.ClientFrame_SetProfile{SetProfile: &clientpb.SetProfile{}}},
		{Id: 9, Body: &clientpb.ClientFrame_EndDevice{EndDevice: &clientpb.EndDevice{Device: "tv"}}},
		{Body: &clientpb.ClientFrame_Logout{Logout: &clientpb.Logout{}}},
	} {
		out = append(out, must(t, f))
	}
	return out
}

// Whatever a client says, before and after its Hello: every frame that comes
// back is one, nobody is let in without a token, and nothing is kept beyond
// its bounds.
func FuzzClientFrames(f *testing.F) {
	said := saidByClients(f)
	for _, frame := range said {
		f.Add(true, framed(frame))
	}
	f.Add(true, framed(said[1:]...))
	f.Add(false, framed(said...))
	f.Add(false, []byte{0, 1, 0xff})
	f.Fuzz(func(t *testing.T, greeted bool, raw []byte) {
		server, good := fuzzServer(t)
		conn := new(fuzzConn)
		s := server.Opened(conn).(*Session)
		if greeted {
			s.Frame(must(t, &clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
				ProtocolVersion: proto.ClientProtocolVersion, Token: good, Device: "phone", Subscribe: true,
			}}}))
			s.Attached(&cellpb.Attached{Pts: 5, ResumeFrom: 5, Attempt: 1})
		}
		for _, frame := range cutFrames(raw) {
			s.Frame(frame)
		}
		if s.user != 0 && !greeted {
			t.Errorf("user %s was let in", s.user)
		}
		if len(s.pending) > proto.RequestsInFlightMax || s.pendingBytes > proto.SessionPendingBytesMax || s.pendingBytes < 0 {
			t.Errorf("%d requests of %d bytes are kept", len(s.pending), s.pendingBytes)
		}
		if conn.bad != nil {
			t.Errorf("the client was sent what is no frame: %v", conn.bad)
		}
		s.Closed(nil)
		if server.Len() != 0 {
			t.Error("the session stays behind")
		}
	})
}

// Whatever a host says to a session, its client gets each update once and in
// order.
func FuzzHostFrames(f *testing.F) {
	push := func(first, last uint64) *cellpb.HostFrame {
		return &cellpb.HostFrame{Body: &cellpb.HostFrame_Push{Push: &cellpb.Push{FirstPts: first, LastPts: last, Newest: last}}}
	}
	f.Add(must(f, &cellpb.HostBatch{Frames: []*cellpb.HostFrame{push(6, 7), push(6, 7), push(8, 9), push(12, 13), {
		Body: &cellpb.HostFrame_Response{Response: encodeError(2, proto.Errorf(proto.CodeNotHost, "x"))},
	}}}))
	f.Add(must(f, &cellpb.HostBatch{Frames: []*cellpb.HostFrame{
		{Body: &cellpb.HostFrame_Attached{Attached: &cellpb.Attached{Attempt: 2, Resync: true, ResumeFrom: 3, Incarnation: []byte("x")}}},
		push(4, ^uint64(0)), push(0, 0), {Body: &cellpb.HostFrame_End{End: &cellpb.EndSession{Code: 7}}}, {},
	}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		batch := new(cellpb.HostBatch)
		if pb.Unmarshal(raw, batch) != nil {
			t.Skip()
		}
		server, good := fuzzServer(t)
		conn := new(fuzzConn)
		s := server.Opened(conn).(*Session)
		s.Frame(must(t, &clientpb.ClientFrame{Id: 1, Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
			ProtocolVersion: proto.ClientProtocolVersion, Token: good, Device: "phone", Subscribe: true,
		}}}))
		s.Attached(&cellpb.Attached{Pts: 5, ResumeFrom: 5, Attempt: 1})
		s.Frame(saidByClients(t)[1])
		s.Frame(saidByClients(t)[5])
		for _, frame := range batch.Frames {
			next := s.next
			switch body := frame.Body.(type) {
			case *cellpb.HostFrame_Attached:
				s.Attached(body.Attached)
			case *cellpb.HostFrame_Response:
				s.Deliver([]*cellpb.HostFrame{frame})
			case *cellpb.HostFrame_Push:
				sent := len(conn.said)
				s.Deliver([]*cellpb.HostFrame{frame})
				if len(conn.said) > sent && body.Push.FirstPts != next {
					t.Errorf("updates from %d were written where %d is next", body.Push.FirstPts, next)
				}
				if s.next < next {
					t.Errorf("the place went back from %d to %d", next, s.next)
				}
			case *cellpb.HostFrame_End:
				s.Ended(&proto.Error{Code: proto.Code(body.End.Code), Message: body.End.Message})
			}
		}
		if s.pendingBytes < 0 {
			t.Errorf("%d bytes are kept", s.pendingBytes)
		}
		s.Closed(nil)
	})
}
