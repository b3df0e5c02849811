package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/internal/filelock"
	"github.com/waggle-im/waggle/proto"
)

// bookFormat is the format of what is kept of an upload.
const bookFormat = 1

// bookEntry is what is kept of one upload, in a file of its own, so that
// another process takes it up again. It is written before the server is told
// anything that depends on it.
type bookEntry struct {
	Format  int       `json:"format"`
	User    string    `json:"user"`
	Path    string    `json:"path"`
	Size    int64     `json:"size"`
	ModNS   int64     `json:"mod_ns"` // modification time, Unix nanoseconds
	Created time.Time `json:"created"`
	Blake3  string    `json:"blake3,omitempty"` // empty: not computed yet
	Parts   []*part   `json:"parts"`            // more than one: to be joined
	File    string    `json:"file,omitempty"`   // complete, under this id
}

// part is one upload on the server: the whole file, or a piece of it.
type part struct {
	At   int64  `json:"at"`
	Size int64  `json:"size"`
	URL  string `json:"url,omitempty"` // its path on the server; empty: not created
}

// book is where one upload is kept; without a folder it is kept nowhere.
type book struct {
	file   string // empty: nowhere
	unlock func()
}

// openBook locks what is kept of an upload of path.
//
// Errors: [proto.CodeConflict] while another process uploads it.
func openBook(ctx context.Context, dir, path string) (*book, error) {
	if dir == "" {
		return &book{unlock: func() {}}, nil
	}
	name := sha256.Sum256([]byte(path))
	b := &book{file: filepath.Join(dir, hex.EncodeToString(name[:8])+".json")}
	// A lock is freed at once or held as long as an upload takes.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var err error
	if b.unlock, err = filelock.Lock(ctx, b.file+".lock"); err != nil {
		if ctx.Err() != nil {
			return nil, proto.Errorf(proto.CodeConflict, "%s is being uploaded by another process", path)
		}
		return nil, fmt.Errorf("client: upload: %w", err)
	}
	return b, nil
}

// load gives what is kept if it fits want: the same file, of the same user, as
// it was then, in time. Otherwise other is what is kept of the user's upload of
// that path, maybe nothing.
func (b *book) load(want *bookEntry) (have, other *bookEntry) {
	other = new(bookEntry)
	raw, err := os.ReadFile(b.file)
	if b.file == "" || err != nil {
		return nil, other
	}
	have = new(bookEntry)
	known := json.Unmarshal(raw, have) == nil && have.Format == bookFormat && have.User == want.User && have.Path == want.Path &&
		time.Since(have.Created) < proto.UploadLifetime && have.whole()
	switch {
	case !known:
		return nil, other
	case have.Size != want.Size || have.ModNS != want.ModNS:
		return nil, have
	}
	return have, nil
}

// whole tells whether the parts are those of the file, in order: what a
// foreign hand has changed is not believed.
func (e *bookEntry) whole() bool {
	at := int64(0)
	for _, p := range e.Parts {
		if p == nil || p.At != at || p.Size < 0 {
			return false
		}
		at += p.Size
	}
	return len(e.Parts) > 0 && len(e.Parts) < proto.UploadsMax && at == e.Size
}

func (b *book) save(e *bookEntry) error {
	if b.file == "" {
		return nil
	}
	raw, err := json.Marshal(e)
	if err == nil {
		err = atomicfile.Write(b.file, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("client: upload: %w", err)
	}
	return nil
}

// forget removes what is kept. The lock's file stays: see [filelock.Lock].
func (b *book) forget() {
	if b.file != "" {
		_ = os.Remove(b.file)
	}
}

// ForgetUpload removes what is kept of a complete upload of path, after the
// message that carries it is stored: a further upload of the path begins anew.
func (f *Files) ForgetUpload(ctx context.Context, dir, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("client: upload: %w", err)
	}
	b, err := openBook(ctx, dir, path)
	if err != nil {
		return err
	}
	defer b.unlock()
	b.forget()
	return nil
}
