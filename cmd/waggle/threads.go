package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// historyMax bounds `history --limit`: the rows are held until the oldest has
// been read.
const historyMax = 1_000_000

// threadLine is a thread in `threads ls`.
type threadLine struct {
	Thread           string     `json:"thread"`
	PeerName         string     `json:"peer_name"` // direct threads
	LastSeq          string     `json:"last_seq"`
	LastTime         string     `json:"last_time"`
	ReadSeq          string     `json:"read_seq"`
	Unread           uint64     `json:"unread"`
	Messages         uint64     `json:"messages"`
	PeerDeliveredSeq string     `json:"peer_delivered_seq"` // direct threads: how far the other side got
	PeerReadSeq      string     `json:"peer_read_seq"`
	Last             *eventLine `json:"last"` // null where its owner cannot be reached

	lastMS int64
}

func threadOf(t *clientpb.Thread) threadLine {
	l := threadLine{
		Thread: t.GetThread(), PeerName: t.GetPeerName(), LastSeq: decimal(t.GetLastSeq()), LastTime: jsonTime(t.GetLastTimeMs()),
		ReadSeq: decimal(t.GetReadSeq()), Unread: t.GetUnread(), Messages: t.GetMessages(), lastMS: t.GetLastTimeMs(),
		PeerDeliveredSeq: decimal(t.GetPeerDeliveredSeq()), PeerReadSeq: decimal(t.GetPeerReadSeq()),
	}
	if t.GetLast() != nil {
		last := lineOf(0, t.GetLast())
		l.Last = &last
	}
	return l
}

func (a *app) threads() *cobra.Command {
	ls := &cobra.Command{Use: "ls", Short: "list your conversations, newest first", Args: args(0, 0)}
	p := a.personFlags(ls)
	ls.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		var rows []threadLine
		for cursor := ""; ; {
			var page []*clientpb.Thread
			err := s.do(cmd.Context(), func(ctx context.Context) (err error) {
				page, cursor, err = s.Threads(ctx, proto.PageMax, cursor)
				return err
			})
			if err != nil {
				return err
			}
			for _, t := range page {
				if !p.json() {
					rows = append(rows, threadOf(t))
				} else if err := printLine(a.out, threadOf(t)); err != nil {
					return err
				}
			}
			if cursor == "" {
				break
			}
		}
		if p.json() {
			return nil
		}
		return printTable(a.out, rows, false, threadColumns())
	}
	return chooser(&cobra.Command{Use: "threads", Short: "conversations: list"}, ls)
}

func threadColumns() []column[threadLine] {
	return []column[threadLine]{
		{"THREAD", false, func(t threadLine) string { return t.Thread }},
		{"WITH", false, func(t threadLine) string { return harmless(t.PeerName) }},
		{"UNREAD", false, func(t threadLine) string { return decimal(t.Unread) }},
		{"LAST", false, func(t threadLine) string { return time.UnixMilli(t.lastMS).Format(time.DateTime) }},
		{"TEXT", false, func(t threadLine) string {
			if t.Last == nil {
				return ""
			}
			text, _ := t.Last.words()
			return preview(oneLine(harmless(text)), 40)
		}},
	}
}

// preview is at most n letters of a text.
func preview(text string, n int) string {
	letters := []rune(text)
	if len(letters) <= n {
		return text
	}
	return string(letters[:n-1]) + "…"
}

func (a *app) history() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use: "history T", Short: "print a conversation, oldest first", Args: args(1, 1),
		Long: "Prints the newest messages of T (a user name, an id, d/… or g/…), or those before\n" +
			"--before, oldest first. With --after or --at it begins there and goes forwards.",
		Example: "  waggle history bob --limit 10\n  waggle history bob --at '2h ago'",
	}
	p := a.personFlags(cmd)
	f.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q, err := f.query(time.Now())
		if err != nil {
			return err
		}
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		if q.Thread, err = s.threadOf(cmd.Context(), t); err != nil {
			return err
		}
		page := func(q *clientpb.ReadHistory) (events []*clientpb.Event, more bool, err error) {
			err = s.do(cmd.Context(), func(ctx context.Context) (err error) {
				events, more, err = s.History(ctx, q)
				return err
			})
			return events, more, err
		}
		events, err := readPart(page, q, f.limit)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := lineOf(0, e).print(a.out, p.json()); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// historyPage reads one page of a thread; more tells that there are others.
type historyPage func(*clientpb.ReadHistory) (events []*clientpb.Event, more bool, err error)

// readBack reads the newest rows below q.Before (0: of all), at most limit,
// page by page. The oldest comes first.
func readBack(page historyPage, q *clientpb.ReadHistory, limit int) ([]*clientpb.Event, error) {
	var pages [][]*clientpb.Event
	before := q.Before
	for left := limit; left > 0; {
		events, more, err := page(&clientpb.ReadHistory{Thread: q.Thread, Before: before, Limit: uint32(min(left, proto.PageMax))})
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			pages = append(pages, events)
			before = events[0].Seq
		}
		if left -= len(events); !more || len(events) == 0 || before <= 1 {
			break
		}
	}
	slices.Reverse(pages)
	return slices.Concat(pages...), nil
}

func (a *app) read() *cobra.Command {
	cmd := &cobra.Command{
		Use: "read T [SEQ]", Short: "mark a conversation as read", Args: args(1, 2),
		Long: "Raises your read mark in T to SEQ, or to the newest message.",
	}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		seq := uint64(0)
		if len(args) == 2 {
			if seq, err = strconv.ParseUint(args[1], 10, 64); err != nil || seq == 0 {
				return usagef("SEQ %s: a whole number from 1", args[1])
			}
		}
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		thread, err := s.threadOf(cmd.Context(), t)
		if err != nil {
			return err
		}
		var mark proto.Seq
		err = s.do(cmd.Context(), func(ctx context.Context) (err error) {
			if seq == 0 {
				newest, _, err := s.History(ctx, &clientpb.ReadHistory{Thread: thread, Limit: 1})
				if err != nil || len(newest) == 0 {
					return err // nothing there: nothing to mark
				}
				seq = newest[0].Seq
			}
			mark, err = s.MarkRead(ctx, thread, proto.Seq(seq))
			return err
		})
		if err != nil {
			return err
		}
		if p.json() {
			return printLine(a.out, map[string]string{"thread": thread, "seq": decimal(uint64(mark))})
		}
		_, err = fmt.Fprintf(a.out, "%s is read up to %d\n", thread, mark)
		return err
	}
	return cmd
}
