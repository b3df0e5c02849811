package preview

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// childTime bounds one run of ffmpeg, and its processor time in seconds.
	childTime = 10 * time.Second
	childCPU  = "10"
	// childMemory bounds its address space, in KiB: a decoder of 4K video takes
	// about half.
	childMemory = "2097152"
	// childOutputMax bounds what it says: one frame, or a description.
	childOutputMax = 4 << 20
)

// ofVideo asks ffprobe for duration and dimensions and ffmpeg for a frame.
func ofVideo(ctx context.Context, path string, limit int) Preview {
	path, err := filepath.Abs(path) // so it begins with a slash, not with an option's dash
	if err != nil {
		return Preview{}
	}
	// The network is shut out, and so are playlists and the like, which name
	// other files to read: what they name may be no business of whoever made them.
	const protocols = "file,pipe"
	const containers = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,ogg,asf"
	said, err := child(ctx, "ffprobe", "-v", "error", "-format_whitelist", containers, "-protocol_whitelist", protocols, "-show_entries", "format=duration:stream=width,height",
		"-of", "json", "-i", "file:"+path)
	if err != nil {
		return Preview{}
	}
	out := parseProbe(said)
	if out.Width > 0 {
		frame, err := child(ctx, "ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-format_whitelist", containers, "-protocol_whitelist", protocols, "-i", "file:"+path,
			"-frames:v", "1", "-an", "-vf", "scale='min(640,iw)':-2", "-f", "image2pipe", "-c:v", "mjpeg", "pipe:1")
		if err == nil {
			out.Thumbnail = poster(frame, limit)
		}
	}
	return out
}

// parseProbe reads what ffprobe says.
func parseProbe(raw []byte) Preview {
	var said struct {
		Format struct {
			Duration string `json:"duration"`
		} `json:"format"`
		Streams []struct {
			Width  int `json:"width"`
			Height int `json:"height"`
		} `json:"streams"`
	}
	if json.Unmarshal(raw, &said) != nil {
		return Preview{}
	}
	var out Preview
	if seconds, err := strconv.ParseFloat(said.Format.Duration, 64); err == nil && seconds > 0 && seconds < 1e6 {
		out.DurationMS = int64(seconds * 1000)
	}
	for _, s := range said.Streams {
		if s.Width > 0 && s.Height > 0 && s.Width < 1<<16 && s.Height < 1<<16 {
			out.Width, out.Height = s.Width, s.Height
			break
		}
	}
	return out
}

// errTooMuch is a child that says more than it should.
var errTooMuch = errors.New("preview: the program says too much")

// child runs a program under limits and gives what it prints. The shell sets
// the limits and becomes the program.
func child(ctx context.Context, program string, args ...string) ([]byte, error) {
	program, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	const limited = `ulimit -v "$1" && ulimit -t "$2" && ulimit -f 0 && ulimit -c 0 && shift 2 && exec "$@"`
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", limited, "sh", childMemory, childCPU, program}, args...)...)
	cmd.Env = []string{} // nothing of ours
	cmd.WaitDelay = time.Second
	out := &bounded{}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// bounded takes so much and no more.
type bounded struct{ bytes.Buffer }

// Write implements [io.Writer].
func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > childOutputMax {
		return 0, errTooMuch
	}
	return b.Buffer.Write(p)
}

// ReadFrom hides that of the buffer, which knows no bounds.
func (b *bounded) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}
