package token

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/waggle-im/waggle/proto"
)

const (
	// Audience stands in every token, so that a token of another system
	// signed with the same key is refused.
	Audience = "waggle"
	// BytesMax bounds an encoded token. One with the longest device and
	// platform is under 600 bytes.
	BytesMax = 2048
	// PlatformBytesMax bounds the platform's name.
	PlatformBytesMax = 32
	// issuedSkew is how far ahead the signer's clock may run.
	issuedSkew = time.Minute
)

// Claims is what a token says.
type Claims struct {
	User             proto.EntityID
	Device           string // at most proto.DeviceIDBytesMax bytes
	Platform         string // at most PlatformBytesMax bytes
	SessionNumber    uint64 // of the device's row when the token was made
	AuthorityVersion uint64 // of the user's record when the token was made
	IssuedAt         time.Time
	ExpiresAt        time.Time // at most proto.TokenLifetime after IssuedAt
}

// Keys knows the public keys of the control plane's replicas.
type Keys interface {
	// PublicKey is the key of that id; false when it is not known.
	PublicKey(kid string) (ed25519.PublicKey, bool)
}

// wireClaims is Claims as encoded. The short names cannot change: running
// sessions hold tokens made by the previous release.
type wireClaims struct {
	jwt.RegisteredClaims
	Device    string `json:"dev"`
	Platform  string `json:"plt,omitempty"`
	Session   uint64 `json:"sn"`
	Authority uint64 `json:"av"`
}

// KeyID is the id under which a public key is published: the first 12 bytes
// of its SHA-256 in base64url.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// Signer signs tokens with one key. It is safe for concurrent use.
type Signer struct {
	private ed25519.PrivateKey
	kid     string
}

// NewSigner makes a signer; the key's id follows from its public part.
func NewSigner(private ed25519.PrivateKey) *Signer {
	return &Signer{private: private, kid: KeyID(private.Public().(ed25519.PublicKey))}
}

// KeyID is the id that stands in the tokens of this signer.
func (s *Signer) KeyID() string { return s.kid }

// PublicKey is what verifiers need.
func (s *Signer) PublicKey() ed25519.PublicKey { return s.private.Public().(ed25519.PublicKey) }

// Sign encodes c. Times are cut to seconds. It fails only on claims that
// [Verify] would refuse.
func (s *Signer) Sign(c Claims) (string, error) {
	w := wireClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   c.User.String(),
			Audience:  jwt.ClaimStrings{Audience},
			IssuedAt:  jwt.NewNumericDate(c.IssuedAt.Truncate(time.Second)),
			ExpiresAt: jwt.NewNumericDate(c.ExpiresAt.Truncate(time.Second)),
		},
		Device: c.Device, Platform: c.Platform, Session: c.SessionNumber, Authority: c.AuthorityVersion,
	}
	if _, err := w.claims(); err != nil {
		return "", fmt.Errorf("token: sign: %w", err)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, w)
	t.Header["kid"] = s.kid
	return t.SignedString(s.private)
}

// claims checks everything but the signature and the clock.
func (w *wireClaims) claims() (Claims, error) {
	user, err := proto.ParseEntityID(w.Subject)
	if err != nil {
		return Claims{}, err
	}
	switch {
	case w.Device == "" || len(w.Device) > proto.DeviceIDBytesMax:
		return Claims{}, fmt.Errorf("the device must have 1 to %d bytes", proto.DeviceIDBytesMax)
	case len(w.Platform) > PlatformBytesMax:
		return Claims{}, fmt.Errorf("the platform must have at most %d bytes", PlatformBytesMax)
	case w.IssuedAt == nil || w.ExpiresAt == nil:
		return Claims{}, errors.New("the issue and expiry times are required")
	case w.ExpiresAt.Sub(w.IssuedAt.Time) > proto.TokenLifetime:
		return Claims{}, fmt.Errorf("it is valid for longer than %s", proto.TokenLifetime)
	case !w.ExpiresAt.After(w.IssuedAt.Time):
		return Claims{}, errors.New("it expires before it is issued")
	}
	return Claims{
		User: user, Device: w.Device, Platform: w.Platform,
		SessionNumber: w.Session, AuthorityVersion: w.Authority,
		IssuedAt: w.IssuedAt.Time, ExpiresAt: w.ExpiresAt.Time,
	}, nil
}

// ErrUnknownKey marks a [proto.CodeBadToken] whose only known fault is that
// the signing key is not known here. A key published a moment ago may be.
var ErrUnknownKey = errors.New("unknown signing key")

// Verify checks raw at now and returns what it says. It touches no network.
//
// Errors are *proto.Error: [proto.CodeTokenExpired] for a token that was
// valid once; [proto.CodeBadToken] for all others, with [ErrUnknownKey] in
// the chain where that is why.
func Verify(raw string, keys Keys, now time.Time) (Claims, error) {
	if len(raw) > BytesMax {
		return Claims{}, proto.Errorf(proto.CodeBadToken, "the token has %d bytes, at most %d are accepted: log in again", len(raw), BytesMax)
	}
	var w wireClaims
	_, err := jwt.ParseWithClaims(raw, &w, func(t *jwt.Token) (any, error) { return keyOf(t, keys) },
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithAudience(Audience),
		jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	// Expiry is the one failure worth telling apart, and only when nothing
	// else is wrong: the signature has been checked before any claim.
	expired := errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidAudience)
	if err != nil && !expired {
		refusal := proto.Errorf(proto.CodeBadToken, "the token is not valid (%v): log in again", err)
		if errors.Is(err, ErrUnknownKey) {
			return Claims{}, fmt.Errorf("%w: %w", ErrUnknownKey, refusal)
		}
		return Claims{}, refusal
	}
	c, err := w.claims()
	if err != nil {
		return Claims{}, proto.Errorf(proto.CodeBadToken, "the token is not valid (%v): log in again", err)
	}
	if expired {
		return Claims{}, proto.Errorf(proto.CodeTokenExpired, "the token expired at %s: log in again", c.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if c.IssuedAt.After(now.Add(issuedSkew)) {
		return Claims{}, proto.Errorf(proto.CodeBadToken, "the token was issued in the future (%s): check the clocks, then log in again", c.IssuedAt.UTC().Format(time.RFC3339))
	}
	return c, nil
}

func keyOf(t *jwt.Token, keys Keys) (any, error) {
	kid, _ := t.Header["kid"].(string)
	if kid == "" {
		return nil, errors.New("no key id")
	}
	key, ok := keys.PublicKey(kid)
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: %.32q is not known here", ErrUnknownKey, kid)
	}
	return key, nil
}
