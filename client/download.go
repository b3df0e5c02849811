package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/waggle-im/waggle/internal/filelock"
	"github.com/waggle-im/waggle/proto"
)

// DownloadOptions say what to download, and where to.
type DownloadOptions struct {
	File  string
	At    Place  // the message that carries it; zero for one's own
	Dir   string // must exist; empty: the current folder
	Locks string // a folder for locks, outside Dir; empty: one caller at a time must see to it
	Force bool   // replace a file of that name with another content
	// Progress is told of progress, at most every 100 ms, never concurrently.
	Progress func(Progress)
}

// Download brings a file into a folder and returns its path. The content is
// written beside it, verified by its BLAKE3, synced and renamed, so that there
// is the whole file or none; one that was cut goes on where it was. A file that
// is there already with that content is left as it is.
//
// Errors: [proto.CodeUnknownFile], also for one that may not be read;
// [proto.CodeConflict] where another file has that name, or another process
// downloads it; [proto.CodeCorrupt] for content that is not what its hash says;
// the system's, of writing.
func (f *Files) Download(ctx context.Context, o DownloadOptions) (path string, file File, err error) {
	if file, err = f.Show(ctx, o.File, o.At); err != nil {
		return "", file, err
	}
	if o.Dir == "" {
		o.Dir = "."
	}
	unlock, err := lockDownload(ctx, o)
	if err != nil {
		return "", file, err
	}
	defer unlock()
	path = filepath.Join(o.Dir, localName(file.Name))
	switch same, err := sameContent(ctx, path, file); {
	case err != nil:
		return "", file, err
	case same:
		return path, file, nil
	}
	if _, err := os.Lstat(path); err == nil && !o.Force {
		return "", file, proto.Errorf(proto.CodeConflict, "%s is there, with another content: move it, or name another folder", path)
	}
	d := &downloading{f: f, o: o, file: file, part: filepath.Join(o.Dir, ".waggle-"+file.ID+".part"), meter: newMeter(file.Size, 1, o.Progress)}
	resumed, err := d.fetch(ctx)
	if proto.CodeOf(err) == proto.CodeCorrupt && resumed {
		// What lay there was not the beginning of this file, or not any more.
		_, err = d.fetch(ctx)
	}
	if err == nil {
		err = os.Rename(d.part, path)
	}
	if err != nil {
		return "", file, fmt.Errorf("client: download: %w", err)
	}
	return path, file, syncFolder(o.Dir)
}

// lockDownload keeps two processes from writing one file.
func lockDownload(ctx context.Context, o DownloadOptions) (func(), error) {
	dir, err := filepath.Abs(o.Dir)
	if err == nil {
		_, err = os.Stat(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("client: download: %w", err)
	}
	if o.Locks == "" {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	// One lock for a file, wherever it goes: nobody fetches it twice at once.
	unlock, err := filelock.Lock(ctx, filepath.Join(o.Locks, o.File+".lock"))
	if err != nil && ctx.Err() != nil {
		return nil, proto.Errorf(proto.CodeConflict, "file %s is being downloaded by another process", o.File)
	}
	return unlock, err
}

// localName makes of a file's name one that is no path here.
func localName(name string) string {
	name = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || strings.ContainsRune(`/\:*?"<>|`, c) {
			return '_'
		}
		return c
	}, name)
	name = strings.TrimLeft(strings.TrimRight(name, ". "), ".")
	if base, _, _ := strings.Cut(strings.ToUpper(name), "."); runtime.GOOS == "windows" {
		switch base {
		case "CON", "PRN", "AUX", "NUL":
			name = "_" + name
		}
	}
	if name == "" {
		return "file"
	}
	return name
}

// sameContent tells whether path is the file already.
func sameContent(ctx context.Context, path string, file File) (bool, error) {
	content, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("client: download: %w", err)
	}
	defer content.Close()
	if info, err := content.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() != file.Size {
		return false, err
	}
	sum, err := hashOf(ctx, content, nil)
	return sum == file.Blake3, err
}

// downloading is one download under way.
type downloading struct {
	f     *Files
	o     DownloadOptions
	file  File
	part  string // what came so far
	meter *meter
}

// fetch makes part the whole file, synced and verified. It tells whether
// something lay there before.
func (d *downloading) fetch(ctx context.Context) (resumed bool, err error) {
	// The partial file is our own: a link that somebody put in its place is not
	// followed.
	if info, err := os.Lstat(d.part); err == nil && (!info.Mode().IsRegular() || info.Size() > d.file.Size) {
		if err := os.Remove(d.part); err != nil {
			return false, err
		}
	}
	content, err := os.OpenFile(d.part, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return false, err
	}
	defer content.Close()
	at, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	resumed = at > 0
	if err := d.receive(ctx, content, at); err != nil {
		return resumed, err
	}
	if err := content.Sync(); err != nil {
		return resumed, err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return resumed, err
	}
	sum, err := hashOf(ctx, content, func(n int64) { d.meter.tell(StageHashing, n) })
	if err != nil {
		return resumed, err
	}
	if sum != d.file.Blake3 {
		_ = os.Remove(d.part)
		return resumed, proto.Errorf(proto.CodeCorrupt, "what came of file %s is not what its hash says: download it again", d.file.ID)
	}
	return resumed, nil
}

// receive appends what is missing, however often it breaks.
func (d *downloading) receive(ctx context.Context, content *os.File, at int64) error {
	path, err := filePath(d.file.ID, "", d.o.At.query())
	if err != nil {
		return err
	}
	d.meter.at(0, at)
	for a := d.f.attempts(); at < d.file.Size; {
		n, err := d.some(ctx, a.server(), path, content, at)
		if at += n; n > 0 {
			a.passed()
		}
		if _, mine := errors.AsType[*localError](err); mine {
			return err
		}
		if err == nil && at < d.file.Size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			if err := a.wait(ctx, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// some appends what one answer has of the file from at on.
func (d *downloading) some(ctx context.Context, server, path string, content *os.File, at int64) (int64, error) {
	ctx, w := watch(ctx)
	defer w.end()
	call := fileCall{method: http.MethodGet, path: path, header: map[string]string{
		"Range": "bytes=" + strconv.FormatInt(at, 10) + "-", "If-Range": `"` + d.file.Blake3 + `"`,
	}}
	resp, err := d.f.once(ctx, server, call)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if want := fmt.Sprintf("bytes %d-%d/%d", at, d.file.Size-1, d.file.Size); resp.Header.Get("Content-Range") != want {
		return 0, proto.Errorf(proto.CodeCorrupt, "the server answered with another part of file %s than was asked for", d.file.ID)
	}
	body := &countedReader{r: io.LimitReader(resp.Body, d.file.Size-at), moved: func(n int64) {
		w.moved()
		d.meter.add(0, n)
	}}
	n, err := io.CopyBuffer(localWriter{content}, struct{ io.Reader }{body}, make([]byte, 256<<10))
	return n, err
}

// localError is one of this machine: trying again does not mend it.
type localError struct{ error }

// Unwrap gives the system's error.
func (e *localError) Unwrap() error { return e.error }

type localWriter struct{ f *os.File }

// Write implements [io.Writer].
func (w localWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	if err != nil {
		err = &localError{err}
	}
	return n, err
}

// syncFolder makes a rename durable. Windows cannot, and journals renames.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("client: download: %w", err)
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
