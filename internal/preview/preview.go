// Package preview makes what a message shows of a picture or a video before it
// is fetched.
//
// Pictures are decoded here, see package picture. Videos are left to ffmpeg,
// where it is installed, in a child process limited in time, memory and what it
// may read: the sender's own file, and no network. Nothing depends on it: what
// cannot be had is left out.
package preview

import (
	"context"
	"os"
	"strings"

	"github.com/waggle-im/waggle/internal/picture"
)

// Preview is what is known of a file; all of it may be missing.
type Preview struct {
	Thumbnail     []byte // a JPEG
	Width, Height int    // of the whole, pixels
	DurationMS    int64
}

// pictureBytesMax bounds the pictures that are read whole.
const pictureBytesMax = 64 << 20

// Of previews the file at path, of that content type, with a thumbnail of at
// most limit bytes.
func Of(ctx context.Context, path, contentType string, limit int) Preview {
	switch main, _, _ := strings.Cut(contentType, "/"); main {
	case "image":
		info, err := os.Stat(path)
		if err != nil || info.Size() > pictureBytesMax {
			return Preview{}
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return Preview{}
		}
		return ofPicture(raw, limit)
	case "video", "audio":
		return ofVideo(ctx, path, limit)
	}
	return Preview{}
}

func ofPicture(raw []byte, limit int) Preview {
	img, err := picture.Decode(raw)
	if err != nil {
		return Preview{}
	}
	size := img.Bounds().Size()
	return Preview{Thumbnail: picture.Thumbnail(img, limit), Width: size.X, Height: size.Y}
}

// poster makes a thumbnail of a frame that ffmpeg has written.
func poster(raw []byte, limit int) []byte {
	img, err := picture.Decode(raw)
	if err != nil {
		return nil
	}
	return picture.Thumbnail(img, limit)
}
