package live

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-im/waggle/proto"
)

func TestPublisherThatSendsTooMuchIsEnded(t *testing.T) {
	n := start(t, Config{PublishBytesPerSecondMax: 10 << 10, ReconnectWithin: time.Millisecond}, newFakeRights())
	s := mustSynthetic(t, n, spsA)
	deadline := time.Now().Add(patience)
	for s.send(10<<10) == nil {
		if time.Now().After(deadline) {
			t.Fatal("it may send without end")
		}
	}
	n.rights.until(t, "it has ended", ended)
	if !strings.Contains(n.log.String(), "it sends more than is allowed") {
		t.Error("the log does not say why")
	}
}

func TestViewersAndPublishersAreCounted(t *testing.T) {
	n := start(t, Config{ViewersMax: 1, PublishersMax: 1}, newFakeRights())
	s := mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := newWatcher(n, "t2", gortsplib.TransportTCP); err == nil {
		again.Client.Close()
		t.Error("there is a second viewer")
	} else if !strings.Contains(err.Error(), "453") {
		t.Errorf("the second viewer was told %v", err)
	}
	w.first(t, s)
	w.Client.Close()
	waitFor(t, "the place to be given back", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.viewers == 0 })
	w, err = newWatcher(n, "t2", gortsplib.TransportTCP)
	if err != nil {
		t.Errorf("a place is not given back: %v", err)
	} else {
		w.Client.Close()
	}
	other := proto.LiveID{Owner: 4096, Number: 18}
	if _, err := n.claim(t.Context(), request{id: other, key: "right"}, protocolRTSP, func() {}); proto.CodeOf(err) != proto.CodeTooMany {
		t.Errorf("a second livestream: %v", err)
	}
}

// Whoever says nothing, or does not come to the point, is closed.
func TestIdleConnectionsAreClosed(t *testing.T) {
	n := start(t, Config{AdmitWithin: 100 * time.Millisecond}, newFakeRights())
	mustClose := func(what, addr, say string) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, say); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: not closed", what)
		}
	}
	mustClose("silent by RTSP", n.host, "")
	mustClose("silent by RTMP", n.rtmp, "")
	mustClose("options only", n.host, "OPTIONS rtsp://"+n.host+"/live/4096-17 RTSP/1.0\r\nCSeq: 1\r\n\r\n")
	mustClose("half a handshake", n.rtmp, "\x03half")
	mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	c, err := net.Dial("tcp", n.host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	r := textproto.NewReader(bufio.NewReader(c))
	session := ""
	ask := func(method, more, header string) {
		t.Helper()
		u := strings.Replace(n.watchURL("rtsp", "t1"), "?", more+"?", 1)
		if _, err := io.WriteString(c, method+" "+u+" RTSP/1.0\r\nCSeq: 1\r\n"+session+header+"\r\n"); err != nil {
			t.Fatal(err)
		}
		first, err := r.ReadLine()
		if err != nil || !strings.HasPrefix(first, "RTSP/1.0 200") {
			t.Fatalf("%s: %s, %v", method, first, err)
		}
		h, err := r.ReadMIMEHeader()
		if err != nil {
			t.Fatal(err)
		}
		if s := h.Get("Session"); s != "" {
			session = "Session: " + s + "\r\n"
		}
	}
	ask("SETUP", "/trackID=0", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n")
	ask("PLAY", "", "")
	ask("TEARDOWN", "", "")
	if _, err := io.Copy(io.Discard, r.R); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("a connection that has ended its session is not closed")
	}
}

func TestStrangersAreLimited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := newGuard(l, patience, strangersPerAddressMax+2)
	defer g.closeAll()
	accepted := make(chan *conn, strangersPerAddressMax+3)
	go func() {
		for {
			c, err := g.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c.(*conn)
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	closed := func(c net.Conn) bool {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, err := c.Read(make([]byte, 1))
		return err != nil && !strings.Contains(err.Error(), "timeout")
	}
	var in []*conn
	for range strangersPerAddressMax {
		dial()
		in = append(in, <-accepted)
	}
	if !closed(dial()) {
		t.Error("one stranger too many is let in")
	}
	in[0].admit()
	in[1].admit()
	in[1].admit() // twice is the same
	dial()
	dial()
	in = append(in, <-accepted, <-accepted)
	if in[2].admit(); !closed(dial()) {
		t.Error("one connection too many is let in")
	}
	for _, c := range in {
		_ = c.Close()
		_ = c.Close()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.conns) != 0 || g.strangers != 0 || len(g.from) != 0 {
		t.Errorf("%d connections, %d strangers, %d addresses are left", len(g.conns), g.strangers, len(g.from))
	}
}

// Series of a livestream end with it.
func TestMetricsEndWithTheLivestream(t *testing.T) {
	reg := prometheus.NewRegistry()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{}, Deps{Rights: newFakeRights(), RTSP: l, Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	series := func() (n int) {
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range all {
			for _, m := range family.Metric {
				for _, label := range m.Label {
					if label.GetName() == "live" {
						n++
					}
				}
			}
		}
		return n
	}
	ls := newLivestream(s, testID, Publication{})
	if series() == 0 {
		t.Fatal("there are no series of a livestream")
	}
	s.forget(ls)
	ls.metrics.lost.Inc()
	if n := series(); n != 0 {
		t.Errorf("%d series are left", n)
	}
}

// A hundred publishers and viewers that come and go leave nothing behind.
func TestNothingIsLeftBehind(t *testing.T) {
	n := start(t, Config{ReconnectWithin: patience}, newFakeRights())
	round := func() {
		s := mustSynthetic(t, n, spsA)
		w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
		if err != nil {
			t.Fatal(err)
		}
		w.first(t, s)
		w.Client.Close()
		u, err := newWatcher(n, "t1", gortsplib.TransportUDP)
		if err != nil {
			t.Fatal(err)
		}
		u.Client.Close()
		if _, err := newWatcher(n, "stranger", gortsplib.TransportTCP); err == nil {
			t.Fatal("a stranger watches")
		}
		c, err := net.Dial("tcp", n.rtmp)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		s.Client.Close()
		waitFor(t, "the publisher to have gone", func() bool {
			ls := n.stream(testID)
			ls.mu.Lock()
			defer ls.mu.Unlock()
			return ls.pub == nil && len(ls.viewers) == 0
		})
	}
	quiet := func() bool {
		for _, g := range []*guard{n.rtspIn, n.rtmpIn} {
			g.mu.Lock()
			left := len(g.conns)
			g.mu.Unlock()
			if left > 0 {
				return false
			}
		}
		return true
	}
	round()
	waitFor(t, "the first connections to be closed", quiet)
	goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
	for range 33 { // three connections and more each
		round()
	}
	waitFor(t, "the connections to be closed", quiet)
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines+3 })
	waitFor(t, "files to be closed", func() bool { return openFiles(t) <= descriptors+3 })
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.viewers != 0 || len(n.streams) != 1 {
		t.Errorf("%d viewers and %d livestreams are left", n.viewers, len(n.streams))
	}
}

// waitFor waits for what nobody tells of.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// Playlists have parts, no tickets, and nothing but what there is has a name.
func TestHLS(t *testing.T) {
	n := start(t, Config{}, newFakeRights())
	at := n.http.URL + "/live/" + testID.String() + "/"
	if code, _ := get(t, at+"index.m3u8"); code != http.StatusNotFound {
		t.Errorf("a livestream that is not on: %d", code)
	}
	s := mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	for range 8 * syntheticGroup { // more than a segment
		if err := s.send(100); err != nil {
			t.Fatal(err)
		}
	}
	code, index := get(t, at+"index.m3u8?ticket=secret")
	if code != http.StatusOK || !strings.Contains(index, "video1_stream.m3u8") || strings.Contains(index, "secret") {
		t.Fatalf("%d\n%s", code, index)
	}
	code, list := get(t, at+"video1_stream.m3u8?_HLS_msn=7&_HLS_part=0&ticket=secret")
	if code != http.StatusOK || !strings.Contains(list, "#EXT-X-PART:") || strings.Contains(list, "secret") {
		t.Fatalf("%d\n%s", code, list)
	}
	segments := 0
	for l := range strings.Lines(list) {
		if name := strings.TrimSpace(l); strings.HasSuffix(name, ".mp4") && !strings.HasPrefix(name, "#") && name != "gap.mp4" {
			code, body := get(t, at+name)
			if code != http.StatusOK || !strings.Contains(body, "mdat") {
				t.Errorf("%s: %d, %d bytes", name, code, len(body))
			}
			segments++
		}
	}
	if segments == 0 {
		t.Errorf("no segments in\n%s", list)
	}
	for _, bad := range []string{"nothing.mp4", "index.m3u8/", "../" + testID.String() + "/index.m3u8/x", ""} {
		if code, _ := get(t, at+bad); code != http.StatusNotFound {
			t.Errorf("%q: %d", bad, code)
		}
	}
	res, err := http.Post(at+"index.m3u8", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", res.StatusCode)
	}
	// Who waits for what will not come any more has an answer at the end.
	waiting := make(chan int, 1)
	var ended atomic.Bool
	go func() {
		for msn := 8; ; { // what was sent becomes segments a little later
			res, err := http.Get(at + "video1_stream.m3u8?_HLS_msn=" + strconv.Itoa(msn))
			if err != nil {
				waiting <- 0
				return
			}
			_ = res.Body.Close()
			switch {
			case res.StatusCode == http.StatusOK:
				msn++
			case ended.Load():
				waiting <- res.StatusCode
				return
			default:
				time.Sleep(10 * time.Millisecond) // its pace: too far ahead just now
			}
		}
	}()
	slots := n.stream(testID).hls.slots
	waitFor(t, "the request", func() bool { return len(slots) == 1 })
	ended.Store(true)
	n.End(testID, "enough")
	select {
	case code := <-waiting:
		if code < 400 {
			t.Errorf("a segment that never came: %d", code)
		}
	case <-time.After(patience):
		t.Error("a request waits for ever")
	}
}
