//go:build unix

package live

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// codecCase is a film of other codecs.
type codecCase struct {
	name, video, audio string
	container          string // by which it is published
	others             string // which carry the video, too
}

// codecGroup is how many pictures there are from one key frame to the next.
const codecGroup = 5

// What is not H.264 and AAC is carried by RTSP always, and by the others if
// they can.
func TestOtherCodecs(t *testing.T) {
	need(t, "ffmpeg")
	encoders := must(t, "ffmpeg", "-v", "error", "-encoders")
	var checks []func()
	for _, c := range []codecCase{
		{"VP9 and Opus", "libvpx-vp9 -deadline realtime -cpu-used 8 -row-mt 1", "libopus", "rtsp", "hls"},
		{"H.265", "libx265 -preset ultrafast -x265-params log-level=none", "", "rtsp", "hls"},
		{"VP8 and G.711", "libvpx -deadline realtime -cpu-used 8", "pcm_mulaw -ar 8000 -ac 1", "rtsp", ""},
		{"MPEG-4 and MP2", "mpeg4", "mp2", "rtsp", ""},
		{"H.264 and MP3 by RTMP", "libx264 -preset ultrafast", "mp3 -ar 44100", "rtmp", "hls rtmp"},
		{"H.264 and G.711 by RTMP", "libx264 -preset ultrafast", "pcm_alaw -ar 8000 -ac 1", "rtmp", "hls rtmp"},
	} {
		if encoder := strings.Fields(c.video)[0]; !strings.Contains(encoders, " "+encoder+" ") {
			t.Logf("this ffmpeg has no %s", encoder)
			continue
		}
		checks = append(checks, c.begin(t))
	}
	for _, check := range checks {
		check()
	}
}

// begin publishes and watches the film; what it returns compares.
func (c codecCase) begin(t *testing.T) func() {
	t.Helper()
	file := filepath.Join(t.TempDir(), "clip.mkv")
	args := []string{"-v", "error", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=10", "-f", "lavfi", "-i", "sine=frequency=440", "-t", "3", "-map", "0:v", "-pix_fmt", "yuv420p", "-g", strconv.Itoa(codecGroup), "-c:v"}
	args = append(args, strings.Fields(c.video)...)
	if c.audio != "" {
		args = append(append(args, "-map", "1:a", "-c:a"), strings.Fields(c.audio)...)
	}
	must(t, "ffmpeg", append(args, file)...)
	f := newFilm(t, file)
	n := start(t, Config{SilenceMax: patience}, newFakeRights())
	to := toRTMP(n.publishURL("rtmp", "right"))
	if c.container == "rtsp" {
		to = append([]string{"-strict", "experimental"}, toRTSP(n.publishURL("rtsp", "right"), "tcp")...)
	}
	end := f.show(t, n, publish(t, file, to...), func() map[string]*program {
		viewers := map[string]*program{"rtsp": run(t, "ffmpeg", hashArgs(fromRTSP(n.watchURL("rtsp", "t1"), "tcp")...)...)}
		for _, by := range strings.Fields(c.others) {
			viewers[by] = run(t, "ffmpeg", hashArgs("-i", n.watchURL(map[string]string{"hls": "http", "rtmp": "rtmp"}[by], "t2"))...)
		}
		return viewers
	})
	return func() {
		for by, v := range end() {
			c.compare(t, by, v.out.String(), f)
		}
	}
}

func (c codecCase) compare(t *testing.T, by, seen string, f film) {
	t.Helper()
	video, audio := hashes(seen)
	t.Logf("%s by %s: %d pictures, %d of sound", c.name, by, len(video), len(audio))
	// What is carried without being known may begin between key frames.
	for n := 0; n < codecGroup && len(video) > 0 && !slices.Contains(f.video, video[0]); n++ {
		video = video[1:]
	}
	if problem := compare(video, f.video, cutPictures); problem != "" {
		t.Errorf("%s, pictures by %s: %s", c.name, by, problem)
	}
	if len(f.audio) > 0 && by == "rtsp" {
		if problem := compare(audio, f.audio, cutSound); problem != "" {
			t.Errorf("%s, sound by %s: %s", c.name, by, problem)
		}
	}
}
