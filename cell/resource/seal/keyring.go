package seal

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/waggle-im/waggle/internal/atomicfile"
)

// Keyring holds the keys of a cell. The first wraps, all of them unwrap.
type Keyring struct {
	current string
	keys    map[string]Key
}

const wrapFormat = "waggle file key 1"

// ParseKeyring reads lines of an id, a space and 64 hexadecimal digits; the
// first is the current key. Empty lines and those that begin with # are passed
// over.
func ParseKeyring(raw []byte) (*Keyring, error) {
	ring := &Keyring{keys: map[string]Key{}}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		id, digits, _ := strings.Cut(line, " ")
		raw, err := hex.DecodeString(strings.TrimSpace(digits))
		if err != nil || len(raw) != KeyBytes || len(id) > 64 {
			return nil, fmt.Errorf("line %d is not an id and %d hexadecimal digits", n, 2*KeyBytes)
		}
		if _, twice := ring.keys[id]; twice {
			return nil, fmt.Errorf("line %d: the id %q is there twice", n, id)
		}
		ring.keys[id] = Key(raw)
		if ring.current == "" {
			ring.current = id
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if ring.current == "" {
		return nil, errors.New("there is no key in it")
	}
	return ring, nil
}

// EnsureKeyring reads a file of keys, and makes it with one random key if
// there is none.
func EnsureKeyring(file string) (*Keyring, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		var id [4]byte
		_, _ = rand.Read(id[:])
		key := NewKey()
		raw = fmt.Appendf(nil, "# Keys of stored files: the first wraps, all unwrap. Whoever loses them loses the files.\n%x %x\n", id, key)
		err = atomicfile.Write(file, raw, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: keys of files: %w", err)
	}
	ring, err := ParseKeyring(raw)
	if err != nil {
		return nil, fmt.Errorf("seal: keys of files: %s: %w", file, err)
	}
	return ring, nil
}

// Wrap encrypts the key of the file that is stored as name, and tells the id
// of the key that can unwrap it.
func (k *Keyring) Wrap(name string, key Key) (id string, wrapped []byte) {
	var nonce [nonceBytes]byte
	_, _ = rand.Read(nonce[:])
	return k.current, newGCM(k.keys[k.current]).Seal(nonce[:], nonce[:], key[:], []byte(wrapFormat+name))
}

// Unwrap is the inverse of [Keyring.Wrap].
func (k *Keyring) Unwrap(name, id string, wrapped []byte) (Key, error) {
	outer, ok := k.keys[id]
	if !ok {
		return Key{}, fmt.Errorf("seal: the file %s needs the key %q of its cell, which is not among those this node has", name, id)
	}
	if len(wrapped) < nonceBytes {
		return Key{}, fmt.Errorf("seal: the key of the file %s is damaged", name)
	}
	raw, err := newGCM(outer).Open(nil, wrapped[:nonceBytes], wrapped[nonceBytes:], []byte(wrapFormat+name))
	if err != nil || len(raw) != KeyBytes {
		return Key{}, fmt.Errorf("seal: the key of the file %s is damaged", name)
	}
	return Key(raw), nil
}
