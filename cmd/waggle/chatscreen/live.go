package chatscreen

import (
	"fmt"
	"time"

	clientpb "github.com/waggle-im/waggle/proto/client"
)

// liveText is what became of a livestream, safe to draw.
func liveText(l *clientpb.LiveMessage) string {
	name := oneLine(l.GetLive())
	if l.GetTitle() != "" {
		name = fmt.Sprintf("%s (%s)", oneLine(l.GetTitle()), name)
	}
	switch l.GetAction() {
	case clientpb.LiveAction_LIVE_ACTION_STARTED:
		return fmt.Sprintf("▶ %s is on: waggle live watch %s", name, oneLine(l.GetLive()))
	case clientpb.LiveAction_LIVE_ACTION_ENDED:
		lasted := (time.Duration(l.GetDurationMs()) * time.Millisecond).Round(time.Second)
		return fmt.Sprintf("■ %s has ended after %s", name, lasted)
	}
	return fmt.Sprintf("◷ livestream %s is announced", name)
}

// byItself tells whether the row is no message of a person: the start or the end
// of a livestream.
func (r *row) byItself() bool {
	return r.live != nil && r.live.Action != clientpb.LiveAction_LIVE_ACTION_ANNOUNCED
}

// livesMax bounds the livestreams of a thread whose viewers are remembered.
const livesMax = 64

// watched takes how many watch a livestream.
func (s *store) watched(v *clientpb.LiveViewers) {
	t := s.thread(v.GetThread())
	if t == nil {
		return
	}
	if t.watch == nil || len(t.watch) >= livesMax {
		t.watch = map[string]uint32{}
	}
	t.watch[v.GetLive()] = v.GetViewers()
}

// watching is how many watch, beside the start of a livestream that is still on.
func (t *thread) watching(r *row) string {
	if r.live == nil || r.live.Action != clientpb.LiveAction_LIVE_ACTION_STARTED {
		return ""
	}
	n, known := t.watch[r.live.Live]
	for _, later := range t.rows {
		if later.seq > r.seq && later.byItself() && later.live.Live == r.live.Live {
			return "" // it has ended
		}
	}
	if !known {
		return ""
	}
	return fmt.Sprintf(" · %d watching", n)
}
