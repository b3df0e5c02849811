package login

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/hotp"

	"github.com/waggle-im/waggle/client/controlclient"
	"github.com/waggle-im/waggle/controlplane/accounts"
	"github.com/waggle-im/waggle/controlplane/verify"
	"github.com/waggle-im/waggle/internal/embedredis"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

const testPassword = "correct-horse-battery"

// stage is a service with one account, a range in memory and a clock.
type stage struct {
	*Service
	t       *testing.T
	account *accounts.Account
	keys    map[string]ed25519.PublicKey

	mu        sync.Mutex // guards the fields below
	clock     time.Time
	authority uint64
	nonce     string // of the last raise
	failing   int    // so many raises are still answered "unavailable"
	devices   map[string]*cellpb.Device
}

func (s *stage) PublicKey(kid string) (ed25519.PublicKey, bool) {
	key, ok := s.keys[kid]
	return key, ok
}
func (s *stage) View() *controlclient.View { return &controlclient.View{} }

// The codes are all right.
func (s *stage) NewCode(context.Context, string, []byte) (string, error) { return "123456", nil }
func (s *stage) Forget(context.Context, string) error                    { return nil }
func (s *stage) Claim(context.Context, string, string, []byte) error     { return nil }
func (s *stage) Release(_ context.Context, _ string, _ []byte) error     { return nil }

func (s *stage) Do(_ context.Context, _ proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	result := &cellpb.Result{AuthorityVersion: s.authority}
	switch body := req.Body.(type) {
	case *cellpb.RelayRequest_LoginDevice:
		d := s.devices[body.LoginDevice.Device]
		if d == nil {
			d = new(cellpb.Device)
			s.devices[body.LoginDevice.Device] = d
		}
		d.SessionNumber++
		result.SessionNumber = d.SessionNumber
	case *cellpb.RelayRequest_RaiseAuthority:
		if s.failing > 0 {
			s.failing--
			return nil, proto.Errorf(proto.CodeUnavailable, "as asked")
		}
		if nonce := string(body.RaiseAuthority.Nonce); nonce != s.nonce {
			s.authority++
			s.nonce = nonce
		}
	case *cellpb.RelayRequest_ReadUser:
		info := &cellpb.UserInfo{Profile: &cellpb.Profile{AuthorityVersion: s.authority}}
		for name, d := range s.devices {
			info.Devices = append(info.Devices, &cellpb.DeviceInfo{Device: name, Row: d})
		}
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_User{User: info}}, nil
	}
	return &cellpb.RelayReply{Body: &cellpb.RelayReply_Result{Result: result}}, nil
}

func newStage(t *testing.T) *stage {
	t.Helper()
	redis, err := embedredis.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Close)
	limits, err := verify.Open(redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = limits.Close() })
	store, err := accounts.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "accounts.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s := &stage{t: t, clock: time.Now(), authority: 1, devices: map[string]*cellpb.Device{}, keys: map[string]ed25519.PublicKey{}}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	issuer := NewIssuer(private, s, s)
	s.keys[issuer.KeyID()] = issuer.PublicKey()
	log, hasher := slog.New(slog.DiscardHandler), accounts.NewHasher()
	s.Service = New(Config{
		Store: store, Hasher: hasher, Registrar: accounts.NewRegistrar(store, hasher, nil, nil, log), Issuer: issuer,
		Cluster: s, Ranges: s, Codes: s, Limits: limits, Logger: log,
		Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.clock },
	})
	hash, err := hasher.Hash(t.Context(), testPassword)
	if err != nil {
		t.Fatal(err)
	}
	s.account = &accounts.Account{Name: "ann", Email: "ann@example.org", PasswordHash: hash, Range: 1, Created: s.clock}
	if err := store.Insert(s.account); err != nil {
		t.Fatal(err)
	}
	s.account.User = proto.RangeID(1).First()
	if err := store.Activate(s.account.ID, s.account.User); err != nil {
		t.Fatal(err)
	}
	return s
}

// login logs in and checks how that is answered.
func (s *stage) login(want proto.Code, totp, nonce string) string {
	s.t.Helper()
	reply, err := s.Login(s.t.Context(), &controlpb.LoginRequest{
		Name: "ann", Password: testPassword, Device: "d", Totp: totp, Nonce: []byte(nonce), Address: "192.0.2.1",
	})
	if got := proto.CodeOf(controlclient.FromStatus(err)); got != want {
		s.t.Fatalf("login with code %q: %s (%v), want %s", totp, got, err, want)
	}
	return reply.GetToken()
}

func (s *stage) wait(d time.Duration) {
	s.mu.Lock()
	s.clock = s.clock.Add(d)
	s.mu.Unlock()
}

// code is the one of a step from the current one.
func (s *stage) code(secret string, step int64) string {
	s.t.Helper()
	code, err := hotp.GenerateCode(secret, uint64(s.now().Unix()/totpPeriod+step))
	if err != nil {
		s.t.Fatal(err)
	}
	return code
}

func wantCode(t *testing.T, err error, want proto.Code) {
	t.Helper()
	if got := proto.CodeOf(controlclient.FromStatus(err)); got != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
}

func TestSecondFactor(t *testing.T) {
	s := newStage(t)
	ctx := t.Context()
	token := s.login(proto.CodeOK, "", "")
	_, err := s.EnableTOTP(ctx, &controlpb.TOTPRequest{Token: token, Code: "123456"})
	wantCode(t, err, proto.CodeForbidden) // not set up
	setup, err := s.SetupTOTP(ctx, &controlpb.TOTPRequest{Token: token})
	if err != nil || !strings.HasPrefix(setup.Url, "otpauth://totp/Waggle:ann?") || !strings.Contains(setup.Url, setup.Secret) {
		t.Fatalf("%v, %v", setup, err)
	}
	s.login(proto.CodeOK, "", "") // set up is not on
	token = s.login(proto.CodeOK, "", "")
	_, err = s.EnableTOTP(ctx, &controlpb.TOTPRequest{Token: token, Code: s.code(setup.Secret, 5)})
	wantCode(t, err, proto.CodeWrongTOTP)
	enabled, err := s.EnableTOTP(ctx, &controlpb.TOTPRequest{Token: token, Code: s.code(setup.Secret, 0)})
	if err != nil || len(enabled.RecoveryCodes) != recoveryCodes {
		t.Fatalf("%v, %v", enabled, err)
	}
	_, err = s.SetupTOTP(ctx, &controlpb.TOTPRequest{Token: token})
	wantCode(t, err, proto.CodeForbidden)

	s.login(proto.CodeNeedTOTP, "", "")
	s.login(proto.CodeWrongTOTP, s.code(setup.Secret, 0), "") // used to enable it
	s.login(proto.CodeWrongTOTP, s.code(setup.Secret, 2), "") // too far ahead
	s.login(proto.CodeOK, s.code(setup.Secret, 1), "n")       // a fast clock
	s.login(proto.CodeOK, s.code(setup.Secret, 1), "n")       // the same request at another control plane
	s.login(proto.CodeWrongTOTP, s.code(setup.Secret, 1), "m")
	s.wait(3 * totpPeriod * time.Second)
	s.login(proto.CodeWrongTOTP, s.code(setup.Secret, -2), "")
	s.login(proto.CodeOK, s.code(setup.Secret, -1), "")
	token = s.login(proto.CodeOK, strings.ToUpper(enabled.RecoveryCodes[3]), "")
	s.login(proto.CodeWrongTOTP, enabled.RecoveryCodes[3], "")

	// A reset of the password leaves it on.
	_, err = s.ResetPassword(ctx, &controlpb.ResetPasswordRequest{
		Name: "ann", Email: "ann@example.org", Password: testPassword, Code: "123456", Nonce: make([]byte, nonceBytes),
	})
	wantCode(t, err, proto.CodeOK)
	_, err = s.DisableTOTP(ctx, &controlpb.TOTPRequest{Token: token, Code: s.code(setup.Secret, 1)})
	wantCode(t, err, proto.CodeSessionEnded) // that login is over
	token = s.login(proto.CodeOK, s.code(setup.Secret, 0), "")
	_, err = s.DisableTOTP(ctx, &controlpb.TOTPRequest{Token: token, Code: "12345x"})
	wantCode(t, err, proto.CodeWrongTOTP)
	_, err = s.DisableTOTP(ctx, &controlpb.TOTPRequest{Token: token, Code: enabled.RecoveryCodes[0]})
	wantCode(t, err, proto.CodeOK)
	s.login(proto.CodeOK, "", "")
	_, err = s.DisableTOTP(ctx, &controlpb.TOTPRequest{Token: "made up", Code: enabled.RecoveryCodes[1]})
	wantCode(t, err, proto.CodeBadToken)
}

// Whoever knows the password and guesses the code is slowed down, from
// whatever addresses he comes.
func TestGuessingTheSecondFactorIsSlow(t *testing.T) {
	s := newStage(t)
	token := s.login(proto.CodeOK, "", "")
	setup, err := s.SetupTOTP(t.Context(), &controlpb.TOTPRequest{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.EnableTOTP(t.Context(), &controlpb.TOTPRequest{Token: token, Code: s.code(setup.Secret, 0)}); err != nil {
		t.Fatal(err)
	}
	wrong := s.code(setup.Secret, 100)
	for i := range 30 {
		_, err := s.Login(t.Context(), &controlpb.LoginRequest{
			Name: "ann", Password: testPassword, Device: "d", Totp: wrong, Address: fmt.Sprintf("192.0.2.%d", i),
		})
		switch e := proto.AsError(controlclient.FromStatus(err)); e.Code {
		case proto.CodeWrongTOTP:
		case proto.CodeRateLimited:
			if e.Retry <= 0 || e.Retry > 5*time.Minute {
				t.Errorf("the wait is %s", e.Retry)
			}
			return
		default:
			t.Fatal(err)
		}
	}
	t.Error("nothing holds the guesses")
}

// A reset that broke off before the range confirmed is finished without the
// person: by the sweeper, or by the next login before it begins a session.
func TestResetThatBrokeOffIsFinished(t *testing.T) {
	for name, finish := range map[string]func(*stage){
		"sweeper": func(s *stage) {
			if err := s.SweepResets(s.t.Context(), s.now().Add(time.Minute)); err != nil {
				s.t.Error(err)
			}
		},
		"login": func(s *stage) { s.login(proto.CodeOK, "", "") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.login(proto.CodeOK, "", "")
			s.failing = 1
			_, err := s.ResetPassword(t.Context(), &controlpb.ResetPasswordRequest{
				Name: "ann", Email: "ann@example.org", Password: testPassword, Code: "123456", Nonce: make([]byte, nonceBytes),
			})
			wantCode(t, err, proto.CodeUnavailable)
			if s.authority != 1 {
				t.Fatal("the range was reached")
			}
			finish(s)
			if s.authority != 2 {
				t.Error("the sessions of before go on")
			}
			// Once: what has begun since is not ended.
			s.login(proto.CodeOK, "", "")
			if err := s.SweepResets(t.Context(), s.now().Add(time.Minute)); err != nil || s.authority != 2 {
				t.Errorf("finished again: authority %d, %v", s.authority, err)
			}
			if _, err := s.Store.ResetOf(t.Context(), s.account.ID); err == nil {
				t.Error("it is still noted")
			}
		})
	}
}

// Whoever guesses a password is slowed down, the owner elsewhere is not; a
// name nobody has is answered alike.
func TestGuessingAPasswordDelaysOnlyTheGuesser(t *testing.T) {
	s := newStage(t)
	try := func(name, password, address string) *proto.Error {
		_, err := s.Login(t.Context(), &controlpb.LoginRequest{Name: name, Password: password, Device: "d", Address: address})
		if err == nil {
			return nil
		}
		return proto.AsError(controlclient.FromStatus(err))
	}
	held := func(name string) int {
		for i := range 40 {
			switch e := try(name, "a wrong guess", "192.0.2.66"); {
			case e.Code == proto.CodeRateLimited && e.Retry > 0 && e.Retry <= 5*time.Minute:
				return i
			case e.Code != proto.CodeWrongPassword || e.Message != "wrong name or password":
				t.Fatalf("guess %d at %s: %s", i, name, e)
			}
		}
		t.Fatalf("nothing holds the guesses at %s", name)
		return 0
	}
	known, unknown := held("ann"), held("nobody")
	if known != unknown {
		t.Errorf("held after %d guesses at a name that exists, %d at one that does not", known, unknown)
	}
	// The delay begins with a second, which may be over by now: held again, the
	// right password is of no use to the guesser for as long as he was told.
	for tries := 0; ; tries++ {
		start := time.Now()
		e := try("ann", "a wrong guess", "192.0.2.66")
		if e.Code != proto.CodeRateLimited {
			continue
		}
		wait := e.Retry
		if e = try("ann", testPassword, "192.0.2.66"); e != nil && e.Code == proto.CodeRateLimited {
			break
		}
		if time.Since(start) < wait || tries > 1000 {
			t.Fatalf("the guesser is not slowed down: %v", e)
		}
	}
	if e := try("ann", testPassword, "192.0.2.1"); e != nil {
		t.Errorf("the owner is kept out: %v", e)
	}
}
