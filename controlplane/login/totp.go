package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pquerna/otp/hotp"

	"github.com/waggle-im/waggle/controlplane/accounts"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// Codes are those of RFC 6238 with SHA-1, which every authenticator knows.
	totpPeriod  = 30 // seconds
	totpDigits  = 6
	secretTOTP  = 20 // bytes, as RFC 4226 recommends
	totpIssuer  = "Waggle"
	codeTextMax = 64
	// recoveryCodes are given out when the second factor is turned on, each
	// with so many bytes: nobody guesses them, so one hash is enough.
	recoveryCodes = 8
	recoveryBytes = 10
)

// SetupTOTP makes a secret for the caller's second factor, not in use before
// EnableTOTP.
//
// Errors: [proto.CodeForbidden] when one is in use; [proto.CodeBadToken],
// [proto.CodeTokenExpired], [proto.CodeSessionEnded].
func (s *Service) SetupTOTP(ctx context.Context, req *controlpb.TOTPRequest) (*controlpb.SetupTOTPReply, error) {
	a, err := s.caller(ctx, req)
	if err != nil {
		return nil, s.answer("set up a second factor", err)
	}
	raw := make([]byte, secretTOTP)
	_, _ = rand.Read(raw) // never fails
	secret := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw)
	err = s.Store.SetupTOTP(a.ID, secret)
	if errors.Is(err, accounts.ErrDuplicate) {
		err = errTOTPOn()
	}
	if err != nil {
		return nil, s.answer("set up a second factor", err)
	}
	u := url.URL{Scheme: "otpauth", Host: "totp", Path: "/" + totpIssuer + ":" + a.Name, RawQuery: url.Values{
		"secret": {secret}, "issuer": {totpIssuer}, "digits": {strconv.Itoa(totpDigits)}, "period": {strconv.Itoa(totpPeriod)}, "algorithm": {"SHA1"},
	}.Encode()}
	return &controlpb.SetupTOTPReply{Secret: secret, Url: u.String()}, nil
}

func errTOTPOn() error {
	return proto.Errorf(proto.CodeForbidden, "a second factor is in use already: disable it first")
}

// EnableTOTP turns the second factor on for whoever shows a code of it.
//
// Errors: as of SetupTOTP, and [proto.CodeWrongTOTP], [proto.CodeRateLimited].
func (s *Service) EnableTOTP(ctx context.Context, req *controlpb.TOTPRequest) (*controlpb.EnableTOTPReply, error) {
	codes, err := s.enableTOTP(ctx, req)
	if err != nil {
		return nil, s.answer("turn a second factor on", err)
	}
	return &controlpb.EnableTOTPReply{RecoveryCodes: codes}, nil
}

func (s *Service) enableTOTP(ctx context.Context, req *controlpb.TOTPRequest) ([]string, error) {
	a, err := s.caller(ctx, req)
	if err != nil {
		return nil, err
	}
	t, err := s.Store.TOTP(ctx, a.ID)
	switch {
	case errors.Is(err, accounts.ErrNotFound):
		return nil, proto.Errorf(proto.CodeForbidden, "no second factor is set up: do that first")
	case err != nil:
		return nil, err
	case t.Enabled:
		return nil, errTOTPOn()
	}
	if err := s.Limits.Attempt(ctx, totpGuesser(a)); err != nil {
		return nil, err
	}
	step, ok := stepOf(t.Secret, req.Code, s.now())
	if !ok {
		return nil, errWrongTOTP()
	}
	codes, hashes := newRecoveryCodes()
	done, err := s.Store.EnableTOTP(a.ID, t.Secret, step, hashes)
	if err == nil && !done {
		err = errTOTPOn()
	}
	if err != nil {
		return nil, err
	}
	return codes, s.Limits.Succeeded(ctx, totpGuesser(a))
}

// DisableTOTP turns the second factor off for whoever shows a code of it, or a
// recovery code.
//
// Errors: as of EnableTOTP; [proto.CodeForbidden] when none is in use.
func (s *Service) DisableTOTP(ctx context.Context, req *controlpb.TOTPRequest) (*controlpb.DisableTOTPReply, error) {
	a, err := s.caller(ctx, req)
	if err == nil {
		err = s.disableTOTP(ctx, a, req.Code)
	}
	if err != nil {
		return nil, s.answer("turn a second factor off", err)
	}
	return &controlpb.DisableTOTPReply{}, nil
}

func (s *Service) disableTOTP(ctx context.Context, a *accounts.Account, code string) error {
	t, err := s.Store.TOTP(ctx, a.ID)
	if errors.Is(err, accounts.ErrNotFound) || err == nil && !t.Enabled {
		return proto.Errorf(proto.CodeForbidden, "no second factor is in use")
	}
	if err == nil {
		err = s.useCode(ctx, a, t, codeShown{code: code})
	}
	if err != nil {
		return err
	}
	return s.Store.DisableTOTP(a.ID)
}

// secondFactor checks what an account needs besides its password.
//
// Errors: [proto.CodeNeedTOTP] without a code; [proto.CodeWrongTOTP], also for
// one that was used before; [proto.CodeRateLimited].
func (s *Service) secondFactor(ctx context.Context, a *accounts.Account, shown codeShown) error {
	t, err := s.Store.TOTP(ctx, a.ID)
	switch {
	case errors.Is(err, accounts.ErrNotFound) || err == nil && !t.Enabled:
		return nil
	case err != nil:
		return err
	case shown.code == "":
		return proto.Errorf(proto.CodeNeedTOTP, "this account has a second factor: give the code of your authenticator, or a recovery code")
	}
	return s.useCode(ctx, a, t, shown)
}

// codeShown is a code of a second factor. The same nonce may show it again.
type codeShown struct {
	code  string
	nonce []byte
}

// useCode uses a code up. Guesses are counted for the account, wherever they
// come from: only who has the password, or a login, gets to guess.
func (s *Service) useCode(ctx context.Context, a *accounts.Account, t *accounts.TOTP, shown codeShown) error {
	if err := s.Limits.Attempt(ctx, totpGuesser(a)); err != nil {
		return err
	}
	ok := false
	var err error
	if step, matches := stepOf(t.Secret, shown.code, s.now()); matches {
		nonce := sha256.Sum256(append([]byte("totp|"), shown.nonce...))
		if len(shown.nonce) == 0 {
			_, _ = rand.Read(nonce[:])
		}
		ok, err = s.Store.UseTOTP(a.ID, step, nonce[:])
	} else if hash, could := recoveryHash(shown.code); could {
		ok, err = s.Store.UseRecoveryCode(a.ID, hash)
	}
	if err != nil {
		return err
	}
	if !ok {
		return errWrongTOTP()
	}
	return s.Limits.Succeeded(ctx, totpGuesser(a))
}

func errWrongTOTP() error {
	return proto.Errorf(proto.CodeWrongTOTP, "the code of the second factor is wrong, or was used before: wait for the next one")
}

func totpGuesser(a *accounts.Account) string { return "totp|" + strconv.FormatInt(a.ID, 10) }

// stepOf is the time step whose code this is: the current one, the one before
// or the one after.
func stepOf(secret, code string, now time.Time) (int64, bool) {
	if len(code) != totpDigits {
		return 0, false
	}
	current := now.Unix() / totpPeriod
	for _, step := range []int64{current, current - 1, current + 1} {
		want, err := hotp.GenerateCode(secret, uint64(step))
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			return step, true
		}
	}
	return 0, false
}

func newRecoveryCodes() (codes []string, hashes [][]byte) {
	for range recoveryCodes {
		raw := make([]byte, recoveryBytes)
		_, _ = rand.Read(raw) // never fails
		text := strings.ToLower(base32.StdEncoding.EncodeToString(raw))
		code := text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
		hash, _ := recoveryHash(code)
		codes, hashes = append(codes, code), append(hashes, hash)
	}
	return codes, hashes
}

// recoveryHash is what is stored of a recovery code; false: it is none.
func recoveryHash(code string) ([]byte, bool) {
	if len(code) > codeTextMax {
		return nil, false
	}
	plain := strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
	if raw, err := base32.StdEncoding.DecodeString(plain); err != nil || len(raw) != recoveryBytes {
		return nil, false
	}
	hash := sha256.Sum256([]byte("recovery|" + plain))
	return hash[:], true
}

// caller is the account that a login's token speaks for, if that login has not
// ended meanwhile.
func (s *Service) caller(ctx context.Context, req *controlpb.TOTPRequest) (*accounts.Account, error) {
	claims, err := token.Verify(req.Token, s.Cluster, s.now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, rangeTimeout)
	defer cancel()
	reply, err := s.Ranges.Do(ctx, claims.User.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReadUser{
		ReadUser: &cellpb.ReadUser{User: uint64(claims.User)},
	}})
	if err != nil {
		return nil, err
	}
	live := claims.AuthorityVersion >= reply.GetUser().GetProfile().GetAuthorityVersion()
	known := false
	for _, d := range reply.GetUser().GetDevices() {
		known = known || d.Device == claims.Device && !d.Row.Ended && d.Row.SessionNumber == claims.SessionNumber
	}
	if !live || !known {
		return nil, proto.SessionOver(proto.CodeSessionEnded)
	}
	return s.Store.ByUser(ctx, claims.User)
}
