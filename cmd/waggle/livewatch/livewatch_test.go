package livewatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// edge serves a livestream of which a segment is finished at every look at the
// picture's playlist.
type edge struct {
	mu    sync.Mutex // guards the fields below
	looks int
	skip  int // this many segments are gone at the third look
	ended bool
	done  chan struct{} // closed at the sixth look
}

func (e *edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch file := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]; {
	case file == "index.m3u8" && r.URL.Query().Get("ticket") == "t":
		_, _ = io.WriteString(w, "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",URI=\"s/S/a.m3u8\"\n#EXT-X-STREAM-INF:BANDWIDTH=1\ns/S/v.m3u8\n")
	case e.ended || file == "index.m3u8":
		http.Error(w, `{"code":"not_friends"}`, http.StatusForbidden)
	case file == "v.m3u8" || file == "a.m3u8":
		if file == "v.m3u8" {
			if e.looks++; e.looks == 3 {
				e.looks += e.skip
			}
			if e.looks == 6+e.skip {
				close(e.done)
			}
		}
		at := time.Now().Add(-3 * time.Second).UTC().Format(time.RFC3339Nano)
		fmt.Fprintf(w, "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:%d\n#EXT-X-MAP:URI=\"%s_init.mp4\"\n#EXT-X-GAP\n#EXTINF:1.0,\ngap.mp4\n#EXT-X-PROGRAM-DATE-TIME:%s\n#EXTINF:1.0,\n%s_%d.mp4\n#EXT-X-PART:URI=\"part.mp4\"\n",
			e.looks, file[:1], at, file[:1], e.looks+1)
	default:
		_, _ = io.WriteString(w, "<"+strings.TrimSuffix(file, ".mp4")+">")
	}
}

func watch(t *testing.T, e *edge, during func(cancel func())) (picture, sound string, m Measured, err error) {
	t.Helper()
	server := httptest.NewServer(e)
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	var out, beside bytes.Buffer
	var meter Meter
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { // ends with its context, or the livestream
		done <- HLS(ctx, HLSOptions{
			Options: Options{Address: server.URL + "/live/1-1/index.m3u8?ticket=t", Meter: &meter, Out: &out},
			Client:  server.Client(), Sound: func() (io.Writer, error) { return &beside, nil },
		})
	}()
	during(cancel)
	err = <-done
	return out.String(), beside.String(), meter.Measure(time.Now()), err
}

func TestHLSIsFollowedSegmentBySegment(t *testing.T) {
	e := &edge{done: make(chan struct{}), skip: 2}
	picture, sound, m, err := watch(t, e, func(cancel func()) {
		<-e.done
		cancel()
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// It begins with the newest, has each header once, and knows what it missed.
	if want := "<v_init><v_2><v_3><v_6>"; !strings.HasPrefix(picture, want) {
		t.Errorf("picture %s, want %s…", picture, want)
	}
	if !strings.HasPrefix(sound, "<a_init><a_2>") || strings.Contains(picture+sound, "gap") {
		t.Errorf("sound %s, picture %s", sound, picture)
	}
	if m.Lost < 2 || m.Bytes == 0 || !m.Known || m.Delay < time.Second {
		t.Errorf("%+v", m)
	}
}

func TestHLSEndsWithWhoMayNotWatch(t *testing.T) {
	e := &edge{done: make(chan struct{})}
	_, _, _, err := watch(t, e, func(func()) {
		<-e.done
		e.mu.Lock()
		e.ended = true
		e.mu.Unlock()
	})
	if gone, ok := errors.AsType[*statusError](err); !ok || gone.status != http.StatusForbidden {
		t.Fatalf("%v", err)
	}
}

func TestMeterTellsTheRate(t *testing.T) {
	var m Meter
	now := time.Now()
	m.add(1000)
	if got := m.Measure(now); got.Rate != 0 || got.Bytes != 1000 {
		t.Fatalf("%+v", got)
	}
	m.add(1000)
	m.lose(3)
	m.delayed(-time.Second) // clocks differ
	got := m.Measure(now.Add(2 * time.Second))
	if got.Rate != 4000 || got.Packets != 2 || got.Lost != 3 || !got.Known || got.Delay != 0 {
		t.Fatalf("%+v", got)
	}
	if got := m.Measure(now.Add(2 * time.Second)); got.Rate != 0 {
		t.Fatalf("no time has passed: %+v", got)
	}
}

func TestPlaylistsThatAreNone(t *testing.T) {
	for _, playlist := range []string{"", "#EXTM3U\n", "#EXT-X-MEDIA:TYPE=AUDIO,URI=\"a\"\n"} {
		if p, s, err := renditions("http://x/y/index.m3u8", []byte(playlist)); err == nil {
			t.Errorf("%q: %s, %s", playlist, p, s)
		}
	}
	if _, segments := parseMedia([]byte("#EXTINF:x,\n#EXT-X-MEDIA-SEQUENCE:x\n#EXT-X-PROGRAM-DATE-TIME:x\na\n")); len(segments) != 1 || !segments[0].end.IsZero() {
		t.Errorf("%+v", segments)
	}
}

func TestScale(t *testing.T) {
	for _, test := range []struct {
		ticks int64
		rate  int
		want  int64
	}{{48_000, 48_000, tsRate}, {-44_100, 44_100, -tsRate}, {1, 0, 0}, {1 << 50, 90_000, 1 << 50}} {
		if got := scale(test.ticks, test.rate); got != test.want {
			t.Errorf("%d of %d: %d, want %d", test.ticks, test.rate, got, test.want)
		}
	}
}
