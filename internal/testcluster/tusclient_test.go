//go:build unix

package testcluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/waggle-im/waggle/internal/devcluster"
)

// tusClient is what tusclient/upload.js takes.
type tusClient struct {
	Endpoint string         `json:"endpoint"`
	File     string         `json:"file"`
	Name     string         `json:"name"`
	Blake3   string         `json:"blake3"`
	Store    string         `json:"store"`
	CutAt    int            `json:"cutAt"`
	Options  map[string]any `json:"options"`
}

// installTus installs the stock client from its lock file. Where there is no
// npm the test is skipped, except where everything must be (CI=true).
func installTus(t *testing.T) {
	t.Helper()
	_, nodeErr := exec.LookPath("node")
	_, npmErr := exec.LookPath("npm")
	if err := errors.Join(nodeErr, npmErr); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the stock tus client needs node and npm: %v", err)
		}
		t.Skipf("the stock tus client is not tried, for it needs node and npm: %v", err)
	}
	if _, err := os.Stat("tusclient/node_modules/tus-js-client/package.json"); err == nil {
		return
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = "tusclient"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci in internal/testcluster/tusclient: %v: %s", err, out)
	}
}

// run runs the client; died tells that it has killed itself.
func (o tusClient) run(t *testing.T, c *Cluster, token string) (url string, first int, died bool) {
	t.Helper()
	arg, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "tusclient/upload.js", string(arg))
	cmd.Env = append(os.Environ(), "TOKEN="+token, "NODE_EXTRA_CA_CERTS="+filepath.Join(c.options.DataDir, "ca.pem"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && o.CutAt > 0 {
			return "", 0, true
		}
		t.Fatalf("%s: %v: %s", o.Name, err, errs.String())
	}
	var done struct {
		URL   string `json:"url"`
		First int    `json:"first"`
	}
	if err := json.Unmarshal(out.Bytes(), &done); err != nil {
		t.Fatalf("%s: %v: %s", o.Name, err, out.String())
	}
	return done.URL, done.First, false
}

// TestStockTusClient: tus-js-client uploads, is cut in the middle and goes on;
// with the first bytes in its creation, and in parallel parts. curl reads
// ranges of what it brought.
func TestStockTusClient(t *testing.T) {
	installTus(t)
	// Slow enough that the client sees how far it is before it is done.
	c := StartConfigured(t, devcluster.Options{Cells: 1}, "files: {user_bytes_per_second: 12000000}\n")
	ann := c.AddUser("ann", "c1")
	w := c.webs()["HTTP/1.1"]
	for _, one := range []struct {
		name    string
		cutAt   int
		options map[string]any
	}{
		{"whole", 0, nil},
		{"cut", 6 << 20, nil},
		{"cut in chunks", 6 << 20, map[string]any{"chunkSize": 2 << 20}},
		{"with creation", 0, map[string]any{"uploadDataDuringCreation": true, "chunkSize": 2 << 20}},
		{"parallel", 0, map[string]any{"parallelUploads": 3}},
	} {
		path, content, sum := writeFile(t, "file", 10<<20+5)
		o := tusClient{
			Endpoint: "https://" + c.options.Listen + "/uploads", File: path, Name: one.name, Blake3: sum,
			Store: filepath.Join(t.TempDir(), "store.json"), CutAt: one.cutAt, Options: one.options,
		}
		if one.cutAt > 0 {
			if _, _, died := o.run(t, c, ann.Token); !died {
				t.Fatalf("%s: it was not cut", one.name)
			}
			o.CutAt = 0
		}
		url, first, _ := o.run(t, c, ann.Token)
		if one.cutAt > 0 && first <= 0 {
			t.Errorf("%s: it began at %d again", one.name, first)
		}
		got := w.do(200, ann.Token, "GET", "/files/"+fileOf(url), nil)
		if !bytes.Equal(got.body, content) {
			t.Errorf("%s: %d of %d bytes came back, or others", one.name, len(got.body), len(content))
		}
		part, err := exec.Command("curl", "-sS", "--fail", "--cacert", filepath.Join(c.options.DataDir, "ca.pem"), "-r", "1000000-1000099",
			"-H", "Authorization: Bearer "+ann.Token, "https://"+c.options.Listen+"/files/"+fileOf(url)).Output()
		if err != nil || !bytes.Equal(part, content[1000000:1000100]) {
			t.Errorf("%s: curl -r gave %d bytes, or others (%v)", one.name, len(part), err)
		}
	}
}
