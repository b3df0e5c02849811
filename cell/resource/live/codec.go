package live

import (
	"errors"
	"fmt"

	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtpac3"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtpav1"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtph264"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtph265"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtplpcm"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtpmpeg1audio"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtpmpeg4audio"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtpsimpleaudio"
	"github.com/bluenviron/gortsplib/v4/pkg/format/rtpvp9"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg1audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/opus"
	"github.com/pion/rtp"
)

// ac3Samples are in a frame of AC-3, always.
const ac3Samples = 1536

// setUp says how units of a codec become RTP packets, and packets units. Over
// RTSP all codecs are carried; those that are not here pass as they come.
func (t *track) setUp(in format.Format, payload uint8) error {
	switch in := in.(type) {
	case *format.H264:
		return t.h264(in, payload)
	case *format.H265:
		return t.h265(in, payload)
	case *format.AV1:
		return t.av1(in, payload)
	case *format.VP9:
		return t.vp9(in, payload)
	case *format.MPEG4Audio:
		return t.aac(in, payload)
	case *format.Opus:
		return t.opus(in, payload)
	case *format.MPEG1Audio:
		return t.mpeg1Audio(in)
	case *format.AC3:
		return t.ac3(in, payload)
	case *format.G711:
		out := *in
		out.PayloadTyp = payload
		t.format = &out
		return t.samples(payload, 8, in.ChannelCount)
	case *format.LPCM:
		out := *in
		out.PayloadTyp = payload
		t.format = &out
		return t.samples(payload, in.BitDepth, in.ChannelCount)
	}
	t.format, t.sequence = in, uint16(random32())
	return nil
}

func (t *track) h264(in *format.H264, payload uint8) error {
	sps, pps := in.SafeParams()
	if params := [][]byte{sps, pps}; len(pps) > 0 && validParams(true, params) {
		t.params = params
	} else {
		sps, pps = nil, nil // they come in the stream
	}
	t.video = true
	t.format = &format.H264{PayloadTyp: payload, SPS: sps, PPS: pps, PacketizationMode: 1}
	dec, err := in.CreateDecoder()
	if err != nil {
		return err
	}
	enc := &rtph264.Encoder{PayloadType: payload, PayloadMaxSize: payloadBytesMax, PacketizationMode: 1}
	t.depack, t.pack = dec.Decode, enc.Encode
	extractor := &h264.DTSExtractor{}
	extractor.Initialize()
	t.dts = extractor.Extract
	return enc.Init()
}

func (t *track) h265(in *format.H265, payload uint8) error {
	vps, sps, pps := in.SafeParams()
	if params := [][]byte{vps, sps, pps}; len(vps) > 0 && len(pps) > 0 && validParams(false, params) {
		t.params = params
	} else {
		vps, sps, pps = nil, nil, nil // they come in the stream
	}
	t.video = true
	t.format = &format.H265{PayloadTyp: payload, VPS: vps, SPS: sps, PPS: pps}
	dec, err := in.CreateDecoder()
	if err != nil {
		return err
	}
	enc := &rtph265.Encoder{PayloadType: payload, PayloadMaxSize: payloadBytesMax}
	t.depack, t.pack = dec.Decode, enc.Encode
	extractor := &h265.DTSExtractor{}
	extractor.Initialize()
	t.dts = extractor.Extract
	return enc.Init()
}

func (t *track) aac(in *format.MPEG4Audio, payload uint8) error {
	if t.rate <= 0 {
		return errors.New("no sample rate")
	}
	t.format = &format.MPEG4Audio{PayloadTyp: payload, ProfileLevelID: in.ProfileLevelID, Config: in.Config, SizeLength: 13, IndexLength: 3, IndexDeltaLength: 3}
	dec, err := in.CreateDecoder()
	if err != nil {
		return err
	}
	enc := &rtpmpeg4audio.Encoder{PayloadType: payload, PayloadMaxSize: payloadBytesMax, SizeLength: 13, IndexLength: 3, IndexDeltaLength: 3}
	t.depack, t.pack = dec.Decode, enc.Encode
	return enc.Init()
}

func (t *track) opus(in *format.Opus, payload uint8) error {
	t.format = &format.Opus{PayloadTyp: payload, ChannelCount: in.ChannelCount}
	dec, err := in.CreateDecoder()
	if err != nil {
		return err
	}
	enc := &rtpsimpleaudio.Encoder{PayloadType: payload, PayloadMaxSize: payloadBytesMax}
	t.depack = onePart(dec.Decode)
	t.pack = func(frames [][]byte) ([]*rtp.Packet, error) {
		packets := make([]*rtp.Packet, 0, len(frames))
		ticks := uint32(0)
		for _, f := range frames {
			p, err := enc.Encode(f)
			if err != nil {
				return nil, err
			}
			p.Timestamp = ticks
			ticks += uint32(opus.PacketDuration2(f))
			packets = append(packets, p)
		}
		return packets, nil
	}
	return enc.Init()
}

func (t *track) av1(in *format.AV1, payload uint8) error {
	out := *in
	out.PayloadTyp = payload
	t.format, t.video = &out, true
	dec, err := in.CreateDecoder()
	if err != nil {
		return err
	}
	enc := &rtpav1.Encoder{PayloadType: payload, PayloadMaxSize: payloadBytesMax}
	t.depack, t.pack = dec.Decode, enc.Encode
	return enc.Init()
}

func (t *track) vp9(in *format.VP9, payload uint8) error {
	out := *in
	out.PayloadTyp = payload
	t.format, t.video = &out, true
	dec, err := in.CreateDecoder()
	if err != nil {
		return err
	}
	enc := &rtpvp9.Encoder{PayloadType: payload, PayloadMaxSize: payloadBytesMax}
	t.depack, t.pack = onePart(dec.Decode), func(parts [][]byte) ([]*rtp.Packet, error) { return enc.Encode(parts[0]) }
	return enc.Init()
}

func (t *track) mpeg1Audio(in *format.MPEG1Audio) error {
	t.format = in // its payload type is fixed
	dec, err := in.CreateDecoder()
	if err != nil {
		return err
	}
	enc := &rtpmpeg1audio.Encoder{PayloadMaxSize: payloadBytesMax}
	t.depack, t.pack = dec.Decode, enc.Encode
	return enc.Init()
}

func (t *track) ac3(in *format.AC3, payload uint8) error {
	out := *in
	out.PayloadTyp = payload
	t.format = &out
	dec, err := in.CreateDecoder()
	if err != nil {
		return err
	}
	enc := &rtpac3.Encoder{PayloadType: payload, PayloadMaxSize: payloadBytesMax}
	t.depack, t.pack = dec.Decode, enc.Encode
	return enc.Init()
}

// samples is for sound that is not compressed, or hardly.
func (t *track) samples(payload uint8, depth, channels int) error {
	if t.rate <= 0 || channels <= 0 || channels > 32 {
		return errors.New("impossible rate or channels")
	}
	dec := &rtplpcm.Decoder{BitDepth: depth, ChannelCount: channels}
	enc := &rtplpcm.Encoder{PayloadType: payload, PayloadMaxSize: payloadBytesMax, BitDepth: depth, ChannelCount: channels}
	t.depack, t.pack = onePart(dec.Decode), func(parts [][]byte) ([]*rtp.Packet, error) { return enc.Encode(parts[0]) }
	return errors.Join(dec.Init(), enc.Init())
}

// onePart is for codecs whose units are in one piece.
func onePart(decode func(*rtp.Packet) ([]byte, error)) func(*rtp.Packet) ([][]byte, error) {
	return func(p *rtp.Packet) ([][]byte, error) {
		part, err := decode(p)
		return [][]byte{part}, err
	}
}

// opusHeader describes Opus as ffmpeg and browsers make it.
func opusHeader(channels int) *opus.IDHeader {
	return &opus.IDHeader{Version: 1, ChannelCount: uint8(channels), PreSkip: 312, InputSampleRate: 48000}
}

// step is the time from the first part of a unit to part n.
func (t *track) step(parts [][]byte, n int) int64 {
	switch t.format.(type) {
	case *format.MPEG4Audio:
		return int64(n) * mpeg4audio.SamplesPerAccessUnit
	case *format.AC3:
		return int64(n) * ac3Samples
	case *format.MPEG1Audio:
		ticks := int64(0)
		for _, p := range parts[:n] {
			var h mpeg1audio.FrameHeader
			if h.Unmarshal(p) == nil && h.SampleRate > 0 {
				ticks += int64(h.SampleCount()) * int64(t.rate) / int64(h.SampleRate)
			}
		}
		return ticks
	case *format.Opus:
		ticks := int64(0)
		for _, p := range parts[:n] {
			ticks += opus.PacketDuration2(p)
		}
		return ticks
	}
	return 0
}

// name is the track's description for people.
func (t *track) name() string {
	switch f := t.format.(type) {
	case *format.H264:
		var sps h264.SPS
		if len(t.params) == 2 && sps.Unmarshal(t.params[0]) == nil {
			return fmt.Sprintf("H.264 %dx%d", sps.Width(), sps.Height())
		}
		return "H.264"
	case *format.H265:
		var sps h265.SPS
		if len(t.params) == 3 && sps.Unmarshal(t.params[1]) == nil {
			return fmt.Sprintf("H.265 %dx%d", sps.Width(), sps.Height())
		}
		return "H.265"
	case *format.MPEG4Audio:
		return fmt.Sprintf("AAC %d Hz, %d channels", f.Config.SampleRate, channels(f.Config))
	case *format.Opus:
		return fmt.Sprintf("Opus 48000 Hz, %d channels", f.ChannelCount)
	}
	return t.format.Codec()
}

// channels is 0 if the stream itself says how many there are.
func channels(c *mpeg4audio.AudioSpecificConfig) int {
	switch {
	case c.ChannelConfig == 7:
		return 8
	case c.ChannelConfig < 7:
		return int(c.ChannelConfig)
	}
	return 0
}
