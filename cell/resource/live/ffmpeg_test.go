//go:build unix

package live

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// film is what is published again and again, and what is to be seen of it:
// hashes of pictures, no two of them the same, and of packets of sound.
type film struct {
	file         string
	pictures     int // of one pass
	video, audio []string
}

const (
	// filmPasses are more than anybody sees.
	filmPasses = 40
	// cutPictures and cutSound are the last that somebody saw. Pictures are not
	// sent in the order they are shown, so there may be gaps where it ended.
	cutPictures, cutSound = 4, 0
)

func newFilm(t *testing.T, file string) film {
	t.Helper()
	once, _ := hashes(must(t, "ffmpeg", hashArgs("-i", file)...))
	video, audio := hashes(must(t, "ffmpeg", hashArgs("-stream_loop", strconv.Itoa(filmPasses-1), "-i", file)...))
	if len(once) == 0 || len(video) != filmPasses*len(once) {
		t.Fatalf("the film has %d pictures, %d times it %d", len(once), filmPasses, len(video))
	}
	return film{file, len(once), video, audio}
}

// compare checks that what was seen is what was sent from some moment on: nothing
// missing, twice, in another order or damaged.
func compare(have, want []string, cut int) string {
	if len(have) <= cut {
		return "only " + strconv.Itoa(len(have)) + " were seen"
	}
	have = have[:len(have)-cut]
	best := 0
	for from, hash := range want {
		if hash != have[0] {
			continue
		}
		same := 0
		for same < len(have) && from+same < len(want) && have[same] == want[from+same] {
			same++
		}
		if same == len(have) {
			return ""
		}
		best = max(best, same)
	}
	return "of " + strconv.Itoa(len(have)) + " the first " + strconv.Itoa(best) + " are as they were sent"
}

// enough tells whether a viewer has seen a whole pass and the beginning of the
// next.
func (f film) enough(v *program) bool {
	video, _ := hashes(v.out.String())
	return len(video) >= f.pictures+2*cutPictures
}

// show has the film published and watched until everybody has seen enough of it.
// join starts the viewers while the publisher is held.
func (f film) show(t *testing.T, n *node, publisher *program, join func() map[string]*program) (end func() map[string]*program) {
	t.Helper()
	n.rights.until(t, "it is on", on)
	signal(t, publisher, syscall.SIGSTOP) // on a slow machine much would have passed before they come
	viewers := join()
	direct, hls := 0, false
	for name := range viewers {
		if name == "hls" {
			hls = true
		} else {
			direct++
		}
	}
	n.rights.until(t, "all watch", func(r Report) bool { return r.Viewers == direct })
	ls := n.stream(testID)
	waitFor(t, "somebody to ask for HLS", func() bool {
		return !hls || len(ls.hls.slots) > 0 || counted(t, ls.metrics.sent[protocolHLS]) > 0
	})
	signal(t, publisher, syscall.SIGCONT)
	return func() map[string]*program {
		t.Helper()
		for name, v := range viewers {
			waitFor(t, name+" to have seen enough", func() bool {
				select {
				case <-v.done:
					return true // too early, which is found below
				default:
					return f.enough(v)
				}
			})
		}
		_ = publisher.Process.Kill()
		n.End(testID, "enough")
		for name, v := range viewers {
			if err := v.wait(t); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !f.enough(v) {
				t.Errorf("%s has ended too early", name)
			}
		}
		return viewers
	}
}

func signal(t *testing.T, p *program, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// ffmpeg publishes in three ways, and is watched in four at once. What is
// compared of pictures is what a decoder makes of them.
func TestEveryoneSeesTheSame(t *testing.T) {
	need(t, "ffmpeg")
	f := newFilm(t, clip(t, 4, "-bf", "2"))
	lost := lostDatagrams(t)
	var checks []func()
	for _, by := range []string{"tcp", "udp", "rtmp"} { // all at once: they wait most of the time
		rights := newFakeRights()
		rights.record = true
		n := start(t, Config{Dir: t.TempDir(), SilenceMax: patience}, rights)
		to := toRTSP(n.publishURL("rtsp", "right"), by)
		if by == "rtmp" {
			to = toRTMP(n.publishURL("rtmp", "right"))
		}
		end := f.show(t, n, publish(t, f.file, to...), func() map[string]*program {
			return map[string]*program{
				"tcp":  run(t, "ffmpeg", hashArgs(fromRTSP(n.watchURL("rtsp", "t1"), "tcp")...)...),
				"udp":  run(t, "ffmpeg", hashArgs(fromRTSP(n.watchURL("rtsp", "t2"), "udp")...)...),
				"rtmp": run(t, "ffmpeg", hashArgs("-i", n.watchURL("rtmp", "t3"))...),
				"hls":  run(t, "ffmpeg", hashArgs("-i", n.watchURL("http", ""))...),
			}
		})
		checks = append(checks, func() {
			for name, v := range end() {
				if lostDatagrams(t) != lost && (by == "udp" || name == "udp") {
					t.Log("the system has thrown datagrams away: this machine is too busy to compare")
					continue
				}
				f.check(t, "by "+by+" to "+name, v.out.String())
			}
			if r := rights.until(t, "it has ended", ended); r.Reason != "enough" || r.Viewers != 0 || r.Video != "H.264 320x240" || r.Audio != "AAC 48000 Hz, 1 channels" {
				t.Errorf("the end was reported as %+v", r)
			}
			path := filepath.Join(t.TempDir(), "recording.mp4")
			if err := os.WriteFile(path, rights.untilKept(t, 1)[0], 0o600); err != nil {
				t.Fatal(err)
			}
			if by != "udp" || lostDatagrams(t) == lost {
				f.check(t, "by "+by+" recorded", must(t, "ffmpeg", hashArgs("-i", path)...))
			}
		})
	}
	for _, check := range checks {
		check()
	}
}

// check compares what was seen with the film.
func (f film) check(t *testing.T, how, seen string) {
	t.Helper()
	video, audio := hashes(seen)
	t.Logf("%s: %d pictures, %d packets of sound", how, len(video), len(audio))
	if problem := compare(video, f.video, cutPictures); problem != "" {
		t.Errorf("pictures %s: %s", how, problem)
	}
	if problem := compare(audio, f.audio, cutSound); problem != "" {
		t.Errorf("sound %s: %s", how, problem)
	}
}

// lostDatagrams counts what the system threw away because nobody read in time.
func lostDatagrams(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		return ""
	}
	raw, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for l := range strings.Lines(string(raw)) {
		f := strings.Fields(l)
		if len(f) == 0 || f[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		return f[slices.Index(names, "RcvbufErrors")]
	}
	t.Fatal("/proc/net/snmp says nothing of UDP")
	return ""
}
