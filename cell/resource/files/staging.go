package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/proto"
)

const (
	// syncBytes is the content between two syncs of an upload; a crash takes
	// back at most twice as much, for one sync is under way while more is
	// written. A sync of 16 MiB costs a disk about what it costs to write them.
	syncBytes = 16 << 20
	// reserveStep is by how much an upload of unknown length reserves anew.
	reserveStep = 64 << 20
	// recordFormat numbers the layout of an upload's record.
	recordFormat = 1

	recordFile  = "upload.json"
	contentFile = "content"
)

// record is what is known of an upload under way, in its folder. It is
// replaced as a whole and synced, and it alone says how much of the content
// counts: blocks that were written and are not in it are written again.
type record struct {
	Format   int               `json:"format"`
	Owner    proto.EntityID    `json:"owner"`
	Number   uint64            `json:"number"`
	Size     int64             `json:"size"`
	Deferred bool              `json:"deferred,omitempty"` // Size is not known yet
	Partial  bool              `json:"partial,omitempty"`  // a part, to be joined
	Final    bool              `json:"final,omitempty"`    // joined of Parts
	Parts    []uint64          `json:"parts,omitempty"`
	Meta     map[string]string `json:"meta,omitempty"`   // as the client gave it
	Name     string            `json:"name"`             // cleaned
	Expected string            `json:"expected"`         // BLAKE3 the client named, hexadecimal; may be empty
	Created  int64             `json:"created_ms"`       // by the range's clock
	Reserved int64             `json:"reserved"`         // bytes of the quota
	Blob     string            `json:"blob"`             // its name once complete
	KeyID    string            `json:"key_id"`           // of the cell's key
	Key      []byte            `json:"key"`              // wrapped
	Blocks   int64             `json:"blocks"`           // full blocks, synced
	Tail     []byte            `json:"tail,omitempty"`   // the block after them, sealed as the last
	Sealed   bool              `json:"sealed,omitempty"` // the content is whole and synced, Tail is in it
	Sum      []byte            `json:"sum,omitempty"`    // BLAKE3 of the content, once Sealed and verified
}

func (r *record) id() proto.FileID { return proto.FileID{Owner: r.Owner, Number: r.Number} }

func (r *record) expires() time.Time { return time.UnixMilli(r.Created).Add(proto.UploadLifetime) }

// offset is how much of the content is durable.
func (r *record) offset() int64 {
	if r.Sealed {
		return r.Size
	}
	return r.Blocks*seal.BlockBytes + r.tailBytes()
}

func (r *record) tailBytes() int64 {
	if len(r.Tail) == 0 {
		return 0
	}
	return int64(len(r.Tail)) - seal.OverheadBytes
}

// folder is where an upload is written; made of numbers only.
func (s *Service) folder(id proto.FileID) string {
	return filepath.Join(s.staging, id.String())
}

func (s *Service) loadRecord(id proto.FileID) (*record, error) {
	raw, err := os.ReadFile(filepath.Join(s.folder(id), recordFile))
	if err != nil {
		return nil, err // fs.ErrNotExist is told apart
	}
	r := new(record)
	if err := json.Unmarshal(raw, r); err != nil || r.Format != recordFormat || r.id() != id {
		return nil, fmt.Errorf("files: the record of upload %s cannot be read (%v): end the upload", id, err)
	}
	return r, nil
}

func (s *Service) saveRecord(r *record) error {
	raw, err := json.Marshal(r)
	if err == nil {
		err = atomicfile.Write(filepath.Join(s.folder(r.id()), recordFile), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("files: upload %s: %w", r.id(), err)
	}
	return nil
}

// dropUpload removes an upload's folder.
func (s *Service) dropUpload(id proto.FileID) error {
	s.hashes.drop(id)
	if err := os.RemoveAll(s.folder(id)); err != nil {
		return fmt.Errorf("files: end upload %s: %w", id, err)
	}
	return nil
}

func (s *Service) sealerOf(r *record) (*seal.Sealer, error) {
	key, err := s.keys.Unwrap(r.Blob, r.KeyID, r.Key)
	if err != nil {
		return nil, err
	}
	return seal.NewSealer(r.Blob, key), nil
}

// staged reads the sealed content of an upload that is Sealed.
func (s *Service) staged(id proto.FileID) seal.Source {
	return func(offset int64) (io.ReadCloser, error) {
		f, err := os.Open(filepath.Join(s.folder(id), contentFile))
		if err != nil {
			return nil, err
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
}

// writing appends to the content of one upload.
type writing struct {
	s      *Service
	ctx    context.Context
	r      *record
	sealer *seal.Sealer
	file   *os.File
	hash   *blake3.Hasher // nil: the content will be read again
	plain  []byte         // the block being filled
	sealed []byte
	since  int64 // bytes since the last sync was begun
	lazy   bool  // no record before the end: the chunk may be taken back

	syncing chan error // the sync under way; nil: none
	broken  error      // the first sync that failed: what a later one says is not true of what came before
}

// openWriting opens an upload's content where its record ends.
func (s *Service) openWriting(ctx context.Context, r *record, lazy bool) (*writing, error) {
	sealer, err := s.sealerOf(r)
	if err != nil {
		return nil, err
	}
	w := &writing{s: s, ctx: ctx, r: r, sealer: sealer, lazy: lazy, plain: make([]byte, 0, seal.BlockBytes)}
	if len(r.Tail) > 0 {
		if w.plain, err = sealer.Open(w.plain, r.Tail, uint64(r.Blocks), true); err != nil {
			return nil, err
		}
	}
	w.hash = s.hashes.take(r.id(), r.offset())
	if w.file, err = os.OpenFile(filepath.Join(s.folder(r.id()), contentFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("files: upload %s: %w", r.id(), err)
	}
	end := r.Blocks * seal.StoredBlockBytes
	if _, err := w.file.Seek(end, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("files: upload %s: %w", r.id(), err), w.file.Close())
	}
	return w, nil
}

// readFrom appends what src has and returns how much it was. A full block is
// written when the next byte is there, for it may be the last.
func (w *writing) readFrom(src io.Reader) (n int64, err error) {
	var next [1]byte
	for {
		into := w.plain[len(w.plain):cap(w.plain)]
		if len(into) == 0 {
			into = next[:]
		}
		got, readErr := src.Read(into)
		n += int64(got)
		if got > 0 {
			if w.hash != nil {
				_, _ = w.hash.Write(into[:got])
			}
			if len(w.plain) == cap(w.plain) {
				if err := w.flush(); err != nil {
					w.hash = nil // it has a byte too many
					return n, err
				}
				w.plain = append(w.plain, next[0])
			} else {
				w.plain = w.plain[:len(w.plain)+got]
			}
		}
		if errors.Is(readErr, io.EOF) {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
	}
}

// flush writes the full block.
func (w *writing) flush() error {
	if err := w.reserve(); err != nil {
		return err
	}
	w.s.deps.Gate.Wait(w.ctx, len(w.plain))
	w.sealed = w.sealer.Seal(w.sealed[:0], w.plain, uint64(w.r.Blocks), false)
	if _, err := w.file.Write(w.sealed); err != nil {
		return fmt.Errorf("files: upload %s: %w", w.r.id(), err)
	}
	w.r.Blocks++
	w.r.Tail = nil
	w.plain = w.plain[:0]
	if w.since += seal.BlockBytes; w.since >= syncBytes && !w.lazy {
		return w.syncBehind()
	}
	return nil
}

// reserve asks for more quota where the length is not known.
func (w *writing) reserve() error {
	need := w.r.Blocks*seal.BlockBytes + int64(len(w.plain))
	if !w.r.Deferred || need <= w.r.Reserved {
		return nil
	}
	want := min(need+reserveStep, proto.FileBytesMax)
	err := w.s.reserve(w.ctx, w.r.id(), want)
	if proto.CodeOf(err) == proto.CodeOverQuota {
		want = need
		err = w.s.reserve(w.ctx, w.r.id(), want)
	}
	if err != nil {
		return err
	}
	w.r.Reserved = want
	return nil
}

// sync makes what was written durable and says so in the record.
func (w *writing) sync(r *record) error {
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("files: upload %s: %w", r.id(), err)
	}
	return w.s.saveRecord(r)
}

// syncBehind begins a sync of what was written, and goes on: content comes
// while the disk writes. It waits for the sync before.
func (w *writing) syncBehind() error {
	if err := w.settle(); err != nil {
		return err
	}
	w.since = 0
	r := *w.r // as of now
	w.syncing = make(chan error, 1)
	go func(done chan<- error) { done <- w.sync(&r) }(w.syncing) // awaited by settle
	return nil
}

// settle waits for the sync under way. Nothing is durable after one has failed.
func (w *writing) settle() error {
	if w.syncing != nil {
		w.broken = <-w.syncing
		w.syncing = nil
	}
	return w.broken
}

// end makes all of it durable, the block that is not full too.
func (w *writing) end() error {
	err := w.settle()
	if err == nil {
		err = w.reserve()
	}
	if err == nil {
		w.r.Tail = nil
		if len(w.plain) > 0 {
			w.r.Tail = w.sealer.Seal(nil, w.plain, uint64(w.r.Blocks), true)
		}
		err = w.sync(w.r)
	}
	if err == nil && w.hash != nil {
		w.s.hashes.put(w.r.id(), w.r.offset(), w.hash)
	}
	return errors.Join(err, w.file.Close())
}

// giveUp leaves the record as of the last sync.
func (w *writing) giveUp() {
	_ = w.settle() // it was told of already, or matters no more
	_ = w.file.Close()
}

// sealContent writes the last block, verifies the whole and marks the upload as
// Sealed. It may be called again after a crash.
//
// Errors: [*otherHashError].
func (s *Service) sealContent(ctx context.Context, r *record) error {
	if r.Sealed {
		return nil
	}
	sealer, err := s.sealerOf(r)
	if err != nil {
		return err
	}
	if len(r.Tail) == 0 {
		r.Tail = sealer.Seal(nil, nil, 0, true) // an empty file
	}
	size := r.offset()
	file, err := os.OpenFile(filepath.Join(s.folder(r.id()), contentFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		end := r.Blocks * seal.StoredBlockBytes
		err = file.Truncate(end)
		if err == nil {
			_, err = file.WriteAt(r.Tail, end)
		}
		err = errors.Join(err, file.Sync(), file.Close())
	}
	if err != nil {
		return fmt.Errorf("files: upload %s: %w", r.id(), err)
	}
	if !r.Partial {
		if r.Sum, err = s.sum(ctx, r, sealer, size); err != nil {
			return err
		}
		if r.Expected != "" && r.Expected != fmt.Sprintf("%x", r.Sum) {
			return &otherHashError{is: fmt.Sprintf("%x", r.Sum), want: r.Expected}
		}
	}
	r.Sealed = true
	return s.saveRecord(r)
}

// sum is the hash of the content: as it came, or else by reading it again.
func (s *Service) sum(ctx context.Context, r *record, sealer *seal.Sealer, size int64) ([]byte, error) {
	hash := s.hashes.take(r.id(), size)
	if hash == nil {
		hash = blake3.New(32, nil)
		content := seal.NewReader(sealer, size, s.staged(r.id()))
		_, err := io.Copy(hash, s.deps.Gate.Reader(ctx, content))
		if err = errors.Join(err, content.Close()); err != nil {
			return nil, err
		}
	}
	return hash.Sum(nil), nil
}

// stagedUploads lists the uploads on this node's disk.
func (s *Service) stagedUploads() ([]proto.FileID, error) {
	entries, err := os.ReadDir(s.staging)
	if err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	var out []proto.FileID
	for _, e := range entries {
		if id, err := proto.ParseFileID(e.Name()); err == nil {
			out = append(out, id)
		}
	}
	return out, nil
}

func notThere(err error) bool { return errors.Is(err, fs.ErrNotExist) }
