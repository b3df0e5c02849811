package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]target{
		"bob":       {name: "bob"},
		"Bob-2.x":   {name: "Bob-2.x"},
		"4242":      {user: 4242},
		"d/17/4242": {thread: proto.DirectThread(17, 4242)},
		"g/90001":   {thread: proto.GroupThread(90001)},
	} {
		if got, err := parseTarget(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", "17x", "d/", "d/17", "d/4242/17", "d/17/17", "g/0", "g/x", "x/17", "18446744073709551616", strings.Repeat("b", 33)} {
		if got, err := parseTarget(in); statusOf(err) != statusUsage {
			t.Errorf("%q is taken as %+v (%v)", in, got, err)
		}
	}
}

func TestProfile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	want := profile{Server: "h:1", User: "17", Name: "ann", Device: "d", Token: "secret", Edges: []string{"h:2"}}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadProfile(dir)
	if want.Format = profileFormat; err != nil || got.Token != want.Token || got.Format != want.Format || !slices.Equal(got.Edges, want.Edges) {
		t.Errorf("%+v, %v", got, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	if runtime.GOOS != "windows" { // which has no such modes
		for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, profileFile): 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
	}
	for _, bad := range []string{"{", `{"format":9,"user":"17"}`, `{"format":1,"user":"ann"}`} {
		if err := os.WriteFile(filepath.Join(dir, profileFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadProfile(dir); err == nil || !strings.Contains(err.Error(), "waggle login NAME") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// loginServer answers as an edge does.
func loginServer(t *testing.T, handler http.HandlerFunc) (addr, ca string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /trylogin_server", handler)
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.Listener.Addr().String(), ca
}

func passwordFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte("two words\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLogin(t *testing.T) {
	asked := make(chan map[string]string, 3)
	addr, ca := loginServer(t, func(w http.ResponseWriter, r *http.Request) {
		in := map[string]string{}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		asked <- in
		fmt.Fprintf(w, `{"error":0,"uuid":"17","username":"ann","token":"tok","expires_at":"2026-01-01T00:00:00Z","refresh_token":"ref",
			"device":"dev1","edges":[{"edge":"e1","tcp":%q},{"edge":"e2","tcp":"127.0.0.1:9"}]}`, r.Host)
	})
	dir := t.TempDir()
	flags := []string{"--profile", dir, "--password-file", passwordFile(t), "-o", "json"}
	login := append([]string{"login", "Ann", "--transport", "tcp", "--server", addr, "--ca", ca}, flags...)
	r := run(t, login...)
	r.expect(t, statusDone)
	if strings.Contains(r.out, "tok") || !strings.Contains(r.out, `"user":"17"`) {
		t.Errorf("printed %s", r.out)
	}
	got := <-asked
	if got["username"] != "Ann" || got["password"] != "two words\n" || got["device"] != "" {
		t.Errorf("asked %v: one final newline goes, a new device has no name", got)
	}
	prof, err := loadProfile(dir)
	if err != nil || prof.Server != addr || prof.Transport != "tcp" || prof.CA != ca || prof.Token != "tok" || prof.RefreshToken != "ref" ||
		prof.Device != "dev1" || prof.Name != "ann" || !slices.Equal(prof.Edges, []string{"127.0.0.1:9"}) {
		t.Errorf("%+v, %v", prof, err)
	}
	// Again, as the same person: server, authority and device stay.
	run(t, append([]string{"login", "ann"}, flags...)...).expect(t, statusDone)
	if got := <-asked; got["device"] != "dev1" {
		t.Errorf("asked %v: the device is the profile's", got)
	}
	// As another: a new device.
	run(t, append([]string{"login", "bob"}, flags...)...).expect(t, statusDone)
	if got := <-asked; got["device"] != "" {
		t.Errorf("asked %v: another person has another device", got)
	}
	r = run(t, "logout", "--profile", dir)
	r.expect(t, statusDone)
	if !strings.Contains(r.out, "logged out here") || !strings.Contains(r.err, "waggle devices end dev1") {
		t.Errorf("logout says %s", r.out)
	}
	if _, err := os.Stat(filepath.Join(dir, profileFile)); err == nil {
		t.Error("logout has left the token")
	}
}

func TestLoginFails(t *testing.T) {
	dir, pw := t.TempDir(), passwordFile(t)
	addr, ca := loginServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"status":401,"code":"wrong_password","error":17,"detail":"wrong name or password"}`)
	})
	run(t, "login", "ann", "--profile", dir, "--server", addr, "--ca", ca, "--password-file", pw).
		expect(t, statusFailed, "ann", "wrong name or password")
	run(t, "login", "ann", "--profile", dir, "--server", addr, "--password-file", pw).expect(t, statusFailed, "--ca", "waggle-data/ca.pem")
	run(t, "login", "ann", "--profile", dir, "--server", addr, "--ca", "/nowhere/ca.pem", "--password-file", pw).expect(t, statusFailed, "/nowhere/ca.pem")
	strange, strangeCA := loginServer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
	run(t, "login", "ann", "--profile", dir, "--server", strange, "--ca", strangeCA, "--password-file", pw).expect(t, statusFailed, "Waggle server")
	empty, emptyCA := loginServer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	run(t, "login", "ann", "--profile", dir, "--server", empty, "--ca", emptyCA, "--password-file", pw).expect(t, statusFailed, "without a user and a token")
	if _, err := loadProfile(dir); err == nil {
		t.Error("a failed login has written a profile")
	}
}

// A server that is still starting is asked again.
func TestLoginWaits(t *testing.T) {
	first := make(chan bool, 1)
	first <- true
	addr, ca := loginServer(t, func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-first:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"status":503,"code":"unavailable","error":14,"detail":"not yet"}`)
		default:
			fmt.Fprint(w, `{"uuid":"17","username":"ann","token":"tok"}`)
		}
	})
	run(t, "login", "ann", "--timeout", "1m", "--profile", t.TempDir(), "--server", addr, "--ca", ca, "--password-file", passwordFile(t)).expect(t, statusDone)
}

func TestReadBack(t *testing.T) {
	const rows = 1000
	asked := 0
	page := func(q *clientpb.ReadHistory) (events []*clientpb.Event, more bool, err error) {
		asked++
		if q.Thread != "g/1" || q.Limit == 0 || q.Limit > proto.PageMax {
			return nil, false, fmt.Errorf("asked %v", q)
		}
		end := uint64(rows)
		if q.Before != 0 {
			end = q.Before - 1
		}
		start := end - min(end, uint64(q.Limit)) + 1
		for seq := start; seq <= end; seq++ {
			events = append(events, &clientpb.Event{Seq: seq})
		}
		return events, start > 1, nil
	}
	for _, c := range []struct {
		before      uint64
		limit       int
		first, last uint64
		asked       int
	}{
		{0, 3, 998, 1000, 1}, {0, 200, 801, 1000, 1}, {0, 201, 800, 1000, 2}, {0, 5000, 1, 1000, 5}, {501, 450, 51, 500, 3}, {4, 10, 1, 3, 1}, {1, 10, 0, 0, 1},
	} {
		asked = 0
		got, err := readBack(page, &clientpb.ReadHistory{Thread: "g/1", Before: c.before}, c.limit)
		if err != nil || asked != c.asked {
			t.Errorf("%+v: %d pages, %v", c, asked, err)
		}
		if c.last == 0 {
			if len(got) != 0 {
				t.Errorf("%+v: got %d rows", c, len(got))
			}
			continue
		}
		if uint64(len(got)) != c.last-c.first+1 {
			t.Fatalf("%+v: got %d rows", c, len(got))
		}
		for i, e := range got {
			if e.Seq != c.first+uint64(i) {
				t.Fatalf("%+v: row %d is %d", c, i, e.Seq)
			}
		}
	}
	if _, err := readBack(func(*clientpb.ReadHistory) ([]*clientpb.Event, bool, error) { return nil, true, io.EOF },
		&clientpb.ReadHistory{}, 5); err == nil {
		t.Error("an error was lost")
	}
}

// The flag comes before the environment, the environment before the profile;
// a plaintext profile keeps its address unless the flag says otherwise.
func TestWhichServer(t *testing.T) {
	for _, c := range []struct{ transport, flag, env, want string }{
		{"", "", "", "profile:1"},
		{"", "", "env:1", "env:1"},
		{"quic", "flag:1", "env:1", "flag:1"},
		{"plain", "", "env:1", "profile:1"},
		{"plain", "flag:1", "env:1", "flag:1"},
	} {
		dir := t.TempDir()
		if err := (profile{Server: "profile:1", Transport: c.transport, User: "17", Edges: []string{"other:1"}}).save(dir); err != nil {
			t.Fatal(err)
		}
		a := &app{environ: []string{"WAGGLE_SERVER=" + c.env, "WAGGLE_PROFILE=" + dir}}
		cmd := &cobra.Command{}
		p := a.personFlags(cmd)
		if c.flag != "" {
			if err := cmd.Flags().Set("server", c.flag); err != nil {
				t.Fatal(err)
			}
		}
		got, err := p.loggedIn()
		if err != nil || got.Server != c.want || (len(got.Edges) > 0) != (c.want == "profile:1") {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
}
