//go:build unix

package live

import (
	"syscall"
	"testing"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A viewer that is stopped is closed; the others see everything. The publisher
// sends the next picture when the viewer that is not stopped has seen the last:
// if one had to wait for the other, nothing would go on.
func TestStoppedViewersDelayNobody(t *testing.T) {
	need(t, "ffmpeg")
	n := start(t, Config{PublishBytesPerSecondMax: 1 << 30}, newFakeRights())
	s := mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Client.Close()
	w.first(t, s)
	rtsp := run(t, "ffmpeg", "-v", "error", "-nostdin", "-rtsp_transport", "tcp", "-i", n.watchURL("rtsp", "t2"), "-c", "copy", "-f", "null", "-")
	rtmp := run(t, "ffmpeg", "-v", "error", "-nostdin", "-i", n.watchURL("rtmp", "t3"), "-c", "copy", "-f", "null", "-")
	n.rights.until(t, "three watch", func(r Report) bool { return r.Viewers == 3 })
	for _, p := range []*program{rtsp, rtmp} {
		if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	ls := n.stream(testID)
	sent := 0
	slow := func() bool {
		return counted(t, ls.metrics.slow[protocolRTSP]) >= 1 && counted(t, ls.metrics.dropped[protocolRTMP]) >= 1
	}
	for ; !slow(); sent++ {
		if sent == 5000 { // 500 MB: no system keeps as much for somebody who does not read
			t.Fatal("stopped viewers are not noticed")
		}
		if err := s.send(100 << 10); err != nil {
			t.Fatal(err)
		}
		w.until(t, s.n-1)
	}
	t.Logf("noticed after %d pictures of 100 KiB", sent)
	n.rights.until(t, "one has been closed", func(r Report) bool { return r.Viewers == 2 })
	w.whole(t)
	// The one by RTMP sees the newest when it goes on.
	if err := rtmp.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for range 3 * syntheticGroup {
		if err := s.send(100); err != nil {
			t.Fatal(err)
		}
		w.until(t, s.n-1)
	}
	n.End(testID, "enough")
	_ = rtmp.wait(t)
	w.closed(t)
}

func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}
