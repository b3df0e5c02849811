package live

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/vp9"
	"github.com/pion/rtp"

	"github.com/waggle-im/waggle/proto"
)

const (
	// tracksMax is more than a camera and its microphones have.
	tracksMax = 8
	// payloadBytesMax of RTP fits into an Ethernet frame through a tunnel, with
	// the headers of IPv6, UDP and RTP.
	payloadBytesMax = 1400
	// packetBytesMax is the greatest packet that is passed on as it came.
	packetBytesMax = 1472
	// dynamicPayload is the first payload type without a meaning of its own.
	dynamicPayload = 96
	// untimedMax in a row are not only those before a key frame.
	untimedMax = 500
)

// track is one stream of video or sound, as viewers see it. A livestream's lock
// guards what changes.
type track struct {
	index  int
	media  *description.Media
	format format.Format
	rate   int // ticks per second of its clock; 0: none that is known
	video  bool

	// pack makes RTP packets of a unit; nil for a codec of which nothing is known
	// here: its packets pass as they came, over RTSP only.
	pack func(parts [][]byte) ([]*rtp.Packet, error)
	// depack is the opposite, for the publisher of the moment.
	depack func(*rtp.Packet) ([][]byte, error)

	params [][]byte // of video: (VPS,) SPS, PPS, as seen last
	dts    func(au [][]byte, pts int64) (int64, error)

	offset   uint32 // of RTP timestamps
	sequence uint16 // of packets that pass as they came
	last     int64  // pts of the last unit
	begun    bool
	untimed  int  // pictures in a row of which the order is not known
	told     bool // in the log
}

// newTrack makes the track that viewers see of one that a publisher announced.
func newTrack(index int, kind description.MediaType, in format.Format) (*track, error) {
	t := &track{index: index, rate: in.ClockRate(), offset: random32()}
	payload := uint8(dynamicPayload + index)
	if err := t.setUp(in, payload); err != nil {
		return nil, proto.Errorf(proto.CodeBadRequest, "track %d (%s) cannot be carried: %v", index+1, in.Codec(), err)
	}
	t.media = &description.Media{Type: kind, Formats: []format.Format{t.format}}
	return t, nil
}

// known tells whether the codec is one whose units can be taken apart.
func (t *track) known() bool { return t.pack != nil }

// fits tells whether viewers of t can go on with what now is announced as u.
func (t *track) fits(u *track) bool {
	if t.media.Type != u.media.Type || t.rate != u.rate || t.known() != u.known() || t.format.Codec() != u.format.Codec() {
		return false
	}
	if t.video { // by the publisher's word; what it sends may still differ and is in the stream
		return len(t.params) == 0 || len(u.params) == 0 || sameParts(t.params, u.params)
	}
	a, b := t.format.FMTP(), u.format.FMTP()
	if t.format.RTPMap() != u.format.RTPMap() || len(a) != len(b) || !t.known() && t.format.PayloadType() != u.format.PayloadType() {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// refine leaves only what belongs into the unit, adds what decoders need at a
// key frame, and fills the rest of u. It is false if nothing is left.
func (t *track) refine(u *unit) bool {
	if t.dts == nil {
		parts := u.parts[:0:0]
		for _, p := range u.parts {
			if len(p) > 0 && !t.delimiter(p) {
				parts = append(parts, p)
			}
		}
		u.parts, u.dts, u.timed, u.key = parts, u.pts, true, t.isKey(parts)
		return len(parts) > 0
	}
	if !t.refineVideo(u) {
		return false
	}
	dts, err := t.dts(u.parts, u.pts)
	if err != nil { // until the next key frame, or always: some streams do not tell
		t.untimed++
		return true
	}
	u.dts, u.timed, t.untimed = dts, true, 0
	return true
}

// delimiter tells whether a part only separates units: every container has its
// own way.
func (t *track) delimiter(part []byte) bool {
	_, ok := t.format.(*format.AV1)
	return ok && av1.OBUType((part[0]>>3)&0x0F) == av1.OBUTypeTemporalDelimiter
}

// isKey is for codecs without parameter sets.
func (t *track) isKey(parts [][]byte) bool {
	switch t.format.(type) {
	case *format.AV1:
		return av1.IsRandomAccess2(parts)
	case *format.VP9:
		return len(parts) > 0 && vp9.IsRandomAccess(parts[0])
	}
	return true
}

// refineVideo sorts out the NAL units of an access unit.
func (t *track) refineVideo(u *unit) bool {
	_, avc := t.format.(*format.H264)
	var params [3][]byte
	pictures := u.parts[:0:0]
	for _, nalu := range u.parts {
		if len(nalu) < 2 && (!avc || len(nalu) == 0) {
			continue // a NAL unit of H.265 has a header of two bytes
		}
		slot, picture := naluRole(avc, nalu)
		switch {
		case slot >= 0:
			params[slot] = nalu
		case picture:
			pictures = append(pictures, nalu)
		}
	}
	t.learn(avc, params)
	if len(pictures) == 0 {
		return false
	}
	if avc {
		u.key = h264.IsRandomAccess(pictures)
	} else {
		u.key = h265.IsRandomAccess(pictures)
	}
	if u.key {
		pictures = append(append(make([][]byte, 0, len(t.params)+len(pictures)), t.params...), pictures...)
	}
	u.parts = pictures
	return true
}

// naluRole says which parameter set a NAL unit is, -1 for none, and whether it
// is to be kept otherwise. Delimiters are not: every container has its own.
func naluRole(avc bool, nalu []byte) (slot int, keep bool) {
	if avc {
		switch h264.NALUType(nalu[0] & 0x1F) {
		case h264.NALUTypeSPS:
			return 1, false
		case h264.NALUTypePPS:
			return 2, false
		case h264.NALUTypeAccessUnitDelimiter:
			return -1, false
		}
		return -1, true
	}
	switch h265.NALUType((nalu[0] >> 1) & 0x3F) {
	case h265.NALUType_VPS_NUT:
		return 0, false
	case h265.NALUType_SPS_NUT:
		return 1, false
	case h265.NALUType_PPS_NUT:
		return 2, false
	case h265.NALUType_AUD_NUT:
		return -1, false
	}
	return -1, true
}

// paramsOf finds VPS, SPS and PPS in a key frame of t.
func paramsOf(t *track, au [][]byte) (found [3][]byte) {
	_, avc := t.format.(*format.H264)
	for _, nalu := range au {
		if slot, _ := naluRole(avc, nalu); slot >= 0 {
			found[slot] = nalu
		}
	}
	return found
}

// learn keeps parameter sets that came in the stream.
func (t *track) learn(avc bool, found [3][]byte) {
	first := 0
	if avc {
		first = 1
	}
	now := make([][]byte, 0, 3)
	changed := false
	for i := first; i < len(found); i++ {
		p := found[i]
		if p == nil && len(t.params) > i-first {
			p = t.params[i-first]
		}
		if p == nil {
			return // not complete yet
		}
		changed = changed || len(t.params) <= i-first || !bytes.Equal(p, t.params[i-first])
		now = append(now, p)
	}
	if !changed || !validParams(avc, now) {
		return
	}
	t.params = now
	switch f := t.format.(type) { // what later viewers are told
	case *format.H264:
		f.SafeSetParams(now[0], now[1])
	case *format.H265:
		f.SafeSetParams(now[0], now[1], now[2])
	}
}

// sideMax of a picture, in pixels: twice 8K. What a parameter set says that is
// nonsense may be far above.
const sideMax = 16384

// validParams keeps parameter sets away from muxers that cannot read them: some
// of them panic.
func validParams(avc bool, params [][]byte) bool {
	width, height := 0, 0
	if avc {
		var sps h264.SPS
		if len(params[0]) < 4 || sps.Unmarshal(params[0]) != nil {
			return false
		}
		width, height = sps.Width(), sps.Height()
	} else {
		var sps h265.SPS
		if len(params[1]) < 13 || sps.Unmarshal(params[1]) != nil {
			return false
		}
		width, height = sps.Width(), sps.Height()
	}
	return width > 0 && width <= sideMax && height > 0 && height <= sideMax
}

// duration converts ticks of a clock.
func duration(ticks int64, rate int) time.Duration {
	r := int64(rate)
	return time.Duration(ticks/r)*time.Second + time.Duration(ticks%r*int64(time.Second)/r)
}

// ticks converts to a clock's ticks.
func ticks(d time.Duration, rate int) int64 {
	r := int64(rate)
	return int64(d/time.Second)*r + int64(d%time.Second)*r/int64(time.Second)
}

func sameParts(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func random32() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}
