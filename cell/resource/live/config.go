package live

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what an operator sets of the livestreams of a node.
type Config struct {
	// Dir holds recordings until they are handed over. Empty: none are made.
	Dir string
	// PublishBytesPerSecondMax ends a publisher that sends more, on average over
	// a few seconds. 0: 3 MiB, 25 Mbit/s, what a good 4K stream takes.
	PublishBytesPerSecondMax int
	// PublishersMax limits the livestreams of a node. 0: 100.
	PublishersMax int
	// ViewersMax limits those who watch by RTSP and RTMP, over all livestreams of
	// a node. 0: 1,000, whose queues hold at most 1.5 GiB if nobody reads.
	ViewersMax int
	// ConnectionsMax limits connections of each protocol. 0: 2,000.
	ConnectionsMax int
	// RecordBytesMax ends a recording that has become as long; the livestream
	// goes on. 0: 4 GiB.
	RecordBytesMax int64
	// RecordingsBytesMax is what all recordings that wait in Dir may take before
	// no new one is begun. 0: 64 GiB.
	RecordingsBytesMax int64
	// ReconnectWithin is how long a livestream waits for a publisher that has
	// gone. 0: 10 s.
	ReconnectWithin time.Duration
	// SilentBefore is how long a publisher must have sent nothing until another
	// one with the key takes its place: it may be the same person, whose link was
	// cut without a word. 0: 2 s.
	SilentBefore time.Duration
	// RecheckInterval is the pause between two questions whether a viewer may
	// stay. 0: 5 s.
	RecheckInterval time.Duration
	// RecheckGrace is how long a viewer may stay while nobody can be asked.
	// 0: 1 min.
	RecheckGrace time.Duration
	// ReportInterval is the least pause between two reports of one livestream.
	// 0: 1 s.
	ReportInterval time.Duration
	// AdmitWithin is what a connection has to get to playing or publishing.
	// 0: 10 s.
	AdmitWithin time.Duration
	// SilenceMax ends a publisher that sends nothing, and a viewer that reads
	// nothing, for as long. 0: 10 s.
	SilenceMax time.Duration
}

// Validate says what is wrong.
func (c Config) Validate() error {
	for _, n := range []int64{int64(c.PublishBytesPerSecondMax), int64(c.PublishersMax), int64(c.ViewersMax), int64(c.ConnectionsMax), c.RecordBytesMax, c.RecordingsBytesMax} {
		if n < 0 {
			return errors.New("live: a limit is negative: 0 is the default")
		}
	}
	for _, d := range []time.Duration{c.ReconnectWithin, c.SilentBefore, c.RecheckInterval, c.RecheckGrace, c.ReportInterval, c.AdmitWithin, c.SilenceMax} {
		if d < 0 {
			return errors.New("live: a time is negative: 0 is the default")
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	setDefault(&c.PublishBytesPerSecondMax, 3<<20)
	setDefault(&c.PublishersMax, 100)
	setDefault(&c.ViewersMax, 1000)
	setDefault(&c.ConnectionsMax, 2000)
	setDefault(&c.RecordBytesMax, 4<<30)
	setDefault(&c.RecordingsBytesMax, 64<<30)
	setDefault(&c.ReconnectWithin, 10*time.Second)
	setDefault(&c.SilentBefore, 2*time.Second)
	setDefault(&c.RecheckInterval, 5*time.Second)
	setDefault(&c.RecheckGrace, time.Minute)
	setDefault(&c.ReportInterval, time.Second)
	setDefault(&c.AdmitWithin, 10*time.Second)
	setDefault(&c.SilenceMax, 10*time.Second)
	return c
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Deps are what a service stands on. It closes the sockets.
type Deps struct {
	Rights Rights
	RTSP   net.Listener // of TCP; nil: no RTSP
	RTMP   net.Listener // of TCP; nil: no RTMP
	// RTP and RTCP are for RTSP over UDP: [ListenUDP] makes such a pair. nil: RTSP
	// is carried by TCP only.
	RTP, RTCP *net.UDPConn
	Registry  prometheus.Registerer // nil: no metrics
	Log       *slog.Logger          // nil: none
}

func (d Deps) validate() error {
	switch {
	case d.Rights == nil:
		return errors.New("live: nobody to ask for rights")
	case (d.RTP == nil) != (d.RTCP == nil):
		return errors.New("live: RTP and RTCP need a socket each, or none")
	}
	for _, l := range []net.Listener{d.RTSP, d.RTMP} {
		if l == nil {
			continue
		}
		if _, ok := l.Addr().(*net.TCPAddr); !ok {
			return fmt.Errorf("live: %v is not an address of TCP", l.Addr())
		}
	}
	return nil
}
