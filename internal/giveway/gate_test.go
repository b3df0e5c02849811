package giveway

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const piece = 64 << 10

// limited is an open gate at the floor, that moves only by refill.
func limited() *Gate {
	g := New()
	g.open(true)
	for range 1000 {
		g.decide(flowing(tooLate), window)
	}
	return g
}

func TestNobodyWaitsWithoutAGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var none *Gate
		none.Message()
		none.Wait(t.Context(), piece)
		stopped := limited()
		stopped.open(false)
		stopped.Wait(t.Context(), piece)
		resting := New()
		resting.open(true)
		resting.Wait(t.Context(), 1000*piece)
		if got, err := io.ReadAll(none.Reader(t.Context(), strings.NewReader("content"))); string(got) != "content" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestSmallPiecesPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // else all goroutines are blocked, which it says
		limited().Wait(t.Context(), smallBytes)
	})
}

// Whoever wants more comes again when he was served: all get the same share,
// and together the rate.
func TestAllGetTheSameShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const transfers, seconds = 10, 4
		g := limited()
		ctx, stop := context.WithCancel(t.Context())
		var served [transfers]int
		var all sync.WaitGroup
		for i := range transfers {
			all.Go(func() {
				for {
					g.Wait(ctx, piece)
					if ctx.Err() != nil {
						return
					}
					served[i]++
				}
			})
		}
		for range seconds * int(time.Second/tick) {
			synctest.Wait()
			g.refill(tick)
		}
		synctest.Wait()
		sum := 0
		for _, n := range served {
			sum += n
			if n < served[0]-1 || n > served[0]+1 {
				t.Errorf("not the same share: %v", served)
			}
		}
		if want := seconds * FloorBytesPerSecond / piece; sum < want-2 || sum > want+2 {
			t.Errorf("%d pieces passed in %d s, not %d", sum, seconds, want)
		}
		stop()
		all.Wait()
	})
}

func TestWhoGoesAwayLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := limited()
		g.credit = -piece
		ctx, leave := context.WithCancel(t.Context())
		var passed atomic.Bool
		var all sync.WaitGroup
		all.Go(func() { g.Wait(ctx, 100*FloorBytesPerSecond) }) // a hundred seconds for him alone
		synctest.Wait()
		all.Go(func() { g.Wait(t.Context(), piece); passed.Store(true) })
		synctest.Wait()
		leave()
		synctest.Wait()
		if passed.Load() {
			t.Error("passed before it was allowed")
		}
		for range 20 { // 64 KiB take 8 ms
			g.refill(tick)
		}
		synctest.Wait()
		if !passed.Load() {
			t.Error("still waits behind one who has gone")
		}
		all.Wait()
	})
}

func TestAllPassWhenTheLimitGoesAndWhenTheGateEnds(t *testing.T) {
	for name, end := range map[string]func(*Gate){
		"no messages": func(g *Gate) {
			for range int(5 * time.Second / window) {
				g.decide(sample{moved: piece}, window)
			}
			g.refill(tick)
		},
		"ended": func(g *Gate) { g.open(false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := limited()
				g.credit = -100 * FloorBytesPerSecond
				var all sync.WaitGroup
				for range 100 {
					all.Go(func() { g.Wait(t.Context(), piece) })
				}
				synctest.Wait()
				if g.queue.Len() != 100 {
					t.Fatalf("%d wait, not 100", g.queue.Len())
				}
				end(g)
				all.Wait()
			})
		})
	}
}

// The real thing: it looks while content moves, sees messages and rests again.
func TestRunMeasuresWhileContentMoves(t *testing.T) {
	g := New()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	deadline := time.Now().Add(time.Minute)
	seen := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.pace.flow > 0 && g.late > 0
	}
	for !seen() {
		if time.Now().After(deadline) {
			t.Fatal("content moves and messages flow, and nothing was measured")
		}
		g.Message()
		g.Wait(ctx, piece)
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
