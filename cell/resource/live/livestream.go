package live

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/description"

	"github.com/waggle-im/waggle/proto"
)

// livestream is one livestream from its first publisher until nobody has
// published for as long as it waits.
type livestream struct {
	s       *Service
	id      proto.LiveID
	log     *slog.Logger
	metrics *streamMetrics
	wake    chan struct{} // has a token when run should look again
	news    chan struct{} // has a token when there is something to report
	done    chan struct{} // closed when it has ended and is forgotten

	mu       sync.Mutex // guards what follows
	admitted Publication
	state    State
	reason   string    // of the end
	began    time.Time // when the first unit's publisher began
	deadline time.Time // while interrupted
	pub      *publisher
	tracks   []*track
	video    bool // one of the tracks is of video that is known
	line     timeline
	out      *gortsplib.ServerStream // nil without RTSP
	counted  uint64                  // bytes of out that the metrics have
	hls      *hlsOutput
	rec      *recorder
	viewers  map[*viewer]struct{}
	queues   map[*queue]struct{} // of RTMP viewers
	remote   map[string]remoteViewers
	told     Report // the last one
}

func newLivestream(s *Service, id proto.LiveID, pub Publication) *livestream {
	return &livestream{
		s: s, id: id, admitted: pub, log: s.log.With("live", id.String()), metrics: s.metrics.of(id),
		wake: make(chan struct{}, 1), news: make(chan struct{}, 1), done: make(chan struct{}),
		viewers: make(map[*viewer]struct{}), queues: make(map[*queue]struct{}), remote: make(map[string]remoteViewers),
	}
}

func (ls *livestream) poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run is the life of the livestream.
func (ls *livestream) run() {
	ctx, cancel := context.WithCancel(ls.s.running)
	var helpers sync.WaitGroup
	helpers.Go(func() { ls.reportAll(ctx) })
	helpers.Go(func() { ls.recheckAll(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, over := ls.look(time.Now())
		if over {
			break
		}
		timer.Reset(wait)
		select {
		case <-ls.wake:
		case <-timer.C:
		case <-ctx.Done():
			ls.endNow("this node is stopping")
		}
	}
	cancel()
	helpers.Wait()
	ls.wrapUp()
	ls.s.forget(ls)
	close(ls.done)
}

// look says whether the livestream is over, and when to look again if not.
func (ls *livestream) look(now time.Time) (wait time.Duration, over bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case ls.state == Ended:
		return 0, true
	case ls.pub != nil || ls.state == On:
		return time.Hour, false
	case ls.state == Waiting: // who claimed it has gone before it began
		ls.state = Ended
		return 0, true
	case !now.Before(ls.deadline):
		ls.state, ls.reason = Ended, "the publisher has left"
		return 0, true
	}
	return ls.deadline.Sub(now), false
}

// endNow makes run end the livestream.
func (ls *livestream) endNow(reason string) {
	ls.mu.Lock()
	if ls.state != Ended {
		ls.state, ls.reason = Ended, reason
	}
	ls.mu.Unlock()
	ls.poke(ls.wake)
}

// wrapUp closes everybody, finishes the recording and tells of the end.
func (ls *livestream) wrapUp() {
	ls.mu.Lock()
	pub, reason, began := ls.pub, ls.reason, !ls.began.IsZero()
	old := ls.detach()
	ls.mu.Unlock()
	if pub != nil {
		pub.disconnect()
	}
	old.close("the livestream has ended: " + reason)
	if !began {
		return
	}
	ls.log.Info("livestream ended", "reason", reason)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ls.s.running), endTimeout)
	defer cancel()
	for ls.report(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(ls.s.cfg.ReportInterval):
		}
	}
}

// outputs are what hangs on one set of tracks.
type outputs struct {
	out     *gortsplib.ServerStream
	hls     *hlsOutput
	rec     *recorder
	viewers []*viewer
}

// detach takes the outputs off the livestream, under its lock; they are to be
// closed without it.
func (ls *livestream) detach() outputs {
	o := outputs{out: ls.out, hls: ls.hls, rec: ls.rec}
	for v := range ls.viewers {
		o.viewers = append(o.viewers, v)
	}
	ls.countSent()
	ls.out, ls.hls, ls.rec, ls.tracks, ls.video, ls.counted = nil, nil, nil, nil, false, 0
	clear(ls.queues)
	return o
}

func (o outputs) close(reason string) {
	for _, v := range o.viewers {
		v.end(reason)
	}
	if o.out != nil {
		o.out.Close()
	}
	if o.hls != nil {
		o.hls.close()
	}
	if o.rec != nil {
		o.rec.close()
	}
}

func (ls *livestream) on() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return (ls.state == On || ls.state == Interrupted) && len(ls.tracks) > 0
}

// carried tells whether one of the tracks is as asked for.
func (ls *livestream) carried(by func(*track) bool) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return slices.ContainsFunc(ls.tracks, by)
}

// publisher is who publishes a livestream, from being admitted to going.
type publisher struct {
	ls         *livestream
	protocol   string
	disconnect func()
	limit      *byteLimit
	sources    []*source // by track
	gone       atomic.Bool
	heard      atomic.Int64 // when something came last, in Unix nanoseconds
}

// claim makes a publisher the only one. It is nil, without an error, if the
// livestream has ended.
func (ls *livestream) claim(protocol string, admitted Publication, disconnect func()) (*publisher, error) {
	ls.dropSilent()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.state == Ended {
		return nil, nil
	}
	if ls.pub != nil {
		return nil, proto.Errorf(proto.CodeConflict, "somebody publishes livestream %s already", ls.id)
	}
	ls.admitted = admitted
	ls.pub = &publisher{ls: ls, protocol: protocol, disconnect: disconnect, limit: newByteLimit(ls.s.cfg.PublishBytesPerSecondMax)}
	ls.pub.hear()
	return ls.pub, nil
}

// dropSilent lets a publisher go of whom nothing has come for a while, so that
// somebody whose link was cut can come back before the cut is noticed.
func (ls *livestream) dropSilent() {
	ls.mu.Lock()
	p := ls.pub
	ls.mu.Unlock()
	if p == nil || p.silence() < ls.s.cfg.SilentBefore {
		return
	}
	p.release("it was silent, and another one has come with the key")
	p.disconnect()
}

func (p *publisher) hear() { p.heard.Store(time.Now().UnixNano()) }

func (p *publisher) silence() time.Duration { return time.Since(time.Unix(0, p.heard.Load())) }

// begin takes the tracks of a publisher. If viewers of the last one cannot go on
// with them they are closed, and so is the recording.
func (p *publisher) begin(sources []*source) error {
	tracks := make([]*track, len(sources))
	for i, s := range sources {
		tracks[i] = s.track
	}
	ls := p.ls
	fresh, err := ls.s.newOutputs(ls, tracks) // before the lock: it may use the disk
	if err != nil {
		return err
	}
	ls.mu.Lock()
	if ls.state == Ended || ls.pub != p {
		ls.mu.Unlock()
		fresh.close("")
		return proto.Errorf(proto.CodeNotReady, "livestream %s has ended", ls.id)
	}
	unused, change := fresh, !fitAll(ls.tracks, tracks)
	if change {
		unused = ls.detach()
		ls.tracks, ls.out, ls.hls, ls.rec = tracks, fresh.out, fresh.hls, fresh.rec
		for _, t := range tracks {
			ls.video = ls.video || t.video
		}
	} else {
		for i, s := range sources {
			s.track = ls.tracks[i]
		}
	}
	p.sources = sources
	ls.line.next()
	again := !ls.began.IsZero()
	if !again {
		ls.began = time.Now()
	}
	ls.state, ls.reason = On, ""
	ls.tellLeftOut(tracks)
	ls.mu.Unlock()
	unused.close("the publisher has come back with other video or sound")
	ls.log.Info("publisher begins", "protocol", p.protocol, "tracks", names(tracks), "again", again, "other", change && again)
	ls.poke(ls.wake)
	ls.poke(ls.news)
	return nil
}

// newOutputs makes what a set of tracks needs.
func (s *Service) newOutputs(ls *livestream, tracks []*track) (outputs, error) {
	var o outputs
	if s.rtsp != nil {
		desc := &description.Session{Title: "waggle"}
		for _, t := range tracks {
			desc.Medias = append(desc.Medias, t.media)
		}
		o.out = &gortsplib.ServerStream{Server: s.rtsp, Desc: desc}
		if err := o.out.Initialize(); err != nil {
			return outputs{}, err
		}
	}
	o.hls = newHLSOutput(ls, tracks)
	ls.mu.Lock()
	record := ls.admitted.Record && !(len(ls.tracks) > 0 && fitAll(ls.tracks, tracks))
	ls.mu.Unlock()
	switch {
	case record && s.keep == nil:
		ls.log.Warn("not recorded: this node has no folder for recordings")
	case record:
		o.rec = s.keep.begin(ls, tracks)
	}
	return o, nil
}

func fitAll(have, now []*track) bool {
	if len(have) == 0 || len(have) != len(now) {
		return false
	}
	for i := range have {
		if !have[i].fits(now[i]) {
			return false
		}
	}
	return true
}

func names(tracks []*track) []string {
	out := make([]string, len(tracks))
	for i, t := range tracks {
		out[i] = t.name()
	}
	return out
}

// tellLeftOut says in the log what some outputs cannot carry.
func (ls *livestream) tellLeftOut(tracks []*track) {
	for _, t := range tracks {
		var without []string
		if rtmpCodec(t) == nil {
			without = append(without, protocolRTMP)
		}
		if hlsCodec(t) == nil {
			without = append(without, protocolHLS)
		}
		if ls.admitted.Record && mp4Codec(t) == nil {
			without = append(without, toFile)
		}
		if len(without) > 0 {
			ls.log.Info("a track is left out where it cannot be carried", "track", t.name(), "of", without)
		}
	}
}

// release is called once when the publisher has gone, for reason.
func (p *publisher) release(reason string) {
	if p.gone.Swap(true) {
		return
	}
	ls := p.ls
	ls.mu.Lock()
	if ls.pub == p {
		ls.pub = nil
	}
	interrupted := ls.state == On
	if interrupted {
		ls.state = Interrupted
		ls.deadline = time.Now().Add(ls.s.cfg.ReconnectWithin)
	}
	ls.mu.Unlock()
	if interrupted {
		ls.log.Info("publisher gone", "reason", reason, "wait", ls.s.cfg.ReconnectWithin)
		ls.poke(ls.news)
	}
	ls.poke(ls.wake)
}
