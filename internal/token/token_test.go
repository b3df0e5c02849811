package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/waggle-im/waggle/proto"
)

type keySet map[string]ed25519.PublicKey

func (k keySet) PublicKey(kid string) (ed25519.PublicKey, bool) {
	key, ok := k[kid]
	return key, ok
}

func newSigner(t testing.TB) (*Signer, keySet) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSigner(private)
	return s, keySet{s.KeyID(): s.PublicKey()}
}

var issued = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func someClaims() Claims {
	return Claims{
		User: 4242, Device: "dev-1", Platform: "linux", SessionNumber: 1<<63 + 7, AuthorityVersion: 3,
		IssuedAt: issued, ExpiresAt: issued.Add(proto.TokenLifetime),
	}
}

func mustSign(t testing.TB, s *Signer, c Claims) string {
	t.Helper()
	raw, err := s.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func wantCode(t *testing.T, err error, code proto.Code) {
	t.Helper()
	var e *proto.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got error %v, want %s", err, code)
	}
	if !strings.Contains(e.Message, "log in again") {
		t.Errorf("the message names no way out: %q", e.Message)
	}
}

func TestVerifyReturnsWhatWasSigned(t *testing.T) {
	s, keys := newSigner(t)
	raw := mustSign(t, s, someClaims())
	got, err := Verify(raw, keys, issued.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	got.IssuedAt, got.ExpiresAt = got.IssuedAt.UTC(), got.ExpiresAt.UTC()
	if got != someClaims() {
		t.Errorf("got %+v, want %+v", got, someClaims())
	}
	if len(raw) > BytesMax {
		t.Errorf("the token has %d bytes", len(raw))
	}
}

func TestVerifyTellsExpiredFromBad(t *testing.T) {
	s, keys := newSigner(t)
	raw := mustSign(t, s, someClaims())
	_, err := Verify(raw, keys, issued.Add(proto.TokenLifetime+time.Second))
	wantCode(t, err, proto.CodeTokenExpired)
	// A forged token is not "expired", whatever it says.
	other, _ := newSigner(t)
	other.kid = s.kid
	_, err = Verify(mustSign(t, other, someClaims()), keys, issued.Add(48*time.Hour))
	wantCode(t, err, proto.CodeBadToken)
	_, err = Verify(raw, keys, issued.Add(-2*time.Minute))
	wantCode(t, err, proto.CodeBadToken)
}

func TestVerifyRefuses(t *testing.T) {
	s, keys := newSigner(t)
	stranger, _ := newSigner(t)
	good := mustSign(t, s, someClaims())
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	valid := wireClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: "17", Audience: jwt.ClaimStrings{Audience},
			IssuedAt: jwt.NewNumericDate(issued), ExpiresAt: jwt.NewNumericDate(issued.Add(time.Hour)),
		},
		Device: "d",
	}
	with := func(change func(*wireClaims)) string {
		w := valid
		change(&w)
		tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, w)
		tok.Header["kid"] = s.KeyID()
		raw, err := tok.SignedString(s.private)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if _, err := Verify(with(func(*wireClaims) {}), keys, issued); err != nil {
		t.Fatalf("the unchanged claims are refused: %v", err)
	}
	hmacTok := jwt.NewWithClaims(jwt.SigningMethodHS256, valid)
	hmacTok.Header["kid"] = s.KeyID()
	hmacRaw, err := hmacTok.SignedString([]byte(s.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	noneTok := jwt.NewWithClaims(jwt.SigningMethodNone, valid)
	noneTok.Header["kid"] = s.KeyID()
	noneRaw, err := noneTok.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"empty":             "",
		"garbage":           "a.b.c",
		"huge":              strings.Repeat("a", BytesMax+1),
		"unknown key":       mustSign(t, stranger, someClaims()),
		"alg none":          noneRaw,
		"alg HS256":         hmacRaw,
		"no kid":            b64([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + parts[1] + "." + parts[2],
		"payload changed":   parts[0] + "." + b64([]byte(`{"sub":"1","aud":"waggle","iat":1,"exp":9999999999,"dev":"d"}`)) + "." + parts[2],
		"signature cut":     good[:len(good)-4],
		"other audience":    with(func(w *wireClaims) { w.Audience = jwt.ClaimStrings{"other"} }),
		"no audience":       with(func(w *wireClaims) { w.Audience = nil }),
		"no expiry":         with(func(w *wireClaims) { w.ExpiresAt = nil }),
		"no issue time":     with(func(w *wireClaims) { w.IssuedAt = nil }),
		"too long":          with(func(w *wireClaims) { w.ExpiresAt = jwt.NewNumericDate(issued.Add(25 * time.Hour)) }),
		"no user":           with(func(w *wireClaims) { w.Subject = "" }),
		"user 0":            with(func(w *wireClaims) { w.Subject = "0" }),
		"no device":         with(func(w *wireClaims) { w.Device = "" }),
		"device too long":   with(func(w *wireClaims) { w.Device = strings.Repeat("d", 65) }),
		"platform too long": with(func(w *wireClaims) { w.Platform = strings.Repeat("d", 33) }),
	}
	for name, raw := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := Verify(raw, keys, issued)
			wantCode(t, err, proto.CodeBadToken)
			if c != (Claims{}) {
				t.Errorf("claims came with the error: %+v", c)
			}
		})
	}
}

func TestSignRefusesWhatVerifyWould(t *testing.T) {
	s, _ := newSigner(t)
	c := someClaims()
	c.ExpiresAt = c.IssuedAt.Add(proto.TokenLifetime + time.Second)
	if _, err := s.Sign(c); err == nil {
		t.Error("signed a token valid for more than 24 hours")
	}
}

func FuzzVerify(f *testing.F) {
	s, keys := newSigner(f)
	good := mustSign(f, s, someClaims())
	f.Add(good)
	f.Add("a.b.c")
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := Verify(raw, keys, issued)
		if err != nil {
			if code := proto.CodeOf(err); code != proto.CodeBadToken && code != proto.CodeTokenExpired {
				t.Fatalf("error %v has code %s", err, code)
			}
			return
		}
		if raw != good || c.User != 4242 {
			t.Fatalf("accepted a token that was never signed: %q", raw)
		}
	})
}
