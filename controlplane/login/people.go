package login

import (
	"context"
	"errors"
	"time"

	"github.com/waggle-im/waggle/controlplane/accounts"
	"github.com/waggle-im/waggle/controlplane/mail"
	"github.com/waggle-im/waggle/controlplane/verify"
	"github.com/waggle-im/waggle/proto"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const (
	// releaseTimeout bounds the giving back of a code after a failure.
	releaseTimeout = 2 * time.Second
	nonceBytes     = 16
)

// Codes are the mailed codes; verify.Redis has them.
type Codes interface {
	NewCode(ctx context.Context, email string, nonce []byte) (string, error)
	Forget(ctx context.Context, email string) error
	Claim(ctx context.Context, email, code string, claimant []byte) error
	Release(ctx context.Context, email string, claimant []byte) error
}

// Limits bound what anybody can ask; verify.Redis has them.
type Limits interface {
	Allow(ctx context.Context, l verify.Limit, who string) error
	Attempt(ctx context.Context, who string) error
	Succeeded(ctx context.Context, who string) error
}

// Mailer queues mail; mail.Mailer is one.
type Mailer interface {
	Send(mail.Message) error
}

// SendCode mails a code. It does not look whether an account has the address:
// nobody learns that here.
//
// Errors: [proto.CodeBadRequest]; [proto.CodeRateLimited], also when the
// address has just been sent one; [proto.CodeNoCodes]; [proto.CodeOverloaded].
func (s *Service) SendCode(ctx context.Context, req *controlpb.SendCodeRequest) (*controlpb.SendCodeReply, error) {
	email, err := s.sendCode(ctx, req)
	if err != nil {
		return nil, s.answer("send a code", err)
	}
	return &controlpb.SendCodeReply{Email: email}, nil
}

func (s *Service) sendCode(ctx context.Context, req *controlpb.SendCodeRequest) (string, error) {
	email, err := accounts.CanonicalEmail(req.Email)
	if err != nil {
		return "", err
	}
	for _, one := range []struct {
		limit verify.Limit
		who   string
	}{{verify.CodesPerClient(), req.Address}, {verify.CodesPerMailbox(), email}, {verify.CodesInAll(), "all"}} {
		if err := s.Limits.Allow(ctx, one.limit, one.who); err != nil {
			return "", err
		}
	}
	code, err := s.Codes.NewCode(ctx, email, req.Nonce)
	if err != nil {
		return "", err
	}
	if err := s.Mail.Send(mail.Code(email, code, verify.CodeLifetime)); err != nil {
		return "", errors.Join(err, s.Codes.Forget(ctx, email))
	}
	return email, nil
}

// withCode runs do for whoever has the code mailed to an address. The code is
// used up unless do fails.
func (s *Service) withCode(ctx context.Context, c codeUse, do func() error) error {
	if len(c.nonce) != nonceBytes {
		return proto.Errorf(proto.CodeBadRequest, "a nonce has %d bytes, not %d", nonceBytes, len(c.nonce))
	}
	if err := s.Limits.Allow(ctx, verify.GuessesPerClient(), c.client); err != nil {
		return err
	}
	if err := s.Codes.Claim(ctx, c.email, c.code, c.nonce); err != nil {
		return err
	}
	err := do()
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		if err := s.Codes.Release(ctx, c.email, c.nonce); err != nil {
			s.Logger.Debug("a code stays used after a failure", "err", err)
		}
	}
	return err
}

// codeUse is who uses which code.
type codeUse struct {
	email  string // canonical
	code   string
	client string // address, for limits
	nonce  []byte
}

// Register makes an account for an address shown by a code.
//
// Errors: [proto.CodeBadRequest], [proto.CodeWrongCode], [proto.CodeNameTaken]
// (give up; after the last the code can be used again);
// [proto.CodeRateLimited]; [proto.CodeNoCodes]; after others the outcome is
// unknown: repeat with the same nonce.
func (s *Service) Register(ctx context.Context, req *controlpb.RegisterRequest) (*controlpb.RegisterReply, error) {
	a, err := s.register(ctx, req)
	if err != nil {
		return nil, s.answer("register", err)
	}
	return &controlpb.RegisterReply{User: uint64(a.User), Name: a.Name, Email: a.Email}, nil
}

func (s *Service) register(ctx context.Context, req *controlpb.RegisterRequest) (a *accounts.Account, err error) {
	name, email, err := checkFields(req.Name, req.Email, req.Password)
	if err != nil {
		return nil, err
	}
	err = s.withCode(ctx, codeUse{email, req.Code, req.Address, req.Nonce}, func() (err error) {
		a, err = s.Registrar.Register(ctx, accounts.Registration{Name: name, Email: email, Password: req.Password, Key: [nonceBytes]byte(req.Nonce)})
		return err
	})
	return a, err
}

// checkFields refuses what no account can have, before a code is used.
func checkFields(name, email, password string) (string, string, error) {
	name, err := accounts.CanonicalName(name)
	if err != nil {
		return "", "", err
	}
	if email, err = accounts.CanonicalEmail(email); err != nil {
		return "", "", err
	}
	return name, email, accounts.CheckPassword(password, name, email)
}

// CheckAccount tells whether an account has the name and the address.
//
// Errors: [proto.CodeUnknownUser] when none has; [proto.CodeBadRequest];
// [proto.CodeRateLimited]; [proto.CodeNoCodes]; [proto.CodeUnavailable].
func (s *Service) CheckAccount(ctx context.Context, req *controlpb.CheckAccountRequest) (*controlpb.CheckAccountReply, error) {
	a, err := s.checkAccount(ctx, req)
	if err != nil {
		return nil, s.answer("check", err)
	}
	return &controlpb.CheckAccountReply{Name: a.Name, Email: a.Email}, nil
}

func (s *Service) checkAccount(ctx context.Context, req *controlpb.CheckAccountRequest) (*accounts.Account, error) {
	name, err := accounts.CanonicalName(req.Name)
	if err != nil {
		return nil, err
	}
	email, err := accounts.CanonicalEmail(req.Email)
	if err != nil {
		return nil, err
	}
	if err := s.Limits.Allow(ctx, verify.ChecksPerClient(), req.Address); err != nil {
		return nil, err
	}
	return s.find(ctx, name, email)
}

// find is the account that has the name and the address.
func (s *Service) find(ctx context.Context, name, email string) (*accounts.Account, error) {
	a, err := s.Store.ByName(ctx, name)
	if errors.Is(err, accounts.ErrNotFound) || err == nil && a.Email != email {
		return nil, proto.Errorf(proto.CodeUnknownUser, "no account has the name %s and this mail address", name)
	}
	return a, err
}

// ResetPassword sets a password for whoever has the code mailed to the
// account's address, and ends every session. It answers after the user's range
// has confirmed that.
//
// Errors: as of Register, and [proto.CodeUnknownUser] when no account has the
// name and the address.
func (s *Service) ResetPassword(ctx context.Context, req *controlpb.ResetPasswordRequest) (*controlpb.ResetPasswordReply, error) {
	a, err := s.resetPassword(ctx, req)
	if err != nil {
		return nil, s.answer("reset a password", err)
	}
	return &controlpb.ResetPasswordReply{User: uint64(a.User), Name: a.Name, Email: a.Email}, nil
}

func (s *Service) resetPassword(ctx context.Context, req *controlpb.ResetPasswordRequest) (a *accounts.Account, err error) {
	name, email, err := checkFields(req.Name, req.Email, req.Password)
	if err != nil {
		return nil, err
	}
	err = s.withCode(ctx, codeUse{email, req.Code, req.Address, req.Nonce}, func() (err error) {
		if a, err = s.find(ctx, name, email); err != nil {
			return err
		}
		return s.setPassword(ctx, a, req)
	})
	return a, err
}

// setPassword replaces the password, then ends the sessions: the other way
// round the old password could begin one in between. What breaks off in
// between is finished by the next login or by Run.
func (s *Service) setPassword(ctx context.Context, a *accounts.Account, req *controlpb.ResetPasswordRequest) error {
	hash, err := s.Hasher.Hash(ctx, req.Password)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rangeTimeout)
	defer cancel()
	if err := s.Registrar.Finish(ctx, a); err != nil {
		return err
	}
	r := accounts.Reset{Account: a.ID, User: a.User, Nonce: req.Nonce}
	if err := s.Store.ResetPassword(a.ID, hash, r.Nonce, s.now().UnixMilli()); err != nil {
		return err
	}
	return s.finishReset(ctx, r)
}

// Refresh gives a new token and rotates the refresh token.
//
// Errors: [proto.CodeBadToken], [proto.CodeSessionEnded] (log in again);
// [proto.CodeRateLimited]; after others: repeat.
func (s *Service) Refresh(ctx context.Context, req *controlpb.RefreshRequest) (*controlpb.RefreshReply, error) {
	// Nobody guesses 256 bits: while nothing can be counted, people go on.
	if err := s.Limits.Allow(ctx, verify.RefreshesPerClient(), req.Address); err != nil && proto.CodeOf(err) != proto.CodeNoCodes {
		return nil, s.answer("refresh", err)
	}
	ctx, cancel := context.WithTimeout(ctx, rangeTimeout)
	defer cancel()
	user, session, err := s.Issuer.Refresh(ctx, req.RefreshToken)
	if err != nil {
		return nil, s.answer("refresh", err)
	}
	return &controlpb.RefreshReply{
		User: uint64(user), Token: session.Token, ExpiresMs: session.Expires.UnixMilli(),
		RefreshToken: session.RefreshToken, Device: session.Device,
	}, nil
}
