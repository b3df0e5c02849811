package login

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// device is a range with one device, and the published keys.
type device struct {
	row  cellpb.Device
	keys map[string]ed25519.PublicKey
}

func (d *device) PublicKey(kid string) (ed25519.PublicKey, bool) {
	key, ok := d.keys[kid]
	return key, ok
}

func (d *device) Do(_ context.Context, _ proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	c := req.GetLoginDevice()
	if !bytes.Equal(d.row.Nonce, c.Nonce) {
		d.row.SessionNumber++
		d.row.Nonce, d.row.RefreshHash, d.row.Platform = c.Nonce, c.RefreshHash, c.Platform
	}
	return &cellpb.RelayReply{Body: &cellpb.RelayReply_Result{Result: &cellpb.Result{SessionNumber: d.row.SessionNumber, AuthorityVersion: 4}}}, nil
}

func newIssuer(t *testing.T, d *device) *Issuer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return NewIssuer(private, d, d)
}

func TestLoginRepeatedElsewhereIsANewSessionWithItsOwnRefreshToken(t *testing.T) {
	d := &device{keys: map[string]ed25519.PublicKey{}}
	first, second := newIssuer(t, d), newIssuer(t, d)
	req := Request{User: 4242, Device: "d", Platform: "x\n" + strings.Repeat("y", 99), Nonce: []byte("n")}
	if _, err := first.Issue(t.Context(), req); proto.CodeOf(err) != proto.CodeNotReady {
		t.Fatalf("issued with a key nobody knows: %v", err)
	}
	d.keys[first.KeyID()], d.keys[second.KeyID()] = first.PublicKey(), second.PublicKey()
	var last string
	for i, issuer := range []*Issuer{first, first, second} {
		s, err := issuer.Issue(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := token.Verify(s.Token, d, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(i/2 + 1); claims.SessionNumber != want || claims.AuthorityVersion != 4 || len(claims.Platform) != token.PlatformBytesMax {
			t.Errorf("claims %+v, want session %d", claims, want)
		}
		if hash := sha256.Sum256([]byte(s.RefreshToken)); !bytes.Equal(hash[:], d.row.RefreshHash) {
			t.Errorf("login %d: the range's hash is of another refresh token", i)
		}
		if i == 2 && s.RefreshToken == last {
			t.Error("two control planes make the same refresh tokens")
		}
		last = s.RefreshToken
	}
}

func TestEdgesPreferTheLessLoadedAndTheLiving(t *testing.T) {
	edge := func(name string, alive bool, sessions uint64) controlclient.Node {
		return controlclient.Node{ID: proto.NodeID(name), Alive: alive, Record: &controlpb.NodeRecord{
			Node: name, Roles: []string{"edge"}, Tcp: name + ":1", Load: &controlpb.Load{Sessions: sessions},
		}}
	}
	v := &controlclient.View{Nodes: map[proto.NodeID]controlclient.Node{
		"e1": edge("e1", true, 10), "e2": edge("e2", true, 1000), "e3": edge("e3", false, 0),
	}}
	for range 50 {
		if got := Edges(v); len(got) != 2 || got[0].Edge != "e1" || got[0].Tcp != "e1:1" {
			t.Fatalf("got %v", got)
		}
	}
	v.Edges = map[proto.NodeID]*controlpb.EdgeRecord{"e1": {Edge: "e1", Drain: true}}
	for range 50 {
		if got := Edges(v); len(got) != 1 || got[0].Edge != "e2" {
			t.Fatalf("with e1 drained: %v", got)
		}
	}
	v.Nodes["e2"].Record.Leaving = true
	if got := Edges(v); len(got) != 2 {
		t.Errorf("with both leaving: %v", got)
	}
	v.Edges = nil
	v.Nodes["e1"], v.Nodes["e2"] = edge("e1", false, 0), edge("e2", false, 0)
	if got := Edges(v); len(got) != 3 {
		t.Errorf("with etcd away: %v", got)
	}
}
