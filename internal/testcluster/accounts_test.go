package testcluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/daemon"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
)

// accountAnswer is what the account endpoints answer, all in one.
type accountAnswer struct {
	Status       int    `json:"-"`
	RetryAfter   string `json:"-"`
	Error        int    `json:"error"`
	UUID         string `json:"uuid"`
	Token        string `json:"token"`
	RefreshToken string `json:"refresh_token"`
	Device       string `json:"device"`
	Detail       string `json:"detail"`
}

// applicant uses the account endpoints as people's clients do.
type applicant struct {
	c    *Cluster
	http *http.Client
}

func newApplicant(c *Cluster) *applicant {
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: c.TLS(), ForceAttemptHTTP2: true}, Timeout: Wait}
	c.t.Cleanup(h.CloseIdleConnections)
	return &applicant{c, h}
}

func (p *applicant) ask(path string, fields ...string) accountAnswer {
	p.c.t.Helper()
	body := map[string]string{}
	for i := 0; i < len(fields); i += 2 {
		body[fields[i]] = fields[i+1]
	}
	raw, err := json.Marshal(body)
	if err != nil {
		p.c.t.Fatal(err)
	}
	reply, err := p.http.Post("https://"+p.c.options.Listen+path, "application/json", bytes.NewReader(raw))
	if err != nil {
		p.c.t.Fatal(err)
	}
	defer reply.Body.Close()
	a := accountAnswer{Status: reply.StatusCode, RetryAfter: reply.Header.Get("Retry-After")}
	if err := json.NewDecoder(reply.Body).Decode(&a); err != nil {
		p.c.t.Fatalf("%s: %v", path, err)
	}
	return a
}

// want asks and checks the error number.
func (p *applicant) want(number int, path string, fields ...string) accountAnswer {
	p.c.t.Helper()
	a := p.ask(path, fields...)
	if a.Error != number || (number == 0) != (a.Status == http.StatusOK) {
		p.c.t.Fatalf("%s %v: got %+v, want error %d", path, fields, a, number)
	}
	return a
}

// code waits for the code mailed to an address, other than the one before.
func (p *applicant) code(email, before string) string {
	p.c.t.Helper()
	var mail struct{ To, Subject, Code, Text string }
	p.c.Until("a code comes to "+email, func() error {
		reply, err := http.Get("http://" + p.c.options.Admin + "/dev/mail?to=" + url.QueryEscape(email))
		if err != nil {
			return err
		}
		defer reply.Body.Close()
		if reply.StatusCode != http.StatusOK {
			return errors.New(reply.Status)
		}
		if err := json.NewDecoder(reply.Body).Decode(&mail); err != nil || mail.Code == before {
			return fmt.Errorf("still %s: %w", before, err)
		}
		return nil
	})
	return mail.Code
}

func (p *applicant) user(name string, a accountAnswer) User {
	p.c.t.Helper()
	id, err := proto.ParseEntityID(a.UUID)
	if err != nil {
		p.c.t.Fatal(err)
	}
	return User{ID: id, Name: name, Token: a.Token, Device: a.Device}
}

func wrongCode(code string) string {
	if code == "000000" {
		return "000001"
	}
	return "000000"
}

// A person registers with the mailed code, logs in, chats, refreshes, and
// resets the password, which ends every session.
func TestAccountFromRegistrationToReset(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	p := newApplicant(c)
	const email, password, second = "zoe@example.org", "correct horse", "battery staple"
	p.want(17, "/trylogin_server", "username", "zoe", "password", password)
	p.want(16, "/check_accountexists", "username", "zoe", "email", email)
	p.want(0, "/get_verification", "email", email)
	if a := p.want(44, "/get_verification", "email", email); a.RetryAfter == "" {
		t.Error("a second code at once: no Retry-After")
	}
	code := p.code(email, "")
	p.want(13, "/post_registration", "username", "zoe", "password", password, "email", email, "cpatcha", wrongCode(code))
	p.want(13, "/post_registration", "username", "zoe", "password", password, "email", "other@example.org", "cpatcha", code)
	p.want(15, "/post_registration", "username", "zoe", "password", "short", "email", email, "cpatcha", code)
	registered := p.want(0, "/post_registration", "username", "zoe", "password", password, "email", email, "cpatcha", code)
	p.want(13, "/post_registration", "username", "zoe2", "password", password, "email", email, "cpatcha", code)
	p.want(0, "/check_accountexists", "username", "zoe", "email", email)

	login := p.want(0, "/trylogin_server", "username", "zoe", "password", password)
	if login.UUID != registered.UUID {
		t.Errorf("registered as %s, logged in as %s", registered.UUID, login.UUID)
	}
	refreshed := p.want(0, "/refresh", "refresh_token", login.RefreshToken)
	zoe := p.user("zoe", refreshed)
	d := c.Connect(zoe, client.TCP, nil)
	bob := c.AddUser("bob", "")
	if _, err := d.Send(c.Context(), proto.DirectThread(zoe.ID, bob.ID).String(), "with a refreshed token"); err != nil {
		t.Fatal(err)
	}

	// The old token stays valid until its successor is used; then using it
	// ends the device.
	p.want(0, "/refresh", "refresh_token", login.RefreshToken)
	next := p.want(0, "/refresh", "refresh_token", refreshed.RefreshToken)
	p.want(17, "/refresh", "refresh_token", login.RefreshToken)
	p.want(17, "/refresh", "refresh_token", next.RefreshToken)
	p.want(17, "/refresh", "refresh_token", "made up")
	untilEnded(t, c, d)

	other := p.want(0, "/trylogin_server", "username", "zoe", "password", password)
	e := c.Connect(p.user("zoe", other), client.QUIC, nil)
	// The first code's minute is not over: an account made by the operator
	// has another address.
	ann := c.AddUser("ann", "")
	a := c.Connect(ann, client.QUIC, nil)
	p.want(0, "/get_verification", "email", "ann@example.org")
	code = p.code("ann@example.org", "")
	p.want(16, "/reset_password", "username", "zoe", "email", "ann@example.org", "password", second, "cpatcha", code)
	p.want(0, "/reset_password", "username", "ann", "email", "ann@example.org", "password", second, "cpatcha", code)
	untilEnded(t, c, a)
	p.want(0, "/trylogin_server", "username", "ann", "password", second)
	if _, err := e.Send(c.Context(), proto.DirectThread(zoe.ID, bob.ID).String(), "others go on"); err != nil {
		t.Error(err)
	}
}

// untilEnded waits until a device's session was ended for good.
func untilEnded(t *testing.T, c *Cluster, d *Device) {
	t.Helper()
	c.Until(d.User.Name+"'s session has ended", func() error {
		if d.Disconnects() == 0 {
			return errors.New("it is connected")
		}
		return nil
	})
}

// What strangers try in bulk is held by the limits, and costs nobody else
// anything.
func TestAccountsAreHeldByLimits(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true, Override: func(cfg *daemon.Config) error {
		cfg.Edge.ExemptLoopback = false
		return nil
	}})
	p := newApplicant(c)
	const password = "correct horse"
	// Guessing a code.
	p.want(0, "/get_verification", "email", "ann@example.org")
	code := p.code("ann@example.org", "")
	for range 5 {
		p.want(13, "/post_registration", "username", "ann", "password", password, "email", "ann@example.org", "cpatcha", wrongCode(code))
	}
	p.want(13, "/post_registration", "username", "ann", "password", password, "email", "ann@example.org", "cpatcha", code)
	for what, f := range map[string]func(i int) accountAnswer{
		"a flood of codes": func(i int) accountAnswer {
			return p.ask("/get_verification", "email", fmt.Sprintf("flood%d@example.org", i))
		},
		"a flood of registrations": func(i int) accountAnswer {
			return p.ask("/post_registration", "username", fmt.Sprint("u", i), "password", password, "email", fmt.Sprintf("u%d@example.org", i), "cpatcha", "123456")
		},
		"a search for accounts": func(i int) accountAnswer {
			return p.ask("/check_accountexists", "username", fmt.Sprint("u", i), "email", fmt.Sprintf("u%d@example.org", i))
		},
		"one name's password": func(int) accountAnswer { return p.ask("/trylogin_server", "username", "ann", "password", "a guess") },
		"many names' password": func(i int) accountAnswer {
			return p.ask("/trylogin_server", "username", fmt.Sprint("name", i), "password", "a guess")
		},
	} {
		held := false
		for i := 0; i < 2000 && !held; i++ {
			a := f(i)
			held = a.Error == 44
			if held && (a.RetryAfter == "" || a.Status != http.StatusTooManyRequests) {
				t.Errorf("%s: %+v", what, a)
			}
		}
		if !held {
			t.Errorf("%s is not held by any limit", what)
		}
	}
}

// Without Redis, mail or database the endpoints say so and recover by
// themselves, and who is logged in goes on.
func TestAccountsWithoutTheirServices(t *testing.T) {
	c := Start(t, devcluster.Options{NoDemo: true})
	p := newApplicant(c)
	ann, bob := c.AddUser("ann", ""), c.AddUser("bob", "")
	d := c.Connect(ann, client.TCP, nil)
	login := p.want(0, "/trylogin_server", "username", "ann", "password", password)

	c.StopNode("redis")
	if a := p.want(12, "/get_verification", "email", "x@example.org"); a.RetryAfter == "" || a.Status != http.StatusServiceUnavailable {
		t.Errorf("%+v", a)
	}
	p.want(12, "/trylogin_server", "username", "ann", "password", password)
	p.want(0, "/refresh", "refresh_token", login.RefreshToken)
	if _, err := d.Send(c.Context(), proto.DirectThread(ann.ID, bob.ID).String(), "without Redis"); err != nil {
		t.Error(err)
	}
	c.StartNode("redis")
	c.Until("a login works again", func() error {
		if a := p.ask("/trylogin_server", "username", "ann", "password", password); a.Error != 0 {
			return errors.New(a.Detail)
		}
		return nil
	})

	c.StopNode("mail")
	p.want(0, "/get_verification", "email", "late@example.org")
	c.StartNode("mail")
	p.code("late@example.org", "") // it was retried

	c.StopNode("cp1")
	start := time.Now()
	a := p.want(14, "/check_accountexists", "username", "ann", "email", "ann@example.org")
	if a.RetryAfter == "" || a.Status != http.StatusServiceUnavailable || time.Since(start) > Wait {
		t.Errorf("%+v", a)
	}
	if _, err := d.Send(c.Context(), proto.DirectThread(ann.ID, bob.ID).String(), "without accounts"); err != nil {
		t.Error(err)
	}
	c.StartNode("cp1")
	c.Until("accounts are back", func() error {
		if a := p.ask("/check_accountexists", "username", "ann", "email", "ann@example.org"); a.Error != 0 {
			return errors.New(a.Detail)
		}
		return nil
	})
}
