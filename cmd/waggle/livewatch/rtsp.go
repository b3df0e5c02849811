package livewatch

import (
	"context"
	"io"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/pion/rtp"
)

// Options are what to watch.
type Options struct {
	Address string // with a ticket
	Meter   *Meter
	Out     io.Writer // nil: nothing is written
}

func (o Options) file() *tsFile {
	if o.Out == nil {
		return nil
	}
	return &tsFile{out: o.Out}
}

// RTSP watches, over one connection of TCP, until ctx or the livestream ends.
func RTSP(ctx context.Context, o Options) error {
	u, err := base.ParseURL(o.Address)
	if err != nil {
		return err
	}
	tcp := gortsplib.TransportTCP
	c := &gortsplib.Client{
		Scheme: u.Scheme, Host: u.Host, Transport: &tcp, UserAgent: "waggle",
		OnPacketsLost: o.Meter.lose, OnDecodeError: func(error) {},
	}
	if err := c.Start2(); err != nil {
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
	desc, _, err := c.Describe(u)
	if err != nil {
		return err
	}
	if err := c.SetupAll(desc.BaseURL, desc.Medias); err != nil {
		return err
	}
	file := o.file()
	takes := map[format.Format]func(*rtp.Packet, int64){}
	for _, m := range desc.Medias {
		for _, f := range m.Formats {
			takes[f] = file.take(f)
		}
	}
	if err := file.begin(); err != nil {
		return err
	}
	failed := make(chan error, 1)
	c.OnPacketRTPAny(func(m *description.Media, f format.Format, packet *rtp.Packet) {
		o.Meter.add(packet.MarshalSize())
		if at, ok := c.PacketNTP(m, packet); ok {
			o.Meter.delayed(time.Since(at))
		}
		pts, ok := c.PacketPTS2(m, packet)
		if take := takes[f]; take != nil && ok {
			take(packet, scale(pts, f.ClockRate()))
		}
		if err := file.err(); err != nil {
			select {
			case failed <- err:
				go c.Close() // awaited by Wait below
			default:
			}
		}
	})
	if _, err := c.Play(nil); err != nil {
		return err
	}
	err = c.Wait()
	select {
	case why := <-failed:
		return why
	default:
		return err
	}
}

// scale turns ticks of a clock into those of MPEG-TS.
func scale(ticks int64, rate int) int64 {
	if rate == 0 {
		return 0
	}
	seconds, rest := ticks/int64(rate), ticks%int64(rate)
	return seconds*tsRate + rest*tsRate/int64(rate)
}

// take gives the file a track for a format and returns what writes its packets;
// nil for what cannot be written.
func (f *tsFile) take(forma format.Format) func(*rtp.Packet, int64) {
	if f == nil {
		return nil
	}
	switch forma := forma.(type) {
	case *format.H264:
		decoder, err := forma.CreateDecoder()
		if err != nil {
			return nil
		}
		t := f.addH264(forma.SPS, forma.PPS)
		return func(packet *rtp.Packet, pts int64) {
			if au, err := decoder.Decode(packet); err == nil {
				f.video(t, pts, au)
			}
		}
	case *format.H265:
		decoder, err := forma.CreateDecoder()
		if err != nil {
			return nil
		}
		t := f.addH265(forma.VPS, forma.SPS, forma.PPS)
		return func(packet *rtp.Packet, pts int64) {
			if au, err := decoder.Decode(packet); err == nil {
				f.video(t, pts, au)
			}
		}
	case *format.MPEG4Audio:
		decoder, err := forma.CreateDecoder()
		if err != nil || forma.Config == nil {
			return nil
		}
		t := f.addAAC(forma.Config)
		return func(packet *rtp.Packet, pts int64) {
			if aus, err := decoder.Decode(packet); err == nil {
				f.audio(t, pts, aus)
			}
		}
	case *format.Opus:
		decoder, err := forma.CreateDecoder()
		if err != nil {
			return nil
		}
		t := f.addOpus(forma.ChannelCount)
		return func(packet *rtp.Packet, pts int64) {
			if sound, err := decoder.Decode(packet); err == nil {
				f.audio(t, pts, [][]byte{sound})
			}
		}
	}
	return nil
}
