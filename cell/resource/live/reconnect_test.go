package live

import (
	"strings"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"
)

// A publisher that is killed and comes back by another protocol goes on with
// the same livestream: nobody is closed, and time goes on.
func TestPublisherComesBack(t *testing.T) {
	need(t, "ffmpeg")
	n := start(t, Config{ReconnectWithin: patience}, newFakeRights())
	file := clip(t, 4)
	first := publish(t, file, toRTSP(n.publishURL("rtsp", "right"), "tcp")...)
	began := n.rights.until(t, "it is on", on).Started
	w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Client.Close()
	rtmp := run(t, "ffmpeg", "-v", "error", "-nostdin", "-i", n.watchURL("rtmp", "t2"), "-c", "copy", "-f", "framecrc", "-")
	pictures := func(more int) {
		t.Helper()
		w.mu.Lock()
		want := len(w.times) + more
		w.mu.Unlock()
		w.untilCount(t, want)
	}
	pictures(10)
	n.rights.until(t, "two watch", func(r Report) bool { return r.Viewers == 2 })
	for i, to := range [][]string{toRTMP(n.publishURL("rtmp", "right")), toRTSP(n.publishURL("rtsp", "right"), "udp")} {
		if err := first.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = first.wait(t)
		n.rights.untilCount(t, i+1, func(r Report) bool { return r.State == Interrupted })
		first = publish(t, file, to...)
		n.rights.untilCount(t, i+1, func(r Report) bool { return r.State == On && r.Viewers == 2 && r.Started.Equal(began) })
		pictures(10)
	}
	_ = first.Process.Kill()
	n.End(testID, "enough")
	w.closed(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < len(w.times); i++ {
		if w.times[i] <= w.times[i-1] {
			t.Errorf("picture %d is of %d, the one before of %d", i, w.times[i], w.times[i-1])
		}
	}
	if err := rtmp.wait(t); err != nil {
		t.Error(err)
	}
	times := strings.Count(rtmp.out.String(), "\n0,")
	if times < 30 || strings.Contains(rtmp.err.String(), "non monoton") {
		t.Errorf("by RTMP %d pictures were seen: %s", times, rtmp.err.String())
	}
}

func TestPublisherStaysAway(t *testing.T) {
	n := start(t, Config{ReconnectWithin: 50 * time.Millisecond}, newFakeRights())
	s := mustSynthetic(t, n, spsA)
	began := n.rights.until(t, "it is on", on).Started
	w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Client.Close()
	w.first(t, s)
	s.Client.Close()
	n.rights.until(t, "it is interrupted", func(r Report) bool { return r.State == Interrupted || r.State == Ended })
	if r := n.rights.until(t, "it has ended", ended); r.Reason != "the publisher has left" || !r.Started.Equal(began) {
		t.Errorf("reported as %+v", r)
	}
	w.closed(t)
	mustSynthetic(t, n, spsA)
	n.rights.until(t, "another one is on", func(r Report) bool { return r.State == On && r.Started.After(began) })
}

// A publisher whose link was cut without a word, which nobody has noticed yet,
// can go on at once by another connection.
func TestPublisherComesBackBeforeItsLossIsNoticed(t *testing.T) {
	for _, second := range []string{protocolRTSP, protocolRTMP} {
		t.Run(second, func(t *testing.T) {
			n := start(t, Config{SilenceMax: patience, SilentBefore: 50 * time.Millisecond}, newFakeRights())
			cut := mustSynthetic(t, n, spsA)
			began := n.rights.until(t, "it is on", on).Started
			w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Client.Close()
			w.first(t, cut)
			w.until(t, cut.n-1) // nothing is on its way any more
			for p := n.stream(testID).pub; p.silence() < n.cfg.SilentBefore; {
				time.Sleep(time.Millisecond)
			}
			if second == protocolRTMP {
				need(t, "ffmpeg")
				publish(t, clip(t, 4), toRTMP(n.publishURL("rtmp", "right"))...)
				r := n.rights.until(t, "the other one's sound is on", func(r Report) bool { return r.State == On && r.Audio != "" })
				if !r.Started.Equal(began) {
					t.Errorf("another livestream began at %v", r.Started)
				}
				return
			}
			back := mustSynthetic(t, n, spsA)
			back.n = (cut.n/syntheticGroup + 1) * syntheticGroup // a key frame
			for range syntheticGroup {
				if err := back.send(100); err != nil {
					t.Fatal(err)
				}
			}
			w.until(t, back.n-1) // the viewer was not closed
		})
	}
}

// Whoever sends is not displaced, however long ago it began.
func TestPublisherThatSendsStays(t *testing.T) {
	n := start(t, Config{SilentBefore: patience}, newFakeRights())
	s := mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	p := n.stream(testID).pub
	p.heard.Store(0)
	for begin := time.Now(); p.heard.Load() == 0 && time.Since(begin) < patience; time.Sleep(time.Millisecond) {
		if err := s.send(100); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := newSynthetic(t, n, "right", spsA); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("another one was let in: %v", err)
	}
}

// Whoever comes back with other pictures has new viewers.
func TestPublisherComesBackWithOtherPictures(t *testing.T) {
	rights := newFakeRights()
	rights.record = true
	n := start(t, Config{ReconnectWithin: patience, Dir: t.TempDir()}, rights)
	s := mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Client.Close()
	w.first(t, s)
	for range 30 {
		if err := s.send(100); err != nil {
			t.Fatal(err)
		}
	}
	w.until(t, s.n-1)
	s.Client.Close()
	n.rights.until(t, "it is interrupted", func(r Report) bool { return r.State == Interrupted })
	s = mustSynthetic(t, n, spsB)
	w.closed(t)
	if !strings.Contains(n.log.String(), "the publisher has come back with other video or sound") {
		t.Error("the log does not say why the viewer was closed")
	}
	if r := n.rights.until(t, "it has the other size", func(r Report) bool { return r.Video == "H.264 160x128" }); r.State != On {
		t.Errorf("reported as %+v", r)
	}
	again, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Client.Close()
	again.first(t, s)
	n.rights.untilKept(t, 1) // the recording of what was before
}
