package files

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/waggle-im/waggle/internal/giveway"
	"github.com/waggle-im/waggle/proto"
)

// burstTime is how much of a limit may come at once: a copy's buffer at the
// lowest sensible limits, and not seconds of a full line.
const burstTime = 250 * time.Millisecond

// burstBytesMin is the least burst: one block.
const burstBytesMin = 64 << 10

// limits bounds the transfers at once and their bytes per second, of each user
// and of the node.
type limits struct {
	cfg  Config
	gate *giveway.Gate
	node *rate.Limiter // nil: no limit

	mu    sync.Mutex                    // guards the fields below
	users map[proto.EntityID]*userLimit // those with transfers
	count int
}

type userLimit struct {
	rate      *rate.Limiter // nil: no limit
	transfers int
}

func newLimits(cfg Config, gate *giveway.Gate) *limits {
	return &limits{cfg: cfg, gate: gate, node: newRate(cfg.NodeBytesPerSecond), users: map[proto.EntityID]*userLimit{}}
}

func newRate(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	burst := max(burstBytesMin, int(float64(bytesPerSecond)*burstTime.Seconds()))
	return rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
}

// transfer is one running upload or download.
type transfer struct {
	ctx   context.Context
	gate  *giveway.Gate
	rates []*rate.Limiter
}

// begin admits a transfer; end must be called.
//
// Errors: [proto.CodeOverloaded] when the node has too many,
// [proto.CodeRateLimited] when the user has.
func (l *limits) begin(ctx context.Context, user proto.EntityID) (t *transfer, end func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count >= l.cfg.NodeTransfers {
		return nil, nil, proto.Errorf(proto.CodeOverloaded, "too many files are on their way: try again")
	}
	u := l.users[user]
	if u == nil {
		u = &userLimit{rate: newRate(l.cfg.UserBytesPerSecond)}
		l.users[user] = u
	}
	if u.transfers >= l.cfg.UserTransfers {
		return nil, nil, proto.Errorf(proto.CodeRateLimited, "you have %d files on their way: wait for one to end", u.transfers)
	}
	u.transfers++
	l.count++
	t = &transfer{ctx: ctx, gate: l.gate}
	for _, r := range []*rate.Limiter{u.rate, l.node} {
		if r != nil {
			t.rates = append(t.rates, r)
		}
	}
	return t, sync.OnceFunc(func() { l.end(user) }), nil
}

func (l *limits) end(user proto.EntityID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count--
	u := l.users[user]
	if u.transfers--; u.transfers == 0 {
		delete(l.users, user)
	}
}

// wait holds a transfer back until n more bytes may move.
func (t *transfer) wait(n int) error {
	for _, r := range t.rates {
		for left := n; left > 0; {
			part := min(left, r.Burst())
			if err := r.WaitN(t.ctx, part); err != nil {
				return err
			}
			left -= part
		}
	}
	return nil
}

// reader holds reading back.
type limitedReader struct {
	r io.Reader
	t *transfer
}

// Read implements [io.Reader].
func (l limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		if waitErr := l.t.wait(n); waitErr != nil {
			return n, waitErr
		}
	}
	return n, err
}

// limitedWriter holds writing back.
type limitedWriter struct {
	http.ResponseWriter
	t *transfer
}

// Write implements [http.ResponseWriter].
func (l limitedWriter) Write(p []byte) (int, error) {
	if err := l.t.wait(len(p)); err != nil {
		return 0, err
	}
	l.t.gate.Wait(l.t.ctx, len(p))
	return l.ResponseWriter.Write(p)
}

// Unwrap lets [http.ResponseController] find the connection.
func (l limitedWriter) Unwrap() http.ResponseWriter { return l.ResponseWriter }
