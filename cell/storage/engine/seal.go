package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/xxh3"
)

// A store that was closed is sealed: a file beside the two lists every file of
// theirs, with the checksums of those that Pebble reads leniently. It takes
// the first damaged record of a MANIFEST, and the last ones of a write-ahead
// log, for a write that a crash broke off, and goes on with less. After a
// clean end there was no crash, so any difference is damage. The seal is
// removed before the stores are opened.
const sealName = "SEAL"

const sealFormat = 1

type seal struct {
	Format int          `json:"format"`
	Files  []sealedFile `json:"files"`
	Sum    uint64       `json:"sum,string"` // of the files as listed
}

type sealedFile struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	Sum   uint64 `json:"sum,string"` // 0 of tables: each of their blocks has its own
}

func (s seal) sum() uint64 { return xxh3.HashString(fmt.Sprintf("%d %v", s.Format, s.Files)) }

// storeFiles are the files of both stores, as they are.
func storeFiles(dir string, fs vfs.FS) ([]sealedFile, error) {
	var out []sealedFile
	for _, store := range []string{logStore, stateStore} {
		names, err := fs.List(filepath.Join(dir, store))
		if oserror.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if name == "LOCK" {
				continue
			}
			f, err := describe(fs, filepath.Join(dir, store, name))
			if err != nil {
				return nil, err
			}
			f.Name = store + "/" + name
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b sealedFile) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func describe(fs vfs.FS, path string) (out sealedFile, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return out, err
	}
	out.Bytes = info.Size()
	if strings.HasSuffix(path, ".sst") || strings.HasSuffix(path, ".blob") {
		return out, nil
	}
	h := xxh3.New()
	_, err = io.Copy(h, f)
	out.Sum = h.Sum64()
	return out, err
}

// writeSeal seals closed stores. They are whole without it, so a crash on the
// way costs nothing.
func writeSeal(dir string, fs vfs.FS) error {
	files, err := storeFiles(dir, fs)
	if err != nil {
		return fmt.Errorf("engine: seal %s: %w", dir, err)
	}
	s := seal{Format: sealFormat, Files: files}
	s.Sum = s.sum()
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("engine: seal %s: %w", dir, err)
	}
	tmp := filepath.Join(dir, sealName+".new")
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("engine: seal %s: %w", dir, err)
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = fs.Rename(tmp, filepath.Join(dir, sealName))
	}
	if err == nil {
		err = syncDir(dir, fs)
	}
	if err != nil {
		return fmt.Errorf("engine: seal %s: %w", dir, err)
	}
	return nil
}

// breakSeal holds the stores against their seal, if there is one, and removes
// it. The error names the file that is not what it was.
func breakSeal(dir string, fs vfs.FS, logger *slog.Logger) error {
	path := filepath.Join(dir, sealName)
	f, err := fs.Open(path)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	raw, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("engine: read %s: %w", path, err)
	}
	var s seal
	switch err := json.Unmarshal(raw, &s); {
	case err != nil || s.Format == sealFormat && s.Sum != s.sum():
		// The stores may be whole. They are opened as after a crash.
		logger.Error("the seal of the stores is damaged: does this disk fail?", "file", path, "err", err)
	case s.Format == sealFormat:
		if err := s.check(dir, fs); err != nil {
			return err // the seal stays: the next start must find it too
		}
	}
	if err := errors.Join(fs.Remove(path), syncDir(dir, fs)); err != nil {
		return fmt.Errorf("engine: remove %s: %w", path, err)
	}
	return nil
}

func (s seal) check(dir string, fs vfs.FS) error {
	for _, want := range s.Files {
		path := filepath.Join(dir, filepath.FromSlash(want.Name))
		have, err := describe(fs, path)
		switch {
		case oserror.IsNotExist(err):
			err = errors.New("it is gone")
		case err != nil:
			return fmt.Errorf("engine: %w", err)
		case have.Bytes != want.Bytes:
			err = fmt.Errorf("it had %d bytes when this node stopped, and has %d", want.Bytes, have.Bytes)
		case have.Sum != want.Sum:
			err = errors.New("its content is not what it was when this node stopped")
		default:
			continue
		}
		return corrupt(path, fmt.Errorf("%w: %w", err, pebble.ErrCorruption))
	}
	return nil
}

func syncDir(dir string, fs vfs.FS) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
