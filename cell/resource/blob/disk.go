package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Disk is a store in a folder: blobs lie two folders deep, by a hash of their
// name, so that no folder grows large. Staged files must be on the same file
// system: putting is a rename.
type Disk struct{ root string }

// NewDisk makes the folder if it is missing.
func NewDisk(root string) (*Disk, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	return &Disk{root: root}, nil
}

func (d *Disk) path(name string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(d.root, hex.EncodeToString(sum[:1]), hex.EncodeToString(sum[1:2]), name), nil
}

// Put implements [Store].
func (d *Disk) Put(_ context.Context, name, file string) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	inner := filepath.Dir(path)
	outer := filepath.Dir(inner)
	if err := os.MkdirAll(inner, 0o700); err != nil {
		return fmt.Errorf("blob: %w", err)
	}
	if err := os.Rename(file, path); err != nil {
		return fmt.Errorf("blob: put %s: %w", name, err)
	}
	// The new folders are synced as well: a file in a folder that a power cut
	// takes away is gone.
	for _, dir := range []string{inner, outer, d.root, filepath.Dir(file)} {
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("blob: put %s: %w", name, err)
		}
	}
	return nil
}

// Open implements [Store].
func (d *Disk) Open(_ context.Context, name string, offset int64) (io.ReadCloser, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err == nil && offset > 0 {
		_, err = f.Seek(offset, io.SeekStart)
		if err != nil {
			_ = f.Close()
		}
	}
	if err != nil {
		return nil, diskError(name, err)
	}
	return f, nil
}

// Size implements [Store].
func (d *Disk) Size(_ context.Context, name string) (int64, error) {
	path, err := d.path(name)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, diskError(name, err)
	}
	return info.Size(), nil
}

// Remove implements [Store].
func (d *Disk) Remove(_ context.Context, name string) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("blob: remove %s: %w", name, err)
	}
	return nil
}

// List implements [Store].
func (d *Disk) List(ctx context.Context, visit func(Entry) error) error {
	return filepath.WalkDir(d.root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || entry.IsDir() {
			return errors.Join(err, ctx.Err())
		}
		if want, err := d.path(entry.Name()); err != nil || want != path {
			return nil // not ours
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(Entry{Name: entry.Name(), Modified: info.ModTime()})
	})
}

func diskError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return fmt.Errorf("blob: %s: %w", name, err)
}

// syncDir makes a rename durable. Windows cannot sync a folder and journals
// the rename.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
