package certs

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
)

// The roles in certificates.
const (
	RoleEdge         = "edge"
	RoleCell         = "cell"
	RoleControlPlane = "controlplane"
	RoleEtcd         = "etcd"
	RoleOperator     = "operator"
)

// Identity is who a certificate speaks for.
type Identity struct {
	Role string // one of the Role constants
	Cell string // empty but for cell nodes
	Node string // as in "c1-n1"; for an operator, the person's name
}

// String is the identity as it stands in a certificate.
func (id Identity) String() string {
	cell := id.Cell
	if cell == "" {
		cell = "-"
	}
	return "waggle://" + id.Role + "/" + cell + "/" + id.Node
}

// Validate tells whether id can stand in a certificate.
func (id Identity) Validate() error {
	switch id.Role {
	case RoleEdge, RoleControlPlane, RoleEtcd, RoleOperator:
		if id.Cell != "" {
			return fmt.Errorf("role %s belongs to no cell, but cell %q is given", id.Role, id.Cell)
		}
	case RoleCell:
		if !plainName(id.Cell) {
			return fmt.Errorf("cell %q is not a name (letters, digits, . _ -, at most 63)", id.Cell)
		}
	default:
		return fmt.Errorf("role %q is not one of edge, cell, controlplane, etcd, operator", id.Role)
	}
	if !plainName(id.Node) {
		return fmt.Errorf("node %q is not a name (letters, digits, . _ -, at most 63)", id.Node)
	}
	return nil
}

func plainName(s string) bool {
	if s == "" || s == "-" || len(s) > 63 {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}) < 0
}

func parseIdentity(u *url.URL) (Identity, error) {
	cell, node, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if cell == "-" {
		cell = ""
	}
	id := Identity{Role: u.Host, Cell: cell, Node: node}
	if u.Scheme != "waggle" || u.String() != id.String() {
		return Identity{}, fmt.Errorf("%q is not a node's name (waggle://role/cell/node)", u)
	}
	return id, id.Validate()
}

// identityOf reads the one waggle:// name of a certificate.
func identityOf(cert *x509.Certificate) (Identity, error) {
	var found []*url.URL
	for _, u := range cert.URIs {
		if u.Scheme == "waggle" {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return Identity{}, fmt.Errorf("the certificate of %q names %d nodes, exactly one is needed", cert.Subject.CommonName, len(found))
	}
	return parseIdentity(found[0])
}
