package testservers

import (
	"context"
	"database/sql"
	"io"
	"log"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// MariaDB starts a private MariaDB server with an empty database and gives its
// mysql:// address.
func MariaDB(t testing.TB) (*Server, string) {
	t.Helper()
	path := program(t, "mariadb-server", "mariadbd", "mysqld")
	install := program(t, "mariadb-server", "mariadb-install-db", "mysql_install_db")
	// Its own folder with a short name: the path of a socket is short.
	dir, err := os.MkdirTemp("", "waggle-db")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	data, port := filepath.Join(dir, "data"), freePort(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(install, "--no-defaults", "--user="+me.Username, "--datadir="+data,
		"--auth-root-authentication-method=normal", "--skip-test-db").CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", install, err, out)
	}
	addr := "127.0.0.1:" + port
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.Timeout = "root", "tcp", addr, time.Second
	c.Logger = log.New(io.Discard, "", 0)
	s := run(&Server{t: t, path: path, args: []string{
		"--no-defaults", "--user=" + me.Username, "--datadir=" + data, "--bind-address=127.0.0.1", "--port=" + port,
		"--socket=" + filepath.Join(dir, "s"), "--pid-file=" + filepath.Join(dir, "pid"), "--innodb-buffer-pool-size=16M", "--skip-name-resolve",
	}, ready: func() error {
		db, err := sql.Open("mysql", c.FormatDSN())
		if err != nil {
			return err
		}
		defer db.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err = db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS waggle CHARACTER SET utf8mb4")
		return err
	}})
	return s, "mysql://root@" + addr + "/waggle"
}
