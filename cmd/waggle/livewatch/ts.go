package livewatch

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts"
	tscodecs "github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts/codecs"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts/substructs"
)

// tsRate is the clock of MPEG-TS, ticks per second.
const tsRate = 90_000

// extractor finds decoding times.
type extractor interface {
	Extract(au [][]byte, pts int64) (int64, error)
}

// tsTrack is one track of a file. Its writer is called by one goroutine for each
// track.
type tsTrack struct {
	ts    *mpegts.Track
	times extractor // of video; nil until a key frame has come
	// Parameter sets, as announced: before each key frame that has none.
	sets [][]byte
}

// tsFile writes MPEG-TS. nil writes nothing.
type tsFile struct {
	out io.Writer

	mu     sync.Mutex // guards the fields below
	writer *mpegts.Writer
	tracks []*tsTrack
	failed error
}

// addH264, addH265, addAAC and addOpus give the file a track, before begin.
func (f *tsFile) addH264(sets ...[]byte) *tsTrack {
	return f.add(&tscodecs.H264{}, sets)
}

func (f *tsFile) addH265(sets ...[]byte) *tsTrack {
	return f.add(&tscodecs.H265{}, sets)
}

func (f *tsFile) addAAC(config *mpeg4audio.AudioSpecificConfig) *tsTrack {
	return f.add(&tscodecs.MPEG4Audio{Config: *config}, nil)
}

func (f *tsFile) addOpus(channels int) *tsTrack {
	return f.add(&tscodecs.Opus{Desc: &substructs.OpusAudioDescriptor{ChannelConfigCode: uint8(channels)}}, nil)
}

func (f *tsFile) add(codec tscodecs.Codec, sets [][]byte) *tsTrack {
	if f == nil {
		return nil
	}
	t := &tsTrack{ts: &mpegts.Track{Codec: codec}}
	for _, s := range sets {
		if len(s) > 0 {
			t.sets = append(t.sets, s)
		}
	}
	f.tracks = append(f.tracks, t)
	return t
}

func (f *tsFile) begin() error {
	if f == nil {
		return nil
	}
	if len(f.tracks) == 0 {
		return errors.New("none of the livestream's tracks can be written: H.264, H.265, AAC and Opus can")
	}
	w := &mpegts.Writer{W: f.out}
	for _, t := range f.tracks {
		w.Tracks = append(w.Tracks, t.ts)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writer = w
	return w.Initialize()
}

// err is why the file cannot be written, if it cannot.
func (f *tsFile) err() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// video writes a picture. pts is in ticks of tsRate.
func (f *tsFile) video(t *tsTrack, pts int64, au [][]byte) {
	if f == nil || t == nil || len(au) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, is264 := t.ts.Codec.(*tscodecs.H264)
	key := is264 && h264.IsRandomAccess(au) || !is264 && h265.IsRandomAccess(au)
	if key && !hasSets(au, is264) {
		au = append(append([][]byte{}, t.sets...), au...)
	}
	if t.times == nil {
		if !key {
			return // nothing can be shown before a key frame
		}
		if is264 {
			e := new(h264.DTSExtractor)
			e.Initialize()
			t.times = e
		} else {
			e := new(h265.DTSExtractor)
			e.Initialize()
			t.times = e
		}
	}
	dts, err := t.times.Extract(au, pts)
	if err != nil {
		return // a picture that is not whole
	}
	if is264 {
		f.note(f.writer.WriteH264(t.ts, pts, dts, au))
		return
	}
	f.note(f.writer.WriteH265(t.ts, pts, dts, au))
}

// hasSets tells whether a key frame brings its parameter sets.
func hasSets(au [][]byte, is264 bool) bool {
	for _, nalu := range au {
		if len(nalu) == 0 {
			continue
		}
		if is264 && h264.NALUType(nalu[0]&0x1F) == h264.NALUTypeSPS || !is264 && h265.NALUType((nalu[0]>>1)&0x3F) == h265.NALUType_SPS_NUT {
			return true
		}
	}
	return false
}

// audio writes some sound. pts is in ticks of tsRate.
func (f *tsFile) audio(t *tsTrack, pts int64, parts [][]byte) {
	if f == nil || t == nil || len(parts) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, opus := t.ts.Codec.(*tscodecs.Opus); opus {
		f.note(f.writer.WriteOpus(t.ts, pts, parts))
		return
	}
	f.note(f.writer.WriteMPEG4Audio(t.ts, pts, parts))
}

// note needs mu.
func (f *tsFile) note(err error) {
	if err != nil && f.failed == nil {
		f.failed = fmt.Errorf("the file cannot be written: %w", err)
	}
}
