package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// reloadInterval is how often, at most, the files' times are looked at: a
// handshake must not cost three system calls each.
const reloadInterval = 2 * time.Second

// material is what the files said when last read. It is not changed.
type material struct {
	pair  *tls.Certificate
	pool  *x509.CertPool // nil when there is no CA file
	times [3]time.Time
}

// files reads a certificate again when it changed. When the new content is
// broken or half written, the old one stays in use.
type files struct {
	cert, key, ca string // ca may be empty

	mu      sync.Mutex // guards the fields below
	current *material
	looked  time.Time
	now     func() time.Time
}

func openFiles(cert, key, ca string) (*files, error) {
	f := &files{cert: cert, key: key, ca: ca, now: time.Now}
	m, err := f.read()
	if err != nil {
		return nil, err
	}
	f.current, f.looked = m, f.now()
	return f, nil
}

// get is the newest content, looked up at most every reloadInterval.
func (f *files) get() *material {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if now.Sub(f.looked) < reloadInterval {
		return f.current
	}
	f.looked = now
	if times, err := f.times(); err == nil && times == f.current.times {
		return f.current
	}
	m, err := f.read()
	if err != nil {
		slog.Warn("certificate not reloaded, the old one stays in use", "err", err)
		return f.current
	}
	f.current = m
	return m
}

func (f *files) times() (times [3]time.Time, err error) {
	for i, name := range []string{f.cert, f.key, f.ca} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return times, err
		}
		times[i] = info.ModTime()
	}
	return times, nil
}

func (f *files) read() (*material, error) {
	times, err := f.times() // before reading: a later change is seen next time
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("certs: %s and %s: %w", f.cert, f.key, err)
	}
	m := &material{pair: &pair, times: times}
	if f.ca != "" {
		if m.pool, err = LoadPool(f.ca); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// LoadPool reads the authorities of a PEM file.
func LoadPool(caFile string) (*x509.CertPool, error) {
	data, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("certs: %s holds no certificate", caFile)
	}
	return pool, nil
}

// Web is the certificate of a client port.
type Web struct {
	files *files
}

// LoadWeb reads a certificate and its key.
func LoadWeb(certFile, keyFile string) (*Web, error) {
	f, err := openFiles(certFile, keyFile, "")
	if err != nil {
		return nil, err
	}
	return &Web{files: f}, nil
}

// GetCertificate is for tls.Config.GetCertificate; it follows the files.
func (w *Web) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return w.files.get().pair, nil
}

// TLS is a fresh server configuration, TLS 1.3 only, without ALPN names,
// which the caller adds.
func (w *Web) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: w.GetCertificate}
}
