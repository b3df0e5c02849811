package files

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"net/http/httptest"
	"net/url"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// pass moves the clocks of the node and of the ranges on.
func pass(r *ranges, n *node, d time.Duration) {
	r.mu.Lock()
	r.nowMs += d.Milliseconds()
	now := time.UnixMilli(r.nowMs)
	r.mu.Unlock()
	n.s.now = func() time.Time { return now }
}

func (n *node) collect() {
	n.t.Helper()
	if err := n.s.collect(context.Background()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) blobs() int {
	count := 0
	_ = filepath.WalkDir(filepath.Join(n.dir, "blobs"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			count++
		}
		return nil
	})
	return count
}

func TestUnsentFilesAndOldUploadsAreCollected(t *testing.T) {
	r := newRanges(t, 1, 2)
	ann, bob := r.person(1, "ann"), r.person(2, "bob")
	n := startNode(t, r, t.TempDir(), nil)
	sent, unsent := n.upload(ann, []byte("sent")), n.upload(ann, []byte("unsent"))
	at := r.share(ann, bob, sent)
	claimed := n.upload(ann, []byte("about to be sent"))
	id, _ := proto.ParseFileID(claimed)
	r.do(1, &cellpb.Command{Body: &cellpb.Command_ClaimFile{ClaimFile: &cellpb.ClaimFile{User: uint64(ann.User), Number: id.Number}}})
	path := n.create(ann, 100)
	n.patch(ann, path, 0, bytes.NewReader(make([]byte, 50))).want(t, 204)

	pass(r, n, n.s.cfg.Grace-time.Minute)
	n.collect()
	for _, file := range []string{sent, unsent, claimed} {
		n.do(&ann, "GET", "/files/"+file, nil).want(t, 200)
	}
	if n.offset(ann, path) != 50 {
		t.Fatal("an upload has lost bytes")
	}
	pass(r, n, time.Hour)
	// A range that cannot be asked keeps what is its own.
	r.setRefuse(func(*cellpb.RelayRequest) error { return proto.Errorf(proto.CodeUnavailable, "away") })
	n.collect()
	r.setRefuse(nil)
	if n.blobs() != 3 {
		t.Fatalf("%d of 3 blobs are left", n.blobs())
	}
	n.collect()
	n.collect() // again: nothing more goes
	n.do(&ann, "GET", "/files/"+unsent, nil).want(t, 404)
	n.do(&ann, "HEAD", path, nil).want(t, 404)
	n.do(&ann, "GET", "/files/"+claimed, nil).want(t, 200)
	n.do(&bob, "GET", "/files/"+sent+at, nil).want(t, 200)
	if entries, _ := os.ReadDir(n.s.staging); n.blobs() != 2 || len(entries) != 0 {
		t.Errorf("%d blobs and %v are left", n.blobs(), entries)
	}
}

// TestSentMeanwhileIsNotCollected claims a file between the collector's look
// and its command.
func TestSentMeanwhileIsNotCollected(t *testing.T) {
	r := newRanges(t, 1, 2)
	ann, bob := r.person(1, "ann"), r.person(2, "bob")
	n := startNode(t, r, t.TempDir(), nil)
	file := n.upload(ann, []byte("just in time"))
	pass(r, n, n.s.cfg.Grace+time.Hour)
	var at string
	r.setRefuse(func(req *cellpb.RelayRequest) error {
		if req.GetRemoveFile() != nil && at == "" {
			r.mu.Unlock() // the hook runs under the ranges' lock
			at = r.share(ann, bob, file)
			r.mu.Lock()
		}
		return nil
	})
	n.collect()
	if at == "" {
		t.Fatal("the collector did not try")
	}
	n.do(&bob, "GET", "/files/"+file+at, nil).want(t, 200)
}

func TestContentWithoutAFileIsCollected(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	kept := n.upload(ann, []byte("kept"))
	put := func(name string, age time.Duration) {
		t.Helper()
		file := filepath.Join(n.dir, "loose")
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Now(), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
		if err := n.s.store.Put(context.Background(), name, file); err != nil {
			t.Fatal(err)
		}
	}
	put(kept+"-ffff", 48*time.Hour)                 // of a file, and not its blob
	put(ann.User.String()+"-99-aaaa", 48*time.Hour) // of no file
	put(ann.User.String()+"-98-aaaa", time.Minute)  // of none yet
	put("notours", 48*time.Hour)                    // of another program
	put("999999999-1-aaaa", 48*time.Hour)           // of a range that nobody knows
	n.collect()
	if n.blobs() != 4 {
		t.Errorf("%d blobs are left, not 4", n.blobs())
	}
	n.do(&ann, "GET", "/files/"+kept, nil).want(t, 200)
}

func TestRunCollects(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), func(c *Config) { c.CollectEvery, c.Grace = time.Millisecond, time.Nanosecond })
	n.upload(ann, []byte("x"))
	r.mu.Lock()
	r.nowMs += 1000
	r.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = n.s.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); n.blobs() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is collected")
		}
	}
	cancel()
	<-done
}

func TestTransfersAreLimited(t *testing.T) {
	l := newLimits(Config{UserTransfers: 2, NodeTransfers: 3}.withDefaults(), nil)
	begin := func(user proto.EntityID) (func(), proto.Code) {
		_, end, err := l.begin(context.Background(), user)
		return end, proto.CodeOf(err)
	}
	end1, _ := begin(1)
	_, _ = begin(1)
	if _, code := begin(1); code != proto.CodeRateLimited {
		t.Errorf("a third of one user: %s", code)
	}
	end2, _ := begin(2)
	if _, code := begin(3); code != proto.CodeOverloaded {
		t.Errorf("a fourth of all: %s", code)
	}
	end1()
	end1() // again: counts once
	end2()
	if _, code := begin(1); code != proto.CodeOK || l.count != 2 || len(l.users) != 1 {
		t.Errorf("%s, %d transfers of %d users", code, l.count, len(l.users))
	}
}

// TestBytesPerSecondAreLimited moves what takes at least two seconds at the
// limit: a machine can be slower, never faster.
func TestBytesPerSecondAreLimited(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), func(c *Config) { c.UserBytesPerSecond = 256 << 10 })
	content := randomBytes(384 << 10)
	start := time.Now()
	file := n.upload(ann, content)
	up := time.Since(start)
	start = time.Now()
	n.do(&ann, "GET", "/files/"+file, nil).want(t, 200)
	if down := time.Since(start); up < time.Second || down < time.Second {
		t.Errorf("384 KiB at 256 KiB/s took %s up and %s down", up, down)
	}
}

func TestFilesInABucket(t *testing.T) {
	backend := s3mem.New()
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	if err := backend.CreateBucket("files"); err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(server.URL)
	r := newRanges(t, 1, 2)
	ann, bob := r.person(1, "ann"), r.person(2, "bob")
	keys := filepath.Join(t.TempDir(), "keys")
	bucket := func(name string) func(*Config) {
		return func(c *Config) {
			c.Node, c.KeysFile = proto.NodeID(name), keys
			c.Store = "s3://key:secret@" + u.Host + "/files?tls=none&region=us-east-1"
		}
	}
	one, two := startNode(t, r, t.TempDir(), bucket("c1-n1")), startNode(t, r, t.TempDir(), bucket("c1-n2"))
	content := randomBytes(3*seal.BlockBytes + 9)
	file := one.upload(ann, content, "Upload-Metadata", meta("blake3", hashOf(content)))
	at := r.share(ann, bob, file)
	// Every node of the cell has it.
	if got := two.do(&bob, "GET", "/files/"+file+at, nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Fatal("other bytes came back")
	}
	part := two.do(&bob, "GET", "/files/"+file+at, nil, "Range", "bytes=131070-131079").want(t, 206)
	if !bytes.Equal(part.body, content[131070:131080]) {
		t.Fatal("another part came")
	}
	two.do(&ann, "DELETE", "/files/"+file, nil).want(t, 204)
	one.do(&bob, "GET", "/files/"+file+at, nil).want(t, 404)
	if list, err := backend.ListBucket("files", nil, gofakes3.ListBucketPage{}); err != nil || len(list.Contents) != 0 {
		t.Errorf("left in the bucket: %v (%v)", list, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestSlowReadersCostLittle opens many downloads and reads none of them.
func TestSlowReadersCostLittle(t *testing.T) {
	r := newRanges(t, 1)
	n := startNode(t, r, t.TempDir(), func(c *Config) { c.UserTransfers, c.NodeTransfers = 1000, 1000 })
	ann := r.person(1, "ann")
	file := n.upload(ann, randomBytes(8<<20))
	const readers = 100
	slow := &http.Transport{TLSClientConfig: n.server.Client().Transport.(*http.Transport).TLSClientConfig, ForceAttemptHTTP2: true, HTTP2: cellclient.FilesHTTP2()}
	t.Cleanup(slow.CloseIdleConnections)
	var wg sync.WaitGroup
	bodies := make(chan io.ReadCloser, readers)
	before := heap()
	for range readers {
		wg.Go(func() {
			req, _ := http.NewRequest("GET", n.server.URL+"/files/"+file, nil)
			setCaller(req, ann)
			resp, err := slow.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			bodies <- resp.Body
		})
	}
	wg.Wait()
	held := heap() - before
	close(bodies)
	for b := range bodies {
		_ = b.Close()
	}
	// Client and server together: two blocks, a copy's buffer and a window of
	// 128 KiB; the race detector and the heap's grain about double it.
	if each := held / readers; each > 1<<20 {
		t.Errorf("a slow reader costs %d bytes", each)
	}
}
