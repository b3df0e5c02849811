package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/waggle-im/waggle/internal/atomicfile"
)

const (
	// CAFile is the authority's certificate in its folder.
	CAFile = "ca.pem"
	// CAKeyFile is the authority's key in its folder. It signs; nodes do not
	// need it.
	CAKeyFile = "ca-key.pem"

	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 397 * 24 * time.Hour // the longest that browsers accept
	// renewBefore is when the Ensure functions make a new certificate.
	renewBefore = 30 * 24 * time.Hour
	// backdate tolerates clocks that are behind.
	backdate = time.Hour
)

// Authority signs the certificates of one cluster.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CreateAuthority makes a new authority (ECDSA P-256, ten years) in dir. It
// refuses to replace one: every certificate of the cluster hangs on it.
func CreateAuthority(dir string) (*Authority, error) {
	if _, err := os.Stat(filepath.Join(dir, CAKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("certs: %s exists already: use it, or move it away first", filepath.Join(dir, CAKeyFile))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Waggle cluster authority"},
		NotBefore:             time.Now().Add(-backdate),
		NotAfter:              time.Now().Add(caLifetime),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	// The key last: an authority exists when its key does.
	if err := writeCert(filepath.Join(dir, CAFile), der); err != nil {
		return nil, err
	}
	if err := writeKey(filepath.Join(dir, CAKeyFile), key); err != nil {
		return nil, err
	}
	return LoadAuthority(dir)
}

// LoadAuthority reads the authority of dir.
func LoadAuthority(dir string) (*Authority, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, fmt.Errorf("certs: authority in %s: %w", dir, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("certs: %s does not hold an ECDSA authority", dir)
	}
	return &Authority{dir: dir, cert: pair.Leaf, key: key}, nil
}

// EnsureAuthority loads the authority of dir, or makes it when there is none.
func EnsureAuthority(dir string) (*Authority, error) {
	if _, err := os.Stat(filepath.Join(dir, CAKeyFile)); errors.Is(err, fs.ErrNotExist) {
		return CreateAuthority(dir)
	}
	return LoadAuthority(dir)
}

// CAFile is the file of the authority's certificate, for those who verify.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, CAFile) }

// Pair names the two files of a certificate.
type Pair struct {
	CertFile string // PEM, mode 0644
	KeyFile  string // PEM, mode 0600
}

// PairIn names the files NAME.pem and NAME-key.pem in dir.
func PairIn(dir, name string) Pair {
	return Pair{CertFile: filepath.Join(dir, name+".pem"), KeyFile: filepath.Join(dir, name+"-key.pem")}
}

// IssueNode writes a new certificate for a node, good for both sides of a
// connection between nodes. hosts are added to localhost, 127.0.0.1 and ::1.
func (a *Authority) IssueNode(files Pair, id Identity, hosts ...string) error {
	if err := id.Validate(); err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	u, err := url.Parse(id.String())
	if err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	return a.issue(files, &x509.Certificate{
		Subject:     pkix.Name{CommonName: id.Node},
		URIs:        []*url.URL{u},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, hosts)
}

// IssueWeb writes a new certificate for a client port. hosts are added to
// localhost, 127.0.0.1 and ::1. It cannot be used between nodes.
func (a *Authority) IssueWeb(files Pair, hosts ...string) error {
	return a.issue(files, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Waggle"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, hosts)
}

// EnsureNode is [Authority.IssueNode] unless the files already hold such a
// certificate of this authority, valid for another month.
func (a *Authority) EnsureNode(files Pair, id Identity, hosts ...string) error {
	if cert, err := a.usable(files, hosts); err == nil {
		if have, err := identityOf(cert); err == nil && have == id {
			return nil
		}
	}
	return a.IssueNode(files, id, hosts...)
}

// EnsureWeb is [Authority.IssueWeb] unless the files already hold such a
// certificate of this authority, valid for another month.
func (a *Authority) EnsureWeb(files Pair, hosts ...string) error {
	if cert, err := a.usable(files, hosts); err == nil && len(cert.URIs) == 0 {
		return nil
	}
	return a.IssueWeb(files, hosts...)
}

func (a *Authority) usable(files Pair, hosts []string) (*x509.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, err
	}
	for _, h := range withLocal(hosts) {
		if err := pair.Leaf.VerifyHostname(h); err != nil {
			return nil, err
		}
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{
		Roots: a.pool(), CurrentTime: time.Now().Add(renewBefore), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return pair.Leaf, err
}

func (a *Authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func withLocal(hosts []string) []string {
	all := append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	slices.Sort(all)
	return slices.Compact(all)
}

func (a *Authority) issue(files Pair, template *x509.Certificate, hosts []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	if template.SerialNumber, err = serial(); err != nil {
		return err
	}
	template.NotBefore = time.Now().Add(-backdate)
	template.NotAfter = earlier(time.Now().Add(leafLifetime), a.cert.NotAfter)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	for _, h := range withLocal(hosts) {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("certs: sign %s: %w", files.CertFile, err)
	}
	// A reader between the two writes finds halves that do not fit and keeps
	// the pair it has.
	if err := writeKey(files.KeyFile, key); err != nil {
		return err
	}
	return writeCert(files.CertFile, der)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("certs: serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func writeCert(file string, der []byte) error {
	if err := atomicfile.Write(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	return nil
}

func writeKey(file string, key any) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	if err := atomicfile.Write(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	return nil
}
