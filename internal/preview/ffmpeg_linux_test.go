package preview

import (
	"bytes"
	"image"
	_ "image/jpeg" // the poster
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The real programs, on what they have made themselves, and on what is no
// video.
func TestFFmpegMakesPreviews(t *testing.T) {
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("ffmpeg is missing: deploy/dev/programs.sh installs it")
		}
		t.Skip("ffmpeg is not installed")
	}
	dir := t.TempDir()
	for name, encode := range map[string][]string{
		"clip.mp4":  {"-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"},
		"clip.ts":   {"-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"},
		"clip.webm": {"-c:v", "libvpx", "-c:a", "libopus", "-deadline", "realtime"},
	} {
		path := filepath.Join(dir, name)
		args := append([]string{"-v", "error", "-f", "lavfi", "-i", "testsrc=size=1280x720:rate=10:duration=3",
			"-f", "lavfi", "-i", "sine=duration=3"}, encode...)
		if out, err := exec.CommandContext(t.Context(), "ffmpeg", append(args, path)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", name, err, out)
		}
		p := Of(t.Context(), path, "video/mp4", 16<<10)
		if p.Width != 1280 || p.Height != 720 || p.DurationMS < 2900 || p.DurationMS > 3200 {
			t.Errorf("%s: %dx%d, %d ms", name, p.Width, p.Height, p.DurationMS)
		}
		poster, _, err := image.DecodeConfig(bytes.NewReader(p.Thumbnail))
		if err != nil || len(p.Thumbnail) > 16<<10 || poster.Width < 100 || poster.Width*720 < 1270*poster.Height || poster.Width*720 > 1290*poster.Height {
			t.Errorf("%s: the poster has %d bytes, %dx%d: %v", name, len(p.Thumbnail), poster.Width, poster.Height, err)
		}
	}
	// The last two name another file to read.
	for name, content := range map[string]string{
		"text.mp4":   "no video",
		"list.mp4":   "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n" + filepath.Join(dir, "clip.ts") + "\n#EXT-X-ENDLIST\n",
		"concat.mp4": "ffconcat version 1.0\nfile clip.ts\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if p := Of(t.Context(), path, "video/mp4", 16<<10); len(p.Thumbnail) > 0 || p.Width > 0 {
			t.Errorf("%s has a preview: %dx%d, %d bytes", name, p.Width, p.Height, len(p.Thumbnail))
		}
	}
}
