package accounts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/waggle-im/waggle/proto"
)

// State says how far an account has come.
type State string

// The states.
const (
	// StatePending: the row exists, the user may or may not.
	StatePending State = "pending"
	// StateActive: the user exists and its id is known.
	StateActive State = "active"
)

// Account is one row.
type Account struct {
	ID           int64 // of the row, not the user's
	Name         string
	Email        string
	PasswordHash string   // PHC; empty: nobody can log in with a password
	Key          [16]byte // random; the range gives one user per key
	Range        proto.RangeID
	User         proto.EntityID // 0 while pending
	State        State
	Created      time.Time
}

// ErrDuplicate: the name or the address is in use by another row.
var ErrDuplicate = errors.New("accounts: the name or the address is in use")

// ErrNotFound: there is no such account.
var ErrNotFound = errors.New("accounts: there is no such account")

// Store is the table of accounts. It is safe for concurrent use, also by
// several processes.
type Store struct {
	db      *sql.DB
	dialect dialect
	writer  *writer
}

// Open opens "sqlite:PATH" or "mysql://USER:PASSWORD@HOST:PORT/NAME" and
// brings the schema up to date. It waits for the database at most until ctx
// ends.
func Open(ctx context.Context, dsn string) (*Store, error) {
	d, err := dialectOf(dsn)
	if err != nil {
		return nil, err
	}
	db, err := d.open()
	if err != nil {
		return nil, err
	}
	if err := d.migrate(ctx, db); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("accounts: the database %s cannot be used (if it is damaged, restore it from a backup): %w", d.name, err)
	}
	return &Store{db: db, dialect: d, writer: newWriter(db, d)}, nil
}

// Close ends the connections.
func (s *Store) Close() error { return s.db.Close() }

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// Insert adds a pending row and sets its ID. When it returns the row is on
// disk. [ErrDuplicate] when the name or the address is in use.
func (s *Store) Insert(a *Account) error {
	var id int64
	err := s.writer.write(func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx,
			`INSERT INTO accounts (name, email, password_hash, account_key, range_id, state, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			a.Name, a.Email, nullable(a.PasswordHash), a.Key[:], int64(a.Range), string(StatePending), a.Created.UnixMilli())
		if err != nil {
			return err
		}
		id, err = res.LastInsertId()
		return err
	})
	if s.dialect.duplicate(err) {
		return ErrDuplicate
	}
	if err != nil {
		return unavailable(err)
	}
	a.ID, a.State = id, StatePending
	return nil
}

// Activate gives a pending row its user. Repeating it changes nothing.
func (s *Store) Activate(id int64, user proto.EntityID) error {
	return s.exec(`UPDATE accounts SET user_id = ?, state = ? WHERE id = ? AND state = ?`,
		int64(user), string(StateActive), id, string(StatePending))
}

// MovePending gives a pending row another range, after its range refused it
// for good.
func (s *Store) MovePending(id int64, from, to proto.RangeID) error {
	return s.exec(`UPDATE accounts SET range_id = ? WHERE id = ? AND state = ? AND range_id = ?`,
		int64(to), id, string(StatePending), int64(from))
}

// SetPassword replaces the password's hash.
func (s *Store) SetPassword(id int64, hash string) error {
	return s.exec(`UPDATE accounts SET password_hash = ? WHERE id = ?`, nullable(hash), id)
}

func (s *Store) exec(query string, args ...any) error {
	err := s.writer.write(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
	return unavailable(err)
}

const columns = `SELECT id, name, email, password_hash, account_key, range_id, user_id, state, created_ms FROM accounts `

// ByName finds an account by its canonical name. [ErrNotFound].
func (s *Store) ByName(ctx context.Context, name string) (*Account, error) {
	return s.one(ctx, columns+`WHERE name = ?`, name)
}

// ByEmail finds an account by its canonical address. [ErrNotFound].
func (s *Store) ByEmail(ctx context.Context, email string) (*Account, error) {
	return s.one(ctx, columns+`WHERE email = ?`, email)
}

// ByUser finds the account of a user. [ErrNotFound].
func (s *Store) ByUser(ctx context.Context, user proto.EntityID) (*Account, error) {
	return s.one(ctx, columns+`WHERE user_id = ?`, int64(user))
}

// Pending lists rows that broke off: pending, made before, with an ID above
// after, at most limit.
func (s *Store) Pending(ctx context.Context, before time.Time, after int64, limit int) ([]*Account, error) {
	rows, err := s.db.QueryContext(ctx, columns+`WHERE state = ? AND id > ? AND created_ms < ? ORDER BY id LIMIT ?`,
		string(StatePending), after, before.UnixMilli(), limit)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	var found []*Account
	for rows.Next() {
		a, err := scan(rows)
		if err != nil {
			return nil, unavailable(err)
		}
		found = append(found, a)
	}
	return found, unavailable(rows.Err())
}

func (s *Store) one(ctx context.Context, query string, arg any) (*Account, error) {
	a, err := scan(s.db.QueryRowContext(ctx, query, arg))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	return a, unavailable(err)
}

func scan(row interface{ Scan(...any) error }) (*Account, error) {
	var a Account
	var hash sql.NullString
	var user sql.NullInt64
	var key []byte
	var rng, created int64
	var state string
	if err := row.Scan(&a.ID, &a.Name, &a.Email, &hash, &key, &rng, &user, &state, &created); err != nil {
		return nil, err
	}
	if len(key) != len(a.Key) {
		return nil, fmt.Errorf("accounts: row %d has a key of %d bytes", a.ID, len(key))
	}
	copy(a.Key[:], key)
	a.PasswordHash, a.Range, a.User = hash.String, proto.RangeID(rng), proto.EntityID(user.Int64)
	a.State, a.Created = State(state), time.UnixMilli(created)
	return &a, nil
}

func nullable(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// unavailable makes an error of the database one that can cross the wire. The
// text of the database's own error stays out of it: it may hold values.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*proto.Error](err); ok {
		return e
	}
	return fmt.Errorf("%w: %w", proto.Errorf(proto.CodeUnavailable, "the accounts cannot be reached just now: try again"), err)
}
