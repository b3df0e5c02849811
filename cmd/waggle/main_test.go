package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is what a run of the program left behind.
type result struct {
	status   int
	out, err string
}

// runWith runs the program with an input and an environment of its own.
func runWith(t *testing.T, in io.Reader, environ []string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{
		in: in, out: &out, err: &errOut, environ: environ,
		exit:   func(status int) { t.Errorf("exit(%d) was called", status) },
		hidden: func() ([]byte, error) { t.Error("a password was asked for"); return nil, io.EOF },
	}
	status := a.run(t.Context(), args)
	return result{status, out.String(), errOut.String()}
}

func run(t *testing.T, args ...string) result {
	t.Helper()
	return runWith(t, strings.NewReader(""), []string{"WAGGLE_PROFILE=" + t.TempDir()}, args...)
}

// expect checks the status, and that standard error is one line that says all
// of want.
func (r result) expect(t *testing.T, status int, want ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d: %s", r.status, status, r.err)
	}
	if status != 0 && (!strings.HasPrefix(r.err, "waggle: ") || strings.Count(r.err, "\n") != 1) {
		t.Errorf("standard error is not one line by waggle: %q", r.err)
	}
	for _, w := range want {
		if !strings.Contains(r.err, w) {
			t.Errorf("%q does not say %q", r.err, w)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{"sned bob hello", []string{`no verb "sned"`, "did you mean send"}},
		{"cells", []string{"add, drain, ls, remove, show"}},
		{"cells lst", []string{"did you mean ls"}},
		{"cells show", []string{"missing", "cells show C"}},
		{"cells ls c1", []string{`"c1" is too much`}},
		{"nodes ls --timeuot 3s", []string{"--timeuot", "waggle nodes ls --help"}},
		{"nodes ls -o yaml", []string{"yaml", "table, wide, json"}},
		{"nodes ls --timeout -1s", []string{"--timeout"}},
		{"dev --cells 0", []string{"--cells 0"}},
		{"dev --cells 99", []string{"--cells 99"}},
		{"dev --replicas 2", []string{"--replicas 2"}},
		{"dev --listen 7443", []string{"--listen 7443", "HOST:PORT"}},
		{"dev --restart-after 1s", []string{"--procs"}},
		{"dev now", []string{`"now" is too much`}},
		{"start queen --config x", []string{"queen", "controlplane, cell, edge"}},
		{"start cell", []string{"--config", "print-default cell"}},
		{"config print-default queen", []string{"queen"}},
		{"config explain edge.lisen", []string{"nearest is edge.listen"}},
		{"certs node --role cell --node n1", []string{"cell"}},
		{"accounts add", []string{"NAME", "--stdin"}},
		{"accounts add ann", []string{"--email"}},
		{"accounts add ann --email a --with-token", []string{"--stdin"}},
		{"accounts add ann --stdin", []string{"--stdin"}},
		{"login", []string{"missing", "login NAME"}},
		{"login ann --transport carrier-pigeon", []string{"carrier-pigeon", "quic, tcp, plain"}},
		{"login ann --transport plain", []string{"--server"}},
		{"login ann --server nowhere", []string{"--server nowhere"}},
		{"login ann", []string{"--password-file"}},
		{"send bob", []string{"TEXT", "--stdin"}},
		{"send bob hello there", []string{"there", "quotes"}},
		{"send bob hello --stdin", []string{"not both"}},
		{"send d/9/3 hello", []string{"d/9/3"}},
		{"send 0 hello", []string{"not an id"}},
		{"history bob --limit 0", []string{"--limit 0"}},
		{"history", []string{"history T"}},
		{"read bob newest", []string{"SEQ newest"}},
		{"find g/4", []string{"g/4"}},
	} {
		t.Run(c.args, func(t *testing.T) { run(t, strings.Fields(c.args)...).expect(t, statusUsage, c.want...) })
	}
	long := strings.Repeat("x", 16<<10+1)
	run(t, "send", "bob", long).expect(t, statusUsage, "16385 bytes", "16384")
	run(t, "send", "bob", "").expect(t, statusUsage, "empty")
	run(t, "send", "bob", "\xff").expect(t, statusUsage, "UTF-8")
}

func TestNotLoggedIn(t *testing.T) {
	for _, args := range []string{"send bob hello", "tail", "threads ls", "history bob", "read bob", "find bob"} {
		run(t, strings.Fields(args)...).expect(t, statusFailed, "nobody is logged in", "waggle login NAME")
	}
	run(t, "logout").expect(t, statusRefused, "nobody is logged in")
}

func TestHelp(t *testing.T) {
	r := run(t, "help")
	if r.status != 0 {
		t.Fatal(r.err)
	}
	for _, want := range []string{"Servers:", "For those who run them:", "For those who chat:", "waggle send bob 'hello'", "4 timed out"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("help does not say %q:\n%s", want, r.out)
		}
	}
	for _, hidden := range []string{"parent-pipe", "edge.exempt_loopback"} {
		if strings.Contains(run(t, "start", "--help").out, hidden) {
			t.Errorf("help of start shows %s", hidden)
		}
	}
	if r := run(t); r.status != 0 || !strings.Contains(r.out, "Servers:") {
		t.Errorf("without a verb: %+v", r)
	}
}

func TestVersion(t *testing.T) {
	r := run(t, "version", "-o", "json")
	for _, key := range []string{"commit", "go", "os", "arch", "protocol", "state_format", "rules"} {
		if !strings.Contains(r.out, `"`+key+`":`) {
			t.Errorf("no %s in %s", key, r.out)
		}
	}
}

func TestConfigVerbs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "n.yaml")
	r := run(t, "config", "print-default", "cell")
	if err := os.WriteFile(file, []byte(r.out), 0o600); err != nil {
		t.Fatal(err)
	}
	if r = run(t, "config", "check", file); r.status != 0 || !strings.HasPrefix(r.out, "ok: cell c1-n1 of cell c1 ") {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(file, []byte("role: cell\nnod: c1-n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "config", "check", file).expect(t, statusFailed, file, "no key nod", "nearest is node")
	run(t, "start", "cell", "--config", file).expect(t, statusFailed, file, "no key nod")
	run(t, "dev", "--config", file).expect(t, statusFailed, file, "no key nod")
}

func TestCerts(t *testing.T) {
	dir := t.TempDir()
	ca, out := filepath.Join(dir, "ca"), filepath.Join(dir, "out")
	run(t, "certs", "web", "--ca", ca).expect(t, statusFailed, "waggle certs ca --dir "+ca)
	run(t, "certs", "ca", "--dir", ca).expect(t, statusDone)
	run(t, "certs", "ca", "--dir", ca).expect(t, statusRefused, ca)
	run(t, "certs", "node", "--ca", ca, "--out", out, "--role", "cell", "--cell", "c1", "--node", "c1-n1").expect(t, statusDone)
	run(t, "certs", "web", "--ca", ca, "--out", out, "--host", "chat.example.org").expect(t, statusDone)
	for _, f := range []string{"c1-n1.pem", "c1-n1-key.pem", "web.pem", "web-key.pem"} {
		if _, err := os.Stat(filepath.Join(out, f)); err != nil {
			t.Error(err)
		}
	}
}

// A node whose supervisor is gone drains, and then ends at once.
func TestParentPipe(t *testing.T) {
	in, supervisor := io.Pipe()
	exited := make(chan int, 1)
	a := &app{in: in, exit: func(status int) { exited <- status }}
	ctx := a.withSupervisor(context.Background())
	if ctx.Err() != nil {
		t.Fatal("ended while the supervisor lives")
	}
	_ = supervisor.Close()
	<-ctx.Done()
	if status := <-exited; status != statusFailed {
		t.Errorf("status %d", status)
	}
}
