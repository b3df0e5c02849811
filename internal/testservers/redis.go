package testservers

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// Redis starts a private Redis server and gives its redis:// address.
func Redis(t testing.TB) (*Server, string) {
	t.Helper()
	path, port := program(t, "redis-server", "redis-server"), freePort(t)
	addr := "127.0.0.1:" + port
	s := run(&Server{t: t, path: path, args: []string{
		"--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir(), "--save", "", "--appendonly", "no",
	}, ready: func() error {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			return err
		}
		answer := make([]byte, 5)
		if _, err := conn.Read(answer); err != nil {
			return err
		}
		if string(answer) != "+PONG" {
			return fmt.Errorf("answers %q", answer)
		}
		return nil
	}})
	return s, "redis://" + addr
}
