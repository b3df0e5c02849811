package livewatch

import (
	"context"
	"net/url"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"
)

// rtmpSilence ends a connection from which nothing comes for so long.
const rtmpSilence = 20 * time.Second

// RTMP watches until ctx or the livestream ends.
func RTMP(ctx context.Context, o Options) error {
	u, err := url.Parse(o.Address)
	if err != nil {
		return err
	}
	c := &gortmplib.Client{URL: u}
	dialing, cancel := context.WithTimeout(ctx, rtmpSilence)
	err = c.Initialize(dialing)
	cancel()
	if err != nil {
		return err
	}
	defer c.Close()
	ended := make(chan struct{})
	defer close(ended)
	go func() { // ends with this function
		select {
		case <-ctx.Done():
			c.Close()
		case <-ended:
		}
	}()
	_ = c.NetConn().SetReadDeadline(time.Now().Add(rtmpSilence))
	r := &gortmplib.Reader{Conn: c}
	if err := r.Initialize(); err != nil {
		return err
	}
	file := o.file()
	for _, t := range r.Tracks() {
		file.takeRTMP(r, t)
	}
	if err := file.begin(); err != nil {
		return err
	}
	before := uint64(0)
	for {
		_ = c.NetConn().SetReadDeadline(time.Now().Add(rtmpSilence))
		if err := r.Read(); err != nil {
			return err
		}
		now := c.BytesReceived()
		o.Meter.add(int(now - before))
		before = now
		if err := file.err(); err != nil {
			return err
		}
	}
}

// takeRTMP gives the file a track for one of RTMP.
func (f *tsFile) takeRTMP(r *gortmplib.Reader, t *gortmplib.Track) {
	ticks := func(at time.Duration) int64 { return at.Microseconds() * 9 / 100 } // of tsRate
	switch codec := t.Codec.(type) {
	case *codecs.H264:
		out := f.addH264(codec.SPS, codec.PPS)
		r.OnDataH264(t, func(pts, _ time.Duration, au [][]byte) { f.video(out, ticks(pts), au) })
	case *codecs.H265:
		out := f.addH265(codec.VPS, codec.SPS, codec.PPS)
		r.OnDataH265(t, func(pts, _ time.Duration, au [][]byte) { f.video(out, ticks(pts), au) })
	case *codecs.MPEG4Audio:
		out := f.addAAC(codec.Config)
		r.OnDataMPEG4Audio(t, func(pts time.Duration, au []byte) { f.audio(out, ticks(pts), [][]byte{au}) })
	case *codecs.Opus:
		channels := 2
		if codec.IDHeader != nil {
			channels = int(codec.IDHeader.ChannelCount)
		}
		out := f.addOpus(channels)
		r.OnDataOpus(t, func(pts time.Duration, packet []byte) { f.audio(out, ticks(pts), [][]byte{packet}) })
	}
}
