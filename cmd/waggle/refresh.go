package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/filelock"
	"github.com/waggle-im/waggle/proto"
)

// lockFile is beside the profile and locked while its tokens are refreshed.
const lockFile = "profile.lock"

// lockTimeout is above what a refresh takes.
const lockTimeout = 20 * time.Second

// sharedRefresh gets other tokens for a profile that several processes use at
// once. Only one refreshes; the others find what it has kept, for a refresh
// token that is used after its successor ends the device.
func sharedRefresh(dir string, cfg client.Config) func(context.Context, client.Tokens) (client.Tokens, error) {
	return func(ctx context.Context, have client.Tokens) (client.Tokens, error) {
		unlock, err := filelock.Lock(ctx, filepath.Join(dir, lockFile))
		if err != nil {
			return client.Tokens{}, err
		}
		defer unlock()
		prof, err := loadProfile(dir)
		if err != nil {
			return client.Tokens{}, err
		}
		if prof.Device != cfg.Device {
			return client.Tokens{}, proto.Errorf(proto.CodeSessionEnded, "the profile %s is of another login by now", dir)
		}
		if prof.Token != have.Token {
			expires, _ := time.Parse(time.RFC3339, prof.ExpiresAt)
			return client.Tokens{Token: prof.Token, RefreshToken: prof.RefreshToken, ExpiresAt: expires}, nil
		}
		next, err := client.RefreshTokens(ctx, &cfg, prof.RefreshToken)
		if err != nil {
			return next, err
		}
		prof.Token, prof.RefreshToken, prof.ExpiresAt = next.Token, next.RefreshToken, next.ExpiresAt.UTC().Format(time.RFC3339)
		return next, prof.save(dir)
	}
}

// saveLocked is save, never in the midst of a refresh, which would undo it.
func (p profile) saveLocked(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	unlock, err := filelock.Lock(ctx, filepath.Join(dir, lockFile))
	if err != nil {
		return err
	}
	defer unlock()
	return p.save(dir)
}
