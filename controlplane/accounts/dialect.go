package accounts

import (
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
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
		duplicate: func(err error) bool { return number(err) == 1062 },
		again:     func(err error) bool { n := number(err); return n == 1213 || n == 1205 },
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

func (d dialect) migrator(db *sql.DB) (*goose.Provider, error) {
	folder, err := fs.Sub(migrations, d.folder)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(d.goose, db, folder, goose.WithDisableGlobalRegistry(true))
}
