package testcluster

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/waggle-im/waggle/internal/devcluster"
)

// The second factor over HTTP, as curl would use it: set up, enable, needed at
// login, each code once, disabled with a recovery code.
func TestSecondFactorOverHTTP(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	p := newApplicant(c)
	ann := c.AddUser("ann", "c1")
	type reply struct {
		Error         int      `json:"error"`
		Code          string   `json:"code"`
		Secret        string   `json:"secret"`
		RecoveryCodes []string `json:"recovery_codes"`
		Token         string   `json:"token"`
	}
	post := func(path, token, body string) (out reply) {
		t.Helper()
		req, err := http.NewRequestWithContext(c.Context(), http.MethodPost, "https://"+c.options.Listen+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := p.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if err := json.NewDecoder(answer.Body).Decode(&out); err != nil {
			t.Fatal(err)
		}
		if kind := answer.Header.Get("Content-Type"); (out.Error != 0) != (kind == "application/problem+json") {
			t.Errorf("%s: %s for %+v", path, kind, out)
		}
		return out
	}
	login := func(code string) reply {
		t.Helper()
		return post("/trylogin_server", "", `{"username":"ann","password":"`+password+`","device":"phone","totp":"`+code+`"}`)
	}
	if r := post("/totp/setup", "", ""); r.Error != 17 {
		t.Errorf("without a token: %+v", r)
	}
	setup := post("/totp/setup", ann.Token, "")
	code := func(at time.Duration) string {
		out, err := totp.GenerateCode(setup.Secret, time.Now().Add(at))
		if err != nil {
			t.Fatalf("%+v: %v", setup, err)
		}
		return out
	}
	if r := login(""); r.Error != 0 {
		t.Errorf("before it is on: %+v", r)
	}
	if r := post("/totp/enable", ann.Token, `{"code":"`+code(-time.Hour)+`"}`); r.Error != 17 || r.Code != "wrong_totp" {
		t.Errorf("an old code: %+v", r)
	}
	enabled := post("/totp/enable", ann.Token, `{"code":"`+code(0)+`"}`)
	if len(enabled.RecoveryCodes) != 8 {
		t.Fatalf("%+v", enabled)
	}
	if r := login(""); r.Error != 17 || r.Code != "totp_required" || r.Token != "" {
		t.Errorf("without a code: %+v", r)
	}
	if r := login(enabled.RecoveryCodes[0]); r.Error != 0 || r.Token == "" {
		t.Errorf("with a recovery code: %+v", r)
	}
	if r := login(enabled.RecoveryCodes[0]); r.Error != 17 || r.Code != "wrong_totp" {
		t.Errorf("with the same again: %+v", r)
	}
	// The next step's code: allowed for clocks that are ahead, and later than
	// the one it was enabled with, unless that step has begun meanwhile.
	if r := login(code(30 * time.Second)); r.Error != 0 {
		t.Errorf("with the next code: %+v", r)
	}
	if r := post("/totp/disable", ann.Token, `{"code":"`+enabled.RecoveryCodes[1]+`"}`); r.Error != 0 {
		t.Errorf("disable: %+v", r)
	}
	if r := login(""); r.Error != 0 {
		t.Errorf("after it is off: %+v", r)
	}
}
