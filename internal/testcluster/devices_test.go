package testcluster

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/internal/token"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
	controlpb "github.com/waggle-im/waggle/proto/control"
)

// reasons notes why a device's connections were lost.
type reasons struct {
	mu  sync.Mutex // guards the field below
	all []error
}

func (r *reasons) note(cfg *client.Config) {
	before := cfg.OnState
	cfg.OnState = func(s client.State, err error) {
		if s == client.Disconnected {
			r.mu.Lock()
			r.all = append(r.all, err)
			r.mu.Unlock()
		}
		before(s, err)
	}
}

// until waits for a loss with that code.
func (r *reasons) until(c *Cluster, code proto.Code) *proto.Error {
	c.t.Helper()
	var found *proto.Error
	c.Until(fmt.Sprintf("a device is told %s", code), func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, err := range r.all {
			if proto.CodeOf(err) == code {
				found = proto.AsError(err)
				return nil
			}
		}
		return fmt.Errorf("told %v", r.all)
	})
	return found
}

func withPolicy(policy string) devcluster.Options {
	return devcluster.Options{NoDemo: true, Edges: 2, Override: func(cfg *daemon.Config) error {
		cfg.Sessions.Policy = policy
		return nil
	}}
}

// loginFrom logs a user in over HTTP on a device of a platform.
func loginFrom(p *applicant, u User, device, platform string) (User, accountAnswer) {
	a := p.want(0, "/trylogin_server", "username", u.Name, "password", password, "device", device, "platform", platform)
	return p.user(u.Name, a), a
}

// The same account elsewhere: under each policy the devices that do not stay
// are told why, on whatever edge they are, and cannot come back.
func TestSameAccountElsewhere(t *testing.T) {
	for policy, want := range map[string]struct{ samePlatform, otherPlatform bool }{
		"multi":        {false, false},
		"per-platform": {true, false},
		"single":       {true, true},
	} {
		t.Run(policy, func(t *testing.T) {
			c := Start(t, withPolicy(policy))
			p := newApplicant(c)
			ann := c.AddUser("ann", "c2")
			second := c.EdgeAddr("e2")
			connect := func(u User, transport client.Transport, server string) (*Device, *reasons) {
				r := new(reasons)
				return c.Connect(u, transport, func(cfg *client.Config) {
					cfg.Server = server
					r.note(cfg)
				}), r
			}
			phone, phoneLogin := loginFrom(p, ann, "phone", "ios")
			a, aWhy := connect(phone, client.TCP, second)
			laptop, laptopLogin := loginFrom(p, ann, "laptop", "linux")
			if want.otherPlatform {
				aWhy.until(c, proto.CodeDisplaced)
			}
			b, bWhy := connect(laptop, client.QUIC, c.options.Listen)
			tablet, _ := loginFrom(p, ann, "tablet", "ios")
			newest, _ := connect(tablet, client.QUIC, second)

			for _, one := range []struct {
				displaced bool
				device    *Device
				why       *reasons
				refresh   string
			}{{want.samePlatform, a, aWhy, phoneLogin.RefreshToken}, {want.otherPlatform, b, bWhy, laptopLogin.RefreshToken}} {
				if !one.displaced {
					if _, err := one.device.ShowUser(c.Context(), ann.ID); err != nil || one.device.Disconnects() != 0 {
						t.Errorf("%s was disturbed: %v", one.device.User.Device, err)
					}
					p.want(0, "/refresh", "refresh_token", one.refresh)
					continue
				}
				if err := one.why.until(c, proto.CodeDisplaced); err.Message != "same account logged in from a different location" {
					t.Errorf("%s was told %q", one.device.User.Device, err.Message)
				}
				r := c.Dial()
				r.Write(&clientpb.ClientFrame{Body: &clientpb.ClientFrame_Hello{Hello: &clientpb.Hello{
					ProtocolVersion: proto.ClientProtocolVersion, Token: one.device.User.Token, Device: one.device.User.Device,
				}}})
				f, err := r.ReadErr()
				if code := max(f.GetClosing().GetCode(), f.GetError().GetCode()); proto.Code(code) != proto.CodeDisplaced {
					t.Errorf("%s comes back with %v (%v)", one.device.User.Device, f, err)
				}
				p.want(17, "/refresh", "refresh_token", one.refresh)
			}
			if _, err := newest.ShowUser(c.Context(), ann.ID); err != nil || newest.Disconnects() != 0 {
				t.Errorf("the newest was disturbed: %v", err)
			}
		})
	}
}

// Devices are listed and ended, one or all, from any of them; an operator can
// close a user's connections.
func TestDevicesAreListedAndEnded(t *testing.T) {
	c := Start(t, withPolicy("multi"))
	p := newApplicant(c)
	ann := c.AddUser("ann", "c1")
	ctx := c.Context()
	phone, _ := loginFrom(p, ann, "phone", "ios")
	laptop, _ := loginFrom(p, ann, "laptop", "linux")
	a := c.Connect(phone, client.TCP, nil)
	why := new(reasons)
	b := c.Connect(laptop, client.QUIC, func(cfg *client.Config) {
		cfg.Server = c.EdgeAddr("e2")
		why.note(cfg)
	})
	c.Until("both are listed as connected", func() error {
		devices, err := a.Devices(ctx)
		if err != nil || len(devices) != 3 {
			return fmt.Errorf("%v, %w", devices, err)
		}
		for _, d := range devices {
			if d.Own != (d.Device == "phone") || d.LoginMs == 0 || d.Connected == (d.Device == ann.Device) {
				return fmt.Errorf("%v", devices)
			}
		}
		return nil
	})
	if err := a.EndDevice(ctx, "no such"); proto.CodeOf(err) != proto.CodeBadRequest {
		t.Errorf("a device that is not there: %v", err)
	}

	reply, err := c.Operator().DisconnectUser(ctx, &controlpb.DisconnectUserRequest{User: "ann", DryRun: true})
	if err != nil || reply.Closed != 2 || b.Disconnects() != 0 {
		t.Fatalf("dry run: %v, %v", reply, err)
	}
	if reply, err = c.Operator().DisconnectUser(ctx, &controlpb.DisconnectUserRequest{User: "ann"}); err != nil || reply.Closed != 2 {
		t.Fatalf("disconnect: %v, %v", reply, err)
	}
	why.until(c, proto.CodeDisconnected)
	if _, err := b.ShowUser(ctx, ann.ID); err != nil { // it came back
		t.Fatal(err)
	}

	if err := a.EndDevice(ctx, "laptop"); err != nil {
		t.Fatal(err)
	}
	why.until(c, proto.CodeLoggedOut)
	if devices, err := a.Devices(ctx); err != nil || len(devices) != 2 {
		t.Errorf("%v, %v", devices, err)
	}
	other := c.Connect(ann, client.TCP, nil)
	if err := a.EndAllDevices(ctx); err != nil {
		t.Fatal(err)
	}
	untilEnded(t, c, other)
	untilEnded(t, c, a)
	again, _ := loginFrom(p, ann, "phone", "ios")
	aWhy := new(reasons)
	a = c.Connect(again, client.TCP, aWhy.note)
	if err := a.EndDevice(ctx, ""); err != nil {
		t.Fatal(err)
	}
	aWhy.until(c, proto.CodeLoggedOut)
	again, _ = loginFrom(p, ann, "phone", "ios")
	aWhy = new(reasons)
	a = c.Connect(again, client.TCP, aWhy.note)
	if reply, err := c.Operator().DisconnectUser(ctx, &controlpb.DisconnectUserRequest{User: "ann", EndDevices: true}); err != nil || reply.EndedDevices != 1 {
		t.Errorf("%v, %v", reply, err)
	}
	aWhy.until(c, proto.CodeSessionEnded)
	if _, err := a.Devices(ctx); !errors.Is(err, client.ErrClosed) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the end: %v", err)
	}
}

// A client whose token has expired refreshes it over HTTP before it connects,
// and keeps what came before it uses it.
func TestClientRefreshesAnExpiredToken(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	p := newApplicant(c)
	ann := c.AddUser("ann", "c1")
	phone, login := loginFrom(p, ann, "phone", "ios")
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	phone.Token, err = token.NewSigner(private).Sign(token.Claims{
		User: ann.ID, Device: "phone", SessionNumber: 1, AuthorityVersion: 1, IssuedAt: now.Add(-2 * time.Hour), ExpiresAt: now.Add(-time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, transport := range []client.Transport{client.TCP, client.Plain, client.QUIC} {
		kept := make(chan client.Tokens, 10)
		d := c.Connect(phone, transport, func(cfg *client.Config) {
			cfg.RefreshToken = login.RefreshToken
			cfg.OnTokens = func(next client.Tokens) error {
				kept <- next
				return nil
			}
		})
		if _, err := d.ShowUser(c.Context(), ann.ID); err != nil {
			t.Error(err)
		}
		if next := <-kept; next.Token == "" || next.RefreshToken == login.RefreshToken || time.Until(next.ExpiresAt) < time.Hour {
			t.Errorf("%s: %+v", transport, next)
		} else {
			login.RefreshToken = next.RefreshToken
		}
	}
}
