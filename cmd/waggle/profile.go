package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/proto"
)

const (
	profileFile   = "profile.json"
	profileFormat = 1
)

// profile is one device of one user, as `waggle login` keeps it.
type profile struct {
	Format       int      `json:"format"`
	Server       string   `json:"server"`
	Transport    string   `json:"transport,omitempty"` // empty: QUIC, else TCP
	CA           string   `json:"ca,omitempty"`        // absolute path
	Edges        []string `json:"edges,omitempty"`     // further addresses
	User         string   `json:"user"`
	Name         string   `json:"name"`
	Device       string   `json:"device"`
	Token        string   `json:"token"`
	ExpiresAt    string   `json:"expires_at"` // of the token, RFC 3339
	RefreshToken string   `json:"refresh_token"`
}

// errNoProfile says that nobody is logged in.
var errNoProfile = errors.New("nobody is logged in")

// loadProfile reads the profile of a directory. With [errNoProfile] there is
// none.
func loadProfile(dir string) (profile, error) {
	var p profile
	file := filepath.Join(dir, profileFile)
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("%w in the profile %s: `waggle login NAME` does that, --profile names another", errNoProfile, dir)
	}
	if err != nil {
		return p, fmt.Errorf("profile: %w", err)
	}
	if err = json.Unmarshal(raw, &p); err == nil && p.Format != profileFormat {
		err = fmt.Errorf("format %d is not %d", p.Format, profileFormat)
	}
	if err == nil {
		_, err = p.user()
	}
	if err != nil {
		return p, fmt.Errorf("profile: %s cannot be used (%w): `waggle login NAME` writes it anew", file, err)
	}
	return p, nil
}

// save replaces the profile of a directory: for its owner only, and never
// half.
func (p profile) save(dir string) error {
	p.Format = profileFormat
	raw, err := json.MarshalIndent(p, "", "  ")
	if err == nil {
		err = atomicfile.Write(filepath.Join(dir, profileFile), append(raw, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return nil
}

// user is the profile's user id.
func (p profile) user() (proto.EntityID, error) { return proto.ParseEntityID(p.User) }
