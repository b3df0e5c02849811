package edge

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	pb "google.golang.org/protobuf/proto"

	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/sharding"
)

// world is what the fake nodes share: the log of the one user, and who hosts
// it.
type world struct {
	mu     sync.Mutex // guards the fields below
	log    []string   // update pts is log[pts-1]
	host   proto.NodeID
	epoch  proto.Epoch
	addrs  map[proto.NodeID]string
	routes *sharding.Map // nil: to be made anew
	asked  []string      // texts of requests in the order the hosts got them
	known  map[string]bool
}

const testUser = proto.EntityID(4100) // range 1

func newWorld() *world {
	return &world{host: "h1", epoch: 1, addrs: map[proto.NodeID]string{}, known: map[string]bool{}}
}

// Routes, NodeAddr and CellNodes make world a cellclient.Directory.
func (w *world) Routes() *sharding.Map {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.routes == nil {
		w.routes = sharding.New([]sharding.Route{{Range: 1, Cell: "c1", Epoch: w.epoch, Nodes: []proto.NodeID{"h1", "h2"}}})
	}
	return w.routes
}

func (w *world) NodeAddr(n proto.NodeID) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	addr, ok := w.addrs[n]
	return addr, ok
}

func (w *world) CellNodes(proto.CellID) []proto.NodeID { return []proto.NodeID{"h1", "h2"} }

func (w *world) route() *cellpb.Route {
	return &cellpb.Route{Range: 1, Cell: "c1", Epoch: uint64(w.epoch), Host: string(w.host), Nodes: []string{"h1", "h2"}}
}

func (w *world) moveHost(to proto.NodeID) {
	w.mu.Lock()
	w.host = to
	w.mu.Unlock()
}

func (w *world) requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.asked...)
}

// host is a fake chat node.
type host struct {
	cellpb.UnimplementedChatServer
	cellpb.UnimplementedNodeServer
	w      *world
	name   proto.NodeID
	server *grpc.Server

	mu       sync.Mutex // guards the fields below
	streams  map[*hostStream]bool
	mute     bool          // requests get no answer
	late     time.Duration // they get it after that
	deaf     bool          // nothing gets an answer
	takes    bool          // it serves the requests that come with an attach
	skipPush int           // that many pushes are lost
	fetches  int
	detached int
	attaches []*cellpb.AttachSession
}

type hostStream struct {
	h    *host
	mu   sync.Mutex // guards call.Send and sessions
	call cellpb.Chat_AttachServer
	subs map[uint64]*cellpb.AttachSession
}

func startHost(t testing.TB, w *world, name proto.NodeID) *host {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{w: w, name: name, server: grpc.NewServer(), streams: map[*hostStream]bool{}}
	cellpb.RegisterChatServer(h.server, h)
	cellpb.RegisterNodeServer(h.server, h)
	w.mu.Lock()
	w.addrs[name] = ln.Addr().String()
	w.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); _ = h.server.Serve(ln) }()
	t.Cleanup(func() { h.server.Stop(); <-done })
	return h
}

func (h *host) WhoHosts(_ ctx, _ *cellpb.WhoHostsRequest) (*cellpb.WhoHostsReply, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return &cellpb.WhoHostsReply{Routes: []*cellpb.Route{h.w.route()}}, nil
}

func (h *host) Attach(call cellpb.Chat_AttachServer) error {
	s := &hostStream{h: h, call: call, subs: map[uint64]*cellpb.AttachSession{}}
	h.mu.Lock()
	h.streams[s] = true
	h.mu.Unlock()
	for {
		batch, err := call.Recv()
		if err != nil {
			h.mu.Lock()
			delete(h.streams, s)
			h.mu.Unlock()
			return err
		}
		if len(batch.Frames) == 0 {
			s.send()
		}
		for _, f := range batch.Frames {
			s.frame(f)
		}
	}
}

func (s *hostStream) send(frames ...*cellpb.HostFrame) {
	s.h.mu.Lock()
	deaf := s.h.deaf
	s.h.mu.Unlock()
	if deaf {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.call.Send(&cellpb.HostBatch{Frames: frames})
}

func (s *hostStream) frame(f *cellpb.EdgeFrame) {
	h := s.h
	switch body := f.Body.(type) {
	case *cellpb.EdgeFrame_Attach:
		h.mu.Lock()
		h.attaches = append(h.attaches, body.Attach)
		takes := h.takes
		h.mu.Unlock()
		h.w.mu.Lock()
		here, newest, route := h.w.host == h.name, uint64(len(h.w.log)), h.w.route()
		h.w.mu.Unlock()
		if !here {
			s.send(&cellpb.HostFrame{Sessions: []uint64{f.Session}, Body: &cellpb.HostFrame_Refused{Refused: &cellpb.Refused{
				Code: uint32(proto.CodeNotHost), Route: route, Attempt: body.Attach.Attempt}}})
			return
		}
		s.mu.Lock()
		s.subs[f.Session] = body.Attach
		s.mu.Unlock()
		s.send(&cellpb.HostFrame{Sessions: []uint64{f.Session}, Body: &cellpb.HostFrame_Attached{Attached: &cellpb.Attached{
			Incarnation: []byte("incarnation-0001"), Pts: newest, ResumeFrom: body.Attach.Pts, Attempt: body.Attach.Attempt, RequestsTaken: takes}}})
		s.pushAfter(f.Session, body.Attach.Pts)
		for _, r := range body.Attach.Requests {
			if takes {
				s.request(f.Session, r)
			}
		}
	case *cellpb.EdgeFrame_Detach:
		s.mu.Lock()
		delete(s.subs, f.Session)
		s.mu.Unlock()
		h.mu.Lock()
		h.detached++
		h.mu.Unlock()
	case *cellpb.EdgeFrame_Fetch:
		h.mu.Lock()
		h.fetches++
		h.mu.Unlock()
		s.pushAfter(f.Session, body.Fetch)
	case *cellpb.EdgeFrame_Request:
		s.request(f.Session, body.Request)
	}
}

// request: a text is appended to the log once, and acknowledged unless mute.
func (s *hostStream) request(session uint64, raw []byte) {
	var f clientpb.ClientFrame
	if err := pb.Unmarshal(raw, &f); err != nil {
		return
	}
	text := f.GetSendMessage().GetText().GetText()
	w := s.h.w
	w.mu.Lock()
	here := w.host == s.h.name
	if here {
		w.asked = append(w.asked, text)
		w.known[text] = true
	}
	w.mu.Unlock()
	s.h.mu.Lock()
	mute, late := s.h.mute, s.h.late
	s.h.mu.Unlock()
	reply := &clientpb.ServerFrame{Id: f.Id, Body: &clientpb.ServerFrame_MessageSent{MessageSent: &clientpb.MessageSent{Thread: text}}}
	switch {
	case !here:
		reply.Body = &clientpb.ServerFrame_Error{Error: &clientpb.Error{Code: uint32(proto.CodeNotHost)}}
	case mute:
		return
	}
	answer := &cellpb.HostFrame{Sessions: []uint64{session}, Body: &cellpb.HostFrame_Response{Response: mustMarshal(reply)}}
	if late > 0 {
		time.AfterFunc(late, func() { s.send(answer) })
		return
	}
	s.send(answer)
}

func (s *hostStream) pushAfter(session uint64, after uint64) {
	s.h.w.mu.Lock()
	log := append([]string(nil), s.h.w.log...)
	s.h.w.mu.Unlock()
	for pts := after + 1; pts <= uint64(len(log)); pts++ {
		s.send(&cellpb.HostFrame{Sessions: []uint64{session}, Body: &cellpb.HostFrame_Push{Push: push(pts, log[pts-1], uint64(len(log)))}})
	}
}

func push(pts uint64, text string, newest uint64) *cellpb.Push {
	return &cellpb.Push{FirstPts: pts, LastPts: pts, Newest: newest, Frame: mustMarshal(&clientpb.ServerFrame{
		Body: &clientpb.ServerFrame_Updates{Updates: &clientpb.Updates{Updates: []*clientpb.Update{{Pts: pts,
			Body: &clientpb.Update_Event{Event: &clientpb.Event{Body: &clientpb.Event_Text{Text: &clientpb.TextMessage{Text: text}}}}}}}}})}
}

// end tells every attached session to go, with code.
func (h *host) end(code proto.Code) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams {
		s.mu.Lock()
		for id := range s.subs {
			_ = s.call.Send(&cellpb.HostBatch{Frames: []*cellpb.HostFrame{{Sessions: []uint64{id},
				Body: &cellpb.HostFrame_End{End: &cellpb.EndSession{Code: uint32(code), Message: "why"}}}}})
		}
		s.mu.Unlock()
	}
}

// publish appends an update and pushes it, unless that push is to be lost.
func (h *host) publish(text string) {
	h.w.mu.Lock()
	h.w.log = append(h.w.log, text)
	pts := uint64(len(h.w.log))
	h.w.mu.Unlock()
	h.mu.Lock()
	if h.skipPush > 0 {
		h.skipPush--
		h.mu.Unlock()
		return
	}
	var streams []*hostStream
	for s := range h.streams {
		streams = append(streams, s)
	}
	h.mu.Unlock()
	for _, s := range streams {
		s.mu.Lock()
		var ids []uint64
		for id := range s.subs {
			ids = append(ids, id)
		}
		s.mu.Unlock()
		s.send(&cellpb.HostFrame{Sessions: ids, Body: &cellpb.HostFrame_Push{Push: push(pts, text, pts)}})
	}
}

func (h *host) set(f func(*host)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
}

func mustMarshal(m pb.Message) []byte {
	b, err := pb.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// keys signs and checks the tests' tokens.
type keys struct {
	asked  *atomic.Int64 // counted up by every look-up
	late   *atomic.Int64 // so many look-ups find nothing yet
	signer *token.Signer
}

func newKeys(t testing.TB) keys {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keys{asked: new(atomic.Int64), late: new(atomic.Int64), signer: token.NewSigner(private)}
}

func (k keys) PublicKey(kid string) (ed25519.PublicKey, bool) {
	if k.asked.Add(1) <= k.late.Load() {
		return nil, false
	}
	return k.signer.PublicKey(), kid == k.signer.KeyID()
}

func (k keys) token(t testing.TB, expires time.Time) string {
	t.Helper()
	raw, err := k.signer.Sign(token.Claims{User: testUser, Device: "d1", Platform: "test", SessionNumber: 1, AuthorityVersion: 1,
		IssuedAt: expires.Add(-time.Hour), ExpiresAt: expires})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
