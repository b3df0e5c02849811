package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/waggle-im/waggle/internal/token"
)

// progressEvery is how often progress is told: what an eye takes for smooth.
const progressEvery = 100 * time.Millisecond

// meter adds up the progress of the parts of a transfer and tells it.
type meter struct {
	report func(Progress) // nil: nobody asks

	mu    sync.Mutex // guards the fields below, and the calls of report
	parts []int64    // bytes done of each
	total int64
	told  time.Time
}

func newMeter(total int64, parts int, report func(Progress)) *meter {
	return &meter{report: report, parts: make([]int64, parts), total: total}
}

// at sets how far a part is.
func (m *meter) at(part int, done int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts[part] = done
	m.tellMoving()
}

func (m *meter) add(part int, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts[part] += n
	m.tellMoving()
}

// tellMoving needs mu.
func (m *meter) tellMoving() {
	done := int64(0)
	for _, n := range m.parts {
		done += n
	}
	m.show(Progress{StageMoving, min(done, m.total), m.total})
}

// tell tells of a stage that is not moving.
func (m *meter) tell(stage Stage, done int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.show(Progress{stage, done, m.total})
}

// show needs mu.
func (m *meter) show(p Progress) {
	if m.report == nil || p.Done < p.Total && time.Since(m.told) < progressEvery {
		return
	}
	m.told = time.Now()
	m.report(p)
}

// errStalled ends an attempt in which nothing moves.
var errStalled = errors.New("client: nothing has moved for a minute")

// watched ends an attempt in which nothing moves any more.
type watched struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer

	mu   sync.Mutex // guards last
	last time.Time
}

func watch(ctx context.Context) (context.Context, *watched) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watched{cancel: cancel, last: time.Now()}
	w.timer = time.AfterFunc(filesStall, func() { cancel(errStalled) })
	return ctx, w
}

// moved puts the end off, at most once a second: timers are not free.
func (w *watched) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.last) > time.Second {
		w.last = now
		w.timer.Reset(filesStall)
	}
}

// pause gives the server the time it needs for what has come: it reads a large
// file once more before it answers.
func (w *watched) pause() { w.timer.Reset(uploadJoinTimeout) }

func (w *watched) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// countedReader tells what is read.
type countedReader struct {
	r     io.Reader
	moved func(int64)
	ended func() // at the end
}

// Read implements [io.Reader].
func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.moved(int64(n))
	}
	if errors.Is(err, io.EOF) && c.ended != nil {
		c.ended()
	}
	return n, err
}

// tokenUser is whom the token names: what is kept of an upload is his.
func (c *Client) tokenUser() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return token.UserOf(c.tokens.Token)
}
