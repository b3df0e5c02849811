package login

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

// NonceBytesMax bounds the nonce of a login.
const NonceBytesMax = 64

// Ranges reaches a range wherever it is hosted; cellclient.Relay is one. Its
// errors are *proto.Error.
type Ranges interface {
	Do(ctx context.Context, r proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error)
}

// Issuer begins sessions. It is safe for concurrent use.
type Issuer struct {
	signer *token.Signer
	secret []byte // of refresh tokens
	keys   token.Keys
	ranges Ranges
	now    func() time.Time
	policy cellpb.SessionPolicy
}

// ParsePolicy reads which devices of an account may be logged in together:
// multi (also when s is empty), per-platform or single.
func ParsePolicy(s string) (cellpb.SessionPolicy, error) {
	switch s {
	case "", "multi":
		return cellpb.SessionPolicy_SESSION_POLICY_MULTI, nil
	case "per-platform":
		return cellpb.SessionPolicy_SESSION_POLICY_PER_PLATFORM, nil
	case "single":
		return cellpb.SessionPolicy_SESSION_POLICY_SINGLE, nil
	}
	return 0, fmt.Errorf("%q is not one of multi, per-platform, single", s)
}

// WithPolicy sets the policy by name, see [ParsePolicy]; call it before the
// first login.
func (i *Issuer) WithPolicy(name string) (*Issuer, error) {
	var err error
	i.policy, err = ParsePolicy(name)
	return i, err
}

// NewIssuer makes an issuer that signs with private. keys are the published
// ones: no token is signed before its key is among them.
func NewIssuer(private ed25519.PrivateKey, keys token.Keys, ranges Ranges) *Issuer {
	mac := hmac.New(sha256.New, private.Seed())
	mac.Write([]byte("waggle refresh tokens v1"))
	return &Issuer{signer: token.NewSigner(private), secret: mac.Sum(nil), keys: keys, ranges: ranges, now: time.Now}
}

// KeyID is the id of the signing key.
func (i *Issuer) KeyID() string { return i.signer.KeyID() }

// PublicKey is the public part of the signing key.
func (i *Issuer) PublicKey() ed25519.PublicKey { return i.signer.PublicKey() }

// Request is what a session is made for.
type Request struct {
	User     proto.EntityID
	Device   string // empty: a new one
	Platform string // free text, cut to token.PlatformBytesMax
	Nonce    []byte // at most NonceBytesMax; empty: a new one
}

// Session is a session that the user's range has committed.
type Session struct {
	Device       string
	Token        string
	Expires      time.Time
	RefreshToken string
	Name         string // as the range knows it
}

// Issue begins a session on a device. Whatever session the device had before
// is displaced.
//
// Errors: [proto.CodeBadRequest] (give up); [proto.CodeNotReady] before the
// signing key is published; those of the range.
func (i *Issuer) Issue(ctx context.Context, req Request) (*Session, error) {
	if len(req.Nonce) > NonceBytesMax {
		return nil, proto.Errorf(proto.CodeBadRequest, "the nonce has %d bytes, at most %d are taken", len(req.Nonce), NonceBytesMax)
	}
	if req.Device != "" && !validDevice(req.Device) {
		return nil, proto.Errorf(proto.CodeBadRequest, "a device has 1 to %d letters, digits, . _ -", proto.DeviceIDBytesMax)
	}
	if _, ok := i.keys.PublicKey(i.KeyID()); !ok {
		return nil, proto.Errorf(proto.CodeNotReady, "this control plane's key is not published yet: try again")
	}
	nonce := req.Nonce
	if len(nonce) == 0 {
		nonce = make([]byte, 16)
		_, _ = rand.Read(nonce) // never fails
	}
	device := req.Device
	if device == "" {
		// From the nonce, so that a repeated login finds the same device.
		sum := sha256.Sum256([]byte("device|" + req.User.String() + "|" + string(nonce)))
		device = hex.EncodeToString(sum[:8])
	}
	refresh := i.firstRefreshToken(req.User, device, nonce)
	hash, family := refresh.hash(), refresh.familyHash()
	// Another control plane's session has another refresh token, so the
	// range must not take the two for one.
	own := sha256.Sum256(append([]byte(i.KeyID()+"|"), nonce...))
	platform := cleanPlatform(req.Platform)
	reply, err := i.ranges.Do(ctx, req.User.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_LoginDevice{LoginDevice: &cellpb.LoginDevice{
		User: uint64(req.User), Device: device, RefreshHash: hash[:], Platform: platform, Nonce: own[:16], RefreshFamily: family[:], Policy: i.policy,
	}}})
	if err != nil {
		return nil, err
	}
	result := reply.GetResult()
	if result.GetSessionNumber() == 0 {
		return nil, proto.Errorf(proto.CodeUnavailable, "range %s gave no session: try again", req.User.Range())
	}
	return i.sign(req.User, device, platform, refresh, result)
}

// sign makes the token of a session as the range has it.
func (i *Issuer) sign(user proto.EntityID, device, platform string, refresh refreshToken, r *cellpb.Result) (*Session, error) {
	now := i.now().Truncate(time.Second)
	s := &Session{Device: device, Expires: now.Add(proto.TokenLifetime), RefreshToken: refresh.String(), Name: r.Name}
	var err error
	s.Token, err = i.signer.Sign(token.Claims{
		User: user, Device: device, Platform: platform,
		SessionNumber: r.SessionNumber, AuthorityVersion: r.AuthorityVersion,
		IssuedAt: now, ExpiresAt: s.Expires,
	})
	return s, err
}

func validDevice(s string) bool {
	return len(s) <= proto.DeviceIDBytesMax && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}) < 0
}

// cleanPlatform keeps printable ASCII and cuts to the limit.
func cleanPlatform(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), token.PlatformBytesMax)]
}
