package login

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/accounts"
	"github.com/waggle-im/waggle/controlplane/verify"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// rangeTimeout bounds the wait for the user's range.
const rangeTimeout = 8 * time.Second

// Cluster is what the service needs of controlclient.Client.
type Cluster interface {
	token.Keys
	View() *controlclient.View
}

// Config is what a [Service] works with.
type Config struct {
	Store     *accounts.Store
	Hasher    *accounts.Hasher
	Registrar *accounts.Registrar
	Issuer    *Issuer
	Cluster   Cluster
	Ranges    Ranges
	Codes     Codes
	Limits    Limits
	Mail      Mailer
	Logger    *slog.Logger
	Now       func() time.Time // nil: time.Now
}

func (c *Config) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// Service is the controlpb.Accounts service. Its errors are gRPC statuses
// that carry codes of the registry (controlclient.FromStatus reads them).
type Service struct {
	controlpb.UnimplementedAccountsServer
	Config
}

// New makes the service. It starts nothing.
func New(c Config) *Service { return &Service{Config: c} }

// Login checks a password and begins a session.
//
// Errors: [proto.CodeWrongPassword] for a wrong password, an unknown name and
// an account without password alike, after the same time; then
// [proto.CodeNeedTOTP] or [proto.CodeWrongTOTP]; [proto.CodeRateLimited] after
// too many of these.
func (s *Service) Login(ctx context.Context, req *controlpb.LoginRequest) (*controlpb.LoginReply, error) {
	reply, err := s.login(ctx, req)
	return reply, s.answer("login", err)
}

// answer is what goes to the caller, and notes what is not the caller's fault.
func (s *Service) answer(what string, err error) error {
	switch code := proto.CodeOf(err); {
	case err == nil:
		return nil
	case code == proto.CodeUnavailable, code == proto.CodeNoCodes, code == proto.CodeCorrupt:
		s.Logger.Warn("a request about an account failed", "request", what, "err", err)
	default:
		s.Logger.Debug("a request about an account was refused", "request", what, "err", err)
	}
	return controlclient.ToStatus(err)
}

func (s *Service) login(ctx context.Context, req *controlpb.LoginRequest) (*controlpb.LoginReply, error) {
	found, err := s.checkPassword(ctx, req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, rangeTimeout)
	defer cancel()
	if err := s.Registrar.Finish(ctx, found); err != nil {
		return nil, err
	}
	if err := s.finishResetOf(ctx, found); err != nil {
		return nil, err
	}
	session, err := s.Issuer.Issue(ctx, Request{User: found.User, Device: req.Device, Platform: req.Platform, Nonce: req.Nonce})
	if err != nil {
		return nil, err
	}
	return &controlpb.LoginReply{
		User: uint64(found.User), Name: found.Name, Token: session.Token, ExpiresMs: session.Expires.UnixMilli(),
		RefreshToken: session.RefreshToken, Device: session.Device, Edges: Edges(s.Cluster.View()),
	}, nil
}

// checkPassword is the account whose name, password and second factor are
// given.
func (s *Service) checkPassword(ctx context.Context, req *controlpb.LoginRequest) (*accounts.Account, error) {
	if err := s.Limits.Allow(ctx, verify.LoginsPerClient(), req.Address); err != nil {
		return nil, err
	}
	var found *accounts.Account
	hash := ""
	name, err := accounts.CanonicalName(req.Name)
	if err == nil {
		found, err = s.Store.ByName(ctx, name)
		if err != nil && !errors.Is(err, accounts.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			hash = found.PasswordHash
		}
	}
	// Per name and client address: a stranger who guesses delays himself, not
	// the owner. Unknown names wait like known ones.
	guesser := name + "|" + req.Address
	if err := s.Limits.Attempt(ctx, guesser); err != nil {
		return nil, err
	}
	ok, err := s.Hasher.Verify(ctx, hash, req.Password)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, proto.Errorf(proto.CodeWrongPassword, "wrong name or password")
	}
	if err := s.secondFactor(ctx, found, codeShown{req.Totp, req.Nonce}); err != nil {
		return nil, err
	}
	return found, s.Limits.Succeeded(ctx, guesser)
}

// Logout ends the device that a token speaks for, unless it has logged in
// anew since. Repeating it changes nothing.
func (s *Service) Logout(ctx context.Context, req *controlpb.LogoutRequest) (*controlpb.LogoutReply, error) {
	claims, err := token.Verify(req.Token, s.Cluster, time.Now())
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	ctx, cancel := context.WithTimeout(ctx, rangeTimeout)
	defer cancel()
	_, err = s.Ranges.Do(ctx, claims.User.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_LogoutDevice{LogoutDevice: &cellpb.LogoutDevice{
		User: uint64(claims.User), Device: claims.Device, SessionNumber: claims.SessionNumber,
	}}})
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	return &controlpb.LogoutReply{}, nil
}

// FindUser finds a user by exact name. [proto.CodeUnknownUser].
func (s *Service) FindUser(ctx context.Context, req *controlpb.FindUserRequest) (*controlpb.FindUserReply, error) {
	unknown := proto.Errorf(proto.CodeUnknownUser, "there is no user %.40q", req.Name)
	name, err := accounts.CanonicalName(req.Name)
	if err != nil {
		return nil, controlclient.ToStatus(unknown)
	}
	a, err := s.Store.ByName(ctx, name)
	if errors.Is(err, accounts.ErrNotFound) || err == nil && a.State != accounts.StateActive {
		return nil, controlclient.ToStatus(unknown)
	}
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	return &controlpb.FindUserReply{User: uint64(a.User), Name: a.Name}, nil
}

// FindPeople finds users by the beginning of their name, by name. A beginning
// that no name has finds nobody; one below [proto.PrefixBytesMin] bytes is
// refused with [proto.CodeBadRequest].
func (s *Service) FindPeople(ctx context.Context, req *controlpb.FindPeopleRequest) (*controlpb.FindPeopleReply, error) {
	prefix, err := accounts.CanonicalPrefix(req.Prefix)
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	limit := proto.PeopleDefault
	if req.Limit > 0 {
		limit = int(min(req.Limit, proto.PeopleMax))
	}
	found, err := s.Store.ByPrefix(ctx, prefix, limit)
	if err != nil {
		return nil, controlclient.ToStatus(err)
	}
	out := new(controlpb.FindPeopleReply)
	for _, a := range found {
		out.People = append(out.People, &controlpb.FoundPerson{User: uint64(a.User), Name: a.Name})
	}
	return out, nil
}

// Edges lists where clients connect, best first: of two chosen at random the
// one with fewer sessions, then the rest at random. Those marked gone are left
// out unless all are, because then it is etcd that is gone; those that are
// leaving too, unless there are no others.
func Edges(v *controlclient.View) []*controlpb.EdgeAddress {
	all := v.ByRole("edge")
	alive := slices.DeleteFunc(slices.Clone(all), func(n controlclient.Node) bool { return !n.Alive })
	if len(alive) == 0 {
		alive = all
	}
	staying := slices.DeleteFunc(slices.Clone(alive), func(n controlclient.Node) bool { return v.Leaving(n.ID) })
	if len(staying) > 0 {
		alive = staying
	}
	rand.Shuffle(len(alive), func(i, j int) { alive[i], alive[j] = alive[j], alive[i] })
	sessions := func(i int) uint64 { return alive[i].Record.GetLoad().GetSessions() }
	if len(alive) > 1 && sessions(1) < sessions(0) {
		alive[0], alive[1] = alive[1], alive[0]
	}
	out := make([]*controlpb.EdgeAddress, len(alive))
	for i, n := range alive {
		out[i] = &controlpb.EdgeAddress{Edge: string(n.ID), Tcp: n.Record.GetTcp(), Quic: n.Record.GetQuic()}
	}
	return out
}
