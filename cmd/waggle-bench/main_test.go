package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
		{[]string{"run", "--window", "1", "--ca", filepath.Join(dir, "ca.pem")}, statusFailed, "--ca"},
	} {
		var out, progress strings.Builder
		status := run(t.Context(), c.args, strings.NewReader(""), &out, &progress)
		if said := out.String() + progress.String(); status != c.status || !strings.Contains(said, c.says) {
			t.Errorf("%v: status %d, want %d with %q:\n%s", c.args, status, c.status, c.says, said)
		}
	}
}
