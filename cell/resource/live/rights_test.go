package live

import (
	"strings"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v4"

	"github.com/waggle-im/waggle/proto"
)

// refused checks that ffmpeg is told why it may not, and that the log says so
// without the key.
func refused(t *testing.T, n *node, p *program, reason, secret string) {
	t.Helper()
	if err := p.wait(t); err == nil {
		t.Errorf("%v was not refused", p.Args)
	}
	if !strings.Contains(p.err.String(), reason) {
		t.Errorf("%v was not told %q but %s", p.Args, reason, p.err.String())
	}
	if log := n.log.String(); !strings.Contains(log, reason) {
		t.Errorf("%q is not in the log", reason)
	} else if secret != "" && strings.Contains(log, secret) {
		t.Error("the log has a key or a ticket")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	need(t, "ffmpeg")
	n := start(t, Config{SilentBefore: patience}, newFakeRights())
	file := clip(t, 3)
	publishing := func(key string) []*program {
		return []*program{
			publish(t, file, toRTSP(n.publishURL("rtsp", key), "tcp")...),
			publish(t, file, toRTSP(n.publishURL("rtsp", key), "udp")...),
			publish(t, file, toRTMP(n.publishURL("rtmp", key))...),
		}
	}
	for _, p := range publishing("stolenkey") {
		refused(t, n, p, "that is not the key of this livestream", "stolenkey")
	}
	for _, p := range publishing("nobody") {
		refused(t, n, p, "nobody can be asked just now", "")
	}
	watching := func(ticket string) []*program {
		return []*program{
			run(t, "ffmpeg", hashArgs(fromRTSP(n.watchURL("rtsp", ticket), "tcp")...)...),
			run(t, "ffmpeg", hashArgs(fromRTSP(n.watchURL("rtsp", ticket), "udp")...)...),
			run(t, "ffmpeg", hashArgs("-i", n.watchURL("rtmp", ticket))...),
		}
	}
	for _, p := range watching("t1") {
		refused(t, n, p, "is not on", "")
	}
	s := mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	for _, p := range publishing("right") {
		refused(t, n, p, "somebody publishes livestream 4096-17 already", "")
	}
	for _, p := range watching("stranger") {
		refused(t, n, p, "that ticket is not for this livestream", "stranger")
	}
	if err := s.send(100); err != nil {
		t.Errorf("the first publisher was disturbed: %v", err)
	}
}

func TestWhoIsNoMemberAnyMoreIsClosed(t *testing.T) {
	need(t, "ffmpeg")
	n := start(t, Config{}, newFakeRights())
	s := mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	viewers := map[string]*watcher{}
	for ticket, transport := range map[string]gortsplib.Transport{"t-tcp": gortsplib.TransportTCP, "t-udp": gortsplib.TransportUDP, "t-stays": gortsplib.TransportTCP} {
		w, err := newWatcher(n, ticket, transport)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Client.Close()
		w.first(t, s)
		viewers[ticket] = w
	}
	rtmp := run(t, "ffmpeg", "-v", "error", "-nostdin", "-i", n.watchURL("rtmp", "t-rtmp"), "-c", "copy", "-f", "null", "-")
	n.rights.until(t, "four watch", func(r Report) bool { return r.Viewers == 4 })
	n.rights.change(func() {
		for _, ticket := range []string{"t-tcp", "t-udp", "t-rtmp"} {
			n.rights.gone[ticket] = proto.Errorf(proto.CodeNotMember, "not a member any more")
		}
		n.rights.gone["t-stays"] = proto.Errorf(proto.CodeNotReady, "the range is moving")
	})
	viewers["t-tcp"].closed(t)
	viewers["t-udp"].closed(t)
	_ = rtmp.wait(t)
	n.rights.until(t, "one is left", func(r Report) bool { return r.Viewers == 1 && r.State == On })
	if got := strings.Count(n.log.String(), "not a member any more"); got != 3 {
		t.Errorf("the log has the reason %d times, want 3", got)
	}
	viewers["t-stays"].first(t, s)
	viewers["t-stays"].until(t, s.n-1)
	viewers["t-stays"].whole(t)
}

// Whoever cannot be asked about stays for a while, and not for ever.
func TestViewersNobodyCanBeAskedAbout(t *testing.T) {
	n := start(t, Config{RecheckGrace: 200 * time.Millisecond}, newFakeRights())
	s := mustSynthetic(t, n, spsA)
	w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Client.Close()
	w.first(t, s)
	n.rights.change(func() { n.rights.gone["t1"] = errNobody })
	w.closed(t)
	if !strings.Contains(n.log.String(), "nobody can be asked whether the viewer may stay") {
		t.Error("the log does not say why")
	}
}

// Edges count HLS viewers; a count that is not renewed is forgotten.
func TestViewersOfEdgesAreCounted(t *testing.T) {
	n := start(t, Config{}, newFakeRights())
	mustSynthetic(t, n, spsA)
	n.rights.until(t, "it is on", on)
	n.SetHLSViewers(testID, "e1", 3)
	n.SetHLSViewers(testID, "e2", 4)
	n.SetHLSViewers(testID, "e1", 2)
	n.rights.until(t, "six watch", func(r Report) bool { return r.Viewers == 6 })
	ls := n.stream(testID)
	if got, _ := ls.expire(time.Now().Add(remoteExpiry + time.Second)); got != 0 {
		t.Errorf("%d still count after their time", got)
	}
}

func TestEnd(t *testing.T) {
	n := start(t, Config{}, newFakeRights())
	s := mustSynthetic(t, n, spsA)
	w, err := newWatcher(n, "t1", gortsplib.TransportTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Client.Close()
	w.first(t, s)
	n.End(testID, "its owner has ended it")
	w.closed(t)
	if r := n.rights.until(t, "it has ended", ended); r.Reason != "its owner has ended it" || r.Video != "H.264 320x240" {
		t.Errorf("reported as %+v", r)
	}
	mustSynthetic(t, n, spsA) // and may begin it again
}
