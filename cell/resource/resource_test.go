package resource

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/cell/resource/files"
	"github.com/waggle-im/waggle/cell/resource/live/rights"
	"github.com/waggle-im/waggle/internal/certs"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nobody is a cluster without ranges and nodes.
type nobody struct{}

func (nobody) Do(context.Context, proto.RangeID, *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	return nil, errors.New("nobody is asked")
}
func (nobody) Routes() *sharding.Map                         { return sharding.New(nil) }
func (nobody) FilesAddr(proto.NodeID) (string, bool)         { return "", false }
func (nobody) LiveAddrs(proto.NodeID) (string, string, bool) { return "", "", false }
func (nobody) FilesNodes(proto.CellID) []proto.NodeID        { return nil }

// TestOnlyEdgesAndCellsMayCall: whoever is let in is believed about who calls.
func TestOnlyEdgesAndCellsMayCall(t *testing.T) {
	dir := t.TempDir()
	ca, err := certs.EnsureAuthority(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	node := func(id certs.Identity) *certs.Node {
		t.Helper()
		pair := certs.PairIn(filepath.Join(dir, "certs"), id.Node)
		if err := ca.EnsureNode(pair, id); err != nil {
			t.Fatal(err)
		}
		n, err := certs.LoadNode(pair.CertFile, pair.KeyFile, ca.CAFile())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	own := node(certs.Identity{Role: certs.RoleCell, Cell: "c1", Node: "c1-n1"})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Files: files.Config{Node: "c1-n1", Cell: "c1", Dir: filepath.Join(dir, "files")},
		Who:   rights.Config{Node: "c1-n1", Cell: "c1", Dir: filepath.Join(dir, "live")},
	}, Deps{
		Listener: l, ServerTLS: own.ServerTLS(), ClientTLS: own.ClientTLS, Ranges: nobody{}, Directory: nobody{},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for want, ids := range map[int][]certs.Identity{
		http.StatusUnauthorized: { // let in, and then asked who calls
			{Role: certs.RoleEdge, Node: "e1"}, {Role: certs.RoleCell, Cell: "c2", Node: "c2-n1"},
		},
		http.StatusForbidden: {
			{Role: certs.RoleControlPlane, Node: "cp1"}, {Role: certs.RoleEtcd, Node: "etcd"}, {Role: certs.RoleOperator, Node: "olga"},
		},
	} {
		for _, id := range ids {
			trip := &http.Transport{TLSClientConfig: node(id).ClientTLS("c1-n1"), ForceAttemptHTTP2: true}
			resp, err := trip.RoundTrip(must(http.NewRequest("GET", "https://"+l.Addr().String()+"/files", nil)))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want || resp.ProtoMajor != 2 {
				t.Errorf("%s is answered %d over %s, want %d", id, resp.StatusCode, resp.Proto, want)
			}
			trip.CloseIdleConnections()
		}
	}
	bare := own.ClientTLS("c1-n1")
	bare.GetClientCertificate = nil
	trip := &http.Transport{TLSClientConfig: bare, ForceAttemptHTTP2: true}
	if resp, err := trip.RoundTrip(must(http.NewRequest("GET", "https://"+l.Addr().String()+"/files", nil))); err == nil {
		_ = resp.Body.Close()
		t.Error("who shows no certificate is let in")
	}
	trip.CloseIdleConnections()
}

func must(r *http.Request, err error) *http.Request {
	if err != nil {
		panic(err)
	}
	return r
}
