package files

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"io"
	"strings"

	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/proto"
)

// checksumAlgorithms are those of the header Upload-Checksum; tus asks for
// sha1 at least.
const checksumAlgorithms = "sha1,sha256,blake3"

// checksum compares a chunk with what the client says of it.
type checksum struct {
	hash hash.Hash
	want []byte
}

// parseChecksum reads a header as in "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=".
func parseChecksum(header string) (*checksum, error) {
	name, text, _ := strings.Cut(header, " ")
	want, err := base64.StdEncoding.DecodeString(text)
	c := &checksum{want: want}
	switch name {
	case "sha1":
		c.hash = sha1.New()
	case "sha256":
		c.hash = sha256.New()
	case "blake3":
		c.hash = blake3.New(32, nil)
	}
	if err != nil || c.hash == nil || len(want) != c.hash.Size() {
		return nil, proto.Errorf(proto.CodeBadRequest, "Upload-Checksum is an algorithm of %s, a space and the hash in base64", checksumAlgorithms)
	}
	return c, nil
}

func (c *checksum) reader(r io.Reader) io.Reader { return io.TeeReader(r, c.hash) }

func (c *checksum) matches() bool { return bytes.Equal(c.hash.Sum(nil), c.want) }
