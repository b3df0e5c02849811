package accounts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openStore(t *testing.T, file string) *Store {
	t.Helper()
	s, err := Open(t.Context(), "sqlite:"+file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newStore(t *testing.T) *Store { return openStore(t, filepath.Join(t.TempDir(), "a b?.db")) }

func someAccount(name string) *Account {
	a := &Account{Name: name, Email: name + "@example.org", Range: 7, Created: time.UnixMilli(time.Now().UnixMilli())}
	_, _ = rand.Read(a.Key[:])
	return a
}

func TestStoreKeepsAccounts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "accounts.db")
	s := openStore(t, file)
	ann := someAccount("ann")
	ann.PasswordHash = "$argon2id$x"
	if err := s.Insert(ann); err != nil {
		t.Fatal(err)
	}
	for _, other := range []*Account{
		{Name: "ann", Email: "else@example.org"}, {Name: "else", Email: "ann@example.org"},
	} {
		if err := s.Insert(other); !errors.Is(err, ErrDuplicate) {
			t.Errorf("a second %s, %s: %v", other.Name, other.Email, err)
		}
	}
	if err := s.MovePending(ann.ID, 6, 9); err != nil {
		t.Fatal(err)
	}
	if err := s.MovePending(ann.ID, 7, 8); err != nil {
		t.Fatal(err)
	}
	const user = proto.EntityID(8*proto.RangeEntities + 5)
	if err := s.Activate(ann.ID, user); err != nil {
		t.Fatal(err)
	}
	if err := s.Activate(ann.ID, user+1); err != nil { // already active: no effect
		t.Fatal(err)
	}
	if err := s.MovePending(ann.ID, 8, 9); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, file) // and after a restart
	want := *ann
	want.Range, want.User, want.State = 8, user, StateActive
	for name, find := range map[string]func() (*Account, error){
		"name":  func() (*Account, error) { return s.ByName(t.Context(), "ann") },
		"email": func() (*Account, error) { return s.ByEmail(t.Context(), "ann@example.org") },
		"user":  func() (*Account, error) { return s.ByUser(t.Context(), user) },
	} {
		if got, err := find(); err != nil || *got != want {
			t.Errorf("by %s: got %+v, %v; want %+v", name, got, err, want)
		}
	}
	if _, err := s.ByName(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

func TestIdsAboveInt64AreKept(t *testing.T) {
	s := newStore(t)
	a := someAccount("last")
	a.Range = proto.RangeIDMax
	if err := s.Insert(a); err != nil {
		t.Fatal(err)
	}
	if err := s.Activate(a.ID, proto.RangeIDMax.Last()); err != nil {
		t.Fatal(err)
	}
	got, err := s.ByUser(t.Context(), proto.RangeIDMax.Last())
	if err != nil || got.User != proto.RangeIDMax.Last() || got.Range != proto.RangeIDMax {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestConcurrentInsertsAreEachJudged(t *testing.T) {
	s := newStore(t)
	const n = 200
	var wg sync.WaitGroup
	errs := make([]error, 2*n)
	ids := make([]int64, 2*n)
	for i := range 2 * n {
		wg.Go(func() {
			a := someAccount(fmt.Sprintf("u%d", i/2)) // every name twice
			errs[i] = s.Insert(a)
			ids[i] = a.ID
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for i := 0; i < 2*n; i += 2 {
		a, b := errs[i], errs[i+1]
		if (a == nil) == (b == nil) || a != nil && !errors.Is(a, ErrDuplicate) || b != nil && !errors.Is(b, ErrDuplicate) {
			t.Errorf("u%d: %v and %v; exactly one must be refused", i/2, a, b)
		}
		seen[ids[i]+ids[i+1]] = true
	}
	if len(seen) != n || seen[0] {
		t.Errorf("%d different row ids, want %d", len(seen), n)
	}
}

func TestNamesAndAddresses(t *testing.T) {
	for in, want := range map[string]string{"Ann": "ann", "a.b_c-9": "a.b_c-9", strings.Repeat("a", 32): strings.Repeat("a", 32)} {
		if got, err := CanonicalName(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "17", "9ann", ".ann", "-a", "a b", "änn", "a\x00", "g/7", strings.Repeat("a", 33)} {
		if got, err := CanonicalName(bad); proto.CodeOf(err) != proto.CodeBadRequest {
			t.Errorf("%q was accepted as %q", bad, got)
		}
	}
	if got, err := CanonicalEmail(" Ann@Example.ORG "); err != nil || got != "ann@example.org" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "ann", "Ann <ann@example.org>", "a@b@c", strings.Repeat("a", 250) + "@example.org"} {
		if _, err := CanonicalEmail(bad); proto.CodeOf(err) != proto.CodeBadRequest {
			t.Errorf("%q was accepted: %v", bad, err)
		}
	}
	if err := CheckPassword("correct horse", "ann", "ann@example.org"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"short", "Password1", "zzzzzzzzz", "annabella", "annabella@example.org", strings.Repeat("ab", 65)} {
		if CheckPassword(bad, "annabella", "annabella@example.org") == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	for i, p := range refusedPasswords() {
		if len(p) < PasswordBytesMin || p != strings.ToLower(p) {
			t.Errorf("refused password %d can never match", i)
		}
	}
}

func TestPasswords(t *testing.T) {
	h := NewHasher()
	hash, err := h.Hash(t.Context(), "correct horse")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("%s, %v", hash, err)
	}
	for _, c := range []struct {
		stored, password string
		want             bool
	}{
		{hash, "correct horse", true}, {hash, "correct horsE", false}, {hash, "", false}, {"", "correct horse", false}, {"", "", false},
	} {
		if got, err := h.Verify(t.Context(), c.stored, c.password); err != nil || got != c.want {
			t.Errorf("%q: %v, %v", c.password, got, err)
		}
	}
	// By the reference implementation:
	// echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1
	const known = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if got, err := h.Verify(t.Context(), known, "password"); err != nil || !got {
		t.Errorf("a hash of the reference implementation: %v, %v", got, err)
	}
	for _, bad := range []string{"x", "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=999999999,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$"} {
		if ok, err := h.Verify(t.Context(), bad, "password"); ok || err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestTooManyHashesAreRefused(t *testing.T) {
	h := &Hasher{slots: make(chan struct{}, 1), waiting: make(chan struct{}, 2)}
	if err := h.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.acquire(ended); proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("waited past its context: %v", err)
	}
	h.waiting <- struct{}{} // one more who waits
	if err := h.acquire(t.Context()); proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("the queue has no end: %v", err)
	}
	<-h.waiting
	h.release()
	if len(h.slots) != 0 || len(h.waiting) != 0 {
		t.Error("a place in the queue is lost")
	}
}

// cell stands for ranges that create users.
type cell struct {
	mu    sync.Mutex
	users map[[16]byte]proto.EntityID
	next  map[proto.RangeID]uint64
	full  map[proto.RangeID]bool
	open  []proto.RangeID
	// fail is asked before (false) and after (true) a user is created.
	fail func(after bool) error
}

func newCell(open ...proto.RangeID) *cell {
	return &cell{users: map[[16]byte]proto.EntityID{}, next: map[proto.RangeID]uint64{}, full: map[proto.RangeID]bool{}, open: open,
		fail: func(bool) error { return nil }}
}

func (c *cell) Place(_ proto.CellID, full proto.RangeID) (proto.RangeID, error) {
	for _, r := range c.open {
		if r != full {
			return r, nil
		}
	}
	return 0, proto.Errorf(proto.CodeNotReady, "no open range")
}

func (c *cell) CellOf(proto.RangeID) (proto.CellID, bool) { return "c1", true }

func (c *cell) CreateUser(_ context.Context, r proto.RangeID, key [16]byte, _ string) (proto.EntityID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.fail(false); err != nil {
		return 0, err
	}
	id, known := c.users[key]
	if !known {
		if c.full[r] {
			return 0, proto.Errorf(proto.CodeRangeFull, "range %s is full", r)
		}
		id = r.First() + proto.EntityID(c.next[r])
		c.next[r]++
		c.users[key] = id
	}
	return id, c.fail(true)
}

func newRegistrar(t *testing.T, c *cell) *Registrar {
	return NewRegistrar(newStore(t), NewHasher(), c, c, slog.New(slog.DiscardHandler))
}

var ann = Registration{Name: "Ann", Email: "ann@example.org", Password: "correct horse"}

func TestRegister(t *testing.T) {
	r := newRegistrar(t, newCell(3))
	a, err := r.Register(t.Context(), ann)
	if err != nil || a.User != proto.RangeID(3).First() || a.State != StateActive || a.Name != "ann" {
		t.Fatalf("%+v, %v", a, err)
	}
	for _, again := range []Registration{
		ann, {Name: "ANN", Email: "other@example.org"}, {Name: "other", Email: "Ann@example.org"},
	} {
		if _, err := r.Register(t.Context(), again); proto.CodeOf(err) != proto.CodeNameTaken {
			t.Errorf("%+v: %v", again, err)
		}
	}
	b, err := r.Register(t.Context(), Registration{Name: "bob", Email: "bob@example.org"})
	if err != nil || b.PasswordHash != "" || b.User != a.User+1 {
		t.Errorf("without password: %+v, %v", b, err)
	}
}

func TestRegistrationThatBrokeOffIsFinished(t *testing.T) {
	down := proto.Errorf(proto.CodeUnavailable, "down")
	for name, brokenAfter := range map[string]bool{"before the user was created": false, "after the user was created": true} {
		for how, finish := range map[string]func(*Registrar) error{
			"sweeper": func(r *Registrar) error { _, err := r.Sweep(t.Context(), time.Now().Add(time.Minute)); return err },
			"again":   func(r *Registrar) error { _, err := r.Register(t.Context(), ann); return err },
		} {
			t.Run(name+", by "+how, func(t *testing.T) {
				c := newCell(3)
				c.fail = func(after bool) error {
					if after == brokenAfter {
						return down
					}
					return nil
				}
				r := newRegistrar(t, c)
				if _, err := r.Register(t.Context(), ann); proto.CodeOf(err) != proto.CodeUnavailable {
					t.Fatalf("the fault had no effect: %v", err)
				}
				a, err := r.store.ByName(t.Context(), "ann")
				if err != nil || a.State != StatePending {
					t.Fatalf("%+v, %v", a, err)
				}
				// Somebody else cannot take it over meanwhile.
				if _, err := r.Register(t.Context(), Registration{Name: "ann", Email: "eve@example.org"}); proto.CodeOf(err) != proto.CodeNameTaken {
					t.Errorf("eve got the name: %v", err)
				}
				if err := finish(r); err == nil {
					t.Error("finished while the fault lasts")
				}
				c.mu.Lock()
				c.fail = func(bool) error { return nil }
				c.mu.Unlock()
				if err := finish(r); err != nil {
					t.Fatal(err)
				}
				a, err = r.store.ByName(t.Context(), "ann")
				if err != nil || a.State != StateActive || a.User != proto.RangeID(3).First() {
					t.Errorf("%+v, %v", a, err)
				}
				if len(c.users) != 1 {
					t.Errorf("%d users for one account", len(c.users))
				}
				if ok, err := r.hasher.Verify(t.Context(), a.PasswordHash, ann.Password); !ok || err != nil {
					t.Errorf("the password does not fit: %v", err)
				}
			})
		}
	}
}

func TestSweeperLeavesYoungRowsAndPassesStuckOnes(t *testing.T) {
	c := newCell(3)
	r := newRegistrar(t, c)
	stuck, fine := someAccount("stuck"), someAccount("fine")
	for _, a := range []*Account{stuck, fine} {
		if err := r.store.Insert(a); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := r.Sweep(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("took up young rows: %d, %v", n, err)
	}
	c.full[7], c.open = true, nil // stuck: its range is full and there is no other
	c.users[fine.Key] = proto.RangeID(7).First()
	n, err := r.Sweep(t.Context(), time.Now().Add(time.Hour))
	if n != 1 || err == nil {
		t.Errorf("finished %d, %v; want 1 and the other's error", n, err)
	}
}

func TestFullRangeIsLeft(t *testing.T) {
	c := newCell(3, 4)
	c.full[3] = true
	r := newRegistrar(t, c)
	a, err := r.Register(t.Context(), ann)
	if err != nil || a.Range != 4 || !a.Range.Contains(a.User) {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestDatabaseAddresses(t *testing.T) {
	d, err := dialectOf("mysql://waggle:s%40cret@db.example.org/waggle")
	if err != nil || !strings.Contains(d.source, "waggle:s@cret@tcp(db.example.org:3306)/waggle") {
		t.Errorf("%s, %v", d.source, err)
	}
	for _, bad := range []string{"", "sqlite:", "postgres://x", "mysql://h", "mysql://u:se cret@h:x/db"} {
		if _, err := dialectOf(bad); err == nil || strings.Contains(err.Error(), "cret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "no", "such", "folder", "a.db")); err == nil {
		t.Error("opened a database in a folder that does not exist")
	}
}
