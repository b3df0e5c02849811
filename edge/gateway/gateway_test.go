package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

type fakeAccounts struct {
	controlpb.AccountsClient
	got   *controlpb.LoginRequest
	reply *controlpb.LoginReply
	err   error
}

func (f *fakeAccounts) Login(_ context.Context, in *controlpb.LoginRequest, _ ...grpc.CallOption) (*controlpb.LoginReply, error) {
	f.got = in
	return f.reply, f.err
}

func post(t *testing.T, a controlpb.AccountsClient, body string) (*http.Response, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	New(Config{Accounts: a}).ServeHTTP(w, httptest.NewRequest("POST", "/trylogin_server", strings.NewReader(body)))
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatalf("%q: %v", w.Body, err)
	}
	return w.Result(), out
}

func TestLogin(t *testing.T) {
	f := &fakeAccounts{reply: &controlpb.LoginReply{User: 1 << 60, Name: "ann", Token: "tok", ExpiresMs: 1_700_000_000_000,
		RefreshToken: "ref", Device: "d9", Edges: []*controlpb.EdgeAddress{{Edge: "e1", Tcp: "h:1", Quic: "h:2"}}}}
	reply, out := post(t, f, `{"username":"ann","password":"secret12","platform":"cli"}`)
	if reply.StatusCode != 200 || out["error"] != 0.0 || out["uuid"] != "1152921504606846976" || out["token"] != "tok" ||
		out["expires_at"] != "2023-11-14T22:13:20Z" || out["host"] != "h" || out["port"] != "1" || out["device"] != "d9" {
		t.Fatalf("%d %v", reply.StatusCode, out)
	}
	if e := out["edges"].([]any)[0].(map[string]any); e["edge"] != "e1" || e["tcp"] != "h:1" || e["quic"] != "h:2" {
		t.Fatalf("edges: %v", e)
	}
	if f.got.Name != "ann" || f.got.Password != "secret12" || f.got.Platform != "cli" || len(f.got.Nonce) != 16 {
		t.Fatalf("asked %v", f.got)
	}
}

func TestProblems(t *testing.T) {
	good := `{"username":"ann","password":"secret12"}`
	limited := &proto.Error{Code: proto.CodeRateLimited, Message: "slow down", Retry: 1500 * time.Millisecond}
	for _, c := range []struct {
		name, body    string
		err           error
		status        int
		number        float64
		code, retryIn string
	}{
		{"no JSON", `{"username"`, nil, 400, 1, "bad_json", ""},
		{"missing", `{"username":"ann"}`, nil, 400, 15, "bad_request", ""},
		{"long name", `{"password":"x","username":"` + strings.Repeat("n", 99) + `"}`, nil, 400, 15, "bad_request", ""},
		{"too big", `"` + strings.Repeat("n", bodyBytesMax) + `"`, nil, 413, 1, "too_big", ""},
		{"wrong", good, controlclient.ToStatus(proto.Errorf(proto.CodeWrongPassword, "wrong")), 401, 17, "wrong_password", ""},
		{"limited", good, controlclient.ToStatus(limited), 429, 44, "rate_limited", "2"},
		{"unreachable", good, status.Error(codes.Unavailable, "dial"), 503, 14, "unavailable", "1"},
		{"no edge", good, nil, 503, 10, "no_edge", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reply, out := post(t, &fakeAccounts{reply: &controlpb.LoginReply{}, err: c.err}, c.body)
			if reply.StatusCode != c.status || out["error"] != c.number || out["code"] != c.code || out["detail"] == "" ||
				reply.Header.Get("Retry-After") != c.retryIn || reply.Header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%d %v %v", reply.StatusCode, reply.Header, out)
			}
		})
	}
}

func FuzzLoginBody(f *testing.F) {
	f.Add(`{"username":"ann","password":"secret12"}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, body string) {
		reply, out := post(t, &fakeAccounts{err: proto.Errorf(proto.CodeWrongPassword, "wrong")}, body)
		if reply.StatusCode < 400 || out["error"] == 0.0 {
			t.Fatalf("%d %v", reply.StatusCode, out)
		}
	})
}
