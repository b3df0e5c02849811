package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/knadh/koanf/parsers/yaml"
	"google.golang.org/grpc"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// everything is an account service that answers all calls alike.
type everything struct{ err error }

func answer[T any](e everything) (*T, error) {
	if e.err != nil {
		return nil, e.err
	}
	return new(T), nil
}

func (e everything) Login(context.Context, *controlpb.LoginRequest, ...grpc.CallOption) (*controlpb.LoginReply, error) {
	reply, err := answer[controlpb.LoginReply](e)
	if err == nil {
		reply.Edges = []*controlpb.EdgeAddress{{Edge: "e1", Tcp: "h:1", Quic: "h:1"}}
	}
	return reply, err
}
func (e everything) Logout(context.Context, *controlpb.LogoutRequest, ...grpc.CallOption) (*controlpb.LogoutReply, error) {
	return answer[controlpb.LogoutReply](e)
}
func (e everything) FindPeople(context.Context, *controlpb.FindPeopleRequest, ...grpc.CallOption) (*controlpb.FindPeopleReply, error) {
	return answer[controlpb.FindPeopleReply](e)
}
func (e everything) FindUser(context.Context, *controlpb.FindUserRequest, ...grpc.CallOption) (*controlpb.FindUserReply, error) {
	return answer[controlpb.FindUserReply](e)
}
func (e everything) SendCode(context.Context, *controlpb.SendCodeRequest, ...grpc.CallOption) (*controlpb.SendCodeReply, error) {
	return answer[controlpb.SendCodeReply](e)
}
func (e everything) Register(context.Context, *controlpb.RegisterRequest, ...grpc.CallOption) (*controlpb.RegisterReply, error) {
	return answer[controlpb.RegisterReply](e)
}
func (e everything) CheckAccount(context.Context, *controlpb.CheckAccountRequest, ...grpc.CallOption) (*controlpb.CheckAccountReply, error) {
	return answer[controlpb.CheckAccountReply](e)
}
func (e everything) ResetPassword(context.Context, *controlpb.ResetPasswordRequest, ...grpc.CallOption) (*controlpb.ResetPasswordReply, error) {
	return answer[controlpb.ResetPasswordReply](e)
}
func (e everything) SetupTOTP(context.Context, *controlpb.TOTPRequest, ...grpc.CallOption) (*controlpb.SetupTOTPReply, error) {
	return answer[controlpb.SetupTOTPReply](e)
}
func (e everything) EnableTOTP(context.Context, *controlpb.TOTPRequest, ...grpc.CallOption) (*controlpb.EnableTOTPReply, error) {
	return answer[controlpb.EnableTOTPReply](e)
}
func (e everything) DisableTOTP(context.Context, *controlpb.TOTPRequest, ...grpc.CallOption) (*controlpb.DisableTOTPReply, error) {
	return answer[controlpb.DisableTOTPReply](e)
}
func (e everything) Refresh(context.Context, *controlpb.RefreshRequest, ...grpc.CallOption) (*controlpb.RefreshReply, error) {
	return answer[controlpb.RefreshReply](e)
}

// at walks down a parsed document.
func at(t *testing.T, v any, path ...string) any {
	t.Helper()
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok || m[p] == nil {
			t.Fatalf("openapi.yaml has no %s of %v", p, path)
		}
		v = m[p]
	}
	return v
}

func keysOf(v any) (out []string) {
	for k := range v.(map[string]any) {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// fieldsOf are the JSON names of a struct.
func fieldsOf(s reflect.Type) (out []string) {
	for i := range s.NumField() {
		out = append(out, s.Field(i).Tag.Get("json"))
	}
	sort.Strings(out)
	return out
}

// The description and the handlers name the same paths, fields and errors.
func TestOpenAPIIsWhatIsServed(t *testing.T) {
	w := httptest.NewRecorder()
	New(Config{Accounts: everything{}}).ServeHTTP(w, httptest.NewRequest("GET", "/openapi.yaml", nil))
	doc, err := yaml.Parser().Unmarshal(w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	paths := at(t, doc, "paths")
	var served []string
	for _, e := range (&gateway{}).endpoints() {
		served = append(served, e.path)
		post := at(t, paths, e.path, "post")
		request := at(t, post, "requestBody", "content", "application/json", "schema")
		if got, want := keysOf(at(t, request, "properties")), fieldsOf(e.request); !slices.Equal(got, want) {
			t.Errorf("%s takes %v, described are %v", e.path, want, got)
		}
		for _, f := range at(t, request, "required").([]any) {
			checkRequired(t, e, f.(string))
		}
		reply := at(t, post, "responses", "200", "content", "application/json", "schema", "properties")
		if got, want := keysOf(reply), fieldsOf(e.reply); !slices.Equal(got, want) {
			t.Errorf("%s answers %v, described are %v", e.path, want, got)
		}
		described := map[int]string{}
		for status, response := range at(t, post, "responses").(map[string]any) {
			if status == "200" {
				continue
			}
			for _, n := range at(t, response, "x-errors").([]any) {
				described[n.(int)] += status + " "
			}
		}
		want := append([]int{errorBadJSON, errorBadField}, e.errors...)
		for _, n := range want {
			if described[n] == "" {
				t.Errorf("%s may answer error %d, which is not described", e.path, n)
			}
		}
		if len(described) != len(want) {
			t.Errorf("%s: described errors %v, want %v", e.path, described, want)
		}
		checkErrors(t, e, described)
	}
	described := keysOf(paths)
	for _, path := range []string{"/live", "/live/{id}", "/live/{id}/ticket", "/live/{id}/{file}"} { // of [Live]
		if !slices.Contains(described, path) {
			t.Errorf("%s is not described", path)
		}
		described = slices.DeleteFunc(described, func(p string) bool { return p == path })
	}
	sort.Strings(served)
	if got := described; !slices.Equal(got, served) {
		t.Errorf("served are %v, described %v", served, got)
	}
}

// bodyWithout is a body that is right but for one field.
func bodyWithout(e endpoint, missing string) string {
	body := map[string]string{}
	for _, f := range fieldsOf(e.request) {
		if f != missing {
			body[f] = "x"
		}
	}
	raw, _ := json.Marshal(body)
	return string(raw)
}

func ask(t *testing.T, a controlpb.AccountsClient, path, body string) (*http.Response, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	New(Config{Accounts: a}).ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader(body)))
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatalf("%s %q: %v", path, w.Body, err)
	}
	return w.Result(), out
}

func checkRequired(t *testing.T, e endpoint, field string) {
	t.Helper()
	want := float64(errorBadField)
	if field == "cpatcha" {
		want = errorWrongCode
	}
	if reply, out := ask(t, everything{}, e.path, bodyWithout(e, field)); out["error"] != want || reply.StatusCode < 400 {
		t.Errorf("%s without %s: %d %v", e.path, field, reply.StatusCode, out)
	}
}

// checkErrors has the accounts refuse in every way: what comes out is
// described, with its status.
func checkErrors(t *testing.T, e endpoint, described map[int]string) {
	t.Helper()
	if reply, out := ask(t, everything{}, e.path, bodyWithout(e, "")); reply.StatusCode != 200 || out["error"] != 0.0 {
		t.Errorf("%s: %d %v", e.path, reply.StatusCode, out)
	}
	for number, code := range map[int]proto.Code{
		errorRedis: proto.CodeNoCodes, errorWrongCode: proto.CodeWrongCode, errorUnavailable: proto.CodeUnavailable,
		errorBadField: proto.CodeBadRequest, errorNoAccount: proto.CodeUnknownUser, errorTaken: proto.CodeNameTaken, errorTooMany: proto.CodeRateLimited,
	} {
		if described[number] == "" {
			continue
		}
		reply, out := ask(t, everything{controlclient.ToStatus(proto.Errorf(code, "as asked"))}, e.path, bodyWithout(e, ""))
		if out["error"] != float64(number) || !strings.Contains(described[number], fmt.Sprint(reply.StatusCode)) {
			t.Errorf("%s, %s: %d %v, described is %d with status %s", e.path, code, reply.StatusCode, out, number, described[number])
		}
		if retry := reply.Header.Get("Retry-After"); (code.Class() == proto.ClassRetryLater) != (retry != "") {
			t.Errorf("%s, %s: Retry-After %q", e.path, code, retry)
		}
	}
}

func TestLimitsCountForTheClientsAddress(t *testing.T) {
	for _, c := range []struct {
		remote, want string
		exempt       bool
	}{
		{"192.0.2.7:1", "192.0.2.7", true}, {"[::ffff:192.0.2.7]:1", "192.0.2.7", false}, {"[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::/64", false},
		{"127.0.0.1:1", "", true}, {"[::1]:1", "", true}, {"127.0.0.1:1", "127.0.0.1", false}, {"nonsense", "unknown", true},
	} {
		r := httptest.NewRequest("POST", "/refresh", nil)
		r.RemoteAddr = c.remote
		r.Header.Set("X-Forwarded-For", "198.51.100.1")
		if got := (&gateway{exemptLoopback: c.exempt}).clientAddress(r); got != c.want {
			t.Errorf("%s: %q, want %q", c.remote, got, c.want)
		}
	}
}

// No body makes an endpoint fail to answer in its own words.
func FuzzBodies(f *testing.F) {
	endpoints := (&gateway{}).endpoints()
	for i, e := range endpoints {
		f.Add(uint8(i), bodyWithout(e, ""))
		f.Add(uint8(i), `{"email":null,"username":7}`)
	}
	f.Add(uint8(0), `[]`)
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		e := endpoints[int(which)%len(endpoints)]
		reply, out := ask(t, everything{}, e.path, body)
		number, ok := out["error"].(float64)
		if !ok || (number == 0) != (reply.StatusCode == 200) || number != 0 && out["detail"] == "" {
			t.Fatalf("%s %q: %d %v", e.path, body, reply.StatusCode, out)
		}
	})
}
