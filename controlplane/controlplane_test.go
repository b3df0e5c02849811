package controlplane

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

func add(t *testing.T, op controlpb.OperatorClient, reqs ...*controlpb.AddAccountRequest) []*controlpb.AddAccountReply {
	t.Helper()
	stream, err := op.AddAccounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for _, r := range reqs {
			if stream.Send(r) != nil {
				return
			}
		}
		_ = stream.CloseSend()
	}()
	var out []*controlpb.AddAccountReply
	for {
		reply, err := stream.Recv()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, reply)
	}
}

func addCells(t *testing.T, op controlpb.OperatorClient, cells ...string) {
	t.Helper()
	for _, cell := range cells {
		if reply, err := op.AddCell(t.Context(), &controlpb.AddCellRequest{Cell: cell}); err != nil || reply.Cell.Cell != cell {
			t.Fatal(reply, err)
		}
	}
}

func wantCode(t *testing.T, err error, code proto.Code) {
	t.Helper()
	if got := proto.CodeOf(controlclient.FromStatus(err)); got != code {
		t.Errorf("got %s (%v), want %s", got, err, code)
	}
}

const password = "correct horse"

func ann() *controlpb.AddAccountRequest {
	return &controlpb.AddAccountRequest{Name: "Ann", Email: "ann@example.org", Password: password}
}

func TestLoginGivesATokenThatEdgesAccept(t *testing.T) {
	c := newCluster(t)
	c.addCellNode("c1", "c1-n1")
	accounts, op, stop := c.start("cp1")
	addCells(t, op, "c1")
	c.announce(&controlpb.NodeRecord{Node: "e1", Addr: "127.0.0.1:1", Roles: []string{"edge"}, Tcp: "127.0.0.1:2", Quic: "127.0.0.1:2"})
	c.open("c1")
	added := add(t, op, ann())
	if len(added) != 1 || added[0].Code != 0 || !proto.RangeID(1).Contains(proto.EntityID(added[0].User)) {
		t.Fatalf("added %v", added)
	}

	login := func(device, nonce string) *controlpb.LoginReply { return mustLogin(t, accounts, device, nonce) }
	check := func(reply *controlpb.LoginReply, session uint64) token.Claims {
		t.Helper()
		claims, err := token.Verify(reply.Token, c.client, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if uint64(claims.User) != added[0].User || claims.Device != reply.Device || claims.SessionNumber != session || claims.AuthorityVersion != 1 {
			t.Errorf("claims %+v, want session %d of user %d", claims, session, added[0].User)
		}
		return claims
	}
	first := login("phone", "n1")
	check(first, 1)
	if first.Name != "ann" || first.User != added[0].User || len(first.Edges) != 1 || first.Edges[0].Tcp != "127.0.0.1:2" {
		t.Errorf("reply %v", first)
	}
	if row := c.ranges.devices[fmt.Sprint(first.User, "/phone")]; string(row.RefreshHash) != string(sum(first.RefreshToken)) || row.Platform != "linux" {
		t.Errorf("the device's row %v does not fit the refresh token", row)
	}
	again := login("phone", "n1")
	check(again, 1)
	if again.RefreshToken != first.RefreshToken {
		t.Error("the same nonce gave another refresh token")
	}
	second := login("phone", "n2")
	check(second, 2)
	if second.RefreshToken == first.RefreshToken {
		t.Error("two sessions share a refresh token")
	}
	fresh, repeated := login("", "n3"), login("", "n3")
	if fresh.Device == "" || fresh.Device == "phone" || fresh.Device != repeated.Device || fresh.Device == login("", "").Device {
		t.Error("wrong new devices")
	}

	// Logging out with an old session's token does not end the newer one.
	row := c.ranges.devices[fmt.Sprint(first.User, "/phone")]
	if _, err := accounts.Logout(t.Context(), &controlpb.LogoutRequest{Token: first.Token}); err != nil || row.Ended {
		t.Errorf("%v, ended %v", err, row.Ended)
	}
	if _, err := accounts.Logout(t.Context(), &controlpb.LogoutRequest{Token: second.Token}); err != nil || !row.Ended {
		t.Errorf("%v, ended %v", err, row.Ended)
	}

	// After a restart: the same accounts, the same key.
	stop()
	accounts, _, _ = c.start("cp1")
	check(login("phone", "n4"), 3)
	if n := len(c.client.View().Keys); n != 1 {
		t.Errorf("%d keys after a restart", n)
	}
}

func TestLoginsAreRefused(t *testing.T) {
	c := newCluster(t)
	c.addCellNode("c1", "c1-n1")
	accounts, op, _ := c.start("cp1")
	addCells(t, op, "c1")
	c.open("c1")
	added := add(t, op, ann(), &controlpb.AddAccountRequest{Name: "cleo", Email: "cleo@example.org"})
	for name, req := range map[string]*controlpb.LoginRequest{
		"wrong password":  {Name: "ann", Password: "wrong horse"},
		"no password":     {Name: "ann"},
		"has no password": {Name: "cleo"},
		"unknown name":    {Name: "bob", Password: password},
		"not a name":      {Name: "17", Password: password},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := accounts.Login(t.Context(), req)
			wantCode(t, err, proto.CodeWrongPassword)
		})
	}
	_, err := accounts.Login(t.Context(), &controlpb.LoginRequest{Name: "ann", Password: password, Device: "a/b"})
	wantCode(t, err, proto.CodeBadRequest)
	_, err = accounts.Login(t.Context(), &controlpb.LoginRequest{Name: "ann", Password: password, Nonce: make([]byte, 65)})
	wantCode(t, err, proto.CodeBadRequest)
	_, err = accounts.Logout(t.Context(), &controlpb.LogoutRequest{Token: "x"})
	wantCode(t, err, proto.CodeBadToken)
	found, err := accounts.FindUser(t.Context(), &controlpb.FindUserRequest{Name: "aNN"})
	if err != nil || found.User != added[0].User || found.Name != "ann" {
		t.Errorf("found %v, %v", found, err)
	}
	_, err = accounts.FindUser(t.Context(), &controlpb.FindUserRequest{Name: "bob"})
	wantCode(t, err, proto.CodeUnknownUser)
}

func mustLogin(t *testing.T, accounts controlpb.AccountsClient, device, nonce string) *controlpb.LoginReply {
	t.Helper()
	reply, err := accounts.Login(t.Context(), &controlpb.LoginRequest{
		Name: "ANN", Password: password, Device: device, Platform: "linux", Nonce: []byte(nonce),
	})
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func sum(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }

func TestLoginFinishesARegistrationThatBrokeOff(t *testing.T) {
	c := newCluster(t)
	c.addCellNode("c1", "c1-n1")
	accounts, op, _ := c.start("cp1")
	addCells(t, op, "c1")
	c.open("c1")
	c.ranges.mu.Lock()
	c.ranges.down = true
	c.ranges.mu.Unlock()
	done := make(chan []*controlpb.AddAccountReply)
	go func() { done <- add(t, op, ann()) }()
	// The row is pending and its range down: so says logging in.
	deadline := time.Now().Add(time.Minute)
	for code := proto.CodeWrongPassword; code != proto.CodeUnavailable; {
		if time.Now().After(deadline) {
			t.Fatal("the row was not inserted in time")
		}
		_, err := accounts.Login(t.Context(), &controlpb.LoginRequest{Name: "ann", Password: password})
		code = proto.CodeOf(controlclient.FromStatus(err))
		if code != proto.CodeWrongPassword && code != proto.CodeUnavailable {
			t.Fatal(err)
		}
	}
	c.ranges.mu.Lock()
	c.ranges.down = false
	c.ranges.mu.Unlock()
	reply, err := accounts.Login(t.Context(), &controlpb.LoginRequest{Name: "ann", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	if added := <-done; added[0].Code == 0 && added[0].User != reply.User {
		t.Errorf("two users for one account: %d and %d", added[0].User, reply.User)
	}
	if len(c.ranges.users) != 1 {
		t.Errorf("%d users for one account", len(c.ranges.users))
	}
}

func TestAccountsAreAddedInOrderAndSpread(t *testing.T) {
	c := newCluster(t)
	c.addCellNode("c1", "c1-n1")
	c.addCellNode("c2", "c2-n1")
	_, op, _ := c.start("cp1")
	addCells(t, op, "c1", "c2")
	c.open("c1", "c2")
	var reqs []*controlpb.AddAccountRequest
	const n = 600
	for i := range n {
		reqs = append(reqs, &controlpb.AddAccountRequest{Name: fmt.Sprint("u", i), Email: fmt.Sprintf("u%d@example.org", i), WithToken: true})
	}
	reqs[100] = &controlpb.AddAccountRequest{Name: "17", Email: "x@example.org"}
	reqs[200].Cell = "c9"
	reqs[300].Cell = "c2"
	reqs[400] = &controlpb.AddAccountRequest{Name: "weak", Email: "weak@example.org", Password: "password"}
	replies := add(t, op, reqs...)
	if len(replies) != n {
		t.Fatalf("%d answers to %d accounts", len(replies), n)
	}
	perRange := map[proto.RangeID]int{}
	for i, r := range replies {
		if want := map[int]proto.Code{100: proto.CodeBadRequest, 200: proto.CodeUnknownCell, 400: proto.CodeBadRequest}[i]; proto.Code(r.Code) != want {
			t.Fatalf("account %d: %v, want %s", i, r, want)
		}
		if r.Name != reqs[i].Name {
			t.Fatalf("answer %d is of %s", i, r.Name)
		}
		if r.Code != 0 {
			continue
		}
		perRange[proto.EntityID(r.User).Range()]++
		if claims, err := token.Verify(r.Token, c.client, time.Now()); err != nil || uint64(claims.User) != r.User || r.RefreshToken == "" {
			t.Errorf("account %d: %+v, %v", i, claims, err)
		}
	}
	if len(perRange) != 2*proto.OpenRangesPerCell {
		t.Errorf("users in %d ranges only: %v", len(perRange), perRange)
	}
	if route, _ := c.client.Routes().Lookup(proto.EntityID(replies[300].User).Range()); route.Cell != "c2" {
		t.Errorf("asked for c2, landed in %s", route.Cell)
	}
	if again := add(t, op, reqs[0]); proto.Code(again[0].Code) != proto.CodeNameTaken {
		t.Errorf("added twice: %v", again[0])
	}
}

func TestListsJoinRecordsWithReports(t *testing.T) {
	c := newCluster(t)
	c.addCellNode("c1", "c1-n1")
	_, op, _ := c.start("cp1")
	addCells(t, op, "c1", "c2")
	c.open("c1")
	// A node that holds its lease and answers nobody.
	c.announce(&controlpb.NodeRecord{Node: "c1-n2", Cell: "c1", Addr: "127.0.0.1:1", Roles: []string{"chat"}})
	c.eventually("c1-n2", func(v *controlclient.View) bool { return v.Nodes["c1-n2"].Alive })
	user := add(t, op, ann())[0].User

	st, err := op.Status(t.Context(), &controlpb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode != "embedded" || st.Ranges != 8 || st.RangesWithoutLeader != 0 || len(st.Nodes) != 2 || len(st.Cells) != 2 {
		t.Errorf("status %v", st)
	}
	if all := strings.Join(st.Problems, "\n"); !strings.Contains(all, "cell c2 has no live storage node") || !strings.Contains(all, "c1-n2 holds its lease but does not answer") || len(st.Problems) != 2 {
		t.Errorf("problems:\n%s", all)
	}
	cells, err := op.ListCells(t.Context(), &controlpb.ListCellsRequest{})
	if err != nil || cells.Cells[0].State != "active" || cells.Cells[0].Ranges != 8 || cells.Cells[0].Users != 16 || cells.Cells[0].Headroom != 1 || cells.Cells[1].State != "waiting" {
		t.Errorf("cells %v, %v", cells, err)
	}
	nodes, err := op.ListNodes(t.Context(), &controlpb.ListNodesRequest{})
	if err != nil || nodes.Nodes[0].Ranges != 8 || nodes.Nodes[0].Leaders != 8 || nodes.Nodes[0].Sessions != 5 || nodes.Nodes[1].State != "alive" {
		t.Errorf("nodes %v, %v", nodes, err)
	}
	ranges, err := op.ListRanges(t.Context(), &controlpb.ListRangesRequest{})
	if err != nil || len(ranges.Ranges) != 8 {
		t.Fatalf("ranges %v, %v", ranges, err)
	}
	if r := ranges.Ranges[0]; r.Range != 1 || r.Start != 4096 || r.End != 8191 || r.Cell != "c1" || r.Epoch != 1 || r.Leader != "c1-n1" ||
		r.Host != "c1-n1" || len(r.Voters) != 1 || r.Entities != 2 || r.Bytes != 100 {
		t.Errorf("range %v", r)
	}
	for _, who := range []string{"Ann", fmt.Sprint(user)} {
		u, err := op.ShowUser(t.Context(), &controlpb.ShowUserRequest{User: who})
		if err != nil || u.User != user || u.Name != "ann" || u.Email != "ann@example.org" || u.Range != 1 || u.Cell != "c1" || u.Host != "c1-n1" || u.State != "active" {
			t.Errorf("user %v, %v", u, err)
		}
		if len(u.GetSessions()) != 1 || u.Sessions[0].Edge != "e1" {
			t.Errorf("sessions %v", u.GetSessions())
		}
	}
	_, err = op.ShowUser(t.Context(), &controlpb.ShowUserRequest{User: "4711"})
	wantCode(t, err, proto.CodeUnknownUser)
	_, err = op.AddCell(t.Context(), &controlpb.AddCellRequest{Cell: "No Cell"})
	wantCode(t, err, proto.CodeBadRequest)
}

func TestPeopleLogInAndRegisterWhileEtcdIsDown(t *testing.T) {
	c := newCluster(t)
	c.addCellNode("c1", "c1-n1")
	accounts, op, stop := c.start("cp1")
	addCells(t, op, "c1")
	c.open("c1")
	add(t, op, ann())
	c.etcd.Close()
	c.etcd = nil
	login := func() {
		t.Helper()
		if _, err := accounts.Login(t.Context(), &controlpb.LoginRequest{Name: "ann", Password: password}); err != nil {
			t.Error(err)
		}
	}
	login()
	if r := add(t, op, &controlpb.AddAccountRequest{Name: "bob", Email: "bob@example.org", WithToken: true}); r[0].Code != 0 {
		t.Errorf("bob: %v", r[0])
	}
	// And after a restart of the control plane, which then knows the cluster
	// from its copy on disk.
	stop()
	c.restartClient()
	accounts, op, _ = c.start("cp1")
	login()
	if r := add(t, op, &controlpb.AddAccountRequest{Name: "cleo", Email: "cleo@example.org", WithToken: true}); r[0].Code != 0 {
		t.Errorf("cleo: %v", r[0])
	}
	if u, err := op.ShowUser(t.Context(), &controlpb.ShowUserRequest{User: "bob"}); err != nil || u.Cell != "c1" {
		t.Errorf("bob: %v, %v", u, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, bad := range []Config{{}, {Node: "cp1"}, {Node: "cp1", DataDir: "x", Replicas: 2}} {
		if bad.Validate() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
