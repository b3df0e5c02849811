package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// historyFlags say which part of a conversation to print.
type historyFlags struct {
	limit         int
	before, after uint64
	at            string
}

func (f *historyFlags) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.limit, "limit", proto.PageDefault, "at most `N` messages")
	cmd.Flags().Uint64Var(&f.before, "before", 0, "only those before `SEQ`")
	cmd.Flags().Uint64Var(&f.after, "after", 0, "only those after `SEQ`, the oldest of them first")
	cmd.Flags().StringVar(&f.at, "at", "", "only those from this `TIME` on: RFC 3339, or as '2h ago'")
}

// query checks the flags. The time is counted back from now.
func (f *historyFlags) query(now time.Time) (*clientpb.ReadHistory, error) {
	if f.limit < 1 || f.limit > historyMax {
		return nil, usagef("--limit %d: from 1 to %d", f.limit, historyMax)
	}
	q := &clientpb.ReadHistory{Before: f.before, After: f.after}
	if f.at != "" {
		at, err := parseTime(f.at, now)
		if err != nil {
			return nil, err
		}
		q.AtMs = max(1, at.UnixMilli())
	}
	return q, nil
}

// parseTime reads a time in RFC 3339, or how long ago it was: "90m",
// "2h ago", "3d ago".
func parseTime(s string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, nil
	}
	ago := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(s), "ago"))
	day := time.Duration(1)
	if days, ok := strings.CutSuffix(ago, "d"); ok {
		ago, day = days+"h", 24
	}
	d, err := time.ParseDuration(ago)
	if err != nil || d < 0 || d > 100*365*24*time.Hour/day {
		return time.Time{}, usagef("--at %q: not a time as 2026-01-31T08:00:00Z, nor as '2h ago'", s)
	}
	return now.Add(-d * day), nil
}

// readPart reads what q asks for, at most limit rows, oldest first: back from
// the newest, or forwards where q says where to begin.
func readPart(page historyPage, q *clientpb.ReadHistory, limit int) ([]*clientpb.Event, error) {
	if q.After == 0 && q.AtMs == 0 {
		return readBack(page, q, limit)
	}
	var out []*clientpb.Event
	next := &clientpb.ReadHistory{Thread: q.Thread, Before: q.Before, After: q.After, AtMs: q.AtMs}
	for left := limit; left > 0; left = limit - len(out) {
		next.Limit = uint32(min(left, proto.PageMax))
		events, more, err := page(next)
		if err != nil {
			return nil, err
		}
		out = append(out, events...)
		if !more || len(events) == 0 {
			break
		}
		next.After, next.AtMs = events[len(events)-1].Seq, 0
	}
	return out, nil
}
