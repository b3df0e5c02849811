package seal

import (
	"errors"
	"fmt"
	"io"
)

// Source opens the sealed file for reading from an offset on.
type Source func(offset int64) (io.ReadCloser, error)

// Reader reads a sealed file as an [io.ReadSeeker], and of it no block that is
// not asked for. One goroutine may use it.
type Reader struct {
	sealer *Sealer
	source Source
	size   int64

	at     int64         // of the next byte read
	stream io.ReadCloser // stands at block next; nil: not open
	next   uint64
	sealed []byte // buffers, made at the first read
	plain  []byte
	have   int64 // the block in plain, -1: none
	err    error // the first failure; it stays
}

// NewReader reads the file of size bytes that source holds. Close frees it.
func NewReader(sealer *Sealer, size int64, source Source) *Reader {
	return &Reader{sealer: sealer, source: source, size: size, have: -1}
}

// Err is the failure that ended reading, if there was one.
func (r *Reader) Err() error { return r.err }

// Seek implements [io.Seeker].
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seal: seek before the beginning")
	}
	r.at = offset
	return offset, nil
}

// Read implements [io.Reader].
//
// Errors: [*CorruptError]; those of the source.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.at >= r.size {
		// The end is believed only after the last block, which says that it is.
		if r.size == 0 && r.have < 0 {
			if r.err = r.load(0); r.err != nil {
				return 0, r.err
			}
		}
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	number := r.at / BlockBytes
	if r.have != number {
		if r.err = r.load(uint64(number)); r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.plain[r.at-number*BlockBytes:])
	r.at += int64(n)
	return n, nil
}

// load brings a block into plain.
func (r *Reader) load(number uint64) error {
	r.have = -1
	if r.stream == nil || r.next != number {
		if err := r.open(number); err != nil {
			return err
		}
	}
	last := number+1 == Blocks(r.size)
	length := int64(StoredBlockBytes)
	if last {
		length = StoredBytes(r.size) - int64(number)*StoredBlockBytes
	}
	if r.sealed == nil {
		r.sealed, r.plain = make([]byte, StoredBlockBytes), make([]byte, 0, BlockBytes)
	}
	_, err := io.ReadFull(r.stream, r.sealed[:length])
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &CorruptError{Name: r.sealer.name, Block: number}
	case err != nil:
		return fmt.Errorf("seal: read block %d of %s: %w", number, r.sealer.name, err)
	}
	r.next = number + 1
	plain, err := r.sealer.Open(r.plain[:0], r.sealed[:length], number, last)
	if err != nil {
		return err
	}
	r.plain, r.have = plain, int64(number)
	return nil
}

func (r *Reader) open(number uint64) error {
	if err := r.Close(); err != nil {
		return err
	}
	stream, err := r.source(int64(number) * StoredBlockBytes)
	if err != nil {
		return err
	}
	r.stream, r.next = stream, number
	return nil
}

// Close ends reading; it may be called again.
func (r *Reader) Close() error {
	if r.stream == nil {
		return nil
	}
	err := r.stream.Close()
	r.stream = nil
	return err
}
