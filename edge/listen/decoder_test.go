package listen

import (
	"bytes"
	"testing"

	"github.com/waggle-im/waggle/proto"
)

// cut feeds data in two pieces and collects what comes out.
func cut(data []byte, at, limit int) (frames [][]byte, err error) {
	var d decoder
	for _, piece := range [][]byte{data[:at], data[at:]} {
		err = d.feed(piece, func() int { return limit }, func(b []byte) bool {
			frames = append(frames, bytes.Clone(b))
			return true
		})
		if err != nil {
			return frames, err
		}
		if len(d.partial) > len(data) {
			panic("more is kept than came")
		}
	}
	return frames, nil
}

// FuzzDecoder: wherever the bytes are cut, the same frames come out and the
// same error.
func FuzzDecoder(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, []byte("one")), nil))
	f.Add(appendFrame(nil, bytes.Repeat([]byte("x"), 300)))
	f.Add([]byte{0, 0, 0, 1, 'a', 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2048 {
			return
		}
		const limit = 256
		want, wantErr := cut(data, 0, limit)
		for at := range data {
			got, err := cut(data, at, limit)
			if proto.CodeOf(err) != proto.CodeOf(wantErr) || len(got) != len(want) {
				t.Fatalf("cut at %d: %d frames, %v; want %d, %v", at, len(got), err, len(want), wantErr)
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Fatalf("cut at %d: frame %d is %q, want %q", at, i, got[i], want[i])
				}
			}
		}
	})
}

// TestDecoderFollowsTheLimit: handling a frame may raise the limit for those
// behind it, and stopping drops the rest.
func TestDecoderFollowsTheLimit(t *testing.T) {
	var d decoder
	limit, seen := 10, 0
	data := appendFrame(appendFrame(appendFrame(nil, make([]byte, 5)), make([]byte, 50)), make([]byte, 1))
	err := d.feed(data, func() int { return limit }, func(b []byte) bool {
		seen++
		limit = 100
		return len(b) != 50
	})
	if err != nil || seen != 2 || d.partial != nil {
		t.Fatalf("%d frames, %v, %d bytes kept", seen, err, len(d.partial))
	}
}

func TestDecoderKeepsLittle(t *testing.T) {
	var d decoder
	if err := d.feed([]byte{0, 0, 0xff, 0}, func() int { return proto.FrameBytesMax }, nil); err != nil || cap(d.partial) > 64 {
		t.Fatalf("a bare length made a buffer of %d bytes, %v", cap(d.partial), err)
	}
}
