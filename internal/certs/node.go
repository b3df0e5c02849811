package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/waggle-im/waggle/proto"
)

// Node is a node's own certificate and the authority it trusts. It is safe
// for concurrent use.
type Node struct {
	files    *files
	identity Identity
}

// LoadNode reads a node's certificate, its key and the authority. It fails
// when the certificate names no node or is not the authority's.
func LoadNode(certFile, keyFile, caFile string) (*Node, error) {
	f, err := openFiles(certFile, keyFile, caFile)
	if err != nil {
		return nil, err
	}
	m := f.get()
	id, err := identityOf(m.pair.Leaf)
	if err != nil {
		return nil, fmt.Errorf("certs: %s: %w", certFile, err)
	}
	if err := verifyChain(m, []*x509.Certificate{m.pair.Leaf}, x509.ExtKeyUsageAny); err != nil {
		return nil, fmt.Errorf("certs: %s does not fit %s: %w: issue it again with `waggle certs node`", certFile, caFile, err)
	}
	return &Node{files: f, identity: id}, nil
}

// Identity is who the certificate speaks for.
func (n *Node) Identity() Identity { return n.identity }

// ServerTLS is the configuration of a port that only other nodes call: TLS
// 1.3, a client certificate of the authority required. What the caller may
// ask is decided by the interceptors.
func (n *Node) ServerTLS() *tls.Config {
	base := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true, // a renewed authority counts at once
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m := n.files.get()
		c := base.Clone()
		c.Certificates = []tls.Certificate{*m.pair}
		c.ClientCAs = m.pool
		return c, nil
	}
	return outer
}

// ClientTLS is the configuration for calling one node. The connection fails
// unless a node of that name, certified by the authority, answers; the host
// name is not checked, because nodes move between addresses.
func (n *Node) ClientTLS(node proto.NodeID) *tls.Config {
	return n.clientTLS(func(id Identity) error {
		if id.Node != string(node) {
			return fmt.Errorf("certs: wanted node %s, but %s answers", node, id)
		}
		return nil
	})
}

// ClientTLSRole is like [Node.ClientTLS] for any node of a role.
func (n *Node) ClientTLSRole(role string) *tls.Config {
	return n.clientTLS(func(id Identity) error {
		if id.Role != role {
			return fmt.Errorf("certs: wanted a node of role %s, but %s answers", role, id)
		}
		return nil
	})
}

func (n *Node) clientTLS(want func(Identity) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// crypto/tls would compare the host name; VerifyConnection checks
		// the chain and the node's name instead.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := verifyChain(n.files.get(), state.PeerCertificates, x509.ExtKeyUsageServerAuth); err != nil {
				return err
			}
			id, err := identityOf(state.PeerCertificates[0])
			if err != nil {
				return err
			}
			return want(id)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return n.files.get().pair, nil
		},
	}
}

func verifyChain(m *material, chain []*x509.Certificate, usage x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return errors.New("certs: the other side shows no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: m.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err
}
