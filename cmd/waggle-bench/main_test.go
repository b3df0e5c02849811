package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A server process of ceiling is this program again: without that it would run
// the tests, which start another one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "ceiling-process" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// ceiling needs no cluster, and leaves nothing in the folder for its stores.
func TestCeiling(t *testing.T) {
	dir, stores := t.TempDir(), t.TempDir()
	for _, c := range []struct {
		dir    string
		status int
		says   string
	}{
		{stores, 0, "closed loop, 4 outstanding in all; 2 pairs, 200 bytes"},
		{filepath.Join(dir, "none"), statusFailed, "folder for the stores"},
	} {
		var out, progress strings.Builder
		args := []string{"ceiling", "--pairs", "2", "--duration", "1s", "--warm-up", "0s", "--dir", c.dir, "--out", filepath.Join(dir, "out")}
		status := run(t.Context(), args, strings.NewReader(""), &out, &progress)
		if said := out.String() + progress.String(); status != c.status || !strings.Contains(said, c.says) {
			t.Errorf("%v: status %d, want %d with %q:\n%s", args, status, c.status, c.says, said)
		}
	}
	if left, err := os.ReadDir(stores); err != nil || len(left) > 0 {
		t.Errorf("%v is left behind, %v", left, err)
	}
}

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	result := filepath.Join(dir, "result.json")
	if err := os.WriteFile(result, []byte(`{"mode":"run","acked":10}`), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "history.jsonl")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"run", "--pairs", "1"}, statusUsage, "--rate"},
		{[]string{"run", "--transport", "ws", "--window", "1"}, statusUsage, "tcp, plain, quic"},
		{[]string{"idle", "--procs", "0"}, statusUsage, "--procs"},
		{[]string{"idle", "too much"}, statusUsage, "too much"},
		{[]string{"verify"}, statusUsage, "folder"},
		{[]string{"verify", filepath.Join(dir, "none")}, statusFailed, "history.jsonl"},
		{[]string{"verify", dir}, statusFailed, "no messages"},
		{[]string{"compare", result}, statusUsage, "two results"},
		{[]string{"compare", result, empty}, statusFailed, "not a result"},
		{[]string{"compare", result, dir}, 0, "acked"},
		{[]string{"compare", result + "," + dir, result}, 0, "medians of"},
		{[]string{"limits", "--p99", "0s"}, statusUsage, "--p99"},
		{[]string{"limits", "--transport", "pigeon"}, statusUsage, "tcp, plain, quic"},
		{[]string{"storm", "--connections", "0"}, statusUsage, "--connections"},
		{[]string{"storm", "--ca", filepath.Join(dir, "ca.pem")}, statusFailed, "--ca"},
		{[]string{"hold"}, statusFailed, "no order"},
		{[]string{"member"}, statusFailed, "no order"},
		{[]string{"run", "--window", "9", "--procs", "200"}, statusUsage, "--procs"},
		{[]string{"limits", "--message-procs", "900"}, statusUsage, "--message-procs"},
		{[]string{"scale", "--cells", "0"}, statusUsage, "--cells"},
		{[]string{"startup", "--repeat", "0"}, statusUsage, "--repeat"},
		{[]string{"startup", "--waggle", filepath.Join(dir, "none"), "--out", filepath.Join(dir, "out")}, statusFailed, "--waggle"},
		{[]string{"ceiling", "--copies", "2"}, statusUsage, "--copies"},
		{[]string{"ceiling", "--window", "1", "--rate", "1"}, statusUsage, "--rate"},
		{[]string{"ceiling", "--pairs", "1", "--window", "3"}, statusUsage, "--window"},
		{[]string{"ceiling", "--help"}, 0, "accounts, order, resumption, routes or marks"},
		{[]string{"--help"}, 0, "the least a durable chat server can do"},
		{[]string{"ceiling-process"}, statusFailed, "no order"},
		{[]string{"run", "--window", "1", "--ca", filepath.Join(dir, "ca.pem")}, statusFailed, "--ca"},
	} {
		var out, progress strings.Builder
		status := run(t.Context(), c.args, strings.NewReader(""), &out, &progress)
		if said := out.String() + progress.String(); status != c.status || !strings.Contains(said, c.says) {
			t.Errorf("%v: status %d, want %d with %q:\n%s", c.args, status, c.status, c.says, said)
		}
	}
}
