package live

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bluenviron/gortsplib/v4/pkg/description"

	"github.com/waggle-im/waggle/proto"
)

const (
	// recheckAtOnce is how many are asked about at once, for one livestream.
	recheckAtOnce = 8
	// remoteExpiry is how long a count of HLS viewers holds.
	remoteExpiry = 15 * time.Second
	// remoteSourcesMax is more than there are edges.
	remoteSourcesMax = 1024
)

// viewer is somebody who watches by RTSP or RTMP.
type viewer struct {
	ls         *livestream
	who        Viewer
	protocol   string
	disconnect func()    // must not wait
	queue      *queue    // of RTMP; nil: the library has one
	asked      time.Time // when it was last allowed to stay

	once   sync.Once
	reason atomic.Pointer[string] // why it was closed; nil: it has left
}

// remoteViewers are those of one edge.
type remoteViewers struct {
	n     int
	until time.Time
}

// join makes v one of the viewers. tracks are those it will see.
func (ls *livestream) join(v *viewer) (tracks []*track, err error) {
	if err := ls.s.seat(); err != nil {
		return nil, err
	}
	if tracks = ls.seated(v); tracks == nil {
		ls.s.unseat()
		return nil, proto.Errorf(proto.CodeNotReady, "livestream %s is not on", ls.id)
	}
	return tracks, nil
}

// seated is nil if there is nothing to watch.
func (ls *livestream) seated(v *viewer) []*track {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.state == Ended || len(ls.tracks) == 0 {
		return nil
	}
	v.ls, v.asked = ls, time.Now()
	ls.viewers[v] = struct{}{}
	if v.queue != nil {
		ls.queues[v.queue] = struct{}{}
	}
	ls.metrics.viewers[v.protocol].Inc()
	ls.poke(ls.news)
	return ls.tracks
}

// leave is called once for everyone who has joined.
func (v *viewer) leave() {
	ls := v.ls
	if reason := v.reason.Load(); reason != nil && *reason == tooSlow {
		ls.log.Info("viewer closed", "protocol", v.protocol, "user", v.who.User, "reason", tooSlow)
	}
	ls.mu.Lock()
	_, there := ls.viewers[v]
	delete(ls.viewers, v)
	delete(ls.queues, v.queue)
	if there {
		ls.metrics.viewers[v.protocol].Dec()
	}
	ls.mu.Unlock()
	if there {
		ls.s.unseat()
		ls.poke(ls.news)
	}
}

// end closes a viewer's connection. It does not wait.
func (v *viewer) end(reason string) {
	v.once.Do(func() {
		v.reason.Store(&reason)
		v.ls.log.Info("viewer closed", "protocol", v.protocol, "user", v.who.User, "reason", reason)
		v.disconnect()
	})
}

const tooSlow = "too slow"

// slow closes a viewer whose queue is full. It is called under locks: the log is
// told by leave.
func (v *viewer) slow() {
	v.once.Do(func() {
		reason := tooSlow
		v.reason.Store(&reason)
		v.ls.metrics.slow[v.protocol].Inc()
		v.disconnect()
	})
}

// SetHLSViewers says how many watch a livestream by HLS through source, an edge.
// It holds for 15 s.
func (s *Service) SetHLSViewers(id proto.LiveID, source string, n int) {
	ls := s.stream(id)
	if ls == nil || n < 0 {
		return
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.state == Ended {
		return
	}
	was, known := ls.remote[source]
	if !known && len(ls.remote) >= remoteSourcesMax {
		return
	}
	ls.remote[source] = remoteViewers{n, time.Now().Add(remoteExpiry)}
	if was.n != n {
		ls.poke(ls.news)
	}
}

// recheckAll asks again and again whether viewers may stay.
func (ls *livestream) recheckAll(ctx context.Context) {
	tick := time.NewTicker(ls.s.cfg.RecheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			ls.recheck(ctx)
		}
	}
}

func (ls *livestream) recheck(ctx context.Context) {
	ls.mu.Lock()
	all := make(chan *viewer, len(ls.viewers))
	for v := range ls.viewers {
		all <- v
	}
	close(all)
	ls.mu.Unlock()
	var workers sync.WaitGroup
	for range min(recheckAtOnce, len(all)) {
		workers.Go(func() {
			for v := range all {
				ls.recheckOne(ctx, v)
			}
		})
	}
	workers.Wait()
}

func (ls *livestream) recheckOne(ctx context.Context, v *viewer) {
	asking, cancel := context.WithTimeout(ctx, rightsTimeout)
	err := ls.s.deps.Rights.MayStay(asking, v.who)
	cancel()
	e, known := errors.AsType[*proto.Error](err)
	refused := known && e.Code.Class() == proto.ClassGiveUp // others tell of ranges that move
	switch {
	case ctx.Err() != nil:
	case err == nil:
		v.asked = time.Now()
	case refused:
		v.end(e.Error())
	case time.Since(v.asked) > ls.s.cfg.RecheckGrace:
		v.end("nobody can be asked whether the viewer may stay")
	}
}

// reportAll tells Rights what the livestream does, until ctx ends.
func (ls *livestream) reportAll(ctx context.Context) {
	expiry := time.NewTicker(time.Second)
	defer expiry.Stop()
	last, open := -1, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ls.news:
			open = true
		case now := <-expiry.C:
			n, untimed := ls.expire(now)
			open = open || n != last && last >= 0
			for _, name := range untimed {
				ls.log.Warn("the order of pictures cannot be found out: they are carried by RTSP only", "track", name)
			}
		}
		if !open {
			continue
		}
		n, ok := ls.viewersNow(), false
		if ls.begun() {
			asking, cancel := context.WithTimeout(ctx, rightsTimeout)
			ok = ls.report(asking) == nil
			cancel()
		}
		if ok {
			last, open = n, false
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(ls.s.cfg.ReportInterval):
		}
	}
}

func (ls *livestream) begun() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return !ls.began.IsZero()
}

func (ls *livestream) viewersNow() int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.count()
}

// count is how many watch, under the lock.
func (ls *livestream) count() int {
	n := len(ls.viewers)
	for _, r := range ls.remote {
		n += r.n
	}
	return n
}

// expire forgets counts of edges that have not spoken for long, brings metrics up
// to date, and names tracks that are found to have no order.
func (ls *livestream) expire(now time.Time) (viewers int, untimed []string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	remote := 0
	for source, r := range ls.remote {
		if now.After(r.until) {
			delete(ls.remote, source)
			continue
		}
		remote += r.n
	}
	ls.countSent()
	ls.metrics.viewers[protocolHLS].Set(float64(remote))
	for _, t := range ls.tracks {
		if t.untimed >= untimedMax && !t.told {
			t.told = true
			untimed = append(untimed, t.name())
		}
	}
	return ls.count(), untimed
}

// report tells Rights what the livestream does now.
func (ls *livestream) report(ctx context.Context) error {
	ls.mu.Lock()
	r := Report{Live: ls.id, State: ls.state, Reason: ls.reason, Viewers: ls.count(), Started: ls.began, Video: ls.told.Video, Audio: ls.told.Audio}
	if ls.state == Ended {
		r.Viewers = 0
	}
	if len(ls.tracks) > 0 { // none are left at the end
		r.Video, r.Audio = ls.firstOf(description.MediaTypeVideo), ls.firstOf(description.MediaTypeAudio)
	}
	ls.told = r
	ls.mu.Unlock()
	return ls.s.deps.Rights.Report(ctx, r)
}

// firstOf names the first track of a kind, under the lock.
func (ls *livestream) firstOf(kind description.MediaType) string {
	for _, t := range ls.tracks {
		if t.media.Type == kind {
			return t.name()
		}
	}
	return ""
}
