package live

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/vp9"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/fmp4"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/fmp4/seekablebuffer"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mp4/codecs"
)

const (
	// fragmentMin is what a crash may take from a recording, or the distance of
	// key frames if that is more; fragmentMax bounds what waits in memory.
	fragmentMin, fragmentMax = time.Second, 4 * time.Second
)

var errRecordingFull = errors.New("the recording is as long as it may become")

// recorder writes a livestream into a file of fragmented MP4. It has a goroutine
// from being made to close.
type recorder struct {
	ls    *livestream
	keep  *keeper
	queue *queue
	done  chan struct{}

	// Of the goroutine alone:
	file   *os.File
	size   int64
	tracks []*recordedTrack // by track; nil for what MP4 here cannot carry
	lead   int              // the track that decides where fragments end
	base   time.Duration    // dts of the beginning
	begun  bool
	number uint32
}

type recordedTrack struct {
	track   *track
	id      int
	codec   codecs.Codec
	next    *fmp4.Sample // waits for the time of its successor
	nextDTS int64
	samples []*fmp4.Sample
	from    int64 // dts of samples[0]
}

func newRecorder(ls *livestream, keep *keeper, file *os.File, tracks []*track) *recorder {
	r := &recorder{ls: ls, keep: keep, file: file, done: make(chan struct{}), lead: -1}
	r.queue = newQueue(func(n int) { ls.metrics.dropped[toFile].Add(float64(n)) })
	id := 0
	for i, t := range tracks {
		var rt *recordedTrack
		if codec := mp4Codec(t); codec != nil {
			id++
			rt = &recordedTrack{track: t, id: id, codec: codec}
			if r.lead < 0 || t.video && !tracks[r.lead].video {
				r.lead = i
			}
		}
		r.tracks = append(r.tracks, rt)
	}
	go r.run() // awaited by close
	return r
}

// mp4Codec is nil for what is left out of recordings.
func mp4Codec(t *track) codecs.Codec {
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
		return &codecs.MPEG4Audio{Config: *f.Config}
	case *format.Opus:
		return &codecs.Opus{ChannelCount: f.ChannelCount}
	}
	return nil
}

func (r *recorder) run() {
	defer close(r.done)
	err := r.queue.each(r.write)
	r.queue.close()
	if err == nil {
		err = r.fragment(true)
	}
	if err != nil {
		r.ls.log.Warn("recording ended early", "err", err)
	}
	r.keep.finish(r.file, r.number > 0)
}

// close finishes the file and hands it over.
func (r *recorder) close() {
	r.queue.close()
	<-r.done
}

func (r *recorder) write(u unit) error {
	rt := r.tracks[u.track]
	if rt == nil || !u.timed {
		return nil
	}
	t := rt.track
	if !r.begun {
		if !u.start {
			return nil
		}
		if err := r.begin(u); err != nil {
			return err
		}
	}
	if duration(u.dts, t.rate) < r.base {
		return nil // sound from before the first picture
	}
	if len(rt.samples) > 0 {
		span := duration(u.dts-rt.from, t.rate)
		// Whatever track it is, what waits in memory has an end.
		if u.track == r.lead && span >= fragmentMin && u.key || span >= fragmentMax {
			rt.settle(u.dts)
			if err := r.fragment(false); err != nil {
				return err
			}
		}
	}
	if t.video {
		payload, ok := mp4Frame(t, u.parts)
		if !ok {
			return nil // a frame that cannot be written is left out
		}
		rt.add(u.dts, &fmp4.Sample{PTSOffset: int32(u.pts - u.dts), IsNonSyncSample: !u.key, Payload: payload})
		return nil
	}
	for i, part := range u.parts {
		rt.add(u.dts+t.step(u.parts, i), &fmp4.Sample{Payload: part})
	}
	return nil
}

// mp4Frame puts the parts of a picture together.
func mp4Frame(t *track, parts [][]byte) (frame []byte, ok bool) {
	var err error
	switch t.format.(type) {
	case *format.AV1:
		frame, err = av1.Bitstream(parts).Marshal()
	case *format.VP9:
		frame = parts[0]
	default: // H.265 is framed as H.264 is
		frame, err = h264.AVCC(parts).Marshal()
	}
	return frame, err == nil
}

// add takes a sample; the one before it now has its duration.
func (rt *recordedTrack) add(dts int64, s *fmp4.Sample) {
	rt.settle(dts)
	rt.next, rt.nextDTS = s, max(dts, rt.nextDTS)
}

// settle gives the waiting sample the duration up to dts.
func (rt *recordedTrack) settle(dts int64) {
	if rt.next == nil {
		return
	}
	if len(rt.samples) == 0 {
		rt.from = rt.nextDTS
	}
	rt.next.Duration = uint32(max(0, dts-rt.nextDTS))
	rt.samples = append(rt.samples, rt.next)
	rt.next = nil
}

// begin writes the head of the file, once what is in it is known.
func (r *recorder) begin(u unit) error {
	init := fmp4.Init{}
	for _, rt := range r.tracks {
		if rt == nil {
			continue
		}
		if rt.track.index == u.track && rt.track.video {
			setParams(rt.codec, rt.track, u.parts)
		}
		init.Tracks = append(init.Tracks, &fmp4.InitTrack{ID: rt.id, TimeScale: uint32(rt.track.rate), Codec: rt.codec})
	}
	var buf seekablebuffer.Buffer
	if err := init.Marshal(&buf); err != nil {
		return fmt.Errorf("the head of the file: %w", err)
	}
	r.begun, r.base = true, duration(u.dts, r.tracks[u.track].track.rate)
	return r.store(buf.Bytes())
}

// setParams takes from a key frame what stands in the head of the file.
func setParams(codec codecs.Codec, t *track, parts [][]byte) {
	switch c := codec.(type) {
	case *codecs.H264:
		found := paramsOf(t, parts)
		c.SPS, c.PPS = found[1], found[2]
	case *codecs.H265:
		found := paramsOf(t, parts)
		c.VPS, c.SPS, c.PPS = found[0], found[1], found[2]
	case *codecs.AV1:
		for _, obu := range parts {
			if av1.OBUType((obu[0]>>3)&0x0F) == av1.OBUTypeSequenceHeader {
				c.SequenceHeader = obu
			}
		}
	case *codecs.VP9:
		var h vp9.Header
		if h.Unmarshal(parts[0]) == nil && h.ColorConfig != nil {
			c.Width, c.Height, c.Profile, c.BitDepth = h.Width(), h.Height(), h.Profile, h.ColorConfig.BitDepth
			c.ChromaSubsampling, c.ColorRange = h.ChromaSubsampling(), h.ColorConfig.ColorRange
		}
	}
}

// fragment writes what has been collected. The last one has the samples that
// wait for successors, too.
func (r *recorder) fragment(last bool) error {
	part := fmp4.Part{SequenceNumber: r.number}
	for _, rt := range r.tracks {
		if rt == nil {
			continue
		}
		if last && rt.next != nil {
			usual := int64(0)
			if n := len(rt.samples); n > 0 {
				usual = int64(rt.samples[n-1].Duration)
			}
			rt.settle(rt.nextDTS + usual)
		}
		if len(rt.samples) == 0 {
			continue
		}
		from := rt.from - ticks(r.base, rt.track.rate)
		part.Tracks = append(part.Tracks, &fmp4.PartTrack{ID: rt.id, BaseTime: uint64(max(0, from)), Samples: rt.samples})
		rt.samples = nil
	}
	if len(part.Tracks) == 0 {
		return nil
	}
	var buf seekablebuffer.Buffer
	if err := part.Marshal(&buf); err != nil {
		return fmt.Errorf("a fragment of the file: %w", err)
	}
	r.number++
	return r.store(buf.Bytes())
}

func (r *recorder) store(b []byte) error {
	if _, err := r.file.Write(b); err != nil {
		return err
	}
	if r.size += int64(len(b)); r.size >= r.ls.s.cfg.RecordBytesMax {
		return errRecordingFull
	}
	return nil
}
