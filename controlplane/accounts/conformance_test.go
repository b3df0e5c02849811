package accounts

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/testservers"
	"github.com/waggle-im/waggle/proto"
)

// The suite runs against the embedded database and a real server.
func TestStoreConformance(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { storeSuite(t, "sqlite:"+filepath.Join(t.TempDir(), "accounts.db")) })
	t.Run("mariadb", func(t *testing.T) {
		server, dsn := testservers.MariaDB(t)
		s := storeSuite(t, dsn)
		server.Restart()
		if _, err := s.ByName(t.Context(), "ann"); err != nil {
			t.Errorf("the next read after a restart: %v", err)
		}
		if err := s.Insert(someAccount("restarted")); err != nil {
			t.Errorf("the next write after a restart: %v", err)
		}
		server.Restart()
		if err := s.Insert(someAccount("again")); err != nil {
			t.Errorf("a write as the first request after a restart: %v", err)
		}
		server.Stop()
		if _, err := s.ByName(t.Context(), "ann"); proto.CodeOf(err) != proto.CodeUnavailable || errors.Is(err, ErrNotFound) {
			t.Errorf("without a server: %v", err)
		}
	})
}

func openDSN(t *testing.T, dsn string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// openTogether opens a new database by many control planes at once: each
// finds it with its tables.
func openTogether(t *testing.T, dsn string) {
	t.Helper()
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			s, err := Open(t.Context(), dsn)
			if err != nil {
				t.Errorf("opened together with others: %v", err)
				return
			}
			defer s.Close()
			if _, err := s.ByName(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
				t.Errorf("a read at once: %v", err)
			}
		})
	}
	all.Wait()
}

func storeSuite(t *testing.T, dsn string) *Store {
	openTogether(t, dsn)
	s := openDSN(t, dsn)
	ann := someAccount("ann")
	ann.PasswordHash, ann.Range = "$argon2id$x", proto.RangeIDMax
	if err := s.Insert(ann); err != nil {
		t.Fatal(err)
	}
	for _, second := range []*Account{{Name: "ann", Email: "else@example.org"}, {Name: "else", Email: "ann@example.org"}} {
		if err := s.Insert(second); !errors.Is(err, ErrDuplicate) {
			t.Errorf("a second %s, %s: %v", second.Name, second.Email, err)
		}
	}
	if pending, err := s.Pending(t.Context(), time.Now().Add(time.Hour), 0, 10); err != nil || len(pending) != 1 || pending[0].Name != "ann" {
		t.Errorf("pending: %v, %v", pending, err)
	}
	if err := s.MovePending(ann.ID, ann.Range, 8); err != nil {
		t.Fatal(err)
	}
	user := proto.RangeIDMax.Last()                       // above what a signed number holds
	for _, id := range []proto.EntityID{user, user - 1} { // the second has no effect
		if err := s.Activate(ann.ID, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetPassword(ann.ID, "$argon2id$y"); err != nil {
		t.Fatal(err)
	}
	s = openDSN(t, dsn) // as another process, or after a restart
	want := *ann
	want.Range, want.User, want.State, want.PasswordHash = 8, user, StateActive, "$argon2id$y"
	for by, find := range map[string]func() (*Account, error){
		"name":  func() (*Account, error) { return s.ByName(t.Context(), "ann") },
		"email": func() (*Account, error) { return s.ByEmail(t.Context(), "ann@example.org") },
		"user":  func() (*Account, error) { return s.ByUser(t.Context(), user) },
	} {
		if got, err := find(); err != nil || *got != want {
			t.Errorf("by %s: got %+v, %v; want %+v", by, got, err, want)
		}
	}
	for _, unknown := range []string{"nobody", "ANN"} {
		if a, err := s.ByName(t.Context(), unknown); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %+v, %v", unknown, a, err)
		}
	}
	byPrefix(t, s)
	concurrentInserts(t, s)
	totpSuite(t, s)
	resetSuite(t, s)
	return s
}

// A search finds active accounts by the beginning of their name, in order;
// each character stands for itself.
func byPrefix(t *testing.T, s *Store) {
	t.Helper()
	for i, name := range []string{"pat", "pa.t", "pa_t", "paxt", "pa-t", "pate", "p", "pb", "patpending"} {
		a := someAccount(name)
		if err := s.Insert(a); err != nil {
			t.Fatal(err)
		}
		if name != "patpending" {
			if err := s.Activate(a.ID, proto.EntityID(5000+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		prefix string
		limit  int
		want   string
	}{
		{"pat", 50, "pat pate"}, {"pa", 50, "pa-t pa.t pa_t pat pate paxt"}, {"pa", 3, "pa-t pa.t pa_t"}, {"pa_", 50, "pa_t"},
		{"PAT", 50, ""}, {"p%", 50, ""}, {"pat'", 50, ""}, {"pz", 50, ""}, {"pb", 50, "pb"}, {"pate", 50, "pate"}, {"patex", 50, ""},
	} {
		found, err := s.ByPrefix(t.Context(), test.prefix, test.limit)
		var names []string
		for _, a := range found {
			names = append(names, a.Name)
			if whole, err := s.ByName(t.Context(), a.Name); err != nil || whole.User != a.User || whole.ID != a.ID {
				t.Errorf("%s has user %s, by name %v (%v)", a.Name, a.User, whole, err)
			}
		}
		if got := strings.Join(names, " "); err != nil || got != test.want {
			t.Errorf("%q, at most %d: %q, %v; want %q", test.prefix, test.limit, got, err, test.want)
		}
	}
	for prefix, want := range map[string]string{"Pa": "pa", "a1": "a1", "a": "", "": "", "1a": "", "a%": "", "aé": "", "_a": ""} {
		if got, err := CanonicalPrefix(prefix); got != want || (err == nil) != (want != "") {
			t.Errorf("the prefix %q is taken as %q, %v", prefix, got, err)
		}
	}
}

func concurrentInserts(t *testing.T, s *Store) {
	const n = 50
	var wg sync.WaitGroup
	errs := make([]error, 2*n)
	for i := range errs {
		wg.Go(func() { errs[i] = s.Insert(someAccount(fmt.Sprintf("many%d", i/2))) })
	}
	wg.Wait()
	for i := 0; i < len(errs); i += 2 {
		if a, b := errs[i], errs[i+1]; (a == nil) == (b == nil) {
			t.Errorf("name %d twice: %v and %v; exactly one must be refused", i/2, a, b)
		}
	}
}
