package live

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/bluenviron/gohlslib/v2"
	"github.com/bluenviron/gohlslib/v2/pkg/codecs"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
)

const (
	// hlsSegments is the least that low-latency HLS allows.
	hlsSegments = 7
	// hlsSegmentBytesMax ends a segment whose key frame never comes.
	hlsSegmentBytesMax = 32 << 20
	// hlsPart is the latency that HLS adds three times.
	hlsPart = 200 * time.Millisecond
	// hlsRequestsMax limits requests of one livestream at once. Edges ask for
	// all their viewers together.
	hlsRequestsMax = 512
	// hlsFailuresMax in a row begin the segments anew.
	hlsFailuresMax = 100
)

// hlsOutput keeps the newest segments of a livestream in memory. It has a
// goroutine from being made to close.
type hlsOutput struct {
	ls    *livestream
	queue *queue
	done  chan struct{}
	slots chan struct{} // requests under way

	tracks  []*track
	targets []*gohlslib.Track // by track; nil for what HLS cannot carry; of the goroutine
	failed  int               // in a row; of the goroutine

	mu    sync.Mutex // guards muxer
	muxer *gohlslib.Muxer
}

// newHLSOutput is nil if none of the tracks can be carried.
func newHLSOutput(ls *livestream, tracks []*track) *hlsOutput {
	h := &hlsOutput{ls: ls, tracks: tracks, done: make(chan struct{}), slots: make(chan struct{}, hlsRequestsMax)}
	h.queue = newQueue(func(n int) { ls.metrics.dropped[protocolHLS].Add(float64(n)) })
	if err := h.start(); err != nil {
		ls.log.Info("no HLS", "tracks", names(tracks), "err", err)
		return nil
	}
	go h.run() // awaited by close
	return h
}

// start makes a muxer.
func (h *hlsOutput) start() error {
	muxer := &gohlslib.Muxer{
		Variant: gohlslib.MuxerVariantLowLatency, SegmentCount: hlsSegments, SegmentMinDuration: time.Second,
		PartMinDuration: hlsPart, SegmentMaxSize: hlsSegmentBytesMax,
		OnEncodeError: func(err error) { h.ls.log.Debug("HLS", "err", err) },
	}
	h.targets = make([]*gohlslib.Track, len(h.tracks))
	video := false
	for i, t := range h.tracks {
		codec := hlsCodec(t)
		if codec == nil || t.video && video {
			continue // it is left out
		}
		video = video || t.video
		h.targets[i] = &gohlslib.Track{Codec: codec, ClockRate: t.rate}
		muxer.Tracks = append(muxer.Tracks, h.targets[i])
	}
	if err := muxer.Start(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.muxer = muxer
	return nil
}

func hlsCodec(t *track) codecs.Codec {
	switch f := t.format.(type) {
	case *format.H264:
		return &codecs.H264{} // parameter sets come with the first key frame
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

func (h *hlsOutput) run() {
	defer close(h.done)
	_ = h.queue.each(func(u unit) error {
		err := h.write(u)
		if err == nil {
			h.failed = 0
			return nil
		}
		h.ls.metrics.dropped[protocolHLS].Inc()
		if h.failed++; h.failed < hlsFailuresMax {
			return nil
		}
		h.failed = 0
		h.ls.log.Warn("HLS begins anew", "err", err)
		h.current().Close()
		h.queue.restart()
		return h.start()
	})
}

// write gives the muxer a unit. It indexes into what publishers send: a mistake
// there must not end the node.
func (h *hlsOutput) write(u unit) (err error) {
	target, t := h.targets[u.track], h.tracks[u.track]
	if target == nil {
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
			h.failed = hlsFailuresMax // what it holds may be broken
		}
	}()
	m := h.current()
	switch t.format.(type) {
	case *format.H264:
		return m.WriteH264(target, u.at, u.pts, u.parts)
	case *format.H265:
		return m.WriteH265(target, u.at, u.pts, u.parts)
	case *format.AV1:
		return m.WriteAV1(target, u.at, u.pts, u.parts)
	case *format.VP9:
		return m.WriteVP9(target, u.at, u.pts, u.parts[0])
	case *format.MPEG4Audio:
		return m.WriteMPEG4Audio(target, u.at, u.pts, u.parts)
	case *format.Opus:
		return m.WriteOpus(target, u.at, u.pts, u.parts)
	}
	return nil
}

func (h *hlsOutput) current() *gohlslib.Muxer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.muxer
}

// close ends the segments and requests that wait for one.
func (h *hlsOutput) close() {
	h.queue.close()
	<-h.done
	h.current().Close()
}

// serveHLS answers for playlists and segments.
func (s *Service) serveHLS(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	id, file, ok := parseHLS(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	var h *hlsOutput
	var sent func(float64)
	if ls := s.stream(id); ls != nil {
		ls.mu.Lock()
		h, sent = ls.hls, ls.metrics.sent[protocolHLS].Add
		ls.mu.Unlock()
	}
	if h == nil {
		http.Error(w, "the livestream is not on, or HLS cannot carry it", http.StatusNotFound)
		return
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
		return
	}
	counting := &hlsWriter{ResponseWriter: w}
	h.current().Handle(counting, hlsRequest(r, file))
	if !counting.answered {
		http.NotFound(w, r)
	}
	sent(float64(counting.n))
}

// hlsRequest leaves nothing of a request but what the muxer needs. It puts the
// query into the playlists it answers with, which all viewers share.
func hlsRequest(r *http.Request, file string) *http.Request {
	q := url.Values{}
	for _, key := range []string{"_HLS_msn", "_HLS_part", "_HLS_skip"} {
		if v := r.URL.Query().Get(key); v != "" {
			q.Set(key, v)
		}
	}
	return (&http.Request{Method: r.Method, URL: &url.URL{Path: "/" + file, RawQuery: q.Encode()}, Header: http.Header{}, Body: http.NoBody}).WithContext(r.Context())
}

// hlsWriter counts, and knows whether there was an answer at all: the muxer
// gives none for a name it does not know.
type hlsWriter struct {
	http.ResponseWriter
	answered bool
	n        int64
}

// WriteHeader implements [http.ResponseWriter].
func (w *hlsWriter) WriteHeader(code int) {
	w.answered = true
	w.ResponseWriter.WriteHeader(code)
}

// Write implements [http.ResponseWriter].
func (w *hlsWriter) Write(b []byte) (int, error) {
	w.answered = true
	n, err := w.ResponseWriter.Write(b)
	w.n += int64(n)
	return n, err
}

var _ io.Writer = (*hlsWriter)(nil)
