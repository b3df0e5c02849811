package login

import (
	"context"
	"errors"
	"time"

	"github.com/waggle-im/waggle/controlplane/accounts"
	cellpb "github.com/waggle-im/waggle/proto/cell"
)

const (
	// resetSweepInterval is how often resets that broke off are looked for,
	// resetSweepAfter how old they are then: their own request has given up.
	resetSweepInterval = 5 * time.Second
	resetSweepAfter    = 15 * time.Second
	resetSweepPage     = 100
	resetSweepTimeout  = 3 * time.Second
)

// Run finishes password resets that broke off, until ctx ends. It returns nil.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(resetSweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.SweepResets(ctx, time.Now().Add(-resetSweepAfter)); err != nil && ctx.Err() == nil {
				s.Logger.Warn("password resets that broke off are not all finished", "err", err)
			}
		}
	}
}

// SweepResets ends the sessions of accounts whose password was reset before,
// where that broke off. One that cannot be finished does not hold up the
// others; the first error is returned.
func (s *Service) SweepResets(ctx context.Context, before time.Time) error {
	var first error
	for after := int64(0); ; {
		page, err := s.Store.Resets(ctx, before.UnixMilli(), after, resetSweepPage)
		if err != nil {
			return err
		}
		for _, r := range page {
			after = r.Account
			one, cancel := context.WithTimeout(ctx, resetSweepTimeout)
			err := s.finishReset(one, r)
			cancel()
			if first == nil {
				first = err
			}
		}
		if len(page) < resetSweepPage || ctx.Err() != nil {
			return first
		}
	}
}

// finishReset ends the sessions of before a reset. The nonce makes repeating
// it harmless.
func (s *Service) finishReset(ctx context.Context, r accounts.Reset) error {
	_, err := s.Ranges.Do(ctx, r.User.Range(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_RaiseAuthority{
		RaiseAuthority: &cellpb.RaiseAuthority{User: uint64(r.User), Nonce: r.Nonce},
	}})
	if err != nil {
		return err
	}
	return s.Store.ResetDone(r)
}

// finishResetOf finishes what an account's last reset has left to do. A login
// does it first: later it would end the new session too.
func (s *Service) finishResetOf(ctx context.Context, a *accounts.Account) error {
	r, err := s.Store.ResetOf(ctx, a.ID)
	if errors.Is(err, accounts.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.finishReset(ctx, r)
}
