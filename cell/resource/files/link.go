package files

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/proto"
)

// linkLifetime is how long a signed link works: a player starts within it, and
// one that was passed on is soon worth nothing.
const linkLifetime = 10 * time.Minute

// linkBytesMax bounds a link.
const linkBytesMax = 2048

// place names the message through which a file is read.
type place struct {
	Thread string `json:"thread,omitempty"`
	Seq    uint64 `json:"seq,omitempty"`
}

// link is what a signed link says: it stands for the caller's token, for one
// file. What he may read is decided anew at every use.
type link struct {
	File    string            `json:"file"`
	Caller  cellclient.Caller `json:"caller"`
	Place   place             `json:"place"`
	Expires int64             `json:"expires"` // Unix seconds
}

// linkKey reads the key that signs this node's links, or makes it.
func linkKey(dir string) ([]byte, error) {
	file := filepath.Join(dir, "links.key")
	key, err := os.ReadFile(file)
	if err == nil && len(key) == sha256.Size {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("files: key of links: %w", err)
	}
	key = make([]byte, sha256.Size)
	_, _ = rand.Read(key)
	if err := atomicfile.Write(file, key, 0o600); err != nil {
		return nil, fmt.Errorf("files: key of links: %w", err)
	}
	return key, nil
}

// signLink encodes a link as NODE~CLAIMS~MAC: the edge finds the node by it.
func (s *Service) signLink(l link) string {
	raw, err := json.Marshal(l)
	if err != nil {
		return "" // texts and numbers: cannot fail
	}
	signed := string(s.cfg.Node) + "~" + base64.RawURLEncoding.EncodeToString(raw)
	return signed + "~" + base64.RawURLEncoding.EncodeToString(s.macOf(signed))
}

func (s *Service) macOf(text string) []byte {
	mac := hmac.New(sha256.New, s.links)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// openLink checks a link for a file.
func (s *Service) openLink(text string, id proto.FileID) (link, error) {
	bad := proto.Errorf(proto.CodeBadToken, "the link is not one of ours: ask for a new one")
	i := strings.LastIndexByte(text, '~')
	if i < 0 || len(text) > linkBytesMax {
		return link{}, bad
	}
	mac, err := base64.RawURLEncoding.DecodeString(text[i+1:])
	if err != nil || !hmac.Equal(mac, s.macOf(text[:i])) {
		return link{}, bad
	}
	_, claims, _ := strings.Cut(text[:i], "~")
	raw, err := base64.RawURLEncoding.DecodeString(claims)
	var l link
	if err != nil || json.Unmarshal(raw, &l) != nil || l.File != id.String() {
		return link{}, bad
	}
	if !s.now().Before(time.Unix(l.Expires, 0)) {
		return link{}, proto.Errorf(proto.CodeTokenExpired, "the link has expired: ask for a new one")
	}
	return l, nil
}
