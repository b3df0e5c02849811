package testservers

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// startTimeout is far above what a server needs on a slow machine.
const startTimeout = 2 * time.Minute

// Server is one running server.
type Server struct {
	t     testing.TB
	path  string
	args  []string
	ready func() error
	log   bytes.Buffer // of the process; read after it ended
	cmd   *exec.Cmd
}

// Stop ends the server; Start starts it again on the same data. It runs at
// the end of the test anyway.
func (s *Server) Stop() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // the data is disposable, the restart recovers it
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Start starts the server and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.cmd = exec.Command(s.path, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.path, err)
	}
	deadline := time.Now().Add(startTimeout)
	for {
		err := s.ready()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.Stop()
			s.t.Fatalf("%s does not answer: %v\n%s", s.path, err, s.log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Restart stops and starts the server.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// run starts s and stops it at the end of the test.
func run(s *Server) *Server {
	s.t.Helper()
	s.t.Cleanup(s.Stop)
	s.Start()
	return s
}

// program finds the first of names; without it the test fails or is skipped.
func program(t testing.TB, debian string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		// Not in everybody's PATH.
		if path := filepath.Join("/usr/sbin", name); exists(path) {
			return path
		}
	}
	const missing = "%s is missing: install the Debian package %s (make test does it where it may)"
	if os.Getenv("CI") == "true" || os.Getenv("TEST_SERVERS") == "1" {
		t.Fatalf(missing, names[0], debian)
	}
	t.Skipf(missing, names[0], debian)
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// freePort is a loopback port nobody uses just now.
func freePort(t testing.TB) string {
	t.Helper()
	_, port, err := net.SplitHostPort(FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}
