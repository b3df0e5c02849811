package seal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// sealAll seals a whole file.
func sealAll(s *Sealer, content []byte) []byte {
	var out []byte
	blocks := Blocks(int64(len(content)))
	for n := range blocks {
		end := min(len(content), int(n+1)*BlockBytes)
		out = s.Seal(out, content[int(n)*BlockBytes:end], n, n+1 == blocks)
	}
	return out
}

// counted is a source that counts the bytes read of it.
func counted(sealed []byte, read *int64) Source {
	return func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(readFunc(func(p []byte) (int, error) {
			if offset >= int64(len(sealed)) {
				return 0, io.EOF
			}
			n := copy(p, sealed[offset:])
			offset += int64(n)
			*read += int64(n)
			return n, nil
		})), nil
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func content(size int) []byte {
	out := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = random.Read(out)
	return out
}

func TestAnyPartOfAnyFileIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.OneOf(rapid.IntRange(0, 3*BlockBytes+5), rapid.SampledFrom([]int{0, 1, BlockBytes - 1, BlockBytes, BlockBytes + 1, 2 * BlockBytes})).Draw(t, "size")
		want := content(size)
		s := NewSealer("f", NewKey())
		sealed := sealAll(s, want)
		if int64(len(sealed)) != StoredBytes(int64(size)) {
			t.Fatalf("%d bytes take %d, not %d", size, len(sealed), StoredBytes(int64(size)))
		}
		var read int64
		r := NewReader(s, int64(size), counted(sealed, &read))
		defer r.Close()
		for range rapid.IntRange(1, 4).Draw(t, "parts") {
			from := rapid.IntRange(0, size).Draw(t, "from")
			length := rapid.IntRange(0, size-from).Draw(t, "length")
			read = 0
			if _, err := r.Seek(int64(from), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, length)
			if _, err := io.ReadFull(r, got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want[from:from+length]) {
				t.Fatal("other bytes came back")
			}
			if blocks := int64(length/BlockBytes + 2); read > blocks*StoredBlockBytes {
				t.Fatalf("%d bytes were read for %d", read, length)
			}
		}
	})
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	const size = 2*BlockBytes + 100
	s := NewSealer("owner-7", NewKey())
	sealed := sealAll(s, content(size))
	rapid.Check(t, func(t *rapid.T) {
		place := rapid.IntRange(0, len(sealed)-1).Draw(t, "place")
		bit := rapid.IntRange(0, 7).Draw(t, "bit")
		damaged := bytes.Clone(sealed)
		damaged[place] ^= 1 << bit
		var read int64
		r := NewReader(s, size, counted(damaged, &read))
		_, err := io.Copy(io.Discard, r)
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Block != uint64(place/StoredBlockBytes) || corrupt.Name != "owner-7" {
			t.Fatalf("bit %d of byte %d was flipped: %v", bit, place, err)
		}
		if !errors.Is(r.Err(), err) {
			t.Fatal("the failure is forgotten")
		}
	})
}

// TestEveryBitOfASmallFile goes through all of them.
func TestEveryBitOfASmallFile(t *testing.T) {
	s := NewSealer("f", NewKey())
	sealed := sealAll(s, []byte("hello"))
	for i := range len(sealed) * 8 {
		damaged := bytes.Clone(sealed)
		damaged[i/8] ^= 1 << (i % 8)
		if _, err := s.Open(nil, damaged, 0, true); err == nil {
			t.Fatalf("bit %d can change", i)
		}
	}
}

func TestBlocksCannotBeMovedCutOffOrAdded(t *testing.T) {
	s := NewSealer("f", NewKey())
	want := content(3 * BlockBytes)
	sealed := sealAll(s, want)
	block := func(n int) []byte { return sealed[n*StoredBlockBytes : (n+1)*StoredBlockBytes] }
	join := func(blocks ...[]byte) []byte { return bytes.Join(blocks, nil) }
	cases := map[string]struct {
		size   int64
		sealed []byte
	}{
		"swapped":       {3 * BlockBytes, join(block(1), block(0), block(2))},
		"repeated":      {3 * BlockBytes, join(block(0), block(0), block(2))},
		"cut off":       {2 * BlockBytes, join(block(0), block(1))},
		"cut short":     {3 * BlockBytes, sealed[:len(sealed)-1]},
		"added":         {4 * BlockBytes, join(block(0), block(1), block(2), block(2))},
		"another key":   {3 * BlockBytes, sealAll(NewSealer("f", NewKey()), want)},
		"emptied":       {0, nil},
		"end made last": {BlockBytes, block(2)},
	}
	for name, c := range cases {
		var read int64
		_, err := io.Copy(io.Discard, NewReader(s, c.size, counted(c.sealed, &read)))
		if _, ok := errors.AsType[*CorruptError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSameBlockIsNeverSealedAlike(t *testing.T) {
	s := NewSealer("f", NewKey())
	if a, b := s.Seal(nil, []byte("x"), 0, true), s.Seal(nil, []byte("x"), 0, true); bytes.Equal(a, b) {
		t.Fatal("the nonce is the same")
	}
}

func TestKeysOfTheCellRotate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	old, err := EnsureKeyring(file)
	if err != nil {
		t.Fatal(err)
	}
	key := NewKey()
	id, wrapped := old.Wrap("f", key)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// A new key in front: new files use it, old ones stay readable.
	next := "new " + strings.Repeat("5a", KeyBytes) + "\n" + string(raw)
	if err := os.WriteFile(file, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	ring, err := EnsureKeyring(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ring.Unwrap("f", id, wrapped); err != nil || got != key {
		t.Fatalf("the old key does not unwrap: %v", err)
	}
	newID, rewrapped := ring.Wrap("f", key)
	if newID != "new" {
		t.Fatalf("wrapped by %s", newID)
	}
	if got, err := ring.Unwrap("f", newID, rewrapped); err != nil || got != key {
		t.Fatalf("the new key does not unwrap: %v", err)
	}
	if _, err := old.Unwrap("f", newID, rewrapped); err == nil {
		t.Error("a ring unwraps by a key it has not")
	}
	if _, err := ring.Unwrap("another", newID, rewrapped); err == nil {
		t.Error("the key of one file opens as that of another")
	}
	for i := range rewrapped {
		bad := bytes.Clone(rewrapped)
		bad[i] ^= 1
		if _, err := ring.Unwrap("f", newID, bad); err == nil {
			t.Fatalf("byte %d of a wrapped key can change", i)
		}
	}
}

func TestDamagedFilesOfKeysAreRefused(t *testing.T) {
	for _, raw := range []string{"", "# only words\n", "a 00\n", "a " + strings.Repeat("zz", 32),
		"a " + strings.Repeat("00", 32) + "\na " + strings.Repeat("11", 32)} {
		if _, err := ParseKeyring([]byte(raw)); err == nil {
			t.Errorf("%q is taken for keys", raw)
		}
	}
}
