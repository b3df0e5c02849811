package mailsink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	// mailsMax bounds the addresses whose last mail is kept; the one that got
	// its mail longest ago goes first.
	mailsMax = 10_000
	// mailBytesMax bounds one mail.
	mailBytesMax = 64 << 10
	// recipientsMax bounds the receivers of one mail.
	recipientsMax = 10
	// closeTimeout bounds the wait for connections at the end.
	closeTimeout = time.Second
)

// Mail is what is kept of a mail.
type Mail struct {
	To      string `json:"to"`
	Subject string `json:"subject"`
	Code    string `json:"code"` // the six digits in the text; may be empty
	Text    string `json:"text"`
}

// Sink is one running server.
type Sink struct {
	server *smtp.Server
	addr   string
	done   chan struct{}

	mu    sync.Mutex // guards the fields below
	last  map[string]Mail
	order []string // of last, by time of the mail
}

// Start listens on addr (host:port; port 0: any free one) and serves until
// Close.
func Start(addr string) (*Sink, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("mail sink: %w", err)
	}
	s := &Sink{addr: l.Addr().String(), done: make(chan struct{}), last: map[string]Mail{}}
	s.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{sink: s}, nil }))
	s.server.Domain = "localhost"
	s.server.MaxMessageBytes, s.server.MaxRecipients = mailBytesMax, recipientsMax
	s.server.ReadTimeout, s.server.WriteTimeout = 10*time.Second, 10*time.Second
	s.server.EnableSMTPUTF8 = true
	s.server.ErrorLog = log.New(io.Discard, "", 0)
	go func() { // ended and awaited by Close
		defer close(s.done)
		_ = s.server.Serve(l)
	}()
	return s, nil
}

// URL is how mail is sent here.
func (s *Sink) URL() string { return "smtp://" + s.addr + "?tls=none" }

// Close ends the server.
func (s *Sink) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = s.server.Close()
	}
	<-s.done
	if errors.Is(err, smtp.ErrServerClosed) {
		err = nil
	}
	return err
}

// Last is the last mail an address got.
func (s *Sink) Last(to string) (Mail, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.last[canonical(to)]
	return m, ok
}

func canonical(address string) string { return strings.ToLower(strings.TrimSpace(address)) }

func (s *Sink) keep(m Mail) {
	to := canonical(m.To)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.last[to]; known {
		for i, one := range s.order {
			if one == to {
				s.order = append(s.order[:i], s.order[i+1:]...)
				break
			}
		}
	} else if len(s.order) >= mailsMax {
		delete(s.last, s.order[0])
		s.order = s.order[1:]
	}
	s.last[to] = m
	s.order = append(s.order, to)
}

// Handler answers GET ?to=ADDRESS with the address's last [Mail].
func (s *Sink) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := r.URL.Query().Get("to")
		if to == "" {
			http.Error(w, "whose mail? /dev/mail?to=ADDRESS", http.StatusBadRequest)
			return
		}
		m, ok := s.Last(to)
		if !ok {
			http.Error(w, fmt.Sprintf("no mail has come for %.80q yet", to), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(m)
	})
}

// session takes the mails of one connection.
type session struct {
	sink *Sink
	to   []string
}

// Mail implements smtp.Session.
func (c *session) Mail(string, *smtp.MailOptions) error { return nil }

// Rcpt implements smtp.Session.
func (c *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	c.to = append(c.to, to)
	return nil
}

// Data implements smtp.Session.
func (c *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	subject, text, err := read(raw)
	if err != nil {
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "the mail cannot be read"}
	}
	code := regexp.MustCompile(`\b\d{6}\b`).FindString(text)
	for _, to := range c.to {
		c.sink.keep(Mail{To: to, Subject: subject, Code: code, Text: text})
	}
	return nil
}

// Reset implements smtp.Session.
func (c *session) Reset() { c.to = nil }

// Logout implements smtp.Session.
func (c *session) Logout() error { return nil }
