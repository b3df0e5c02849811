package client

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/internal/preview"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// uploadPartsMax bounds the parts of one upload that go at once: more than
	// one fills a long way, and few leave room for others of the user.
	uploadPartsMax = 8
	// uploadJoinTimeout bounds the joining of parts: the server copies the file
	// once, at 16 GiB and a slow disk.
	uploadJoinTimeout = 15 * time.Minute
)

// UploadOptions say what to upload.
type UploadOptions struct {
	Path string
	Name string // shown to others; empty: the last part of Path
	// Book is the folder where it is kept how far uploads are: one that was cut
	// goes on where it was, also in another process, if path, size and
	// modification time are the same. Empty: only within this call.
	Book string
	// Parts is how many pieces go at once, at most 8; 0 and 1: the file as a
	// whole. The server joins them by reading them once more, so it pays where
	// one connection does not fill the way.
	Parts int
	// Progress is told of progress, at most every 100 ms, never concurrently.
	Progress func(Progress)
}

// Stage is what is being done with a file.
type Stage int

// The stages.
const (
	StageMoving   Stage = iota // up or down
	StageHashing               // here, to compare
	StageChecking              // the server verifies and stores, or parts are joined
)

// Progress is how far a file is.
type Progress struct {
	Stage       Stage
	Done, Total int64 // bytes
}

// Upload uploads a file and returns it when it is complete: stored, synced and
// verified by its BLAKE3. It goes on across the death of edges and nodes.
// Ending ctx pauses it: with a Book a further call goes on where it was.
//
// Errors: [proto.CodeOverQuota], [proto.CodeTooBig]; [proto.CodeCorrupt] if the
// file has changed meanwhile; [proto.CodeConflict] while another process
// uploads it; the system's, of reading the file.
func (f *Files) Upload(ctx context.Context, o UploadOptions) (File, error) {
	u, err := f.openUpload(ctx, o)
	if err != nil {
		return File{}, err
	}
	defer u.close()
	file, err := u.run(ctx)
	if statusOf(err) == http.StatusNotFound || statusOf(err) == http.StatusGone {
		// The server has given it up meanwhile, or has joined its parts.
		if done, ok := u.find(ctx); ok {
			return done, nil
		}
		u.begin()
		u.meter = newMeter(u.entry.Size, len(u.entry.Parts), o.Progress)
		file, err = u.run(ctx)
	}
	if err != nil && statusOf(err) == statusOtherHash {
		u.book.forget()
		f.endParts(ctx, u.entry)
		err = proto.Errorf(proto.CodeCorrupt, "%s has changed while it was uploaded: upload it again", u.entry.Path)
	}
	return file, err
}

// statusOtherHash is tus's answer to content that is not what was said.
const statusOtherHash = 460

// uploading is one upload under way.
type uploading struct {
	f       *Files
	o       UploadOptions
	content *os.File
	book    *book
	entry   *bookEntry
	meter   *meter
}

func (f *Files) openUpload(ctx context.Context, o UploadOptions) (*uploading, error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("client: upload: %w", err)
	}
	content, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("client: upload: %w", err)
	}
	info, err := content.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("client: upload: %w", &fs.PathError{Op: "open", Path: o.Path, Err: errors.New("is not a regular file")})
	case info.Size() > proto.FileBytesMax:
		err = proto.Errorf(proto.CodeTooBig, "%s has %d bytes, a file has at most %d", o.Path, info.Size(), int64(proto.FileBytesMax))
	}
	var b *book
	if err == nil {
		b, err = openBook(ctx, o.Book, path)
	}
	if err != nil {
		_ = content.Close()
		return nil, err
	}
	if o.Name == "" {
		o.Name = filepath.Base(path)
	}
	u := &uploading{f: f, o: o, content: content, book: b}
	u.entry = &bookEntry{User: f.c.tokenUser(), Path: path, Size: info.Size(), ModNS: info.ModTime().UnixNano()}
	have, other := b.load(u.entry)
	if have != nil {
		u.entry = have
	} else {
		f.endParts(ctx, other)
		u.begin()
	}
	u.meter = newMeter(u.entry.Size, len(u.entry.Parts), o.Progress)
	return u, nil
}

func (u *uploading) close() {
	_ = u.content.Close()
	u.book.unlock()
}

// begin makes the entry that of an upload of which the server knows nothing.
func (u *uploading) begin() {
	e := u.entry
	e.Format, e.Created, e.Parts, e.File = bookFormat, time.Now(), nil, ""
	n := int64(min(max(u.o.Parts, 1), uploadPartsMax))
	if n > e.Size {
		n = 1
	}
	for i, at := int64(0), int64(0); i < n; i++ {
		end := e.Size * (i + 1) / n
		e.Parts = append(e.Parts, &part{At: at, Size: end - at})
		at = end
	}
}

// run does what is left to be done.
func (u *uploading) run(ctx context.Context) (File, error) {
	e := u.entry
	if e.File == "" && len(e.Parts) == 1 {
		// The server is told the hash first: content that changed meanwhile never
		// becomes a file.
		if err := u.hash(ctx, true); err != nil {
			return File{}, err
		}
		if err := u.push(ctx, 0); err != nil {
			return File{}, err
		}
		e.File = fileOfUpload(e.Parts[0].URL)
	} else if e.File == "" {
		work, workCtx := errgroup.WithContext(ctx)
		work.Go(func() error { return u.hash(workCtx, false) })
		for i := range e.Parts {
			work.Go(func() error { return u.push(workCtx, i) })
		}
		if err := work.Wait(); err != nil {
			return File{}, err
		}
		if err := u.join(ctx); err != nil {
			return File{}, err
		}
	}
	if err := u.book.save(e); err != nil {
		return File{}, err
	}
	file, err := u.f.Show(ctx, e.File, Place{})
	if err == nil && (file.Blake3 != e.Blake3 || file.Size != e.Size) {
		err = proto.Errorf(proto.CodeCorrupt, "the server has another content of %s than was read: upload it again", e.Path)
		u.book.forget()
	}
	return file, err
}

// fileOfUpload is the file that an upload becomes: /uploads/4096-17~c1-n1.
func fileOfUpload(path string) string {
	id, _, _ := strings.Cut(path[strings.LastIndexByte(path, '/')+1:], "~")
	return id
}

// hash computes the content's BLAKE3, unless that was done.
func (u *uploading) hash(ctx context.Context, tell bool) error {
	if u.entry.Blake3 != "" {
		return nil
	}
	var report func(int64)
	if tell {
		report = func(n int64) { u.meter.tell(StageHashing, n) }
	}
	sum, err := hashOf(ctx, io.NewSectionReader(u.content, 0, u.entry.Size), report)
	if err != nil {
		return err
	}
	u.meter.mu.Lock() // the parts are created meanwhile, and kept
	defer u.meter.mu.Unlock()
	u.entry.Blake3 = sum
	return u.book.save(u.entry)
}

// hashOf is the BLAKE3 of what r has, hexadecimal.
func hashOf(ctx context.Context, r io.Reader, report func(done int64)) (string, error) {
	h := blake3.New(32, nil)
	buf := make([]byte, 1<<20)
	done := int64(0)
	for {
		n, err := r.Read(buf)
		_, _ = h.Write(buf[:n])
		done += int64(n)
		if report != nil {
			report(done)
		}
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return "", fmt.Errorf("client: read: %w", err)
		}
	}
}

// metadata is Upload-Metadata: of a part nothing.
func (u *uploading) metadata(whole bool) string {
	if !whole {
		return ""
	}
	b64 := base64.StdEncoding.EncodeToString
	return "filename " + b64([]byte(u.o.Name)) + ",blake3 " + b64([]byte(u.entry.Blake3))
}

// create opens the upload of a part on the server. One whose answer is lost
// ends there by itself, after days.
func (u *uploading) create(ctx context.Context, p *part) error {
	call := fileCall{method: http.MethodPost, path: "/uploads", header: map[string]string{"Upload-Length": strconv.FormatInt(p.Size, 10)}}
	if len(u.entry.Parts) > 1 {
		call.header["Upload-Concat"] = "partial"
	} else {
		call.header["Upload-Metadata"] = u.metadata(true)
	}
	header, err := u.f.ask(ctx, call, nil)
	if err != nil {
		return err
	}
	where, err := url.Parse(header.Get("Location"))
	if err != nil || !strings.HasPrefix(where.Path, "/uploads/") {
		return fmt.Errorf("client: upload: the server gave %q for an address", header.Get("Location"))
	}
	u.meter.mu.Lock()
	defer u.meter.mu.Unlock()
	p.URL = where.Path
	return u.book.save(u.entry)
}

// endParts ends what is under way of an upload that will not be gone on with,
// for it takes the user's quota. It is tried once: what stays there ends by
// itself, after days.
func (f *Files) endParts(ctx context.Context, e *bookEntry) {
	ctx, cancel := context.WithTimeout(ctx, endPartsTimeout)
	defer cancel()
	for _, p := range e.Parts {
		if p.URL != "" {
			_, _ = f.askOnce(ctx, f.attempts().server(), fileCall{method: http.MethodDelete, path: p.URL}, nil)
		}
	}
}

// endPartsTimeout is for all parts of one upload.
const endPartsTimeout = 10 * time.Second

// push brings a part up, from where it is, however often it breaks.
func (u *uploading) push(ctx context.Context, index int) error {
	p := u.entry.Parts[index]
	if p.URL == "" {
		if err := u.create(ctx, p); err != nil || p.Size == 0 {
			return err
		}
	}
	last := int64(-1)
	for a := u.f.attempts(); ; {
		at, err := u.offset(ctx, a.server(), p)
		if err == nil && at > last {
			last = at
			a.passed()
		}
		if err == nil {
			u.meter.at(index, at)
			if at >= p.Size {
				return nil
			}
			if at, err = u.patch(ctx, a.server(), index, at); err == nil && at >= p.Size {
				return nil
			}
		}
		if err == nil {
			continue // the server took less: it says how far it is
		}
		if statusOf(err) == http.StatusConflict {
			err = errMoved
		}
		if err := a.wait(ctx, err); err != nil {
			return err
		}
	}
}

// errMoved is a part that is elsewhere than was believed: it is asked anew.
var errMoved = errors.New("client: upload: the server is at another place")

// offset asks how far a part is. At its end the server finishes it first.
func (u *uploading) offset(ctx context.Context, server string, p *part) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, uploadJoinTimeout)
	defer cancel()
	resp, err := u.f.once(ctx, server, fileCall{method: http.MethodHead, path: p.URL})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	at, err := strconv.ParseInt(resp.Header.Get("Upload-Offset"), 10, 64)
	if err != nil || at < 0 || at > p.Size {
		return 0, fmt.Errorf("client: upload: the server is at %.40q of %d bytes", resp.Header.Get("Upload-Offset"), p.Size)
	}
	return at, nil
}

// patch sends the rest of a part and gives how far the server says it is.
func (u *uploading) patch(ctx context.Context, server string, index int, at int64) (int64, error) {
	p := u.entry.Parts[index]
	ctx, w := watch(ctx)
	defer w.end()
	body := &countedReader{r: io.NewSectionReader(u.content, p.At+at, p.Size-at), moved: func(n int64) {
		w.moved()
		u.meter.add(index, n)
	}, ended: func() {
		w.pause()
		if len(u.entry.Parts) == 1 {
			u.meter.tell(StageChecking, p.Size)
		}
	}}
	resp, err := u.f.once(ctx, server, fileCall{method: http.MethodPatch, path: p.URL, body: body, length: p.Size - at, header: map[string]string{
		"Content-Type": "application/offset+octet-stream", "Upload-Offset": strconv.FormatInt(at, 10),
	}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return strconv.ParseInt(resp.Header.Get("Upload-Offset"), 10, 64)
}

// join makes one file of the parts. An attempt whose answer is lost is
// repeated; if it had worked, the parts are gone and the file is there.
func (u *uploading) join(ctx context.Context) error {
	u.meter.tell(StageChecking, u.entry.Size)
	var parts []string
	for _, p := range u.entry.Parts {
		parts = append(parts, p.URL)
	}
	for a := u.f.attempts(); ; {
		once, cancel := context.WithTimeout(ctx, uploadJoinTimeout)
		resp, err := u.f.once(once, a.server(), fileCall{method: http.MethodPost, path: "/uploads", header: map[string]string{
			"Upload-Concat": "final;" + strings.Join(parts, " "), "Upload-Metadata": u.metadata(true),
		}})
		cancel()
		if err == nil {
			_ = resp.Body.Close()
			u.entry.File = fileOfUpload(resp.Header.Get("Location"))
			return nil
		}
		if err := a.wait(ctx, err); err != nil {
			return err
		}
	}
}

// find looks for the file among the user's newest: what the answer to the last
// step would have told, had it come.
func (u *uploading) find(ctx context.Context) (File, bool) {
	if u.entry.Blake3 == "" {
		return File{}, false
	}
	files, _, _, err := u.f.List(ctx, "", proto.PageMax)
	// The server's clock counts seconds, and is not ours.
	since := u.entry.Created.Add(-time.Hour)
	i := slices.IndexFunc(files, func(o File) bool {
		return o.Blake3 == u.entry.Blake3 && o.Size == u.entry.Size && o.CreatedAt.After(since)
	})
	if err != nil || i < 0 {
		return File{}, false
	}
	u.entry.File = files[i].ID
	return files[i], u.book.save(u.entry) == nil
}

// MessageOf is the message that shows a file of the user to the members of a
// thread, for [Client.PostBody], with a preview made of the file at path: the
// thumbnail and dimensions of a picture, and of a video, with its duration, where
// ffmpeg is installed. What cannot be had is left out.
func MessageOf(ctx context.Context, thread string, file File, path string) *clientpb.SendMessage {
	p := preview.Of(ctx, path, file.Type, proto.ThumbnailBytesMax)
	return FileMessage(thread, &clientpb.FileMessage{
		File: file.ID, Kind: fileKind(file.Type), Thumbnail: p.Thumbnail,
		Width: uint32(p.Width), Height: uint32(p.Height), DurationMs: uint32(min(p.DurationMS, math.MaxUint32)),
	})
}

// fileKind is how clients show a file of a content type.
func fileKind(contentType string) clientpb.FileKind {
	switch main, _, _ := strings.Cut(contentType, "/"); {
	case main == "image":
		return clientpb.FileKind_FILE_KIND_IMAGE
	case main == "video":
		return clientpb.FileKind_FILE_KIND_VIDEO
	case main == "audio", contentType == "application/ogg":
		return clientpb.FileKind_FILE_KIND_AUDIO
	}
	return clientpb.FileKind_FILE_KIND_FILE
}
