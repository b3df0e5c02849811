package rights

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/waggle-im/waggle/cell/resource/live"
	"github.com/waggle-im/waggle/internal/atomicfile"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

const (
	// retryEvery is the pause before a report is tried again that could not be
	// told.
	retryEvery = 2 * time.Second
	// carriedMax bounds the livestreams whose reports wait; those of one node
	// that is full are fewer.
	carriedMax = 10_000
)

// carried is one livestream that this node reports of. Reports of one go out
// one after the other.
type carried struct {
	started int64 // of the run, Unix milliseconds; guarded by Service.mu

	mu      sync.Mutex   // held while one is told, and guards the fields below
	told    *live.Report // the last one that was taken
	counted int          // viewers that the members were told last
	waiting *live.Report // that could not be told yet
}

// left is a livestream that an earlier process carried.
type left struct {
	Live    string `json:"live"`
	Started int64  `json:"started_ms"`
}

// Report implements [live.Rights]. A start or an end that cannot be told now is
// told later: Run sees to it.
//
// Errors: [proto.CodeConflict] if the livestream is published elsewhere by now,
// [proto.CodeUnknownLive] if it was removed: then it is ended here.
func (s *Service) Report(ctx context.Context, r live.Report) error {
	c, err := s.carry(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.tell(ctx, c, r)
}

// carry finds or notes the livestream of a report.
func (s *Service) carry(r live.Report) (*carried, error) {
	started := r.Started.UnixMilli()
	s.mu.Lock()
	c := s.carried[r.Live]
	if c != nil && c.started == started {
		s.mu.Unlock()
		return c, nil
	}
	if c == nil && len(s.carried) >= carriedMax {
		s.mu.Unlock()
		return nil, proto.Errorf(proto.CodeOverloaded, "this node carries too many livestreams")
	}
	if c == nil {
		c = new(carried)
		s.carried[r.Live] = c
	}
	c.started = started
	s.mu.Unlock()
	return c, s.writeJournal()
}

// tell needs c.mu.
func (s *Service) tell(ctx context.Context, c *carried, r live.Report) error {
	if r.State == live.Interrupted && (c.told == nil || !c.told.Started.Equal(r.Started)) {
		r.State = live.On // first the range must hear that it has begun
	}
	if c.told != nil && *c.told == r {
		return nil // there is nothing new
	}
	err := s.send(ctx, r)
	switch code := proto.CodeOf(err); {
	case code == proto.CodeOK:
		c.waiting = nil
		c.told = &r
	case code.Class() == proto.ClassGiveUp:
		s.forget(r.Live, c)
		if r.State == live.Ended {
			return nil // its end is of no interest
		}
		if s.deps.End != nil {
			s.deps.End(r.Live, proto.AsError(err).Error())
		}
		return err
	default:
		c.waiting = &r
		s.log.Warn("what becomes of a livestream is told later", "live", r.Live.String(), "err", err)
		return nil
	}
	if r.State == live.Ended {
		s.forget(r.Live, c)
	} else if r.State == live.On && r.Viewers != c.counted {
		c.counted = r.Viewers
		s.tellViewers(ctx, r)
	}
	return nil
}

func (s *Service) forget(id proto.LiveID, c *carried) {
	c.waiting, c.told = nil, nil
	s.mu.Lock()
	if s.carried[id] == c {
		delete(s.carried, id)
	}
	s.mu.Unlock()
	if err := s.writeJournal(); err != nil {
		s.log.Warn("the list of livestreams cannot be written", "err", err)
	}
}

// states are the states as ranges know them.
var states = map[live.State]cellpb.LiveState{ // never changed
	live.Waiting: cellpb.LiveState_LIVE_STATE_WAITING, live.On: cellpb.LiveState_LIVE_STATE_ON,
	live.Interrupted: cellpb.LiveState_LIVE_STATE_INTERRUPTED, live.Ended: cellpb.LiveState_LIVE_STATE_ENDED,
}

func (s *Service) send(ctx context.Context, r live.Report) error {
	short := func(text string) string {
		text = strings.ToValidUTF8(text, "")
		for len(text) > proto.LiveTextBytesMax {
			text = strings.ToValidUTF8(text[:proto.LiveTextBytesMax], "")
		}
		return text
	}
	_, err := s.ask(ctx, r.Live.Owner, &cellpb.RelayRequest{Body: &cellpb.RelayRequest_ReportLive{ReportLive: &cellpb.ReportLive{
		User: uint64(r.Live.Owner), Number: r.Live.Number, Node: string(s.cfg.Node), Cell: string(s.cfg.Cell),
		State: states[r.State], Reason: short(r.Reason), Viewers: uint32(max(0, r.Viewers)), StartedMs: r.Started.UnixMilli(),
		Video: short(r.Video), Audio: short(r.Audio),
	}}})
	return err
}

// tellViewers has the members of the thread told how many watch, now or never.
func (s *Service) tellViewers(ctx context.Context, r live.Report) {
	row, err := s.row(ctx, r.Live)
	if err != nil {
		return
	}
	thread, err := proto.ParseThreadID(row.Thread)
	if err != nil {
		return
	}
	_, err = s.ask(ctx, thread.Owner(), &cellpb.RelayRequest{Body: &cellpb.RelayRequest_LiveTold{LiveTold: &cellpb.LiveTold{
		From:    uint64(r.Live.Owner),
		Viewers: &clientpb.LiveViewers{Thread: row.Thread, Live: r.Live.String(), Viewers: uint32(max(0, r.Viewers))},
	}}})
	if err != nil {
		s.log.Debug("the count of viewers was not told", "live", r.Live.String(), "err", err)
	}
}

// Run tells what an earlier process left behind and what could not be told,
// until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		s.endLeft(ctx)
		s.tellWaiting(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// endLeft ends what an earlier process of this node carried.
func (s *Service) endLeft(ctx context.Context) {
	var still []left
	for _, l := range s.left {
		id, err := proto.ParseLiveID(l.Live)
		if err != nil {
			continue
		}
		err = s.send(ctx, live.Report{Live: id, State: live.Ended, Reason: "its node was started again", Started: time.UnixMilli(l.Started)})
		if proto.CodeOf(err).Class() == proto.ClassRetryLater && err != nil {
			still = append(still, l)
		}
	}
	if len(s.left) > 0 {
		s.journal.Lock()
		s.left = still
		s.journal.Unlock()
		if err := s.writeJournal(); err != nil {
			s.log.Warn("the list of livestreams cannot be written", "err", err)
		}
	}
}

func (s *Service) tellWaiting(ctx context.Context) {
	s.mu.Lock()
	all := make(map[proto.LiveID]*carried, len(s.carried))
	for id, c := range s.carried {
		all[id] = c
	}
	s.mu.Unlock()
	for id, c := range all {
		c.mu.Lock()
		if c.waiting != nil && ctx.Err() == nil {
			if err := s.tell(ctx, c, *c.waiting); err != nil {
				s.log.Warn("what becomes of a livestream cannot be told", "live", id.String(), "err", err)
			}
		}
		c.mu.Unlock()
	}
}

// readJournal reads which livestreams an earlier process carried.
func readJournal(file string) ([]left, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []left
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("live: %s: %w: remove it if it is damaged", file, err)
	}
	return out, nil
}

// writeJournal writes which livestreams this node carries, so that their ends
// are told even if it dies.
func (s *Service) writeJournal() error {
	s.journal.Lock()
	defer s.journal.Unlock()
	list := append([]left{}, s.left...)
	s.mu.Lock()
	for id, c := range s.carried {
		list = append(list, left{Live: id.String(), Started: c.started})
	}
	s.mu.Unlock()
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.journalFile(), raw, 0o600); err != nil {
		return fmt.Errorf("live: %w", err)
	}
	return nil
}
