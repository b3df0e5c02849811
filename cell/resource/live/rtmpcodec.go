package live

import (
	"fmt"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg1audio"

	"github.com/waggle-im/waggle/proto"
)

// rtmpSource makes track i of what a publisher sends and has its units written.
// It is nil for a codec that is left out.
func rtmpSource(r *gortmplib.Reader, rt *gortmplib.Track, p *publisher, i int) (*track, error) {
	video := func(f format.Format) (*track, error) { return newTrack(i, description.MediaTypeVideo, f) }
	audio := func(f format.Format) (*track, error) { return newTrack(i, description.MediaTypeAudio, f) }
	at := func(pts time.Duration) int64 { return ticks(pts, p.sources[i].track.rate) }
	switch codec := rt.Codec.(type) {
	case *codecs.H264:
		r.OnDataH264(rt, func(pts, _ time.Duration, au [][]byte) { p.write(i, at(pts), au) })
		return video(&format.H264{SPS: codec.SPS, PPS: codec.PPS, PacketizationMode: 1})
	case *codecs.H265:
		r.OnDataH265(rt, func(pts, _ time.Duration, au [][]byte) { p.write(i, at(pts), au) })
		return video(&format.H265{VPS: codec.VPS, SPS: codec.SPS, PPS: codec.PPS})
	case *codecs.MPEG4Audio:
		r.OnDataMPEG4Audio(rt, func(pts time.Duration, au []byte) { p.write(i, at(pts), [][]byte{au}) })
		return audio(&format.MPEG4Audio{Config: codec.Config, SizeLength: 13, IndexLength: 3, IndexDeltaLength: 3})
	case *codecs.Opus:
		r.OnDataOpus(rt, func(pts time.Duration, frame []byte) { p.write(i, at(pts), [][]byte{frame}) })
		return audio(&format.Opus{ChannelCount: int(codec.IDHeader.ChannelCount)})
	}
	return rtmpMore(r, rt, p, i)
}

// rtmpMore is for codecs that only some publishers send.
func rtmpMore(r *gortmplib.Reader, rt *gortmplib.Track, p *publisher, i int) (*track, error) {
	kind := description.MediaTypeAudio
	var f format.Format
	frame := func(pts time.Duration, frame []byte) {
		p.write(i, ticks(pts, p.sources[i].track.rate), [][]byte{frame})
	}
	switch codec := rt.Codec.(type) {
	case *codecs.AV1:
		r.OnDataAV1(rt, func(pts time.Duration, tu [][]byte) { p.write(i, ticks(pts, p.sources[i].track.rate), tu) })
		kind, f = description.MediaTypeVideo, &format.AV1{}
	case *codecs.VP9:
		r.OnDataVP9(rt, frame)
		kind, f = description.MediaTypeVideo, &format.VP9{}
	case *codecs.MPEG1Audio:
		r.OnDataMPEG1Audio(rt, frame)
		f = &format.MPEG1Audio{}
	case *codecs.AC3:
		r.OnDataAC3(rt, frame)
		f = &format.AC3{SampleRate: codec.SampleRate, ChannelCount: codec.ChannelCount}
	case *codecs.G711:
		r.OnDataG711(rt, frame)
		f = &format.G711{MULaw: codec.MULaw, SampleRate: 8000, ChannelCount: codec.ChannelCount}
	case *codecs.LPCM:
		r.OnDataLPCM(rt, frame)
		f = &format.LPCM{BitDepth: codec.BitDepth, SampleRate: codec.SampleRate, ChannelCount: codec.ChannelCount}
	case *codecs.FLAC: // RTP has no way to carry it. The reader calls what it was given without looking
		r.OnDataFLAC(rt, func(time.Duration, []byte) {})
		return nil, nil
	default:
		return nil, proto.Errorf(proto.CodeUnsupported, "a track of a codec that is not known")
	}
	return newTrack(i, kind, f)
}

func rtmpCodecName(c codecs.Codec) string { return fmt.Sprintf("%T", c)[len("*codecs."):] }

// rtmpOutput writes units for one viewer.
type rtmpOutput struct {
	tracks  []*track
	targets map[int]*gortmplib.Track // by track; without what RTMP cannot carry
	writer  *gortmplib.Writer
	base    time.Duration // dts of what came first
	begun   bool
}

func newRTMPOutput(conn gortmplib.Conn, tracks []*track) *rtmpOutput {
	o := &rtmpOutput{tracks: tracks, targets: make(map[int]*gortmplib.Track), writer: &gortmplib.Writer{Conn: conn}}
	video, audio := false, false
	for i, t := range tracks {
		codec := rtmpCodec(t)
		if codec == nil || t.video && video || !t.video && audio {
			continue // most players know of one track of each kind
		}
		video, audio = video || t.video, audio || !t.video
		o.targets[i] = &gortmplib.Track{Codec: codec}
		o.writer.Tracks = append(o.writer.Tracks, o.targets[i])
	}
	return o
}

// rtmpCodec is nil for what RTMP cannot carry.
func rtmpCodec(t *track) codecs.Codec {
	switch f := t.format.(type) {
	case *format.H264:
		return &codecs.H264{}
	case *format.H265:
		return &codecs.H265{}
	case *format.AV1:
		return &codecs.AV1{}
	case *format.VP9:
		return &codecs.VP9{}
	case *format.MPEG4Audio:
		return &codecs.MPEG4Audio{Config: f.Config}
	case *format.Opus:
		return &codecs.Opus{IDHeader: opusHeader(f.ChannelCount)}
	case *format.MPEG1Audio:
		return &codecs.MPEG1Audio{}
	case *format.AC3:
		return &codecs.AC3{SampleRate: f.SampleRate, ChannelCount: f.ChannelCount}
	case *format.G711:
		if f.SampleRate == 8000 && f.ChannelCount <= 2 {
			return &codecs.G711{MULaw: f.MULaw, ChannelCount: f.ChannelCount}
		}
	case *format.LPCM:
		if f.BitDepth == 16 && f.ChannelCount <= 2 && rtmpRate(f.SampleRate) {
			return &codecs.LPCM{BitDepth: f.BitDepth, SampleRate: f.SampleRate, ChannelCount: f.ChannelCount}
		}
	}
	return nil
}

// rtmpRate tells whether RTMP has a number for a sample rate.
func rtmpRate(rate int) bool {
	return rate == 5512 || rate == 11025 || rate == 22050 || rate == 44100
}

// rtmpMP3 tells whether RTMP can carry a frame of MPEG audio.
func rtmpMP3(frame []byte) bool {
	var h mpeg1audio.FrameHeader
	return h.Unmarshal(frame) == nil && !h.MPEG2 && h.Layer == 3 && rtmpRate(h.SampleRate)
}

// begin tells the viewer what the tracks are, now that a key frame has come.
func (o *rtmpOutput) begin(u unit) error {
	switch codec := o.targets[u.track].Codec.(type) {
	case *codecs.H264:
		found := paramsOf(o.tracks[u.track], u.parts)
		codec.SPS, codec.PPS = found[1], found[2]
	case *codecs.H265:
		found := paramsOf(o.tracks[u.track], u.parts)
		codec.VPS, codec.SPS, codec.PPS = found[0], found[1], found[2]
	}
	o.begun, o.base = true, duration(u.dts, o.tracks[u.track].rate)
	return o.writer.Initialize()
}

func (o *rtmpOutput) write(u unit) error {
	target, t := o.targets[u.track], o.tracks[u.track]
	if target == nil || !u.timed {
		return nil
	}
	if !o.begun {
		if !u.start {
			return nil
		}
		if err := o.begin(u); err != nil {
			return err
		}
	}
	dts, pts := duration(u.dts, t.rate)-o.base, duration(u.pts, t.rate)-o.base
	if dts < 0 {
		return nil // sound from before the first picture
	}
	switch target.Codec.(type) {
	case *codecs.H264:
		return o.writer.WriteH264(target, pts, dts, u.parts)
	case *codecs.H265:
		return o.writer.WriteH265(target, pts, dts, u.parts)
	case *codecs.AV1:
		return o.writer.WriteAV1(target, pts, u.parts)
	case *codecs.VP9:
		return o.writer.WriteVP9(target, pts, u.parts[0])
	}
	for i, part := range u.parts {
		if err := o.sound(target, duration(u.dts+t.step(u.parts, i), t.rate)-o.base, part); err != nil {
			return err
		}
	}
	return nil
}

func (o *rtmpOutput) sound(target *gortmplib.Track, at time.Duration, frame []byte) error {
	switch target.Codec.(type) {
	case *codecs.MPEG4Audio:
		return o.writer.WriteMPEG4Audio(target, at, frame)
	case *codecs.Opus:
		return o.writer.WriteOpus(target, at, frame)
	case *codecs.MPEG1Audio:
		if rtmpMP3(frame) {
			return o.writer.WriteMPEG1Audio(target, at, frame)
		}
	case *codecs.AC3:
		return o.writer.WriteAC3(target, at, frame)
	case *codecs.G711:
		return o.writer.WriteG711(target, at, frame)
	case *codecs.LPCM:
		if len(frame)%2 == 0 {
			return o.writer.WriteLPCM(target, at, frame)
		}
	}
	return nil
}
