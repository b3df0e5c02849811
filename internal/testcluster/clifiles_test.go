//go:build unix

package testcluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/internal/devcluster"
)

// terminal is someone who uses the waggle command with a profile of his own.
type terminal struct {
	c    *Cluster
	dir  string
	exe  string
	name string
}

// login logs somebody in with the waggle command.
func (c *Cluster) login(u User) *terminal {
	c.t.Helper()
	p := &terminal{c: c, dir: c.t.TempDir(), exe: Executable(c.t), name: u.Name}
	secret := filepath.Join(c.t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	p.must("login", u.Name, "--password-file", secret, "--server", c.options.Listen, "--ca", filepath.Join(c.options.DataDir, "ca.pem"))
	return p
}

func (p *terminal) command(args ...string) *exec.Cmd {
	return exec.Command(p.exe, append(args, "--profile", p.dir)...)
}

// must runs the waggle command and gives what it prints.
func (p *terminal) must(args ...string) []byte {
	p.c.t.Helper()
	cmd := p.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		p.c.t.Fatalf("%s: waggle %s: %v: %s", p.name, strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

// uploaded is what `waggle upload -o json` ends with.
type uploaded struct {
	File   string `json:"file_id"`
	Size   int    `json:"size"`
	Blake3 string `json:"blake3"`
	Seq    string `json:"seq"`
}

// staged is how many bytes of uploads under way a node has on disk.
func (c *Cluster) staged(node string) int64 {
	files, _ := filepath.Glob(filepath.Join(c.options.DataDir, node, "files", "staging", "*", "content"))
	sum := int64(0)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// TestUploadsSurviveKillsOfEverybody kills edge, resource node and client with
// SIGKILL in the middle of uploads, 5 times, 100 with LONG_TESTS. Every upload
// ends, no file is lost, doubled or another than what was sent, and the friend
// has one message for each.
func TestUploadsSurviveKillsOfEverybody(t *testing.T) {
	// Slow enough to be caught in the middle.
	c := StartConfigured(t, devcluster.Options{Cells: 1}, "files: {user_bytes_per_second: 12000000}\n")
	ann, bob := c.login(c.AddUser("ann", "c1")), c.login(c.AddUser("bob", "c1"))
	rounds := 5
	if long() {
		rounds = 100
	}
	const size = 12 << 20
	sums := map[string]string{}
	folder := t.TempDir()
	for i := range rounds {
		victim := []string{"c1-n1", "client", "e1"}[i%3]
		content, sum := randomContent(size + i)
		path := filepath.Join(folder, fmt.Sprintf("file-%d", i))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"upload", path, "--to", "bob", "-o", "json", "--parts", []string{"1", "3"}[i%2]}
		cmd := ann.command(args...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		base, half := c.staged("c1-n1"), rand.Int64N(size*3/4)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.Until("the upload is under way", func() error {
			if now := c.staged("c1-n1") - base; now <= half {
				return fmt.Errorf("it has %d of %d bytes", now, half)
			}
			return nil
		})
		if victim == "client" {
			_ = cmd.Process.Kill()
			if err := cmd.Wait(); err == nil {
				t.Logf("round %d: the client was faster", i)
			} else {
				out.Reset()
				out.Write(ann.must(args...))
			}
		} else {
			c.Kill(victim)
			if err := cmd.Wait(); err != nil {
				t.Fatalf("round %d: upload with %s killed: %v: %s", i, victim, err, errs.String())
			}
		}
		var done uploaded
		if err := json.Unmarshal(out.Bytes(), &done); err != nil || done.Size != len(content) || done.Blake3 != sum || done.Seq == "" {
			t.Fatalf("round %d: %q (%v)", i, out.String(), err)
		}
		sums[done.File] = sum
		_ = os.Remove(path)
	}
	c.UntilSettled()
	if listed := bytes.Count(ann.must("files", "ls", "-o", "json"), []byte("\n")); listed != rounds || len(sums) != rounds {
		t.Errorf("%d files are listed, %d were sent in %d rounds", listed, len(sums), rounds)
	}
	var carried []string
	for line := range strings.Lines(string(bob.must("history", "ann", "--limit", "1000", "-o", "json"))) {
		var l struct {
			Kind string `json:"kind"`
			uploaded
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Kind != "file" || sums[l.File] != l.Blake3 {
			t.Errorf("the history has %s (%v)", line, err)
		}
		carried = append(carried, l.File)
	}
	if slices.Sort(carried); len(slices.Compact(carried)) != rounds {
		t.Errorf("the messages carry %v", carried)
	}
	for file, sum := range sums {
		dir := t.TempDir()
		var got struct{ Path, Blake3 string }
		if err := json.Unmarshal(bob.must("download", file, "-C", dir, "-o", "json"), &got); err != nil || got.Blake3 != sum {
			t.Fatalf("file %s: %+v, %v", file, got, err)
		}
		if now := sumOf(t, got.Path); now != sum {
			t.Errorf("file %s is %s, not %s", file, now, sum)
		}
		_ = os.RemoveAll(dir)
	}
}
