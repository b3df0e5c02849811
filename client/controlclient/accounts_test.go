package controlclient

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waggle-im/waggle/internal/testservers"
	waggle "github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

type accountsServer struct {
	controlpb.UnimplementedAccountsServer
}

func (accountsServer) Login(_ context.Context, req *controlpb.LoginRequest) (*controlpb.LoginReply, error) {
	if req.Password != "right" {
		return nil, ToStatus(waggle.Errorf(waggle.CodeWrongPassword, "wrong name or password"))
	}
	return &controlpb.LoginReply{Name: req.Name}, nil
}

type viewer struct{ v *View }

func (v viewer) View() *View { return v.v }

type conns map[waggle.NodeID]*grpc.ClientConn

func (c conns) Conn(node waggle.NodeID) (*grpc.ClientConn, error) { return c[node], nil }

func TestAccountsAreAskedOfWhicheverControlPlaneAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	controlpb.RegisterAccountsServer(g, accountsServer{})
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	defer func() { g.Stop(); <-done }()

	v := &View{Nodes: map[waggle.NodeID]Node{}}
	dial := conns{}
	for name, addr := range map[waggle.NodeID]string{"cp1": testservers.FreeAddr(t), "cp2": l.Addr().String()} {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		dial[name] = conn
		v.Nodes[name] = Node{ID: name, Alive: true, Record: node(string(name), "", addr, "controlplane")}
	}
	a := NewAccounts(viewer{v}, dial)
	if reply, err := a.Login(t.Context(), &controlpb.LoginRequest{Name: "ann", Password: "right"}); err != nil || reply.Name != "ann" {
		t.Errorf("with cp1 down: %v, %v", reply, err)
	}
	if _, err := a.Login(t.Context(), &controlpb.LoginRequest{Name: "ann"}); waggle.CodeOf(err) != waggle.CodeWrongPassword {
		t.Errorf("refused with %v", err)
	}
	delete(v.Nodes, "cp2")
	if _, err := a.Login(t.Context(), &controlpb.LoginRequest{}); waggle.CodeOf(err) != waggle.CodeUnavailable {
		t.Errorf("with all down: %v", err)
	}
	delete(v.Nodes, "cp1")
	if _, err := a.FindUser(t.Context(), &controlpb.FindUserRequest{}); waggle.CodeOf(err) != waggle.CodeUnavailable {
		t.Errorf("with none known: %v", err)
	}
}
