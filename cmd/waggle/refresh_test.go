package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
)

// Processes that share a profile refresh once between them: the server would
// take a second use of the same refresh token for a theft.
func TestProcessesShareARefresh(t *testing.T) {
	var mu sync.Mutex // guards used
	used := map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in map[string]string
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.URL.Path != "/refresh" {
			t.Error(r.URL, err)
		}
		mu.Lock()
		defer mu.Unlock()
		used[in["refresh_token"]]++
		if len(used) > 2 {
			http.Error(w, `{"error":17,"detail":"over"}`, http.StatusUnauthorized)
			return
		}
		n := len(used)
		fmt.Fprintf(w, `{"error":0,"token":"t%d","refresh_token":"r%d","expires_at":"2030-01-01T00:00:00Z"}`, n, n)
	}))
	defer s.Close()
	dir := t.TempDir()
	prof := profile{Server: strings.TrimPrefix(s.URL, "http://"), User: "17", Device: "d", Token: "t0", RefreshToken: "r0"}
	if err := prof.saveLocked(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	cfg := client.Config{Server: prof.Server, Transport: client.Plain, Device: "d"}
	for round := range 2 {
		have := client.Tokens{Token: fmt.Sprint("t", round), RefreshToken: fmt.Sprint("r", round)}
		var wg sync.WaitGroup
		for range 8 { // each as a process of its own would
			wg.Go(func() {
				next, err := sharedRefresh(dir, cfg)(t.Context(), have)
				if want := fmt.Sprint("t", round+1); err != nil || next.Token != want || next.ExpiresAt.Year() != 2030 {
					t.Errorf("%+v, %v, want %s", next, err, want)
				}
			})
		}
		wg.Wait()
		if n := used[have.RefreshToken]; n != 1 {
			t.Errorf("%s was used %d times", have.RefreshToken, n)
		}
		if got, err := loadProfile(dir); err != nil || got.RefreshToken != fmt.Sprint("r", round+1) {
			t.Errorf("the profile has %+v, %v", got, err)
		}
	}
	_, err := sharedRefresh(dir, cfg)(t.Context(), client.Tokens{Token: "t2"})
	if proto.CodeOf(err) != proto.CodeSessionEnded {
		t.Errorf("a refusal is %v", err)
	}
	other := cfg
	other.Device = "another"
	if _, err := sharedRefresh(dir, other)(t.Context(), client.Tokens{Token: "t1"}); proto.CodeOf(err) != proto.CodeSessionEnded {
		t.Errorf("another login's tokens: %v", err)
	}
}
