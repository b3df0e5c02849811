package verify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/waggle-im/waggle/proto"
)

// callTimeout bounds one exchange with the server.
const callTimeout = time.Second

// times are the durations a test shortens.
type times struct {
	lifetime, resend                  time.Duration
	attemptDelay, attemptMax, forgets time.Duration
}

// Redis keeps codes, limits and throttles. It is safe for concurrent use, also
// by several processes.
type Redis struct {
	client  *redis.Client
	limiter *redis_rate.Limiter
	times   times
}

// Open makes a client of redis://[USER:PASSWORD@]HOST:PORT[/DB], or rediss://
// for TLS. It does not wait for the server, which may come and go. Close frees
// it.
func Open(url string) (*Redis, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		// The error would repeat the password.
		return nil, errors.New("verify: the address of Redis cannot be read: it is redis://[USER:PASSWORD@]HOST:PORT, or rediss:// for TLS")
	}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = callTimeout, callTimeout, callTimeout
	// One more try of a command, which finds out that the server restarted;
	// whoever asked may come back, so nothing waits long here.
	o.DialerRetries, o.MaxRetries = 1, 2
	// Older servers do not know these two.
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	silence()
	c := redis.NewClient(o)
	return &Redis{client: c, limiter: redis_rate.NewLimiter(c), times: times{
		lifetime: CodeLifetime, resend: CodeResend,
		attemptDelay: attemptDelay, attemptMax: attemptDelayMax, forgets: attemptsForgotten,
	}}, nil
}

// silence turns off the library's own log, which goes to standard error past
// ours; whoever asks is given the errors. It is one for the whole process.
var silence = sync.OnceFunc(logging.Disable)

// Close ends the connections.
func (r *Redis) Close() error { return r.client.Close() }

// Ping tells whether the server answers.
func (r *Redis) Ping(ctx context.Context) error {
	return unavailable(r.client.Ping(ctx).Err())
}

// Allow counts one more of what l limits for who. An empty who is not
// limited.
//
// Errors: [proto.CodeRateLimited] with the wait; [proto.CodeNoCodes].
func (r *Redis) Allow(ctx context.Context, l Limit, who string) error {
	if who == "" {
		return nil
	}
	res, err := r.limiter.Allow(ctx, key(l.Name, who), redis_rate.Limit{Rate: l.Count, Burst: l.Burst, Period: l.Per})
	if err != nil {
		return unavailable(err)
	}
	if res.Allowed == 0 {
		return tooMany("too many requests", res.RetryAfter)
	}
	return nil
}

// key is the one key of a script. It shows neither address nor name.
func key(kind, who string) string {
	sum := sha256.Sum256([]byte(who))
	return "waggle:" + kind + ":" + hex.EncodeToString(sum[:16])
}

func tooMany(what string, wait time.Duration) error {
	// Rounded up: whoever comes back then is let in.
	seconds := int64((wait + time.Second - 1) / time.Second)
	e := proto.Errorf(proto.CodeRateLimited, "%s: try again in %d s", what, seconds)
	e.Retry = wait
	return e
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", proto.Errorf(proto.CodeNoCodes, "codes and limits cannot be checked just now: try again"), err)
}
