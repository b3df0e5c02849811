package gateway

import (
	"net/http/httptest"
	"testing"
)

// Only a trusted proxy's word counts, and of it only what no client can have
// written.
func TestForwardedAddresses(t *testing.T) {
	proxies, err := ParseProxies([]string{"10.0.0.0/8", "192.0.2.1", "fd00::/8", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		peer string
		hops []string
		want string
	}{
		{"203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9"}, // a stranger who pretends
		{"10.1.2.3:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"192.0.2.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[::ffff:10.1.2.3]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[fd00::1]:1", []string{"2001:db8:1:2:3::4"}, "2001:db8:1:2::/64"},
		{"10.1.2.3:1", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},           // the client wrote the first
		{"10.1.2.3:1", []string{"1.1.1.1, 198.51.100.1, 10.9.9.9"}, "198.51.100.1"}, // through two proxies
		{"10.1.2.3:1", []string{"1.1.1.1", "198.51.100.1", "10.9.9.9"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"[2001:db8::1]:4711"}, "2001:db8::/64"},
		{"10.1.2.3:1", []string{"198.51.100.1, nonsense"}, "10.1.2.3"},
		{"10.1.2.3:1", []string{"198.51.100.1, nonsense, 10.7.7.7"}, "10.7.7.7"},
		{"10.1.2.3:1", nil, "10.1.2.3"},
		{"10.1.2.3:1", []string{"10.4.4.4"}, "10.4.4.4"},
		{"127.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"}, // exempt is only who comes from here
		{"127.0.0.1:1", nil, ""},
		{"10.1.2.3:1", []string{"127.0.0.1"}, "127.0.0.1"}, // what a header says is never exempt
	} {
		r := httptest.NewRequest("POST", "/refresh", nil)
		r.RemoteAddr = c.peer
		for _, h := range c.hops {
			r.Header.Add("X-Forwarded-For", h)
		}
		g := &gateway{exemptLoopback: true, proxies: proxies}
		if got := g.clientAddress(r); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.peer, c.hops, got, c.want)
		}
	}
	for _, bad := range []string{"", "10.0.0.0/33", "proxy.example.org", "10.0.0"} {
		if _, err := ParseProxies([]string{bad}); err == nil {
			t.Errorf("%q was taken for a network", bad)
		}
	}
}

func TestBearer(t *testing.T) {
	for header, want := range map[string]string{"Bearer abc": "abc", "bearer  abc ": "abc", "Basic abc": "", "": "", "Bearer": ""} {
		r := httptest.NewRequest("POST", "/totp/setup", nil)
		r.Header.Set("Authorization", header)
		if got := bearer(r); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}
