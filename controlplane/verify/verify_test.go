package verify

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/internal/embedredis"
	"github.com/waggle-im/waggle/internal/testservers"
	"github.com/waggle-im/waggle/proto"
)

func TestMain(m *testing.M) {
	// A pool that could not connect looks once a second whether its server is
	// back, and notices only then that it was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// wait is far above what anything takes.
const wait = time.Minute

func open(t *testing.T, url string) *Redis {
	t.Helper()
	r, err := Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// The suite runs against the server inside the process and a real one.
func TestConformance(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		s, err := embedredis.Start("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		suite(t, open(t, s.URL()))
	})
	t.Run("redis", func(t *testing.T) {
		s, url := testservers.Redis(t)
		r := open(t, url)
		suite(t, r)
		s.Restart()
		if _, err := r.NewCode(t.Context(), "restart@example.org", nil); err != nil {
			t.Errorf("the next request after a restart: %v", err)
		}
	})
}

func wantCode(t *testing.T, what string, err error, want proto.Code) {
	t.Helper()
	if proto.CodeOf(err) != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

func suite(t *testing.T, r *Redis) {
	full := r.times
	for name, test := range map[string]func(*testing.T, *Redis){
		"a code is used once": usedOnce, "wrong tries": wrongTries, "resend": resend, "expiry": expiry,
		"concurrent claims": concurrentClaims, "limits": limits, "throttle": throttle, "parallel attempts": parallelAttempts,
	} {
		t.Run(name, func(t *testing.T) {
			r.times = full
			test(t, r)
		})
	}
}

func newCode(t *testing.T, r *Redis, email string) string {
	t.Helper()
	code, err := r.NewCode(t.Context(), email, nil)
	if err != nil || len(code) != CodeDigits {
		t.Fatalf("%q, %v", code, err)
	}
	return code
}

func other(code string) string {
	last := byte('0')
	if code[len(code)-1] == last {
		last = '1'
	}
	return code[:len(code)-1] + string(last)
}

func usedOnce(t *testing.T, r *Redis) {
	ctx, one, two := t.Context(), []byte("one"), []byte("two")
	code := newCode(t, r, "once@example.org")
	wantCode(t, "another address", r.Claim(ctx, "other@example.org", code, one), proto.CodeWrongCode)
	wantCode(t, "the first claim", r.Claim(ctx, "once@example.org", code, one), proto.CodeOK)
	wantCode(t, "the same again", r.Claim(ctx, "once@example.org", code, one), proto.CodeOK)
	wantCode(t, "another claimant", r.Claim(ctx, "once@example.org", code, two), proto.CodeWrongCode)
	wantCode(t, "a stranger's release", r.Release(ctx, "once@example.org", two), proto.CodeOK)
	wantCode(t, "after a stranger's release", r.Claim(ctx, "once@example.org", code, two), proto.CodeWrongCode)
	wantCode(t, "release", r.Release(ctx, "once@example.org", one), proto.CodeOK)
	wantCode(t, "after the release", r.Claim(ctx, "once@example.org", code, two), proto.CodeOK)
}

func wrongTries(t *testing.T, r *Redis) {
	code := newCode(t, r, "tries@example.org")
	for range CodeTries - 1 {
		wantCode(t, "a wrong try", r.Claim(t.Context(), "tries@example.org", other(code), []byte("x")), proto.CodeWrongCode)
	}
	wantCode(t, "the right one after four wrong", r.Claim(t.Context(), "tries@example.org", code, []byte("x")), proto.CodeOK)
	wantCode(t, "release", r.Release(t.Context(), "tries@example.org", []byte("x")), proto.CodeOK)
	wantCode(t, "the fifth wrong try", r.Claim(t.Context(), "tries@example.org", other(code), []byte("x")), proto.CodeWrongCode)
	wantCode(t, "the right one after five wrong", r.Claim(t.Context(), "tries@example.org", code, []byte("x")), proto.CodeWrongCode)
}

func resend(t *testing.T, r *Redis) {
	first, err := r.NewCode(t.Context(), "resend@example.org", []byte("n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.NewCode(t.Context(), "resend@example.org", []byte("m"))
	wantCode(t, "at once", err, proto.CodeRateLimited)
	if left := proto.AsError(err).Retry; left <= 0 || left > CodeResend {
		t.Errorf("to wait: %s", left)
	}
	wantCode(t, "the first is still good", r.Claim(t.Context(), "resend@example.org", first, []byte("x")), proto.CodeOK)
	_, err = r.NewCode(t.Context(), "resend@example.org", []byte("m"))
	wantCode(t, "a used code gives no new one either", err, proto.CodeRateLimited)
	second, err := r.NewCode(t.Context(), "resend@example.org", []byte("n"))
	wantCode(t, "the same request again", err, proto.CodeOK)
	wantCode(t, "its code", r.Claim(t.Context(), "resend@example.org", second, []byte("x")), proto.CodeOK)
	wantCode(t, "forget", r.Forget(t.Context(), "resend@example.org"), proto.CodeOK)
	newCode(t, r, "resend@example.org")
	r.times.resend = time.Nanosecond
	newCode(t, r, "resend@example.org")
}

func expiry(t *testing.T, r *Redis) {
	r.times.lifetime = 50 * time.Millisecond
	code := newCode(t, r, "expiry@example.org")
	deadline := time.Now().Add(wait)
	for r.Claim(t.Context(), "expiry@example.org", code, []byte("x")) == nil {
		if time.Now().After(deadline) {
			t.Fatal("the code does not expire")
		}
	}
}

func concurrentClaims(t *testing.T, r *Redis) {
	code := newCode(t, r, "many@example.org")
	var wg sync.WaitGroup
	got := make([]error, 20)
	for i := range got {
		wg.Go(func() { got[i] = r.Claim(t.Context(), "many@example.org", code, []byte{byte(i)}) })
	}
	wg.Wait()
	won := 0
	for _, err := range got {
		if err == nil {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d claimed one code", won)
	}
}

func limits(t *testing.T, r *Redis) {
	l := Limit{"test", 1, 3, 24 * time.Hour}
	for range 3 {
		wantCode(t, "within the burst", r.Allow(t.Context(), l, "a"), proto.CodeOK)
	}
	err := r.Allow(t.Context(), l, "a")
	wantCode(t, "past the burst", err, proto.CodeRateLimited)
	if left := proto.AsError(err).Retry; left < time.Hour || left > 24*time.Hour {
		t.Errorf("to wait: %s", left)
	}
	wantCode(t, "somebody else", r.Allow(t.Context(), l, "b"), proto.CodeOK)
	for range 10 {
		wantCode(t, "who is exempt", r.Allow(t.Context(), l, ""), proto.CodeOK)
	}
}

func throttle(t *testing.T, r *Redis) {
	r.times.attemptDelay, r.times.attemptMax = time.Hour, 3*time.Hour
	for range freeAttempts {
		wantCode(t, "a free attempt", r.Attempt(t.Context(), "ann"), proto.CodeOK)
	}
	err := r.Attempt(t.Context(), "ann")
	wantCode(t, "one too many", err, proto.CodeRateLimited)
	if left := proto.AsError(err).Retry; left <= 0 || left > time.Hour {
		t.Errorf("to wait: %s", left)
	}
	wantCode(t, "another name", r.Attempt(t.Context(), "bob"), proto.CodeOK)
	wantCode(t, "success", r.Succeeded(t.Context(), "ann"), proto.CodeOK)
	wantCode(t, "after success", r.Attempt(t.Context(), "ann"), proto.CodeOK)

	// Waits grow, and end: nobody is locked out.
	r.times.attemptDelay = time.Millisecond
	r.times.attemptMax = 20 * time.Millisecond
	deadline := time.Now().Add(wait)
	for range freeAttempts + 12 {
		for r.Attempt(t.Context(), "cid") != nil {
			if time.Now().After(deadline) {
				t.Fatal("locked out")
			}
		}
	}
}

func parallelAttempts(t *testing.T, r *Redis) {
	r.times.attemptDelay, r.times.attemptMax = time.Hour, time.Hour
	var wg sync.WaitGroup
	got := make([]error, 5*freeAttempts)
	for i := range got {
		wg.Go(func() { got[i] = r.Attempt(t.Context(), "parallel") })
	}
	wg.Wait()
	through := 0
	for _, err := range got {
		if err == nil {
			through++
		}
	}
	if through != freeAttempts {
		t.Errorf("%d of %d parallel attempts got through, want %d", through, len(got), freeAttempts)
	}
}

func TestUnreachableServer(t *testing.T) {
	s, err := embedredis.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, s.URL())
	s.Close()
	_, err = r.NewCode(t.Context(), "ann@example.org", nil)
	for what, err := range map[string]error{
		"code": err, "claim": r.Claim(t.Context(), "a", "b", nil), "limit": r.Allow(t.Context(), CodesInAll(), "x"),
		"attempt": r.Attempt(t.Context(), "ann"), "ping": r.Ping(context.Background()),
	} {
		wantCode(t, what, err, proto.CodeNoCodes)
		if proto.AsError(err).Retry <= 0 {
			t.Errorf("%s: no time to come back", what)
		}
	}
}

func TestAddressesAreRefusedWithoutTheirPassword(t *testing.T) {
	for _, bad := range []string{"", "http://x", "redis://u:secret@h:x", "redis://:secret@%zz"} {
		if _, err := Open(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
