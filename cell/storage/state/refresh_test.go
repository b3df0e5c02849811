package state

import (
	"crypto/sha256"
	"testing"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

func hashOf(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

func TestRefreshRotatesAndNoticesReuse(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	logins := 0
	begin := func() {
		logins++
		b.do(&cellpb.Command{Body: &cellpb.Command_LoginDevice{LoginDevice: &cellpb.LoginDevice{
			User: uint64(user), Device: "phone", Nonce: []byte{byte(logins)}, RefreshHash: hashOf("1"), RefreshFamily: hashOf("family"), Platform: "p",
		}}})
	}
	refresh := func(family, token, next string) *cellpb.Result {
		return b.do(&cellpb.Command{Body: &cellpb.Command_RefreshDevice{RefreshDevice: &cellpb.RefreshDevice{
			User: uint64(user), Device: "phone", Family: hashOf(family), Hash: hashOf(token), NextHash: hashOf(next),
		}}})
	}
	good := func(what string, r *cellpb.Result) {
		t.Helper()
		if r.Code != 0 || r.Ended || r.SessionNumber == 0 || r.AuthorityVersion == 0 || r.Platform != "p" {
			t.Errorf("%s: %v", what, r)
		}
	}
	begin()
	good("the first", refresh("family", "1", "2"))
	good("the first again, its answer was lost", refresh("family", "1", "2"))
	good("and elsewhere", refresh("family", "1", "2b"))
	good("a successor", refresh("family", "2", "3"))
	good("the same again", refresh("family", "2", "3"))
	wantCode(t, refresh("made up", "1", "x"), proto.CodeSessionEnded)
	good("what is made up ends nothing", refresh("family", "3", "4"))
	if r := refresh("family", "2", "x"); !r.Ended || r.SessionNumber == 0 {
		t.Errorf("a token whose successor was used: %v, want the device ended", r)
	}
	if len(active(b, user)) != 0 {
		t.Error("the device is still active")
	}
	wantCode(t, refresh("family", "3", "4"), proto.CodeSessionEnded)

	begin()
	good("after a login", refresh("family", "1", "2"))
	b.do(&cellpb.Command{Body: &cellpb.Command_RaiseAuthority{RaiseAuthority: &cellpb.RaiseAuthority{User: uint64(user), Nonce: []byte("r")}}})
	wantCode(t, refresh("family", "1", "2"), proto.CodeSessionEnded)
	wantCode(t, refresh("family", "2", "3"), proto.CodeSessionEnded)
	wantCode(t, b.do(&cellpb.Command{Body: &cellpb.Command_RefreshDevice{RefreshDevice: &cellpb.RefreshDevice{User: uint64(user), Device: "phone"}}}), proto.CodeBadRequest)
}

func TestUnusedSuccessorsAreBounded(t *testing.T) {
	b := forTest(t, newRig(t, 1))
	user := b.addUser()
	b.do(&cellpb.Command{Body: &cellpb.Command_LoginDevice{LoginDevice: &cellpb.LoginDevice{
		User: uint64(user), Device: "phone", RefreshHash: hashOf("1"), RefreshFamily: hashOf("f"),
	}}})
	for i := range 100 {
		r := b.do(&cellpb.Command{Body: &cellpb.Command_RefreshDevice{RefreshDevice: &cellpb.RefreshDevice{
			User: uint64(user), Device: "phone", Family: hashOf("f"), Hash: hashOf("1"), NextHash: hashOf(string(rune('a' + i))),
		}}})
		wantCode(t, r, proto.CodeOK)
	}
	if n := len(active(b, user)["phone"].NextHashes); n != successorsMax {
		t.Errorf("%d successors are kept", n)
	}
}
