package verify

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// scriptAttempt counts an attempt before its outcome is known, so that many at
// the same moment are not all let through. 0, or the milliseconds to wait.
const scriptAttempt = now + `
local f = redis.call('HMGET', KEYS[1], 'count', 'next')
local count = f[1] and tonumber(f[1]) or 0
local next = f[2] and tonumber(f[2]) or 0
if next > now then return next - now end
count = count + 1
local delay = 0
if count >= tonumber(ARGV[1]) then
  delay = math.min(tonumber(ARGV[2]) * 2 ^ math.min(count - tonumber(ARGV[1]), 30), tonumber(ARGV[3]))
end
redis.call('HSET', KEYS[1], 'count', count, 'next', string.format('%.0f', now + delay))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(tonumber(ARGV[4]), delay)))
return 0
`

// Attempt asks whether who may try a password now, and counts it as a guess
// until Succeeded. The first ten may follow each other at once; then each
// waits twice as long as the one before, at most five minutes. An hour of
// quiet forgets them.
//
// Errors: [proto.CodeRateLimited] with the wait; [proto.CodeNoCodes].
func (r *Redis) Attempt(ctx context.Context, who string) error {
	wait, err := redis.NewScript(scriptAttempt).Run(ctx, r.client, []string{key("attempts", who)},
		freeAttempts, r.times.attemptDelay.Milliseconds(), r.times.attemptMax.Milliseconds(), r.times.forgets.Milliseconds()).Int64()
	if err != nil {
		return unavailable(err)
	}
	if wait > 0 {
		return tooMany("too many wrong passwords", time.Duration(wait)*time.Millisecond)
	}
	return nil
}

// Succeeded forgets the guesses of who. [proto.CodeNoCodes].
func (r *Redis) Succeeded(ctx context.Context, who string) error {
	return unavailable(r.client.Del(ctx, key("attempts", who)).Err())
}
