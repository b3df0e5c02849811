package verify

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/waggle-im/waggle/proto"
)

// now is the head of each script: the server's clock in milliseconds.
const now = `
redis.replicate_commands()
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
`

// scriptNew: 0, or the milliseconds until another code may be made.
const scriptNew = now + `
local f = redis.call('HMGET', KEYS[1], 'made', 'nonce')
if f[1] and not (ARGV[2] ~= '' and f[2] == ARGV[2]) then
  local wait = tonumber(f[1]) + tonumber(ARGV[3]) - now
  if wait > 0 then return wait end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'hash', ARGV[1], 'nonce', ARGV[2], 'made', now, 'expires', now + tonumber(ARGV[4]), 'tries', 0)
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[3]), tonumber(ARGV[4])))
return 0
`

// scriptClaim: 1 when the code is the claimant's.
const scriptClaim = now + `
local f = redis.call('HMGET', KEYS[1], 'hash', 'expires', 'tries', 'claimed')
if not f[1] or tonumber(f[2]) <= now or tonumber(f[3]) >= tonumber(ARGV[3]) then return 0 end
if f[1] ~= ARGV[1] then
  redis.call('HINCRBY', KEYS[1], 'tries', 1)
  return 0
end
if f[4] and f[4] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'claimed', ARGV[2])
return 1
`

const scriptRelease = `
if redis.call('HGET', KEYS[1], 'claimed') == ARGV[1] then redis.call('HDEL', KEYS[1], 'claimed') end
return 0
`

// NewCode makes a code for a canonical mail address. The same nonce, not
// empty, may ask again at once and gets another code in place of the first.
//
// Errors: [proto.CodeRateLimited] with the wait when the address has got one
// less than [CodeResend] ago; [proto.CodeNoCodes].
func (r *Redis) NewCode(ctx context.Context, email string, nonce []byte) (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		return "", err
	}
	code := fmt.Sprintf("%0*d", CodeDigits, n)
	wait, err := redis.NewScript(scriptNew).Run(ctx, r.client, []string{key("code", email)},
		codeHash(email, code), hex.EncodeToString(nonce), r.times.resend.Milliseconds(), r.times.lifetime.Milliseconds()).Int64()
	if err != nil {
		return "", unavailable(err)
	}
	if wait > 0 {
		return "", tooMany("this address has just been sent a code", time.Duration(wait)*time.Millisecond)
	}
	return code, nil
}

// Claim takes the address's code for the claimant, who may claim it again;
// nobody else can. Release gives it back.
//
// Errors: [proto.CodeWrongCode] when there is no code, it is another, or it
// was used, tried too often or too old, all alike; [proto.CodeNoCodes].
func (r *Redis) Claim(ctx context.Context, email, code string, claimant []byte) error {
	got, err := redis.NewScript(scriptClaim).Run(ctx, r.client, []string{key("code", email)},
		codeHash(email, code), hex.EncodeToString(claimant), CodeTries).Int64()
	if err != nil {
		return unavailable(err)
	}
	if got != 1 {
		return proto.Errorf(proto.CodeWrongCode, "this code is wrong, used or too old: have another one sent")
	}
	return nil
}

// Release makes a claimed code usable again, for as long as it lives.
// [proto.CodeNoCodes].
func (r *Redis) Release(ctx context.Context, email string, claimant []byte) error {
	return unavailable(redis.NewScript(scriptRelease).Run(ctx, r.client, []string{key("code", email)}, hex.EncodeToString(claimant)).Err())
}

// Forget drops the address's code, which nobody got: another may be made at
// once. [proto.CodeNoCodes].
func (r *Redis) Forget(ctx context.Context, email string) error {
	return unavailable(r.client.Del(ctx, key("code", email)).Err())
}

// codeHash is what is stored. It keeps codes from being read in passing, in a
// dump or a monitor; six digits are too few to hide from who tries them all,
// which is why they live so short.
func codeHash(email, code string) string {
	sum := sha256.Sum256([]byte("waggle code|" + email + "|" + code))
	return hex.EncodeToString(sum[:])
}
