package hls

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wait is far above what a slow machine needs.
const wait = 30 * time.Second

const live = "4096-1"

// node is a resource node: it counts what it is asked.
type node struct {
	mu       sync.Mutex // guards the fields below
	asked    map[string]int
	files    map[string]string // by path and query
	hold     chan struct{}     // not nil: answers for media wait until it is closed
	refused  map[string]proto.Code
	viewers  int
	checks   int
	run      uint64
	away     bool
	admitted int
}

func newNode() *node {
	return &node{asked: map[string]int{}, files: map[string]string{}, refused: map[string]proto.Code{}, viewers: -1}
}

func (n *node) set(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
}

// Ask implements [Nodes].
func (n *node) Ask(ctx context.Context, _ proto.NodeID, call cellclient.LiveCall) (*http.Response, error) {
	n.mu.Lock()
	key := call.Path
	if call.Query != "" {
		key += "?" + call.Query
	}
	n.asked[key]++
	hold, away := n.hold, n.away
	n.mu.Unlock()
	if away {
		return nil, proto.Errorf(proto.CodeUnavailable, "away")
	}
	switch what := strings.TrimPrefix(call.Path, "/live/"+live+"/"); {
	case call.Method == http.MethodPost && what == "admit":
		return n.admit(call.Body)
	case call.Method == http.MethodPost && what == "check":
		return n.check(call.Body)
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	body, ok := n.files[key]
	if !ok {
		return nil, proto.Errorf(proto.CodeUnknownFile, "no %s", key)
	}
	return answer(http.Header{"Content-Type": {"video/mp4"}}, body), nil
}

func answer(h http.Header, body string) *http.Response {
	return &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func asJSON(v any) *http.Response {
	raw, _ := json.Marshal(v) // structs of texts
	return answer(http.Header{}, string(raw))
}

func (n *node) admit(body []byte) (*http.Response, error) {
	var in cellclient.LiveAdmit
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	name, ok := strings.CutPrefix(in.Ticket, "ticket-")
	if !ok {
		return nil, proto.Errorf(proto.CodeBadTicket, "no ticket")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.admitted++
	return asJSON(cellclient.LiveAdmitted{Session: "session-" + name, Viewer: name, Node: "c1-n1", Run: n.run}), nil
}

func (n *node) check(body []byte) (*http.Response, error) {
	var in cellclient.LiveCheck
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.checks++
	if in.Source != "" {
		n.viewers = in.Viewers
	}
	out := cellclient.LiveChecked{Node: "c1-n1", Run: n.run}
	for _, session := range in.Sessions {
		name, ok := strings.CutPrefix(session, "session-")
		v := cellclient.LiveVerdict{Viewer: name}
		if code, refused := n.refused[name]; refused {
			v = cellclient.LiveVerdict{Code: code.String(), Detail: "no more"}
		} else if !ok {
			v = cellclient.LiveVerdict{Code: proto.CodeBadTicket.String(), Detail: "no session"}
		}
		out.Verdicts = append(out.Verdicts, v)
	}
	return asJSON(out), nil
}

func (n *node) times(key string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[key]
}

// rig is a server that runs, with HTTP before it.
type rig struct {
	t    *testing.T
	node *node
	s    *Server
	http *httptest.Server
}

func newRig(t *testing.T, change func(*Config)) *rig {
	n := newNode()
	cfg := Config{Edge: "e1", Nodes: n, NodeOf: func(context.Context, proto.LiveID) (proto.NodeID, error) { return "c1-n1", nil }, Recheck: 10 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	r := &rig{t: t, node: n, s: New(cfg)}
	mux := http.NewServeMux()
	mux.Handle("GET /live/{id}/{file...}", r.s)
	r.http = httptest.NewServer(mux)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.s.Run(ctx) }() // awaited by the clean-up
	t.Cleanup(func() {
		r.http.Close()
		r.http.Client().CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) get(path string) (int, string) {
	resp, err := r.http.Client().Get(r.http.URL + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

func (r *rig) want(status int, path string) string {
	r.t.Helper()
	got, body := r.get(path)
	if got != status {
		r.t.Fatalf("%s answered %d, want %d: %s", path, got, status, body)
	}
	return body
}

func (r *rig) until(what string, f func() error) {
	r.t.Helper()
	deadline := time.Now().Add(wait)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// A hundred viewers who ask at once cost the node one request for each thing,
// blocking playlists included.
func TestAHundredViewersCostTheNodeOne(t *testing.T) {
	const viewers = 100
	r := newRig(t, nil)
	base := "/live/" + live + "/"
	blocking := base + "video1_stream.m3u8?_HLS_msn=7&_HLS_part=1"
	all := []string{blocking, base + "x_seg7.mp4", base + "x_part8.mp4"}
	r.node.set(func() {
		for _, path := range append(all, base+index) {
			r.node.files[path] = "content of " + path
		}
	})
	for i := range viewers {
		r.want(200, fmt.Sprintf("%sindex.m3u8?ticket=ticket-%d", base, i))
	}
	for _, path := range all {
		hold := make(chan struct{})
		r.node.set(func() { r.node.hold = hold })
		var wg sync.WaitGroup
		for i := range viewers {
			wg.Go(func() {
				file := strings.TrimPrefix(path, base)
				if status, body := r.get(fmt.Sprintf("%ss/session-%d/%s", base, i, file)); status != 200 || body != "content of "+path {
					t.Errorf("viewer %d: %d %s", i, status, body)
				}
			})
		}
		r.until("all wait", func() error {
			r.s.mu.Lock()
			defer r.s.mu.Unlock()
			waiting := 0
			for _, st := range r.s.streams {
				for _, v := range st.sessions {
					waiting += v.requests
				}
			}
			if waiting < viewers {
				return fmt.Errorf("%d do", waiting)
			}
			return nil
		})
		close(hold)
		wg.Wait()
		if n := r.node.times(path); n != 1 {
			t.Errorf("%s was asked for %d times", path, n)
		}
	}
	// What never changes is kept.
	r.want(200, base+"s/session-1/x_seg7.mp4")
	if n := r.node.times(base + "x_seg7.mp4"); n != 1 {
		t.Errorf("a kept segment was asked for %d times", n)
	}
	r.until("the node is told how many watch", func() error {
		r.node.mu.Lock()
		defer r.node.mu.Unlock()
		if r.node.viewers != viewers {
			return fmt.Errorf("%d", r.node.viewers)
		}
		return nil
	})
}

// One request that nobody waits for any more is brought to its end for those who
// come later, and the server's end ends it.
func TestWhoLeavesTakesNothingFromOthers(t *testing.T) {
	r := newRig(t, nil)
	base := "/live/" + live + "/"
	path := base + "x_seg1.mp4"
	hold := make(chan struct{})
	r.node.set(func() { r.node.files[base+index], r.node.files[path], r.node.hold = "#EXTM3U\n", "content", nil })
	r.want(200, base+index+"?ticket=ticket-1")
	r.node.set(func() { r.node.hold = hold })
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() { // ends when ctx does
		defer close(gone)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.http.URL+base+"s/session-1/x_seg1.mp4", nil)
		if err != nil {
			return
		}
		if resp, err := r.http.Client().Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	r.until("the node is asked", func() error {
		if r.node.times(path) == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	cancel()
	<-gone
	close(hold)
	if body := r.want(200, base+"s/session-1/x_seg1.mp4"); body != "content" || r.node.times(path) != 1 {
		t.Errorf("%q after %d requests", body, r.node.times(path))
	}
}

func TestSessionsEndInTheMiddle(t *testing.T) {
	for code, want := range map[proto.Code]string{
		proto.CodeNotFriends: "not_friends", proto.CodeSessionEnded: "forbidden", proto.CodeUnknownLive: "unknown_live",
	} {
		r := newRig(t, nil)
		base := "/live/" + live + "/"
		r.node.set(func() { r.node.files[base+index], r.node.files[base+"x.mp4"] = "#EXTM3U\n", "content" })
		for _, name := range []string{"1", "2"} {
			r.want(200, base+index+"?ticket=ticket-"+name)
		}
		r.node.set(func() { r.node.refused["1"] = code })
		r.until("one is cut off", func() error {
			status, body := r.get(base + "s/session-1/x.mp4")
			if status != 403 || !strings.Contains(body, `"code":"`+want+`"`) {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
		r.want(403, base+index+"?ticket=ticket-1") // his ticket is used up with it
		r.want(200, base+"s/session-2/x.mp4")
	}
}

// While no node answers, viewers go on with what is kept.
func TestNodesThatDoNotAnswer(t *testing.T) {
	r := newRig(t, nil)
	base := "/live/" + live + "/"
	r.node.set(func() { r.node.files[base+index], r.node.files[base+"x.mp4"] = "#EXTM3U\n", "content" })
	r.want(200, base+index+"?ticket=ticket-1")
	r.want(200, base+"s/session-1/x.mp4")
	r.node.set(func() { r.node.away = true })
	before := r.node.times(base + "check")
	r.until("it was asked in vain", func() error {
		if r.node.times(base+"check") < before+3 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	r.want(200, base+"s/session-1/x.mp4")
	r.want(503, base+"s/session-1/y.mp4")
	r.want(503, base+index+"?ticket=ticket-2")
	r.want(503, base+"s/session-2/x.mp4")
	r.node.set(func() { r.node.away = false })
	r.want(200, base+index+"?ticket=ticket-2")
}

// Another start has other files, even under the same names.
func TestAnotherRunForgetsTheFilesOfTheLast(t *testing.T) {
	r := newRig(t, nil)
	base := "/live/" + live + "/"
	r.node.set(func() { r.node.files[base+index], r.node.files[base+"init.mp4"] = "#EXTM3U\n", "old" })
	r.want(200, base+index+"?ticket=ticket-1")
	r.want(200, base+"s/session-1/init.mp4")
	r.node.set(func() { r.node.files[base+"init.mp4"], r.node.run = "new", 2 })
	r.until("the new one comes", func() error {
		if _, body := r.get(base + "s/session-1/init.mp4"); body != "new" {
			return fmt.Errorf("%q", body)
		}
		return nil
	})
}

func TestHostileAddresses(t *testing.T) {
	r := newRig(t, nil)
	base := "/live/" + live + "/"
	r.node.set(func() { r.node.files[base+index], r.node.files[base+"v.m3u8"] = "#EXTM3U\n", "#EXTM3U\n" })
	r.want(200, base+index+"?ticket=ticket-1")
	for _, path := range []string{
		base + index, base + index + "?ticket=", base + index + "?ticket=x", base + "x.mp4?ticket=ticket-1", base + "s/session-1/",
		base + "s/x/index.m3u8", base + "s//index.m3u8", "/live/x/index.m3u8", "/live/4096-1x/index.m3u8?ticket=ticket-1",
		base + "s/session-1/.hidden", base + "s/session-1/a/b/c.mp4", base + "s/session-1/x%00.mp4", base + "s/session-1/..%2f..%2fadmit",
		"/live/4096-2/s/session-1/" + strings.Repeat("x", 3000) + "%20",
	} {
		if status, body := r.get(path); status != 403 {
			t.Errorf("%s answered %d: %s", path, status, body)
		}
	}
	// Of a query the node sees what HLS needs, for playlists.
	r.want(200, base+"s/session-1/v.m3u8?ticket=ticket-1&x=y&_HLS_skip=")
	if n := r.node.times(base + "v.m3u8"); n != 1 {
		t.Errorf("the plain playlist was asked for %d times", n)
	}
	r.want(404, base+"s/session-1/x.mp4?_HLS_msn=1")
	if n := r.node.times(base + "x.mp4"); n != 1 {
		t.Errorf("the plain segment was asked for %d times", n)
	}
}

func TestOneViewerAsksSoMuchAtOnce(t *testing.T) {
	r := newRig(t, nil)
	base := "/live/" + live + "/"
	r.node.set(func() { r.node.files[base+index] = "#EXTM3U\n" })
	r.want(200, base+index+"?ticket=ticket-1")
	hold := make(chan struct{})
	r.node.set(func() { r.node.hold = hold })
	var wg sync.WaitGroup
	for i := range requestsMax {
		wg.Go(func() { r.get(fmt.Sprintf("%ss/session-1/x%d.mp4", base, i)) })
	}
	r.until("all wait", func() error {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		for _, st := range r.s.streams {
			if v := st.sessions["session-1"]; v.requests == requestsMax {
				return nil
			}
		}
		return fmt.Errorf("not yet")
	})
	r.want(429, base+"s/session-1/y.mp4")
	close(hold)
	wg.Wait()
	r.want(404, base+"s/session-1/y.mp4")
}

func TestCacheHoldsItsBytes(t *testing.T) {
	c := newCache(1000, func(_ context.Context, key string) (*http.Response, error) {
		return answer(http.Header{}, strings.Repeat("x", 300)), nil
	})
	defer c.close()
	for i := range 20 {
		if _, err := c.get(t.Context(), fmt.Sprintf("/live/1-1/%d.mp4", i%7)); err != nil {
			t.Fatal(err)
		}
		if c.bytes > 1000 || len(c.objects) != c.recent.Len() {
			t.Fatalf("%d bytes, %d objects, %d in the list", c.bytes, len(c.objects), c.recent.Len())
		}
	}
	if len(c.objects) != 3 {
		t.Errorf("%d are kept", len(c.objects))
	}
	c.forget("/live/1-1/")
	if c.bytes != 0 || len(c.objects) != 0 || c.recent.Len() != 0 {
		t.Errorf("%d bytes are left", c.bytes)
	}
}

// A livestream that goes on for hours does not fill the cache with what nobody
// asks for any more.
func TestWhatNobodyAsksForGoes(t *testing.T) {
	c := newCache(1<<20, func(_ context.Context, key string) (*http.Response, error) {
		return answer(http.Header{}, strings.Repeat("x", 100)), nil
	})
	defer c.close()
	now := time.Now()
	c.now = func() time.Time { return now }
	for i := range 500 {
		for _, key := range []string{"/live/1-1/init.mp4", fmt.Sprintf("/live/1-1/%d.mp4", i)} {
			if _, err := c.get(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(time.Second)
	}
	if most := int(keepUnused/time.Second) + 3; len(c.objects) > most || len(c.objects) != c.recent.Len() || c.objects["/live/1-1/init.mp4"] == nil {
		t.Errorf("%d objects are kept, %d in the list; at most %d, and the one that is used", len(c.objects), c.recent.Len(), most)
	}
}

func TestPlaylistsBecomeOld(t *testing.T) {
	asked := 0
	c := newCache(1<<20, func(_ context.Context, key string) (*http.Response, error) {
		asked++
		return answer(http.Header{}, key), nil
	})
	defer c.close()
	now := time.Now()
	c.now = func() time.Time { return now }
	for _, step := range []struct {
		key   string
		later time.Duration
		want  int
	}{
		{"a.m3u8", 0, 1}, {"a.m3u8", playlistFresh / 2, 1}, {"a.m3u8", playlistFresh, 2},
		{"a.m3u8?_HLS_msn=3", 0, 3}, {"a.m3u8?_HLS_msn=3", playlistFresh, 3}, {"a.m3u8?_HLS_msn=3", blockingFresh, 4},
		{"b.mp4", 0, 5}, {"b.mp4", time.Hour, 5},
	} {
		now = now.Add(step.later)
		if _, err := c.get(t.Context(), step.key); err != nil || asked != step.want {
			t.Errorf("%s after %s: %d requests, want %d (%v)", step.key, step.later, asked, step.want, err)
		}
	}
}

func TestAddressesGetTheSession(t *testing.T) {
	in := "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,URI=\"a.m3u8\",NAME=\"x\"\n#EXT-X-MAP:URI=\"https://x/y\"\n\nv.m3u8\r\n/rooted\n#comment"
	want := "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,URI=\"s/S/a.m3u8\",NAME=\"x\"\n#EXT-X-MAP:URI=\"https://x/y\"\n\ns/S/v.m3u8\r\n/rooted\n#comment"
	if got := string(withSession([]byte(in), "S")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
