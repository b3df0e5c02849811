package mail

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"mime"
	"mime/multipart"
	"net"
	"net/http/httptest"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// postOffice is a real SMTP server that does as the test says.
type postOffice struct {
	implicit bool   // TLS from the first byte
	noTLS    bool   // does not offer STARTTLS
	user     string // required, with password, unless empty
	password string
	refusals []int // reply codes to the next mails, before they are taken

	addr string
	ca   string

	mu    sync.Mutex // guards the fields below and refusals
	mails []string
	clear bool // a mail or a password came without TLS
	tries int
}

func (p *postOffice) start(t *testing.T) *postOffice {
	t.Helper()
	web := httptest.NewUnstartedServer(nil) // for its certificate of 127.0.0.1
	web.StartTLS()
	t.Cleanup(web.Close)
	p.ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(p.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &visit{office: p, conn: c}, nil }))
	server.Domain, server.ErrorLog = "localhost", log.New(io.Discard, "", 0)
	if !p.noTLS {
		server.TLSConfig = config
	}
	server.AllowInsecureAuth = true // so that the client has to know better
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	if p.implicit {
		l = tls.NewListener(l, config)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return p
}

// url is the server's address, for a login.
func (p *postOffice) url(login string) string {
	scheme := "smtp://"
	if p.implicit {
		scheme = "smtps://"
	}
	return scheme + login + p.addr + "?ca=" + p.ca
}

func (p *postOffice) taken() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.mails...)
}

type visit struct {
	office *postOffice
	conn   *smtp.Conn
	known  bool
}

func (v *visit) note() {
	if _, ok := v.conn.TLSConnectionState(); !ok {
		v.office.mu.Lock()
		v.office.clear = true
		v.office.mu.Unlock()
	}
}

func (v *visit) AuthMechanisms() []string { return []string{sasl.Plain} }

func (v *visit) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		v.note()
		if user != v.office.user || password != v.office.password {
			v.office.mu.Lock()
			v.office.tries++
			v.office.mu.Unlock()
			return smtp.ErrAuthFailed
		}
		v.known = true
		return nil
	}), nil
}

func (v *visit) Mail(string, *smtp.MailOptions) error {
	v.note()
	if v.office.user != "" && !v.known {
		return smtp.ErrAuthRequired
	}
	v.office.mu.Lock()
	defer v.office.mu.Unlock()
	v.office.tries++
	if len(v.office.refusals) > 0 {
		code := v.office.refusals[0]
		v.office.refusals = v.office.refusals[1:]
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 7, 1}, Message: "as asked"}
	}
	return nil
}

func (v *visit) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (v *visit) Reset()                               {}
func (v *visit) Logout() error                        { return nil }

func (v *visit) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err == nil {
		v.office.mu.Lock()
		v.office.mails = append(v.office.mails, string(raw))
		v.office.mu.Unlock()
	}
	return err
}

// parts are the bodies of a mail by type.
func parts(t *testing.T, raw string) map[string]string {
	t.Helper()
	m, err := netmail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("the mail is %s (%v)", kind, err)
	}
	if from, err := netmail.ParseAddress(m.Header.Get("From")); err != nil || from.Address != "noreply@example.org" {
		t.Errorf("from %v, %v", from, err)
	}
	out := map[string]string{}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type"))
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		out[kind] = string(body)
	}
}

// By STARTTLS and by TLS from the start, with and without a login: the mail
// arrives, in plain text and HTML, and nothing goes over the wire in clear.
func TestMailOverTLS(t *testing.T) {
	for name, p := range map[string]*postOffice{
		"STARTTLS":           {},
		"TLS":                {implicit: true},
		"STARTTLS and login": {user: "waggle", password: "p@ss word"},
		"TLS and login":      {implicit: true, user: "waggle", password: "p@ss word"},
	} {
		t.Run(name, func(t *testing.T) {
			p.start(t)
			login := ""
			if p.user != "" {
				login = "waggle:p%40ss%20word@"
			}
			m := start(t, p.url(login))
			if err := m.Send(Code("ann@example.org", "123456", wait)); err != nil {
				t.Fatal(err)
			}
			until(t, "the mail arrives", func() bool { return len(p.taken()) == 1 })
			got := parts(t, p.taken()[0])
			if !strings.Contains(got["text/plain"], "123456") || !strings.Contains(got["text/html"], "123456") || len(got) != 2 {
				t.Errorf("%v", got)
			}
			if p.clear {
				t.Error("something went over the wire without TLS")
			}
		})
	}
}

// A server that offers no TLS, shows a certificate of an unknown authority, or
// does not know the password gets no mail, and no password in clear.
func TestMailIsNotSentUnsafely(t *testing.T) {
	for name, c := range map[string]struct {
		office *postOffice
		url    func(*postOffice) string
	}{
		"no STARTTLS":       {&postOffice{noTLS: true, user: "u", password: "p"}, func(p *postOffice) string { return p.url("u:p@") }},
		"unknown authority": {&postOffice{}, func(p *postOffice) string { return "smtp://" + p.addr }},
		"the same by TLS":   {&postOffice{implicit: true}, func(p *postOffice) string { return "smtps://" + p.addr }},
		"wrong password":    {&postOffice{user: "u", password: "p"}, func(p *postOffice) string { return p.url("u:guess@") }},
	} {
		t.Run(name, func(t *testing.T) {
			p := c.office.start(t)
			m := start(t, c.url(p))
			if err := m.Send(Code("ann@example.org", "123456", 200*time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			until(t, "it is given up", func() bool { return count(t, m.failed) == 1 })
			if len(p.taken()) != 0 || p.clear {
				t.Errorf("%d mails; in clear: %v", len(p.taken()), p.clear)
			}
		})
	}
}

// What a server refuses for now is tried again, what it refuses for good is
// not.
func TestRefusedMail(t *testing.T) {
	p := (&postOffice{refusals: []int{451, 421, 450}}).start(t)
	m := start(t, p.url(""))
	if err := m.Send(Code("ann@example.org", "123456", wait)); err != nil {
		t.Fatal(err)
	}
	until(t, "the mail arrives after all", func() bool { return len(p.taken()) == 1 })
	if n := count(t, m.retried); n != 3 {
		t.Errorf("%v tries were repeated", n)
	}

	p = (&postOffice{refusals: []int{550}}).start(t)
	m = start(t, p.url(""))
	if err := m.Send(Code("ann@example.org", "123456", wait)); err != nil {
		t.Fatal(err)
	}
	until(t, "it is given up", func() bool { return count(t, m.failed) == 1 })
	if p.tries != 1 || count(t, m.retried) != 0 {
		t.Errorf("tried %d times", p.tries)
	}
}
