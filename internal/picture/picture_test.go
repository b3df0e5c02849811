package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"testing"
)

// quarters is a picture whose left upper quarter is red, the rest blue.
func quarters(w, h int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{B: 255, A: 255}
			if x < w/2 && y < h/2 {
				c = color.RGBA{R: 255, A: 255}
			}
			img.SetRGBA(x, y, c)
		}
	}
	return img
}

func asPNG(t testing.TB, img image.Image) []byte {
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func asJPEG(t testing.TB, img image.Image) []byte {
	var out bytes.Buffer
	if err := jpeg.Encode(&out, img, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// withEXIF puts an orientation, and a text that must not stay, into a JPEG.
func withEXIF(raw []byte, orientation uint16) []byte {
	tiff := []byte("II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00")
	tiff = binary.LittleEndian.AppendUint32(tiff, uint32(orientation))
	tiff = append(tiff, "\x00\x00\x00\x00 taken at home"...)
	body := append([]byte("Exif\x00\x00"), tiff...)
	head := binary.BigEndian.AppendUint16([]byte{0xFF, 0xD8, 0xFF, 0xE1}, uint16(len(body)+2))
	return append(append(head, body...), raw[2:]...)
}

// bomb is a PNG of a few bytes that says it is huge.
func bomb(t testing.TB, w, h uint32) []byte {
	raw := asPNG(t, quarters(2, 2))
	binary.BigEndian.PutUint32(raw[16:], w)
	binary.BigEndian.PutUint32(raw[20:], h)
	binary.BigEndian.PutUint32(raw[29:], crc32.ChecksumIEEE(raw[12:29]))
	return raw
}

func red(img image.Image, x, y int) bool {
	r, _, b, _ := img.At(img.Bounds().Min.X+x, img.Bounds().Min.Y+y).RGBA()
	return r > 0x8000 && b < 0x8000
}

// Each orientation brings the red quarter to where EXIF says, and what is made
// of the picture has no metadata.
func TestOrientationIsAppliedAndMetadataDropped(t *testing.T) {
	raw := asJPEG(t, quarters(64, 32))
	for o, at := range map[uint16]image.Point{
		1: {8, 4}, 2: {56, 4}, 3: {56, 28}, 4: {8, 28}, 5: {4, 8}, 6: {28, 8}, 7: {28, 56}, 8: {4, 56}, 9: {8, 4},
	} {
		img, err := Decode(withEXIF(raw, o))
		if err != nil {
			t.Fatal(err)
		}
		want := image.Pt(64, 32)
		if o >= 5 && o <= 8 {
			want = image.Pt(32, 64)
		}
		if img.Bounds().Size() != want || !red(img, at.X, at.Y) {
			t.Errorf("orientation %d: %v, red at %v: %v", o, img.Bounds(), at, red(img, at.X, at.Y))
		}
		part, err := Square(img, image.Rectangle{})
		if err != nil {
			t.Fatal(err)
		}
		out, err := JPEG(img, part, image.Pt(16, 16))
		if err != nil || bytes.Contains(out, []byte("Exif")) || bytes.Contains(out, []byte("home")) {
			t.Errorf("orientation %d: %v, or metadata stays", o, err)
		}
	}
}

// What would take too much memory is refused by its dimensions.
func TestHugePicturesAreRefused(t *testing.T) {
	for _, size := range [][2]uint32{{1 << 30, 1 << 30}, {20000, 20000}, {SideMax + 1, 1}, {1, 1 << 20}} {
		if _, err := Decode(bomb(t, size[0], size[1])); err == nil {
			t.Errorf("%v is taken", size)
		} else if _, ok := errors.AsType[*TooBigError](err); !ok && size[0] < 1<<30 {
			t.Errorf("%v: %v", size, err)
		}
	}
	var animated bytes.Buffer
	if err := gif.Encode(&animated, quarters(10, 10), nil); err != nil {
		t.Fatal(err)
	}
	if img, err := Decode(animated.Bytes()); err != nil || img.Bounds().Dx() != 10 {
		t.Errorf("a GIF: %v", err)
	}
	for _, raw := range []string{"", "hello", "<svg xmlns='http://www.w3.org/2000/svg'/>", "%PDF-1.4"} {
		if _, err := Decode([]byte(raw)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestSquare(t *testing.T) {
	img := quarters(100, 60)
	for crop, want := range map[image.Rectangle]image.Rectangle{
		{}:                        image.Rect(20, 0, 80, 60),
		image.Rect(0, 0, 10, 10):  image.Rect(0, 0, 10, 10),
		image.Rect(90, 0, 100, 4): image.Rect(93, 0, 97, 4),
	} {
		if got, err := Square(img, crop); err != nil || got != want {
			t.Errorf("%v: %v, %v", crop, got, err)
		}
	}
	for _, crop := range []image.Rectangle{image.Rect(0, 0, 101, 10), image.Rect(-1, 0, 10, 10), {Min: image.Pt(5, 5), Max: image.Pt(5, 9)}} {
		if _, err := Square(img, crop); err == nil {
			t.Errorf("%v is taken", crop)
		}
	}
}

func TestThumbnail(t *testing.T) {
	noise := image.NewRGBA(image.Rect(0, 0, 400, 300))
	for i := range noise.Pix {
		noise.Pix[i] = byte(i * i * 31 >> 3)
	}
	for _, img := range []image.Image{noise, quarters(2000, 3), quarters(1, 1)} {
		small := Thumbnail(img, 8<<10)
		cfg, err := jpeg.DecodeConfig(bytes.NewReader(small))
		if err != nil || len(small) > 8<<10 || max(cfg.Width, cfg.Height) > thumbnailSide {
			t.Errorf("%v: %d bytes, %v, %v", img.Bounds(), len(small), cfg, err)
		}
	}
	if Thumbnail(noise, 10) != nil {
		t.Error("10 bytes are enough")
	}
}

// FuzzDecode: whatever bytes come, decoding ends, and takes no picture beyond
// the bounds.
func FuzzDecode(f *testing.F) {
	f.Add(asPNG(f, quarters(8, 8)))
	f.Add(withEXIF(asJPEG(f, quarters(8, 8)), 6))
	f.Add(bomb(f, 100000, 100000))
	f.Add([]byte("GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"))
	f.Add([]byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		img, err := Decode(raw)
		if err != nil {
			return
		}
		b := img.Bounds()
		if b.Empty() || b.Dx() > SideMax || b.Dy() > SideMax || int64(b.Dx())*int64(b.Dy()) > MemoryMax/4 {
			t.Fatalf("a picture of %v was taken", b)
		}
		if b.Dx()*b.Dy() <= 1<<16 {
			Thumbnail(img, 8<<10)
		}
	})
}
