package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	cellpb "github.com/waggle-im/waggle/proto/cell"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := CreateAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newNode(t *testing.T, a *Authority, id Identity) *Node {
	t.Helper()
	files := PairIn(t.TempDir(), id.Node)
	if err := a.IssueNode(files, id); err != nil {
		t.Fatal(err)
	}
	n, err := LoadNode(files.CertFile, files.KeyFile, a.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var (
	cellNode    = Identity{Role: RoleCell, Cell: "c1", Node: "c1-n1"}
	edgeNode    = Identity{Role: RoleEdge, Node: "e1"}
	controlNode = Identity{Role: RoleControlPlane, Node: "cp1"}
)

type storageServer struct {
	cellpb.UnimplementedStorageServer
	cellpb.UnimplementedNodeServer
	called chan Identity
}

func (s *storageServer) CreateReplica(ctx context.Context, _ *cellpb.CreateReplicaRequest) (*cellpb.CreateReplicaReply, error) {
	id, _ := PeerIdentity(ctx)
	s.called <- id
	return &cellpb.CreateReplicaReply{}, nil
}

func (s *storageServer) Raft(grpc.BidiStreamingServer[cellpb.RaftBatch, cellpb.RaftAck]) error {
	return nil
}

func serve(t *testing.T, n *Node) (addr string, srv *storageServer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv = &storageServer{called: make(chan Identity, 8)}
	g := grpc.NewServer(append(Authorize(Allowed), grpc.Creds(credentials.NewTLS(n.ServerTLS())))...)
	cellpb.RegisterStorageServer(g, srv)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return l.Addr().String(), srv
}

func call(t *testing.T, addr string, conf *tls.Config) error {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = cellpb.NewStorageClient(conn).CreateReplica(ctx, &cellpb.CreateReplicaRequest{})
	return err
}

func TestNodesKnowEachOther(t *testing.T) {
	a := newAuthority(t)
	addr, srv := serve(t, newNode(t, a, cellNode))
	if err := call(t, addr, newNode(t, a, controlNode).ClientTLS("c1-n1")); err != nil {
		t.Fatal(err)
	}
	if got := <-srv.called; got != controlNode {
		t.Errorf("the caller was taken for %v", got)
	}
}

func TestCallerRefusesAnotherNode(t *testing.T) {
	a := newAuthority(t)
	addr, _ := serve(t, newNode(t, a, cellNode))
	err := call(t, addr, newNode(t, a, controlNode).ClientTLS("c1-n2"))
	if err == nil || !strings.Contains(err.Error(), "wanted node c1-n2") {
		t.Errorf("node c1-n1 passed for c1-n2: %v", err)
	}
	// Another cluster's node of the right name.
	stranger, _ := serve(t, newNode(t, newAuthority(t), cellNode))
	if err := call(t, stranger, newNode(t, a, controlNode).ClientTLS("c1-n1")); err == nil {
		t.Error("a node of another authority was accepted")
	}
}

func TestServerRefusesStrangers(t *testing.T) {
	a := newAuthority(t)
	addr, srv := serve(t, newNode(t, a, cellNode))
	other := newAuthority(t)
	files := PairIn(t.TempDir(), "x")
	if err := other.IssueNode(files, controlNode); err != nil {
		t.Fatal(err)
	}
	foreign, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	web := PairIn(t.TempDir(), "web")
	if err := a.IssueWeb(web); err != nil {
		t.Fatal(err)
	}
	webPair, err := tls.LoadX509KeyPair(web.CertFile, web.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{
		"no certificate": nil, "foreign authority": {foreign}, "web certificate": {webPair},
	} {
		if err := call(t, addr, &tls.Config{InsecureSkipVerify: true, Certificates: certs}); err == nil {
			t.Errorf("%s: the call went through", name)
		}
	}
	if len(srv.called) != 0 {
		t.Error("a handler ran for a stranger")
	}
}

func TestRolesAreEnforced(t *testing.T) {
	a := newAuthority(t)
	addr, srv := serve(t, newNode(t, a, cellNode))
	err := call(t, addr, newNode(t, a, edgeNode).ClientTLS("c1-n1"))
	if status.Code(err) != codes.PermissionDenied || len(srv.called) != 0 {
		t.Errorf("an edge created a replica: %v", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(newNode(t, a, edgeNode).ClientTLS("c1-n1"))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := cellpb.NewStorageClient(conn).Raft(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an edge opened a raft stream: %v", err)
	}
}

func TestAllowedIsTheMatrix(t *testing.T) {
	operator := Identity{Role: RoleOperator, Node: "ann"}
	etcd := Identity{Role: RoleEtcd, Node: "etcd"}
	all := []Identity{edgeNode, cellNode, controlNode, operator, etcd}
	for method, roles := range map[string]string{
		"/waggle.cell.v1.Chat/Attach":             "edge",
		"/waggle.cell.v1.Chat/Relay":              "cell controlplane",
		"/waggle.cell.v1.Storage/Raft":            "cell",
		"/waggle.cell.v1.Storage/Snapshot":        "cell",
		"/waggle.cell.v1.Storage/Lead":            "cell",
		"/waggle.cell.v1.Storage/CreateReplica":   "cell controlplane",
		"/waggle.cell.v1.Node/WhoHosts":           "edge cell controlplane",
		"/waggle.control.v1.Accounts/Login":       "edge",
		"/waggle.control.v1.Accounts/Logout":      "edge",
		"/waggle.control.v1.Accounts/FindUser":    "edge cell",
		"/waggle.control.v1.Accounts/FindPeople":  "edge cell",
		"/waggle.control.v1.Operator/AddAccounts": "operator",
		"/waggle.cell.v1.Chat/":                   "",
		"/unheard.of/Method":                      "",
		"nonsense":                                "",
	} {
		for _, id := range all {
			want := strings.Contains(" "+roles+" ", " "+id.Role+" ")
			if got := Allowed(method, id); got != want {
				t.Errorf("Allowed(%s, %s) = %v", method, id.Role, got)
			}
		}
	}
}

func TestCertificatesAreReloaded(t *testing.T) {
	a := newAuthority(t)
	files := PairIn(t.TempDir(), "web")
	if err := a.IssueWeb(files); err != nil {
		t.Fatal(err)
	}
	w, err := LoadWeb(files.CertFile, files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Now()
	w.files.now = func() time.Time { return clock }
	first, _ := w.GetCertificate(nil)
	if err := a.IssueWeb(files, "example.org"); err != nil {
		t.Fatal(err)
	}
	if same, _ := w.GetCertificate(nil); same != first {
		t.Error("the files were looked at again too early")
	}
	clock = clock.Add(time.Minute)
	second, _ := w.GetCertificate(nil)
	if bytes.Equal(first.Certificate[0], second.Certificate[0]) {
		t.Fatal("the new certificate is not in use")
	}
	if err := os.WriteFile(files.CertFile, []byte("broken"), 0o644); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(time.Minute)
	if third, _ := w.GetCertificate(nil); third != second {
		t.Error("a broken file replaced a good certificate")
	}
}

func TestEnsureKeepsWhatIsGood(t *testing.T) {
	dir := t.TempDir()
	a, err := EnsureAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateAuthority(dir); err == nil {
		t.Error("an authority was replaced")
	}
	files := PairIn(dir, "c1-n1")
	read := func() string {
		data, err := os.ReadFile(files.CertFile)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	ensure := func(id Identity, hosts ...string) string {
		again, err := EnsureAuthority(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.EnsureNode(files, id, hosts...); err != nil {
			t.Fatal(err)
		}
		return read()
	}
	first := ensure(cellNode)
	if ensure(cellNode) != first {
		t.Error("a good certificate was replaced")
	}
	second := ensure(cellNode, "n1.example.org")
	if second == first {
		t.Error("a host was added, the certificate was not replaced")
	}
	if ensure(Identity{Role: RoleCell, Cell: "c2", Node: "c1-n1"}) == second {
		t.Error("a certificate of another cell stayed")
	}
	if runtime.GOOS != "windows" {
		for _, f := range []string{files.KeyFile, filepath.Join(dir, CAKeyFile)} {
			if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: mode %v, %v", f, info.Mode(), err)
			}
		}
	}
	pool, err := LoadPool(a.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestIdentityHasOneSpelling(t *testing.T) {
	for _, id := range []Identity{
		{Role: "king", Node: "n"}, {Role: RoleEdge, Cell: "c1", Node: "e1"}, {Role: RoleCell, Node: "n"},
		{Role: RoleEdge, Node: ""}, {Role: RoleEdge, Node: "a/b"}, {Role: RoleEdge, Node: "a b"}, {Role: RoleCell, Cell: "-", Node: "n"},
	} {
		if id.Validate() == nil {
			t.Errorf("%+v was accepted", id)
		}
		if err := newAuthority(t).IssueNode(PairIn(t.TempDir(), "x"), id); err == nil {
			t.Errorf("%+v was certified", id)
		}
	}
	if _, err := LoadNode("none", "none", "none"); err == nil {
		t.Error("missing files were loaded")
	}
}

func TestSigningKeyIsKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signing-key.pem")
	first, err := EnsureSigningKey(file)
	if err != nil {
		t.Fatal(err)
	}
	second, err := EnsureSigningKey(file)
	if err != nil || !first.Equal(second) {
		t.Errorf("another key after restart: %v", err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureSigningKey(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken file: %v", err)
	}
}
