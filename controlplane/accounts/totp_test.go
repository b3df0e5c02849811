package accounts

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// totpSuite is part of the conformance suite.
func totpSuite(t *testing.T, s *Store) {
	a := activeAccount(t, s, "totp")
	if _, err := s.TOTP(t.Context(), a.ID); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a second factor nobody set up: %v", err)
	}
	hash := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	for _, secret := range []string{"FIRST", "SECOND"} {
		if err := s.SetupTOTP(a.ID, secret); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, want bool, got bool, err error) {
		t.Helper()
		if err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", what, got, err, want)
		}
	}
	used, err := s.UseTOTP(a.ID, 9, []byte("n"))
	want("a code before it is on", false, used, err)
	on, err := s.EnableTOTP(a.ID, "FIRST", 10, nil)
	want("a secret that was replaced", false, on, err)
	on, err = s.EnableTOTP(a.ID, "SECOND", 10, [][]byte{hash(1), hash(2)})
	want("enable", true, on, err)
	on, err = s.EnableTOTP(a.ID, "SECOND", 11, [][]byte{hash(3)})
	want("enable again", false, on, err)
	if err := s.SetupTOTP(a.ID, "THIRD"); !errors.Is(err, ErrDuplicate) {
		t.Errorf("set up over one in use: %v", err)
	}
	if got, err := s.TOTP(t.Context(), a.ID); err != nil || *got != (TOTP{"SECOND", true}) {
		t.Errorf("%+v, %v", got, err)
	}
	used, err = s.UseTOTP(a.ID, 10, []byte("n"))
	want("the code it was enabled with", false, used, err)
	var wins atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if ok, err := s.UseTOTP(a.ID, 11, []byte{byte(i)}); err != nil {
				t.Error(err)
			} else if ok {
				wins.Add(1)
			}
		})
	}
	if wg.Wait(); wins.Load() != 1 {
		t.Errorf("a code was used %d times", wins.Load())
	}
	used, err = s.UseTOTP(a.ID, 12, []byte("n"))
	want("the next", true, used, err)
	used, err = s.UseTOTP(a.ID, 12, []byte("n"))
	want("the same request again", true, used, err)
	used, err = s.UseTOTP(a.ID, 12, []byte("m"))
	want("another request", false, used, err)
	used, err = s.UseTOTP(a.ID, 11, []byte("n"))
	want("an earlier step", false, used, err)
	for i, ok := range []bool{true, false} {
		used, err = s.UseRecoveryCode(a.ID, hash(1))
		want([]string{"a recovery code", "the same again"}[i], ok, used, err)
	}
	used, err = s.UseRecoveryCode(a.ID, hash(3))
	want("a recovery code nobody was given", false, used, err)
	if err := s.DisableTOTP(a.ID); err != nil {
		t.Fatal(err)
	}
	used, err = s.UseRecoveryCode(a.ID, hash(2))
	want("a recovery code after the end", false, used, err)
	if _, err := s.TOTP(t.Context(), a.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the end: %v", err)
	}
}

func activeAccount(t *testing.T, s *Store, name string) *Account {
	t.Helper()
	a := someAccount(name)
	err := s.Insert(a)
	if err == nil {
		a.User = proto.RangeIDMax.Last() - proto.EntityID(a.ID)
		err = s.Activate(a.ID, a.User)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// resetSuite is part of the conformance suite.
func resetSuite(t *testing.T, s *Store) {
	a := activeAccount(t, s, "reset")
	nonce := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	if _, err := s.ResetOf(t.Context(), a.ID); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a reset nobody asked for: %v", err)
	}
	now := time.Now().UnixMilli()
	for i, hash := range []string{"$one", "$two"} { // the second replaces the first
		if err := s.ResetPassword(a.ID, hash, nonce(byte(i)), now); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.ResetOf(t.Context(), a.ID)
	if err != nil || r.User != a.User || !bytes.Equal(r.Nonce, nonce(1)) || r.CreatedMs != now {
		t.Fatalf("%+v, %v", r, err)
	}
	if got, err := s.ByName(t.Context(), a.Name); err != nil || got.PasswordHash != "$two" {
		t.Errorf("%+v, %v", got, err)
	}
	for before, n := range map[int64]int{now: 0, now + 1: 1} {
		if list, err := s.Resets(t.Context(), before, 0, 10); err != nil || len(list) != n {
			t.Errorf("%v, %v; want %d", list, err, n)
		}
	}
	if err := s.ResetDone(Reset{Account: a.ID, Nonce: nonce(0)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ResetOf(t.Context(), a.ID); err != nil {
		t.Errorf("the end of an earlier reset has ended the later: %v", err)
	}
	if err := s.ResetDone(r); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ResetOf(t.Context(), a.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("a finished reset: %v", err)
	}
}
