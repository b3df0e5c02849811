package preview

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// programs puts shell scripts in the place of ffmpeg and ffprobe.
func programs(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

// What ffprobe and ffmpeg say becomes a preview; without them there is none.
func TestVideo(t *testing.T) {
	var frame bytes.Buffer
	if err := jpeg.Encode(&frame, image.NewRGBA(image.Rect(0, 0, 640, 360)), nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "frame.jpg")
	if err := os.WriteFile(file, frame.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	const said = `echo '{"format":{"duration":"12.345"},"streams":[{},{"width":1920,"height":1080}]}'`
	programs(t, map[string]string{"ffprobe": said, "ffmpeg": "exec /bin/cat " + file})
	p := Of(t.Context(), "-holiday.mp4", "video/mp4", 8<<10)
	if p.Width != 1920 || p.Height != 1080 || p.DurationMS != 12345 || len(p.Thumbnail) == 0 || len(p.Thumbnail) > 8<<10 {
		t.Errorf("%+v", p)
	}
	programs(t, map[string]string{"ffprobe": said})
	if p := Of(t.Context(), "x.mp4", "video/mp4", 8<<10); p.DurationMS != 12345 || p.Thumbnail != nil {
		t.Errorf("without ffmpeg: %+v", p)
	}
	programs(t, nil)
	if p := Of(t.Context(), "x.mp4", "video/mp4", 8<<10); p.DurationMS != 0 {
		t.Errorf("without ffprobe: %+v", p)
	}
}

// The child has the limits, none of our environment, and what it says is
// bounded.
func TestChildIsLimited(t *testing.T) {
	t.Setenv("WAGGLE_SECRET", "s")
	programs(t, map[string]string{
		"limits": "ulimit -v; ulimit -t; ulimit -f; ulimit -c; echo \"env $WAGGLE_SECRET\"",
		"much":   "exec /bin/cat /dev/zero",
		"writes": "echo x > " + filepath.Join(t.TempDir(), "x") + " || exit 7",
	})
	out, err := child(t.Context(), "limits")
	if want := fmt.Sprintf("%s\n%s\n0\n0\nenv \n", childMemory, childCPU); err != nil || string(out) != want {
		t.Errorf("%q (%v), want %q", out, err, want)
	}
	if _, err := child(t.Context(), "much"); err == nil {
		t.Error("it may say as much as it likes")
	}
	if _, err := io.Copy(&bounded{}, io.LimitReader(zeros{}, childOutputMax+1)); !errors.Is(err, errTooMuch) {
		t.Errorf("too much: %v", err)
	}
	if n, err := io.Copy(&bounded{}, io.LimitReader(zeros{}, childOutputMax)); err != nil || n != childOutputMax {
		t.Errorf("just enough: %d, %v", n, err)
	}
	if _, err := child(t.Context(), "writes"); err == nil {
		t.Error("it may write files")
	}
	if _, err := child(t.Context(), "nothing"); err == nil || strings.Contains(err.Error(), "much") || errors.Is(err, errTooMuch) {
		t.Errorf("%v", err)
	}
}

// zeros never end.
type zeros struct{}

// Read implements [io.Reader].
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestParseProbe(t *testing.T) {
	for _, raw := range []string{"", "{", `{"format":{"duration":"-1"}}`, `{"format":{"duration":"NaN"},"streams":[{"width":70000,"height":5}]}`} {
		if p := parseProbe([]byte(raw)); p.Width != 0 || p.DurationMS != 0 {
			t.Errorf("%s: %+v", raw, p)
		}
	}
}
