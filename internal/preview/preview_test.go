package preview

import (
	"bytes"
	"image"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"testing"
)

// A picture has a thumbnail and its dimensions; what is none has nothing.
func TestPicture(t *testing.T) {
	var raw bytes.Buffer
	if err := png.Encode(&raw, image.NewRGBA(image.Rect(0, 0, 300, 200))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a.png")
	if err := os.WriteFile(path, raw.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := Of(t.Context(), path, "image/png", 8<<10)
	cfg, err := jpeg.DecodeConfig(bytes.NewReader(p.Thumbnail))
	if err != nil || p.Width != 300 || p.Height != 200 || cfg.Width != 160 || p.DurationMS != 0 {
		t.Errorf("%dx%d, thumbnail %v, %v", p.Width, p.Height, cfg, err)
	}
	if err := os.WriteFile(path, []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, contentType := range map[string]string{path: "image/png", path + "x": "image/png", "a.txt": "text/plain"} {
		if p := Of(t.Context(), name, contentType, 8<<10); p.Thumbnail != nil || p.Width != 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
