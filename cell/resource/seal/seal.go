package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

const (
	// BlockBytes is the content of every block but the last: small against
	// what a ranged read asks for, large against OverheadBytes.
	BlockBytes = 64 << 10
	// OverheadBytes is what a block takes beside its content.
	OverheadBytes = nonceBytes + tagBytes
	// StoredBlockBytes is what a full block takes.
	StoredBlockBytes = BlockBytes + OverheadBytes
	// KeyBytes is the length of a key: AES-256.
	KeyBytes = 32

	nonceBytes = 12
	tagBytes   = 16
	format     = "waggle seal 1"
)

// Key is the key of one file.
type Key [KeyBytes]byte

// NewKey makes a random key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // never fails, see its documentation
	return k
}

// CorruptError says which block of which file is not what was written.
type CorruptError struct {
	Name  string // of the blob
	Block uint64
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("block %d of the stored file %s is damaged: restore it from a backup", e.Block, e.Name)
}

// StoredBytes is what a file of size bytes takes when sealed.
func StoredBytes(size int64) int64 {
	blocks := max(1, (size+BlockBytes-1)/BlockBytes)
	return size + blocks*OverheadBytes
}

// Blocks is the number of blocks of a file of size bytes.
func Blocks(size int64) uint64 { return uint64(max(1, (size+BlockBytes-1)/BlockBytes)) }

// Sealer seals and opens the blocks of one file. It is safe for concurrent
// use.
type Sealer struct {
	name string
	aead cipher.AEAD
}

// NewSealer makes the sealer of the file that is stored as name, which only
// errors mention.
func NewSealer(name string, key Key) *Sealer { return &Sealer{name: name, aead: newGCM(key)} }

func newGCM(key Key) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("seal: " + err.Error()) // only for a key of another length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: " + err.Error())
	}
	return aead
}

func associated(number uint64, last bool) []byte {
	out := make([]byte, 0, len(format)+9)
	out = binary.BigEndian.AppendUint64(append(out, format...), number)
	if last {
		return append(out, 1)
	}
	return append(out, 0)
}

// Seal appends the sealed block to dst. plain has [BlockBytes], or fewer in
// the last block.
func (s *Sealer) Seal(dst, plain []byte, number uint64, last bool) []byte {
	var nonce [nonceBytes]byte
	_, _ = rand.Read(nonce[:])
	return s.aead.Seal(append(dst, nonce[:]...), nonce[:], plain, associated(number, last))
}

// Open appends the content of a sealed block to dst.
//
// Errors: [*CorruptError].
func (s *Sealer) Open(dst, sealed []byte, number uint64, last bool) ([]byte, error) {
	if len(sealed) < OverheadBytes || len(sealed) > StoredBlockBytes || !last && len(sealed) != StoredBlockBytes {
		return nil, &CorruptError{Name: s.name, Block: number}
	}
	out, err := s.aead.Open(dst, sealed[:nonceBytes], sealed[nonceBytes:], associated(number, last))
	if err != nil {
		return nil, &CorruptError{Name: s.name, Block: number}
	}
	return out, nil
}
