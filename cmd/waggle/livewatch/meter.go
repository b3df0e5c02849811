package livewatch

import (
	"sync"
	"time"
)

// Measured is how a livestream has arrived during a second or so.
type Measured struct {
	Bytes   uint64        // of media, since the beginning
	Rate    float64       // bits per second, since the last one
	Packets uint64        // packets, messages or segments, since the beginning
	Lost    uint64        // packets, since the beginning; segments of HLS
	Delay   time.Duration // of the newest media since it came from the publisher, by the two machines' clocks
	Known   bool          // Delay is: RTMP does not tell
}

// Meter measures. The zero value is ready.
type Meter struct {
	mu    sync.Mutex // guards the fields below
	now   Measured
	at    time.Time // of the last Measured
	bytes uint64    // then
}

func (m *Meter) add(bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Bytes += uint64(bytes)
	m.now.Packets++
}

func (m *Meter) lose(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Lost += n
}

func (m *Meter) delayed(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Delay, m.now.Known = max(0, by), true // clocks differ
}

// Measure tells what has come until now.
func (m *Meter) Measure(now time.Time) Measured {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.now
	if passed := now.Sub(m.at).Seconds(); !m.at.IsZero() && passed > 0 {
		out.Rate = float64(8*(m.now.Bytes-m.bytes)) / passed
	}
	m.at, m.bytes = now, m.now.Bytes
	return out
}
