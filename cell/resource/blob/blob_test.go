package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// TestStores holds every store to the same promises.
func TestStores(t *testing.T) {
	stores := map[string]func(t *testing.T) (store Store, staging string){
		"disk": func(t *testing.T) (Store, string) {
			dir := t.TempDir()
			d, err := NewDisk(filepath.Join(dir, "blobs"))
			if err != nil {
				t.Fatal(err)
			}
			return d, dir
		},
		"s3": func(t *testing.T) (Store, string) {
			backend := s3mem.New()
			server := httptest.NewServer(gofakes3.New(backend).Server())
			t.Cleanup(server.Close)
			if err := backend.CreateBucket("files"); err != nil {
				t.Fatal(err)
			}
			u, _ := url.Parse(server.URL)
			s, err := NewS3("s3://key:secret@" + u.Host + "/files?tls=none&region=us-east-1")
			if err != nil {
				t.Fatal(err)
			}
			return s, t.TempDir()
		},
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			store, staging := open(t)
			conform(t, store, staging)
		})
	}
}

func conform(t *testing.T, store Store, staging string) {
	ctx := context.Background()
	put := func(name string, content []byte) {
		t.Helper()
		file := filepath.Join(staging, "staged")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := store.Put(ctx, name, file); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("the staged file is still there")
		}
	}
	read := func(name string, offset int64) []byte {
		t.Helper()
		r, err := store.Open(ctx, name, offset)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	put("4096-1-aa", big)
	put("4096-2-bb", []byte("small"))
	for _, offset := range []int64{0, 1, 65_564, int64(len(big)) - 1} {
		if got := read("4096-1-aa", offset); !bytes.Equal(got, big[offset:]) {
			t.Fatalf("from %d on %d bytes came back, %d are there", offset, len(got), int64(len(big))-offset)
		}
	}
	if size, err := store.Size(ctx, "4096-1-aa"); err != nil || size != int64(len(big)) {
		t.Fatalf("size %d (%v)", size, err)
	}
	put("4096-2-bb", []byte("replaced"))
	if got := read("4096-2-bb", 0); string(got) != "replaced" {
		t.Fatalf("got %q", got)
	}
	var names []string
	if err := store.List(ctx, func(e Entry) error {
		names = append(names, e.Name)
		if time.Since(e.Modified).Abs() > time.Hour {
			t.Errorf("%s was put at %s", e.Name, e.Modified)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	if strings.Join(names, " ") != "4096-1-aa 4096-2-bb" {
		t.Fatalf("listed %v", names)
	}
	stop := errors.New("stop")
	if err := store.List(ctx, func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a visit that fails ends the listing with %v", err)
	}
	for range 2 { // the second time there is nothing
		if err := store.Remove(ctx, "4096-1-aa"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Open(ctx, "4096-1-aa", 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed blob opens: %v", err)
	}
	if _, err := store.Size(ctx, "4096-1-aa"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed blob has a size: %v", err)
	}
	for _, bad := range []string{"", "..", "../x", "a/b", "a\x00b", "a.b", strings.Repeat("a", NameBytesMax+1)} {
		_, openErr := store.Open(ctx, bad, 0)
		_, sizeErr := store.Size(ctx, bad)
		if openErr == nil || sizeErr == nil || store.Remove(ctx, bad) == nil || store.Put(ctx, bad, filepath.Join(staging, "x")) == nil {
			t.Errorf("%q is taken for a name", bad)
		}
	}
}

func TestAddressesOfBucketsAreChecked(t *testing.T) {
	for _, bad := range []string{"", "http://h/b", "s3://", "s3://host", "s3://host/", "s3://key:hush@%zz/b"} {
		_, err := NewS3(bad)
		if err == nil {
			t.Errorf("%q is taken for a bucket", bad)
		} else if strings.Contains(err.Error(), "hush") {
			t.Error("the secret is in the error")
		}
	}
}
