package picture

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

const (
	// MemoryMax bounds what decoding one picture takes: one of 17 megapixels
	// where a JPEG is progressive and at its worst.
	MemoryMax = 256 << 20
	// SideMax bounds width and height.
	SideMax = 1 << 15
	// quality of what is encoded as JPEG: artefacts are not seen at such sizes.
	quality = 85
)

// ErrFormat is what is no picture of a known kind.
var ErrFormat = errors.New("picture: is no JPEG, PNG, GIF or WebP picture")

// TooBigError refuses a picture by its dimensions.
type TooBigError struct{ Width, Height int }

// Error implements error.
func (e *TooBigError) Error() string {
	return fmt.Sprintf("picture: %d×%d pixels are too many: make it smaller", e.Width, e.Height)
}

// format is how one kind of picture is read.
type format struct {
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
	// bytesPerPixel is what decoding takes at most.
	bytesPerPixel func(color.Model) int64
}

func formatOf(raw []byte) (format, bool) {
	wide := func(m color.Model) int64 {
		if m == color.NRGBA64Model || m == color.RGBA64Model || m == color.Gray16Model {
			return 8
		}
		return 4
	}
	switch http.DetectContentType(raw) {
	case "image/jpeg":
		// Three planes of coefficients of 4 bytes, and the pixels.
		return format{jpeg.DecodeConfig, jpeg.Decode, func(color.Model) int64 { return 15 }}, true
	case "image/png":
		return format{png.DecodeConfig, png.Decode, wide}, true
	case "image/gif":
		return format{gif.DecodeConfig, gif.Decode, wide}, true
	case "image/webp":
		// Lossy with alpha: planes, alpha, and the two joined.
		return format{webp.DecodeConfig, webp.Decode, func(color.Model) int64 { return 8 }}, true
	}
	return format{}, false
}

// Decode reads a picture, turned as its metadata says; of an animation the
// first.
//
// Errors: [ErrFormat], [*TooBigError], and what the decoder says of one that is
// damaged.
func Decode(raw []byte) (image.Image, error) {
	f, ok := formatOf(raw)
	if !ok {
		return nil, ErrFormat
	}
	cfg, err := f.config(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("picture: %w", err)
	}
	if cfg.Width < 1 || cfg.Height < 1 {
		return nil, ErrFormat
	}
	if cfg.Width > SideMax || cfg.Height > SideMax || int64(cfg.Width)*int64(cfg.Height)*f.bytesPerPixel(cfg.ColorModel) > MemoryMax {
		return nil, &TooBigError{cfg.Width, cfg.Height}
	}
	img, err := f.decode(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("picture: %w", err)
	}
	if b := img.Bounds(); b.Dx() > cfg.Width || b.Dy() > cfg.Height || b.Empty() {
		return nil, ErrFormat // a frame beside its own picture
	}
	return turned(img, orientation(raw)), nil
}

// Square is the part of a picture that an avatar shows: the middle square of
// crop, or of the whole where crop is empty.
//
// Errors: a crop that is not inside the picture.
func Square(img image.Image, crop image.Rectangle) (image.Rectangle, error) {
	b := img.Bounds()
	if crop == (image.Rectangle{}) {
		crop = image.Rectangle{Max: b.Size()}
	}
	crop = crop.Add(b.Min)
	if crop.Empty() || !crop.In(b) {
		return crop, fmt.Errorf("picture: the rectangle is not inside the picture, which has %d×%d pixels", b.Dx(), b.Dy())
	}
	side := min(crop.Dx(), crop.Dy())
	at := crop.Min.Add(image.Pt((crop.Dx()-side)/2, (crop.Dy()-side)/2))
	return image.Rectangle{Min: at, Max: at.Add(image.Pt(side, side))}, nil
}

// JPEG encodes a part of a picture at another size, on white.
func JPEG(img image.Image, part image.Rectangle, size image.Point) ([]byte, error) {
	out, err := encode(img, part, size, quality)
	if err != nil {
		return nil, fmt.Errorf("picture: %w", err)
	}
	return out, nil
}

func encode(img image.Image, part image.Rectangle, size image.Point, quality int) ([]byte, error) {
	small := image.NewRGBA(image.Rectangle{Max: size})
	draw.Draw(small, small.Bounds(), image.White, image.Point{}, draw.Src)
	draw.CatmullRom.Scale(small, small.Bounds(), img, part, draw.Over, nil)
	var out bytes.Buffer
	err := jpeg.Encode(&out, small, &jpeg.Options{Quality: quality})
	return out.Bytes(), err
}

// thumbnailSide is the longer side of a thumbnail: what a bubble shows.
const thumbnailSide = 160

// Thumbnail encodes a whole picture as a small JPEG of at most limit bytes;
// nil if none is small enough.
func Thumbnail(img image.Image, limit int) []byte {
	b := img.Bounds()
	for side := thumbnailSide; side >= 40; side /= 2 {
		longer := max(b.Dx(), b.Dy())
		scale := min(1, float64(side)/float64(longer))
		size := image.Pt(max(1, int(float64(b.Dx())*scale)), max(1, int(float64(b.Dy())*scale)))
		for _, quality := range []int{80, 65, 50} {
			if out, err := encode(img, b, size, quality); err == nil && len(out) <= limit {
				return out
			}
		}
	}
	return nil
}
