package files

import (
	"sync"

	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/proto"
)

// hashesMax bounds the hashes kept between the requests of uploads, of about
// 20 KB each. One that is not kept is computed again from what is stored.
const hashesMax = 1024

// hashes keeps how far the hash of each upload has come. A state of BLAKE3
// cannot be stored.
type hashes struct {
	mu    sync.Mutex // guards the field below
	known map[proto.FileID]hashed
}

type hashed struct {
	at   int64 // bytes that went in
	hash *blake3.Hasher
}

// take gives the hash of the first at bytes to its caller, nil if it is not
// known.
func (h *hashes) take(id proto.FileID, at int64) *blake3.Hasher {
	h.mu.Lock()
	defer h.mu.Unlock()
	have, ok := h.known[id]
	delete(h.known, id)
	switch {
	case ok && have.at == at:
		return have.hash
	case at == 0:
		return blake3.New(32, nil)
	}
	return nil
}

func (h *hashes) put(id proto.FileID, at int64, hash *blake3.Hasher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil {
		h.known = map[proto.FileID]hashed{}
	}
	if len(h.known) < hashesMax {
		h.known[id] = hashed{at: at, hash: hash}
	}
}

func (h *hashes) drop(id proto.FileID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.known, id)
}
