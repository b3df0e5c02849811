package files

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

func fsWalk(dir string, visit func(string)) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			visit(path)
		}
		return nil
	})
}

func TestFilesComeBackAsTheyWereSent(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	for _, size := range []int{0, 1, seal.BlockBytes - 1, seal.BlockBytes, seal.BlockBytes + 1, 3 * seal.BlockBytes, 200_001} {
		content := randomBytes(size)
		path := n.create(ann, int64(size), "Upload-Metadata", meta("filename", "a.bin", "blake3", hashOf(content)))
		for at, step := 0, 1; at < size; step = step*7 + 3 { // pieces that fit no block
			end := min(size, at+step)
			n.patch(ann, path, at, bytes.NewReader(content[at:end])).want(t, 204)
			if at = n.offset(ann, path); at != end {
				t.Fatalf("%d of %d are counted", at, end)
			}
		}
		file := fileIn(path)
		got := n.do(&ann, "GET", "/files/"+file, nil).want(t, 200)
		if !bytes.Equal(got.body, content) {
			t.Fatalf("%d bytes: others came back", size)
		}
		var info infoJSON
		if err := json.Unmarshal(n.do(&ann, "GET", "/files/"+file+"/info", nil).want(t, 200).body, &info); err != nil || info.Blake3 != hashOf(content) || info.Size != uint64(size) || info.Name != "a.bin" {
			t.Fatalf("%+v (%v)", info, err)
		}
		if at := n.offset(ann, path); at != size {
			t.Fatalf("a complete upload is at %d of %d", at, size)
		}
	}
	if entries, _ := os.ReadDir(filepath.Join(n.dir, "staging")); len(entries) != 0 {
		t.Errorf("of complete uploads is left %v", entries)
	}
}

func TestPartsOfFilesAreServed(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	content := append([]byte("\x89PNG\r\n\x1a\n"), randomBytes(300_000)...)
	file := n.upload(ann, content, "Upload-Metadata", meta("filename", "../../etc/ann\u202ephoto\n.png", "content-type", "text/html"))
	whole := n.do(&ann, "GET", "/files/"+file, nil).want(t, 200)
	for name, want := range map[string]string{
		"Content-Type": "image/png", "Content-Disposition": `inline; filename=annphoto.png`, "X-Content-Type-Options": "nosniff",
		"Etag": `"` + hashOf(content) + `"`, "Accept-Ranges": "bytes", "Content-Length": fmt.Sprint(len(content)),
	} {
		if got := whole.header.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	part := n.do(&ann, "GET", "/files/"+file, nil, "Range", "bytes=70000-70009", "If-Range", whole.header.Get("Etag")).want(t, 206)
	if !bytes.Equal(part.body, content[70000:70010]) {
		t.Error("another part came")
	}
	if tail := n.do(&ann, "GET", "/files/"+file, nil, "Range", "bytes=-5").want(t, 206); !bytes.Equal(tail.body, content[len(content)-5:]) {
		t.Error("another end came")
	}
	n.do(&ann, "GET", "/files/"+file, nil, "Range", "bytes=999999999-").want(t, 416)
	n.do(&ann, "GET", "/files/"+file, nil, "If-None-Match", whole.header.Get("Etag")).want(t, 304)
	n.do(&ann, "GET", "/files/"+file, nil, "If-Match", `"other"`).want(t, 412)
	if head := n.do(&ann, "HEAD", "/files/"+file, nil).want(t, 200); head.header.Get("Content-Length") != fmt.Sprint(len(content)) {
		t.Error("HEAD says another length")
	}
	for name, c := range map[string]struct{ content, kind string }{
		"page": {"<html><script>alert(1)</script>", "attachment"},
		"svg":  {`<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script/></svg>`, "attachment"},
		"gif":  {"GIF89a.....", "inline"},
	} {
		got := n.do(&ann, "GET", "/files/"+n.upload(ann, []byte(c.content), "Upload-Metadata", meta("filename", name)), nil).want(t, 200)
		if !strings.HasPrefix(got.header.Get("Content-Disposition"), c.kind) {
			t.Errorf("%s: %s", name, got.header.Get("Content-Disposition"))
		}
	}
}

func TestNothingIsStoredReadable(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	secret := strings.Repeat("the treasure is under the oak. ", 10_000)
	path := n.create(ann, int64(len(secret)))
	n.patch(ann, path, 0, strings.NewReader(secret[:100_000])).want(t, 204)
	if n.contains("treasure") {
		t.Fatal("an upload can be read on the disk")
	}
	n.patch(ann, path, 100_000, strings.NewReader(secret[100_000:])).want(t, 204)
	if n.contains("treasure") {
		t.Fatal("a file can be read on the disk")
	}
}

// TestUploadsGoOnAfterACrash starts the node anew on its folder at every point,
// after damage as a crash does it.
func TestUploadsGoOnAfterACrash(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	dir := t.TempDir()
	n := startNode(t, r, dir, nil)
	content := randomBytes(5*seal.BlockBytes + 77)
	path := n.create(ann, int64(len(content)), "Upload-Metadata", meta("blake3", hashOf(content)))
	for at := 0; at < len(content); {
		end := min(len(content), at+seal.BlockBytes+13)
		if end == len(content) {
			// Torn: what is behind the last record is not what was written.
			f, err := os.OpenFile(filepath.Join(dir, "staging", fileIn(path), contentFile), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = f.Write(make([]byte, 200_000))
			_ = f.Close()
		}
		n.patch(ann, path, at, bytes.NewReader(content[at:end])).want(t, 204)
		n.stop()
		n = startNode(t, r, dir, nil)
		if at = n.offset(ann, path); at != end {
			t.Fatalf("after the crash %d of %d are there", at, end)
		}
		path = "/uploads/" + strings.TrimPrefix(path, "/uploads/")
	}
	if got := n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Fatal("other bytes came back")
	}
	_ = fsWalk(filepath.Join(dir, "blobs"), func(stored string) {
		if info, err := os.Stat(stored); err != nil || info.Size() != seal.StoredBytes(int64(len(content))) {
			t.Errorf("the stored file has a wrong size: %v (%v)", info.Size(), err)
		}
	})
}

// TestCompletionIsRepeated has each step of making an upload a file fail once.
func TestCompletionIsRepeated(t *testing.T) {
	for name, fail := range map[string]func(r *ranges, after *bool){
		"the range cannot be reached": func(*ranges, *bool) {},
		"its answer is lost":          func(_ *ranges, after *bool) { *after = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRanges(t, 1)
			ann := r.person(1, "ann")
			dir := t.TempDir()
			n := startNode(t, r, dir, nil)
			content := randomBytes(100_000)
			path := n.create(ann, int64(len(content)))
			once := false
			hook := func(req *cellpb.RelayRequest) error {
				if req.GetCompleteFile() == nil || once {
					return nil
				}
				once = true
				return proto.Errorf(proto.CodeUnavailable, "no answer")
			}
			after := false
			fail(r, &after)
			if after {
				r.after = hook
			} else {
				r.refuse = hook
			}
			n.patch(ann, path, 0, bytes.NewReader(content)).want(t, 503)
			n.stop() // and the node dies
			n = startNode(t, r, dir, nil)
			if !after {
				n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 404)
			}
			if at := n.offset(ann, path); at != len(content) {
				t.Fatalf("at %d", at)
			}
			if got := n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 200); !bytes.Equal(got.body, content) {
				t.Fatal("other bytes came back")
			}
		})
	}
}

func TestOtherContentThanAnnouncedIsNoFile(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	content := randomBytes(100_000)
	path := n.create(ann, int64(len(content)), "Upload-Metadata", meta("blake3", hashOf(content)))
	content[50_000] ^= 1
	a := n.patch(ann, path, 0, bytes.NewReader(content)).want(t, statusChecksumMismatch)
	if !strings.Contains(string(a.body), hashOf(content)) {
		t.Errorf("the refusal does not say what came: %s", a.body)
	}
	n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 404)
	n.do(&ann, "HEAD", path, nil).want(t, 404)
	var list listJSON
	if err := json.Unmarshal(n.do(&ann, "GET", "/files", nil).want(t, 200).body, &list); err != nil || list.Quota.Used != 0 {
		t.Fatalf("%+v (%v)", list, err)
	}
}

func TestChunksWithAnotherChecksumNeverCame(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	content := bytes.Repeat([]byte("hello world"), 20_000)
	path := n.create(ann, int64(len(content)), "Upload-Metadata", meta("blake3", hashOf(content)))
	n.patch(ann, path, 0, bytes.NewReader(content[:11]), "Upload-Checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").want(t, 204)
	n.patch(ann, path, 11, bytes.NewReader(content[11:150_000]), "Upload-Checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").want(t, statusChecksumMismatch)
	if at := n.offset(ann, path); at != 11 {
		t.Fatalf("at %d", at)
	}
	for _, bad := range []string{"md4 AAAA", "sha1", "sha1 ***", "sha1 AAAA"} {
		n.patch(ann, path, 11, bytes.NewReader(content[11:]), "Upload-Checksum", bad).want(t, 400)
	}
	n.patch(ann, path, 11, bytes.NewReader(content[11:])).want(t, 204)
	n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 200)
	options := n.do(&ann, "OPTIONS", "/uploads", nil).want(t, 200)
	for _, extension := range []string{"creation", "creation-with-upload", "termination", "concatenation", "creation-defer-length", "checksum", "expiration"} {
		if !strings.Contains(options.header.Get("Tus-Extension"), extension) {
			t.Errorf("%s is not offered: %s", extension, options.header.Get("Tus-Extension"))
		}
	}
}

func TestPartsAreJoined(t *testing.T) {
	r := newRanges(t, 1)
	ann, eve := r.person(1, "ann"), r.person(1, "eve")
	n := startNode(t, r, t.TempDir(), func(c *Config) { c.QuotaBytes = 700_000 })
	content := randomBytes(500_000)
	var parts []string
	for _, part := range [][]byte{content[:123_456], content[123_456:300_000], content[300_000:]} {
		path := n.create(ann, int64(len(part)), "Upload-Concat", "partial")
		n.patch(ann, path, 0, bytes.NewReader(part)).want(t, 204)
		parts = append(parts, n.server.URL+path)
		n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 404) // a part is no file
	}
	final := "final;" + strings.Join(parts, " ")
	n.do(&eve, "POST", "/uploads", nil, "Upload-Concat", final).want(t, 404)
	n.do(&ann, "POST", "/uploads", nil, "Upload-Concat", "final;"+parts[0]+" "+parts[0]).want(t, 400)
	// The answer to the first try is lost; the client begins anew.
	r.setRefuse(func(req *cellpb.RelayRequest) error {
		if req.GetCompleteFile() != nil {
			return proto.Errorf(proto.CodeUnavailable, "no answer")
		}
		return nil
	})
	n.do(&ann, "POST", "/uploads", nil, "Upload-Concat", final, "Upload-Metadata", meta("blake3", hashOf(content))).want(t, 503)
	r.setRefuse(nil)
	a := n.do(&ann, "POST", "/uploads", nil, "Upload-Concat", final, "Upload-Metadata", meta("blake3", hashOf(content))).want(t, 201)
	if got := n.do(&ann, "GET", "/files/"+fileIn(n.pathOf(a)), nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Fatal("other bytes came back")
	}
	if entries, _ := os.ReadDir(filepath.Join(n.dir, "staging")); len(entries) != 0 {
		t.Errorf("of the parts is left %v", entries)
	}
}

func TestLengthMayBeSaidLater(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), func(c *Config) { c.QuotaBytes = 300_000 })
	content := randomBytes(2 * seal.BlockBytes)
	a := n.do(&ann, "POST", "/uploads", nil, "Upload-Defer-Length", "1").want(t, 201)
	path := n.pathOf(a)
	n.patch(ann, path, 0, bytes.NewReader(content)).want(t, 204)
	n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 404)
	n.patch(ann, path, len(content), bytes.NewReader(nil), "Upload-Length", fmt.Sprint(len(content))).want(t, 204)
	if got := n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Fatal("other bytes came back")
	}
	// Without a length nobody gets more than his quota either.
	path = n.pathOf(n.do(&ann, "POST", "/uploads", nil, "Upload-Defer-Length", "1").want(t, 201))
	n.patch(ann, path, 0, bytes.NewReader(randomBytes(400_000))).want(t, 413)
}

func TestQuotaIsClear(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), func(c *Config) { c.QuotaBytes = 1000 })
	n.upload(ann, randomBytes(600))
	a := n.do(&ann, "POST", "/uploads", nil, "Upload-Length", "401").want(t, 413)
	if !strings.Contains(string(a.body), `"code":"over_quota"`) || !strings.Contains(string(a.body), "600 of 1000") {
		t.Errorf("%s", a.body)
	}
	n.upload(ann, randomBytes(400))
}

func TestRemovedFilesAreGone(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	file := n.upload(ann, randomBytes(1000))
	n.do(&ann, "DELETE", "/files/"+file, nil).want(t, 204)
	n.do(&ann, "GET", "/files/"+file, nil).want(t, 404)
	n.do(&ann, "DELETE", "/files/"+file, nil).want(t, 404)
	left := 0
	_ = fsWalk(filepath.Join(n.dir, "blobs"), func(string) { left++ })
	if left != 0 {
		t.Errorf("%d blobs are left", left)
	}
	path := n.create(ann, 10)
	n.do(&ann, "DELETE", path, nil).want(t, 204)
	n.do(&ann, "HEAD", path, nil).want(t, 404)
}

func TestLinksStandForATokenForAWhile(t *testing.T) {
	r := newRanges(t, 1)
	ann, bob := r.person(1, "ann"), r.person(1, "bob")
	n := startNode(t, r, t.TempDir(), nil)
	file, other := n.upload(ann, []byte("content")), n.upload(ann, []byte("other"))
	at := r.share(ann, bob, file)
	var l linkJSON
	if err := json.Unmarshal(n.do(&bob, "POST", "/files/"+file+"/link"+at, nil).want(t, 200).body, &l); err != nil {
		t.Fatal(err)
	}
	n.do(nil, "GET", l.URL, nil).want(t, 200)
	n.do(nil, "GET", strings.Replace(l.URL, file, other, 1), nil).want(t, 401)
	n.do(nil, "GET", l.URL[:len(l.URL)-2], nil).want(t, 401)
	n.do(nil, "GET", strings.Replace(l.URL, "~ey", "~ez", 1), nil).want(t, 401)
	n.do(nil, "DELETE", l.URL, nil).want(t, 404)
	n.do(nil, "GET", "/files/"+file, nil).want(t, 401)
	// Who is logged out everywhere has no links either.
	r.do(1, &cellpb.Command{Body: &cellpb.Command_RaiseAuthority{RaiseAuthority: &cellpb.RaiseAuthority{User: uint64(bob.User), Nonce: []byte("1")}}})
	n.do(nil, "GET", l.URL, nil).want(t, 401)
	if err := json.Unmarshal(n.do(&ann, "POST", "/files/"+file+"/link", nil).want(t, 200).body, &l); err != nil {
		t.Fatal(err)
	}
	n.do(nil, "DELETE", l.URL, nil).want(t, 404) // a link is for reading
	n.do(nil, "GET", l.URL, nil).want(t, 200)
	n.s.now = func() time.Time { return time.Now().Add(linkLifetime + time.Second) }
	if a := n.do(nil, "GET", l.URL, nil).want(t, 401); !strings.Contains(string(a.body), "token_expired") {
		t.Errorf("%s", a.body)
	}
}

func TestDamageIsFoundAndNamed(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	content := randomBytes(3 * seal.BlockBytes)
	for block := range 3 {
		file := n.upload(ann, content)
		var stored string
		_ = fsWalk(filepath.Join(n.dir, "blobs"), func(path string) {
			if strings.HasPrefix(filepath.Base(path), file+"-") {
				stored = path
			}
		})
		f, err := os.OpenFile(stored, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		place := int64(block)*seal.StoredBlockBytes + 1000
		one := make([]byte, 1)
		_, _ = f.ReadAt(one, place)
		one[0] ^= 0x10
		_, err = f.WriteAt(one, place)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		a := n.do(&ann, "GET", "/files/"+file, nil)
		if block == 0 {
			if a.want(t, http.StatusInternalServerError); !strings.Contains(string(a.body), `"corrupt"`) {
				t.Errorf("%s", a.body)
			}
		} else if a.err == nil || len(a.body) > block*seal.BlockBytes {
			t.Errorf("block %d is damaged: %d bytes came (%v)", block, len(a.body), a.err)
		}
		if want := fmt.Sprintf("block %d of the stored file %s", block, filepath.Base(stored)); !strings.Contains(n.logs.String(), want) {
			t.Errorf("the log does not say %q: %s", want, n.logs)
		}
		// Other blocks can be read all the same.
		other := (block + 1) % 3 * seal.BlockBytes
		part := n.do(&ann, "GET", "/files/"+file, nil, "Range", fmt.Sprintf("bytes=%d-%d", other, other+9)).want(t, 206)
		if !bytes.Equal(part.body, content[other:other+10]) {
			t.Error("another part came")
		}
	}
}

// brokenBody ends in the middle, as when a client dies.
func brokenBody(b []byte) io.Reader {
	return io.MultiReader(bytes.NewReader(b), errReader{})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestFilesOfOtherNodesAreReached asks a node for a file that lies on another's
// disk, and for one whose node is away.
func TestFilesOfOtherNodesAreReached(t *testing.T) {
	r := newRanges(t, 1, 2)
	ann, bob, eve := r.person(1, "ann"), r.person(2, "bob"), r.person(2, "eve")
	one := startNode(t, r, t.TempDir(), nil)
	two := startNode(t, r, t.TempDir(), func(c *Config) { c.Node = "c1-n2" })
	plain := httptest.NewServer(one.s.Handler())
	t.Cleanup(func() { plain.CloseClientConnections(); plain.Close() })
	t.Cleanup(two.s.deps.Proxy.Close)
	content := randomBytes(200_000)
	file := one.upload(ann, content)
	at := r.share(ann, bob, file)
	a := two.do(&bob, "GET", "/files/"+file+at, nil).want(t, http.StatusServiceUnavailable)
	if !strings.Contains(string(a.body), "c1-n1") {
		t.Errorf("it is not said which node is away: %s", a.body)
	}
	r.addrs = map[proto.NodeID]string{"c1-n1": plain.Listener.Addr().String()}
	if got := two.do(&bob, "GET", "/files/"+file+at, nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Fatal("other bytes came back")
	}
	if part := two.do(&bob, "GET", "/files/"+file+at, nil, "Range", "bytes=100000-100009").want(t, 206); !bytes.Equal(part.body, content[100000:100010]) {
		t.Fatal("another part came")
	}
	two.do(&eve, "GET", "/files/"+file+at, nil).want(t, 404)
	var l linkJSON
	if err := json.Unmarshal(two.do(&bob, "POST", "/files/"+file+"/link"+at, nil).want(t, 200).body, &l); err != nil {
		t.Fatal(err)
	}
	if got := two.do(nil, "GET", l.URL, nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Fatal("the link gives other bytes")
	}
	// Two nodes that send each other for a file do not do so for ever.
	lost := startNode(t, r, t.TempDir(), func(c *Config) { c.Node = "c1-n9" })
	var came atomic.Int32
	loop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came.Add(1)
		lost.s.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() { loop.CloseClientConnections(); loop.Close() })
	t.Cleanup(lost.s.deps.Proxy.Close)
	r.addrs["c1-n1"] = loop.Listener.Addr().String()
	two.do(&bob, "GET", "/files/"+file+at, nil).want(t, http.StatusServiceUnavailable)
	if came.Load() != hopsMax {
		t.Errorf("it was passed on %d times, not %d", came.Load(), hopsMax)
	}
}

// TestAFailedSyncIsNotMadeGoodByALaterOne: a disk that failed to write some of
// an upload may call the next sync a success; nothing behind the last good one
// counts.
func TestAFailedSyncIsNotMadeGoodByALaterOne(t *testing.T) {
	r := newRanges(t, 1)
	n := startNode(t, r, t.TempDir(), nil)
	ann := r.person(1, "ann")
	path := n.create(ann, 3*seal.BlockBytes)
	n.patch(ann, path, 0, bytes.NewReader(make([]byte, seal.BlockBytes+1))).want(t, 204)
	id, err := proto.ParseFileID(fileIn(path))
	if err != nil {
		t.Fatal(err)
	}
	rec, err := n.s.loadRecord(id)
	if err != nil {
		t.Fatal(err)
	}
	before := rec.offset()
	w, err := n.s.openWriting(t.Context(), rec, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.readFrom(bytes.NewReader(make([]byte, seal.BlockBytes))); err != nil {
		t.Fatal(err)
	}
	w.syncing = make(chan error, 1)
	w.syncing <- errors.New("the disk has failed")
	if err := w.syncBehind(); err == nil {
		t.Error("writing goes on after a sync that failed")
	}
	if err := w.end(); err == nil {
		t.Error("the end of a chunk is stored after a sync that failed")
	}
	if n.offset(ann, path) != int(before) {
		t.Errorf("the upload has %d bytes, and %d were synced", n.offset(ann, path), before)
	}
}
