package accounts

import (
	"context"
	"database/sql"
	"errors"

	"github.com/waggle-im/waggle/proto"
)

// TOTP is the second factor of an account. The secret is stored as it is:
// whoever checks codes needs it, and encrypting what the disk holds is the
// deployment's. It is never logged.
type TOTP struct {
	Secret  string // base32
	Enabled bool
}

// TOTP reads the second factor of an account. [ErrNotFound].
func (s *Store) TOTP(ctx context.Context, id int64) (*TOTP, error) {
	var t TOTP
	var enabled int
	err := s.db.QueryRowContext(ctx, `SELECT secret, enabled FROM account_totp WHERE account_id = ?`, id).Scan(&t.Secret, &enabled)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	t.Enabled = enabled != 0
	return &t, unavailable(err)
}

// SetupTOTP stores a secret that is not in use yet, in place of the one before.
// [ErrDuplicate] when a second factor is in use.
func (s *Store) SetupTOTP(id int64, secret string) error {
	err := s.writer.write(func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM account_totp WHERE account_id = ? AND enabled = 0`, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO account_totp (account_id, secret, enabled, last_step) VALUES (?, ?, 0, 0)`, id, secret)
		return err
	})
	if s.dialect.duplicate(err) {
		return ErrDuplicate
	}
	return unavailable(err)
}

// EnableTOTP puts the stored secret to use, its code of step used up, with
// hashes of recovery codes. False: that secret is not there or in use already.
func (s *Store) EnableTOTP(id int64, secret string, step int64, recovery [][]byte) (bool, error) {
	done := false
	err := s.writer.write(func(ctx context.Context, tx *sql.Tx) (err error) {
		done, err = changed(tx.ExecContext(ctx,
			`UPDATE account_totp SET enabled = 1, last_step = ? WHERE account_id = ? AND enabled = 0 AND secret = ?`, step, id, secret))
		if err != nil || !done {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM account_recovery WHERE account_id = ?`, id); err != nil {
			return err
		}
		for _, hash := range recovery {
			if _, err := tx.ExecContext(ctx, `INSERT INTO account_recovery (account_id, code_hash) VALUES (?, ?)`, id, hash); err != nil {
				return err
			}
		}
		return nil
	})
	return done && err == nil, unavailable(err)
}

// UseTOTP uses up the code of a step. False: one of that step or a later one
// was used before, by another request than nonce.
func (s *Store) UseTOTP(id, step int64, nonce []byte) (bool, error) {
	return s.change(`UPDATE account_totp SET last_step = ?, last_nonce = ?
		WHERE account_id = ? AND enabled = 1 AND (last_step < ? OR last_step = ? AND last_nonce = ?)`, step, nonce, id, step, step, nonce)
}

// UseRecoveryCode uses up a recovery code. False: there is none with that hash.
func (s *Store) UseRecoveryCode(id int64, hash []byte) (bool, error) {
	return s.change(`DELETE FROM account_recovery WHERE account_id = ? AND code_hash = ?`, id, hash)
}

// DisableTOTP takes the second factor of an account away.
func (s *Store) DisableTOTP(id int64) error {
	err := s.writer.write(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM account_totp WHERE account_id = ?`, id)
		if err == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM account_recovery WHERE account_id = ?`, id)
		}
		return err
	})
	return unavailable(err)
}

// change runs one statement and tells whether it found its row.
func (s *Store) change(query string, args ...any) (found bool, err error) {
	err = s.writer.write(func(ctx context.Context, tx *sql.Tx) (err error) {
		found, err = changed(tx.ExecContext(ctx, query, args...))
		return err
	})
	return found && err == nil, unavailable(err)
}

func changed(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// Reset is a password that was set and whose sessions of before are not known
// to have ended.
type Reset struct {
	Account   int64 // the row's
	User      proto.EntityID
	Nonce     []byte // of the command that ends them
	CreatedMs int64
}

// ResetPassword replaces the password's hash and notes, in the same
// transaction, that the sessions of before are to be ended.
func (s *Store) ResetPassword(id int64, hash string, nonce []byte, nowMs int64) error {
	err := s.writer.write(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `REPLACE INTO account_resets (account_id, nonce, created_ms) VALUES (?, ?, ?)`, id, nonce, nowMs)
		if err == nil {
			_, err = tx.ExecContext(ctx, `UPDATE accounts SET password_hash = ? WHERE id = ?`, nullable(hash), id)
		}
		return err
	})
	return unavailable(err)
}

// ResetDone forgets a reset whose sessions have ended.
func (s *Store) ResetDone(r Reset) error {
	return s.exec(`DELETE FROM account_resets WHERE account_id = ? AND nonce = ?`, r.Account, r.Nonce)
}

// resets selects those of accounts that have a user, which all have that were
// reset.
const resets = `SELECT r.account_id, a.user_id, r.nonce, r.created_ms FROM account_resets r JOIN accounts a ON a.id = r.account_id `

// ResetOf is the reset of an account that has not ended the sessions yet.
// [ErrNotFound].
func (s *Store) ResetOf(ctx context.Context, id int64) (Reset, error) {
	found, err := s.resetRows(ctx, resets+`WHERE r.account_id = ?`, id)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Reset{}, err
	}
	return found[0], nil
}

// Resets lists those made before a time, in Unix milliseconds, of accounts
// above after, at most limit.
func (s *Store) Resets(ctx context.Context, beforeMs, after int64, limit int) ([]Reset, error) {
	return s.resetRows(ctx, resets+`WHERE r.created_ms < ? AND r.account_id > ? ORDER BY r.account_id LIMIT ?`, beforeMs, after, limit)
}

func (s *Store) resetRows(ctx context.Context, query string, args ...any) ([]Reset, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	var found []Reset
	for rows.Next() {
		var r Reset
		var user sql.NullInt64
		if err := rows.Scan(&r.Account, &user, &r.Nonce, &r.CreatedMs); err != nil {
			return nil, unavailable(err)
		}
		r.User = proto.EntityID(user.Int64)
		found = append(found, r)
	}
	return found, unavailable(rows.Err())
}
