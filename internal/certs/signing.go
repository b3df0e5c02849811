package certs

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// EnsureSigningKey loads the Ed25519 key that signs tokens from file (PEM,
// mode 0600), or makes it when there is none.
func EnsureSigningKey(file string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("certs: %w", err)
		}
		return private, writeKey(file, private)
	}
	if err != nil {
		return nil, fmt.Errorf("certs: signing key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("certs: %s holds no PEM block: restore it, or remove it and a new key is made", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("certs: %s holds no Ed25519 key: restore it, or remove it and a new key is made", file)
	}
	return private, nil
}
