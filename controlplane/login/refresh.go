package login

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// refreshTokenBytesMax is above every refresh token.
	refreshTokenBytesMax = 256
	familyBytes          = 16
	secretBytes          = 32
)

// refreshToken is "USER.FAMILY.SECRET.DEVICE", family and secret in base64.
// The family is the session's, the secret this token's. The family lets the
// range tell a token of this session that is no longer valid, which two
// parties must hold, from something made up.
type refreshToken struct {
	user   proto.EntityID
	device string
	family string
	secret string
}

// String is the token as the client holds it.
func (t refreshToken) String() string {
	return t.user.String() + "." + t.family + "." + t.secret + "." + t.device
}

// hash is what the range keeps of the token.
func (t refreshToken) hash() [sha256.Size]byte { return sha256.Sum256([]byte(t.String())) }

// familyHash is what the range keeps of the family.
func (t refreshToken) familyHash() [sha256.Size]byte {
	return sha256.Sum256([]byte("family|" + t.family))
}

// parseRefreshToken reads a token. [proto.CodeBadToken].
func parseRefreshToken(s string) (refreshToken, error) {
	bad := proto.Errorf(proto.CodeBadToken, "this is not a refresh token: log in again")
	parts := strings.SplitN(s, ".", 4)
	if len(s) > refreshTokenBytesMax || len(parts) != 4 {
		return refreshToken{}, bad
	}
	user, err := proto.ParseEntityID(parts[0])
	if err != nil || !encodes(parts[1], familyBytes) || !encodes(parts[2], secretBytes) || parts[3] == "" || !validDevice(parts[3]) {
		return refreshToken{}, bad
	}
	return refreshToken{user: user, family: parts[1], secret: parts[2], device: parts[3]}, nil
}

func encodes(s string, bytes int) bool {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && len(raw) == bytes
}

// firstRefreshToken is the one a login with this nonce gives.
func (i *Issuer) firstRefreshToken(user proto.EntityID, device string, nonce []byte) refreshToken {
	about := user.String() + "|" + device + "|" + string(nonce)
	return refreshToken{
		user: user, device: device,
		family: base64.RawURLEncoding.EncodeToString(i.mac("family|" + about)[:familyBytes]),
		secret: base64.RawURLEncoding.EncodeToString(i.mac("first|" + about)),
	}
}

// successor is the token after t: the same each time, so that a refresh that
// is repeated gives the same answer.
func (i *Issuer) successor(t refreshToken) refreshToken {
	t.secret = base64.RawURLEncoding.EncodeToString(i.mac("next|" + t.String()))
	return t
}

func (i *Issuer) mac(about string) []byte {
	mac := hmac.New(sha256.New, i.secret)
	mac.Write([]byte(about))
	return mac.Sum(nil)
}

// Refresh gives a new token for the session a refresh token belongs to, and
// the token's successor. The token stays valid until the successor is used.
// The user is not 0 as soon as the token could be read.
//
// Errors: [proto.CodeBadToken]; [proto.CodeSessionEnded] when the device has
// ended, has logged in anew, or ends now because the token was used twice (log
// in again); [proto.CodeNotReady] before the signing key is published; those
// of the range.
func (i *Issuer) Refresh(ctx context.Context, token string) (proto.EntityID, *Session, error) {
	t, err := parseRefreshToken(token)
	if err != nil {
		return 0, nil, err
	}
	if _, ok := i.keys.PublicKey(i.KeyID()); !ok {
		return t.user, nil, proto.Errorf(proto.CodeNotReady, "this control plane's key is not published yet: try again")
	}
	next := i.successor(t)
	hash, nextHash, family := t.hash(), next.hash(), t.familyHash()
	reply, err := i.ranges.Do(ctx, t.user.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_RefreshDevice{RefreshDevice: &cellpb.RefreshDevice{
		User: uint64(t.user), Device: t.device, Family: family[:], Hash: hash[:], NextHash: nextHash[:],
	}}})
	if err != nil {
		return t.user, nil, err
	}
	r := reply.GetResult()
	if r.GetEnded() {
		return t.user, nil, proto.Errorf(proto.CodeSessionEnded,
			"this refresh token was used before, so somebody else may have it: the device is logged out, log in again")
	}
	if r.GetSessionNumber() == 0 {
		return t.user, nil, proto.Errorf(proto.CodeUnavailable, "range %s gave no session: try again", t.user.Range())
	}
	s, err := i.sign(t.user, t.device, r.GetPlatform(), next, r)
	return t.user, s, err
}
