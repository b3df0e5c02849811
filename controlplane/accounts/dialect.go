package accounts

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/waggle-im/waggle/internal/filelock"
)

//go:embed migrations
var migrations embed.FS

// dialect is all that differs between the two databases.
type dialect struct {
	name      string // for errors: a path, or host and database
	goose     goose.Dialect
	folder    string
	driver    string
	source    string
	conns     int // open connections at most
	duplicate func(error) bool
	// lock keeps other control planes from bringing the schema up to date at
	// the same time; both would make the same tables.
	lock func(ctx context.Context, db *sql.DB) (unlock func(), err error)
	// again: the database undid the transaction to get out of a conflict,
	// and wants it repeated.
	again func(error) bool
}

// dialectOf reads "mysql://user:password@host:port/db" or "sqlite:PATH".
func dialectOf(dsn string) (dialect, error) {
	switch {
	case strings.HasPrefix(dsn, "sqlite:"):
		return sqliteDialect(strings.TrimPrefix(dsn, "sqlite:"))
	case strings.HasPrefix(dsn, "mysql://"):
		return mysqlDialect(dsn)
	}
	return dialect{}, errors.New("accounts: the database must be sqlite:PATH or mysql://USER:PASSWORD@HOST:PORT/NAME")
}

func sqliteDialect(path string) (dialect, error) {
	if path == "" {
		return dialect{}, errors.New("accounts: sqlite: needs the path of a file")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return dialect{}, fmt.Errorf("accounts: %w", err)
	}
	slashed := filepath.ToSlash(abs)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // C:/… on Windows
	}
	// synchronous(FULL): an account that was confirmed must survive a power
	// cut; what it costs is shared by all that wait (batch.go).
	source := (&url.URL{Scheme: "file", Path: slashed, RawQuery: url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	}.Encode()}).String()
	return dialect{
		name: path, goose: goose.DialectSQLite3, folder: "migrations/sqlite", driver: "sqlite", source: source, conns: 4,
		lock: func(ctx context.Context, _ *sql.DB) (func(), error) {
			if _, err := os.Stat(filepath.Dir(abs)); err != nil {
				return nil, err // the lock would make the folder of a mistyped path
			}
			return filelock.Lock(ctx, abs+".lock")
		},
		duplicate: func(err error) bool {
			e, ok := errors.AsType[*sqlite.Error](err)
			return ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
		},
		again: func(err error) bool {
			e, ok := errors.AsType[*sqlite.Error](err)
			return ok && e.Code()&0xff == sqlite3.SQLITE_BUSY
		},
	}, nil
}

func mysqlDialect(dsn string) (dialect, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		// The error would repeat the password.
		return dialect{}, errors.New("accounts: the mysql:// address cannot be read")
	}
	c := mysql.NewConfig()
	c.User = u.User.Username()
	c.Passwd, _ = u.User.Password()
	c.Net, c.Addr, c.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	if u.Port() == "" {
		c.Addr = u.Host + ":3306"
	}
	if c.DBName == "" {
		return dialect{}, errors.New("accounts: the mysql:// address names no database")
	}
	c.ClientFoundRows = true // as SQLite counts
	c.TLSConfig = u.Query().Get("tls")
	number := func(err error) uint16 {
		e, ok := errors.AsType[*mysql.MySQLError](err)
		if !ok {
			return 0
		}
		return e.Number
	}
	return dialect{
		name: c.Addr + "/" + c.DBName, goose: goose.DialectMySQL, folder: "migrations/mysql", driver: "mysql", source: c.FormatDSN(), conns: 16,
		lock:      mysqlLock,
		duplicate: func(err error) bool { return number(err) == 1062 },
		again:     func(err error) bool { n := number(err); return n == 1213 || n == 1205 },
	}, nil
}

// mysqlLock takes a named lock, which belongs to its connection: it is freed
// when the connection ends, however that happens.
func mysqlLock(ctx context.Context, db *sql.DB) (func(), error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	const name = "waggle.migrate"
	var got sql.NullInt64
	// It waits in short turns, so that ctx is heeded.
	for !got.Valid || got.Int64 != 1 {
		if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 1)", name).Scan(&got); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	return func() {
		// Freed with the connection at the latest: then it must not go back
		// among those that are used again.
		if _, err := conn.ExecContext(context.WithoutCancel(ctx), "DO RELEASE_LOCK(?)", name); err != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		}
		_ = conn.Close()
	}, nil
}

func (d dialect) open() (*sql.DB, error) {
	db, err := sql.Open(d.driver, d.source)
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	db.SetMaxOpenConns(d.conns)
	db.SetMaxIdleConns(d.conns)
	return db, nil
}

// migrate brings the schema up to date, one control plane at a time.
func (d dialect) migrate(ctx context.Context, db *sql.DB) error {
	unlock, err := d.lock(ctx, db)
	if err != nil {
		return err
	}
	defer unlock()
	migrator, err := d.migrator(db)
	if err != nil {
		return err
	}
	_, err = migrator.Up(ctx)
	return err
}

func (d dialect) migrator(db *sql.DB) (*goose.Provider, error) {
	folder, err := fs.Sub(migrations, d.folder)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(d.goose, db, folder, goose.WithDisableGlobalRegistry(true))
}
