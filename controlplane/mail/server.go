package mail

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
)

const (
	portSubmission = 587
	portTLS        = 465
	// dialTimeout bounds the connection to the server.
	dialTimeout = 10 * time.Second
)

// server is a mail server's address.
type server struct {
	host     string
	port     int
	implicit bool // TLS from the first byte
	policy   gomail.TLSPolicy
	user     string
	password string
	ca       string // PEM file; empty: the system's authorities
}

// parseServer reads smtp://[USER:PASSWORD@]HOST[:PORT] (STARTTLS, port 587) or
// smtps://… (TLS, port 465). ?tls=none sends without TLS, to this machine
// only; ?ca=FILE names the authority of the server's certificate;
// ?password_file=FILE keeps the password out of the address.
func parseServer(address string) (server, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "smtp" && u.Scheme != "smtps" {
		// The error would repeat the password.
		return server{}, errors.New("mail: the address of the mail server cannot be read: it is smtp://[USER:PASSWORD@]HOST[:PORT], or smtps:// for TLS from the start")
	}
	s := server{host: u.Hostname(), port: portSubmission, policy: gomail.TLSMandatory, user: u.User.Username(), ca: u.Query().Get("ca")}
	s.password, _ = u.User.Password()
	if u.Scheme == "smtps" {
		s.implicit, s.port = true, portTLS
	}
	if p := u.Port(); p != "" {
		if s.port, err = strconv.Atoi(p); err != nil {
			return server{}, fmt.Errorf("mail: %s is not a port", p)
		}
	}
	if file := u.Query().Get("password_file"); file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return server{}, fmt.Errorf("mail: password_file: %w", err)
		}
		s.password = strings.TrimRight(string(raw), "\r\n")
	}
	switch u.Query().Get("tls") {
	case "":
	case "none":
		if ip := net.ParseIP(s.host); s.implicit || s.host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return server{}, errors.New("mail: tls=none is for a mail server on this machine: everybody on the way could read the codes")
		}
		s.policy = gomail.NoTLS
	default:
		return server{}, errors.New("mail: tls can only be none; without it TLS is used")
	}
	return s, nil
}

// client makes a client for one mail.
func (s server) client(tlsConfig *tls.Config) (*gomail.Client, error) {
	options := []gomail.Option{gomail.WithPort(s.port), gomail.WithTimeout(dialTimeout), gomail.WithoutNoop()}
	if s.implicit {
		options = append(options, gomail.WithSSL())
	} else {
		options = append(options, gomail.WithTLSPolicy(s.policy))
	}
	if tlsConfig != nil {
		options = append(options, gomail.WithTLSConfig(tlsConfig))
	}
	if s.user != "" {
		options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithUsername(s.user), gomail.WithPassword(s.password))
	}
	return gomail.NewClient(s.host, options...)
}
