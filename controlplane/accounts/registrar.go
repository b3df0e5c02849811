package accounts

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waggle-im/waggle/proto"
)

const (
	// rangesTried bounds how many full ranges one registration goes through.
	rangesTried = 8
	// createTimeout bounds the wait for a range to create a user.
	createTimeout = 10 * time.Second
	// sweepAfter is how old a pending row is when the sweeper takes it up:
	// its own registration has given up by then.
	sweepAfter = 15 * time.Second
	// sweepInterval is how often the sweeper looks.
	sweepInterval = 5 * time.Second
	sweepPage     = 100
	// sweepsAtOnce and sweepTimeout keep rows of a dead cell from holding up
	// the others.
	sweepsAtOnce = 16
	sweepTimeout = 3 * time.Second
)

// Placer chooses the range of a new user.
type Placer interface {
	// Place chooses a range of that cell, or of the best one when cell is
	// empty. full is a range to be left out from now on; 0: none.
	Place(cell proto.CellID, full proto.RangeID) (proto.RangeID, error)
	// CellOf is the cell that owns a range.
	CellOf(r proto.RangeID) (proto.CellID, bool)
}

// UserCreator applies CreateUser in a range: the same key gets the same id.
type UserCreator interface {
	CreateUser(ctx context.Context, r proto.RangeID, key [16]byte, name string) (proto.EntityID, error)
}

// Registrar makes accounts. It is safe for concurrent use, also by several
// processes.
type Registrar struct {
	store   *Store
	hasher  *Hasher
	placer  Placer
	creator UserCreator
	log     *slog.Logger
}

// NewRegistrar makes a registrar over a store that the caller closes.
func NewRegistrar(store *Store, hasher *Hasher, placer Placer, creator UserCreator, log *slog.Logger) *Registrar {
	return &Registrar{store: store, hasher: hasher, placer: placer, creator: creator, log: log}
}

// Registration is what a new account is made of.
type Registration struct {
	Name     string
	Email    string
	Password string       // empty: nobody can log in with one
	Cell     proto.CellID // empty: the one with most headroom
	// Key makes registering again with the same one give the same account,
	// finished or not. Zero: a random one.
	Key [16]byte
}

// Register makes an account and its user. Registering again what broke off,
// with the same name and address, finishes it.
//
// Errors: [proto.CodeBadRequest], [proto.CodeNameTaken],
// [proto.CodeUnknownCell] (give up); others: the outcome is unknown, repeat.
func (r *Registrar) Register(ctx context.Context, reg Registration) (*Account, error) {
	name, err := CanonicalName(reg.Name)
	if err != nil {
		return nil, err
	}
	email, err := CanonicalEmail(reg.Email)
	if err != nil {
		return nil, err
	}
	a := &Account{Name: name, Email: email, Created: time.Now()}
	if reg.Password != "" {
		if err := CheckPassword(reg.Password, name, email); err != nil {
			return nil, err
		}
		if a.PasswordHash, err = r.hasher.Hash(ctx, reg.Password); err != nil {
			return nil, err
		}
	}
	if a.Range, err = r.placer.Place(reg.Cell, 0); err != nil {
		return nil, err
	}
	if a.Key = reg.Key; a.Key == ([16]byte{}) {
		_, _ = rand.Read(a.Key[:]) // never fails
	}
	err = r.store.Insert(a)
	if errors.Is(err, ErrDuplicate) {
		a, err = r.resume(ctx, a)
	}
	if err != nil {
		return nil, err
	}
	return a, r.Finish(ctx, a)
}

// resume finds the row that is in the way: the caller's own, which broke off,
// or somebody else's.
func (r *Registrar) resume(ctx context.Context, wanted *Account) (*Account, error) {
	old, err := r.store.ByName(ctx, wanted.Name)
	if errors.Is(err, ErrNotFound) {
		return nil, proto.Errorf(proto.CodeNameTaken, "the mail address %s is in use by another account", wanted.Email)
	}
	if err != nil {
		return nil, err
	}
	if old.Key == wanted.Key {
		return old, nil // the same request, asked again
	}
	if old.State != StatePending || old.Email != wanted.Email {
		return nil, proto.Errorf(proto.CodeNameTaken, "the name %s is taken: choose another", wanted.Name)
	}
	if wanted.PasswordHash != "" {
		if err := r.store.SetPassword(old.ID, wanted.PasswordHash); err != nil {
			return nil, err
		}
		old.PasswordHash = wanted.PasswordHash
	}
	return old, nil
}

// Finish takes a pending account through the steps that are left. An active
// one is left alone. It may be repeated, and run twice at the same time.
func (r *Registrar) Finish(ctx context.Context, a *Account) error {
	if a.State == StateActive {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	for range rangesTried {
		user, err := r.creator.CreateUser(ctx, a.Range, a.Key, a.Name)
		if err == nil {
			if !a.Range.Contains(user) {
				return proto.Errorf(proto.CodeCorrupt, "range %s answered with user %s, which is not its own", a.Range, user)
			}
			if err := r.store.Activate(a.ID, user); err != nil {
				return err
			}
			a.User, a.State = user, StateActive
			return nil
		}
		if proto.CodeOf(err) != proto.CodeRangeFull {
			return err
		}
		// Refused for good: a range gives a known key its id even when full.
		cell, _ := r.placer.CellOf(a.Range)
		next, err := r.placer.Place(cell, a.Range)
		if err != nil {
			return err
		}
		if err := r.store.MovePending(a.ID, a.Range, next); err != nil {
			return err
		}
		// Somebody else may finish the same row: only what is stored counts.
		stored, err := r.store.ByName(ctx, a.Name)
		if err != nil {
			return err
		}
		*a = *stored
		if a.State == StateActive {
			return nil
		}
	}
	return proto.Errorf(proto.CodeNotReady, "the open ranges are full: new ones are being opened, try again")
}

// Run finishes registrations that broke off until ctx ends.
func (r *Registrar) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if n, err := r.Sweep(ctx, time.Now().Add(-sweepAfter)); err != nil && ctx.Err() == nil {
				r.log.Warn("registrations that broke off are not all finished", "finished", n, "err", err)
			}
		}
	}
}

// Sweep finishes pending accounts made before, and says how many it did. One
// that cannot be finished does not keep the others waiting.
func (r *Registrar) Sweep(ctx context.Context, before time.Time) (finished int, first error) {
	for after := int64(0); ; {
		page, err := r.store.Pending(ctx, before, after, sweepPage)
		if err != nil {
			return finished, err
		}
		errs := make([]error, len(page))
		var g errgroup.Group
		g.SetLimit(sweepsAtOnce)
		for i, a := range page {
			after = a.ID
			g.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
				defer cancel()
				errs[i] = r.Finish(ctx, a)
				return nil
			})
		}
		_ = g.Wait()
		for _, err := range errs {
			if err == nil {
				finished++
			} else if first == nil {
				first = err
			}
		}
		if len(page) < sweepPage || ctx.Err() != nil {
			return finished, first
		}
	}
}
