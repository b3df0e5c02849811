package accounts

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/waggle-im/waggle/proto"
)

const (
	// OWASP's first choice of parameters for argon2id, about 20 ms a hash.
	argonMemoryKiB = 19 << 10
	argonTime      = 2
	argonThreads   = 1
	argonSaltBytes = 16
	argonKeyBytes  = 32

	// What a stored hash may ask for at most: one written by somebody else
	// must not eat the machine.
	argonMemoryKiBMax = 256 << 10
	argonTimeMax      = 16

	// hashesWaitingPerCore bounds those who wait, about 1.3 s of work.
	hashesWaitingPerCore = 64
)

// Hasher makes and checks password hashes, at most one at a time per core:
// each takes 19 MiB and a core's full attention.
type Hasher struct {
	slots   chan struct{}
	waiting chan struct{}
}

// NewHasher makes a hasher for the cores of this process.
func NewHasher() *Hasher {
	n := runtime.GOMAXPROCS(0)
	return &Hasher{slots: make(chan struct{}, n), waiting: make(chan struct{}, n*(1+hashesWaitingPerCore))}
}

// acquire waits for a core. [proto.CodeOverloaded] when too many wait.
func (h *Hasher) acquire(ctx context.Context) error {
	select {
	case h.waiting <- struct{}{}:
	default:
		return proto.Errorf(proto.CodeOverloaded, "too many people log in at the same moment: try again")
	}
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		<-h.waiting
		return proto.Errorf(proto.CodeOverloaded, "too many people log in at the same moment: try again")
	}
}

func (h *Hasher) release() { <-h.slots; <-h.waiting }

// Hash makes the PHC string of a password.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer h.release()
	salt := make([]byte, argonSaltBytes)
	_, _ = rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemoryKiB, argonThreads, argonKeyBytes)
	return phc{argonMemoryKiB, argonTime, argonThreads, salt, key}.String(), nil
}

// Verify tells whether password fits the PHC string. An empty one, as of an
// account without password or a name nobody has, costs the same time and is
// false.
func (h *Hasher) Verify(ctx context.Context, stored, password string) (bool, error) {
	p := phc{argonMemoryKiB, argonTime, argonThreads, make([]byte, argonSaltBytes), make([]byte, argonKeyBytes)}
	if stored != "" {
		var err error
		if p, err = parsePHC(stored); err != nil {
			return false, err
		}
	}
	if len(password) > PasswordBytesMax {
		password = password[:PasswordBytesMax+1] // too long is wrong, whatever it is
	}
	if err := h.acquire(ctx); err != nil {
		return false, err
	}
	defer h.release()
	key := argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.threads, uint32(len(p.key)))
	return subtle.ConstantTimeCompare(key, p.key) == 1 && stored != "", nil
}

// phc is a stored hash: $argon2id$v=19$m=19456,t=2,p=1$salt$key.
type phc struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

func (p phc) String() string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads, b64(p.salt), b64(p.key))
}

func parsePHC(s string) (p phc, err error) {
	bad := proto.Errorf(proto.CodeCorrupt, "the stored password hash of this account cannot be read: set the password anew")
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, bad
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil || n != 3 {
		return p, bad
	}
	var err1, err2 error
	p.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	p.key, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	switch {
	case err1 != nil, err2 != nil, len(p.salt) < 8, len(p.key) < 16, len(p.key) > 64,
		p.memory < 8 || p.memory > argonMemoryKiBMax, p.time < 1 || p.time > argonTimeMax, p.threads < 1:
		return p, bad
	}
	return p, nil
}
