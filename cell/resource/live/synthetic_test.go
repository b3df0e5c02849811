package live

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtph264"
	"github.com/bluenviron/gortsplib/v4/pkg/liberrors"
	"github.com/pion/rtp"
)

// Parameter sets of 320x240 and 160x128, as x264 writes them for its baseline
// profile: pictures are shown in the order they are sent.
var (
	spsA = []byte{0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xec, 0x04, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00, 0x0c, 0x83, 0xc5, 0x0a, 0xa8}
	spsB = []byte{0x67, 0x42, 0xc0, 0x0b, 0xda, 0x0a, 0x11, 0xb0, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03, 0x00, 0x32, 0x0f, 0x14, 0x2a, 0xa0}
	ppsA = []byte{0x68, 0xce, 0x0f, 0xc8}
)

const (
	syntheticTicks = 3600 // 25 pictures per second
	syntheticGroup = 10   // pictures from one key frame to the next
)

// synthetic publishes numbered pictures that no decoder could show.
type synthetic struct {
	*gortsplib.Client
	media *description.Media
	enc   *rtph264.Encoder
	n     int
}

func newSynthetic(t testing.TB, n *node, key string, sps []byte) (*synthetic, error) {
	t.Helper()
	tcp := gortsplib.TransportTCP
	s := &synthetic{Client: &gortsplib.Client{Transport: &tcp}}
	f := &format.H264{PayloadTyp: 96, SPS: sps, PPS: ppsA, PacketizationMode: 1}
	s.media = &description.Media{Type: description.MediaTypeVideo, Formats: []format.Format{f}}
	var err error
	if s.enc, err = f.CreateEncoder(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartRecording(n.publishURL("rtsp", key), &description.Session{Medias: []*description.Media{s.media}}); err != nil {
		s.Client.Close()
		return nil, err
	}
	t.Cleanup(s.Client.Close)
	return s, nil
}

// mustSynthetic begins to publish.
func mustSynthetic(t testing.TB, n *node, sps []byte) *synthetic {
	t.Helper()
	s, err := newSynthetic(t, n, "right", sps)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// picture n is its number in readable digits, filled up to size.
func picture(n, size int) []byte {
	head := byte(0x41)
	if n%syntheticGroup == 0 {
		head = 0x65
	}
	p := append([]byte{head}, fmt.Sprintf("%09d", n+1)...)
	return append(p, bytes.Repeat([]byte{0x55}, max(0, size-len(p)))...)
}

// send publishes the next picture, of size bytes.
func (s *synthetic) send(size int) error {
	au := [][]byte{picture(s.n, size)}
	packets, err := s.enc.Encode(au)
	if err != nil {
		return err
	}
	for _, p := range packets {
		p.Timestamp = uint32(s.n * syntheticTicks)
		for {
			err := s.WritePacketRTP(s.media, p)
			if err == nil {
				break
			}
			if !errors.Is(err, liberrors.ErrClientWriteQueueFull{}) {
				return err
			}
			runtime.Gosched() // the connection is slower than this loop
		}
	}
	s.n++
	return nil
}

// watcher plays by RTSP and keeps the numbers of the pictures.
type watcher struct {
	*gortsplib.Client
	ended chan error

	mu      sync.Mutex
	seen    []int
	times   []int64
	lost    uint64
	damaged int
	changed chan struct{}
}

func newWatcher(n *node, ticket string, transport gortsplib.Transport) (*watcher, error) {
	u, err := base.ParseURL(n.watchURL("rtsp", ticket))
	if err != nil {
		return nil, err
	}
	w := &watcher{ended: make(chan error, 1), changed: make(chan struct{})}
	w.Client = &gortsplib.Client{
		Scheme: u.Scheme, Host: u.Host, Transport: &transport, ReadTimeout: patience,
		OnPacketsLost: func(n uint64) { w.mu.Lock(); defer w.mu.Unlock(); w.lost += n },
		OnDecodeError: func(error) { w.mu.Lock(); defer w.mu.Unlock(); w.damaged++ },
	}
	if err := w.Start2(); err != nil {
		return nil, err
	}
	if err := w.play(u); err != nil {
		w.Client.Close()
		return nil, err
	}
	go func() { w.ended <- w.Wait() }()
	return w, nil
}

func (w *watcher) play(u *base.URL) error {
	desc, _, err := w.Describe(u)
	if err != nil {
		return err
	}
	if err := w.SetupAll(desc.BaseURL, desc.Medias); err != nil {
		return err
	}
	var f *format.H264
	m := desc.FindFormat(&f)
	if m == nil {
		return errors.New("no H.264")
	}
	dec, err := f.CreateDecoder()
	if err != nil {
		return err
	}
	w.OnPacketRTP(m, f, func(p *rtp.Packet) {
		pts, timed := w.PacketPTS2(m, p)
		au, err := dec.Decode(p)
		if err == nil && timed {
			w.take(au, pts)
		}
	})
	_, err = w.Play(nil)
	return err
}

func (w *watcher) take(au [][]byte, pts int64) {
	last := au[len(au)-1]
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := strconv.Atoi(string(last[1:min(10, len(last))]))
	if err != nil {
		w.damaged++
	}
	w.seen, w.times = append(w.seen, n-1), append(w.times, pts)
	close(w.changed)
	w.changed = make(chan struct{})
}

// until waits until picture n has been seen.
func (w *watcher) until(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		there, changed := len(w.seen) > 0 && slices.Max(w.seen) >= n, w.changed
		w.mu.Unlock()
		if there {
			return
		}
		select {
		case <-changed:
		case err := <-w.ended:
			t.Fatalf("the viewer was closed before picture %d: %v", n, err)
		case <-deadline:
			t.Fatalf("picture %d was not seen", n)
		}
	}
}

// first waits until anything has been seen while s publishes.
func (w *watcher) first(t testing.TB, s *synthetic) {
	t.Helper()
	deadline := time.After(patience)
	for {
		if err := s.send(100); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		there, changed := len(w.seen) > 0, w.changed
		w.mu.Unlock()
		if there {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatal("nothing was seen")
		}
	}
}

// whole checks that nothing is missing, twice or out of order, and that time
// goes on.
func (w *watcher) whole(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < len(w.seen); i++ {
		if w.seen[i] != w.seen[i-1]+1 {
			t.Errorf("picture %d follows %d", w.seen[i], w.seen[i-1])
		}
		if w.times[i] <= w.times[i-1] {
			t.Errorf("picture %d is of %d, the one before of %d", w.seen[i], w.times[i], w.times[i-1])
		}
	}
	if w.lost > 0 || w.damaged > 0 {
		t.Errorf("%d packets lost, %d damaged", w.lost, w.damaged)
	}
}

// closed waits until the viewer's connection has been closed.
func (w *watcher) closed(t testing.TB) {
	t.Helper()
	select {
	case <-w.ended:
	case <-time.After(patience):
		t.Error("the viewer was not closed")
	}
}

// untilCount waits until n pictures have been seen.
func (w *watcher) untilCount(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		there, changed := len(w.times) >= n, w.changed
		w.mu.Unlock()
		if there {
			return
		}
		select {
		case <-changed:
		case err := <-w.ended:
			t.Fatalf("the viewer was closed before %d pictures: %v", n, err)
		case <-deadline:
			t.Fatalf("%d pictures were not seen", n)
		}
	}
}
