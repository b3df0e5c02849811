package edge

import (
	"runtime"
	"testing"
)

// BenchmarkIdleSession reports heap and stacks per logged-in idle session. It
// is an upper bound: the client's net.Conn and the fake host's record of the
// session live in the same process. Run with -benchtime=2000x.
func BenchmarkIdleSession(b *testing.B) {
	for _, transport := range []string{"plain", "tcp"} {
		b.Run(transport, func(b *testing.B) {
			cfg := Config{}
			cfg.Listen.ExemptLoopback = true
			s := newSetup(b, cfg)
			before := memory()
			for range b.N {
				s.login(b, transport, 0)
			}
			b.ReportMetric(float64(memory()-before)/float64(b.N), "bytes/session")
			b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		})
	}
}

func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
