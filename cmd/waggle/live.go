package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func (a *app) live() *cobra.Command {
	return chooser(&cobra.Command{
		Use: "live", Short: "live video",
		Long: "Live video for the members of a conversation. `waggle live create` announces one and\n" +
			"gives the addresses to publish at, with a stream key that is shown once; any program\n" +
			"that sends RTSP or RTMP can publish. Whoever is in the conversation can watch.",
		Example: "  waggle live create --to bob --title 'my garden'\n  waggle live publish 4096-1 garden.mp4\n  waggle live watch 4096-1",
	}, a.liveCreate(), a.livePublish(), a.liveWatch(), a.liveShow(), a.liveTicket())
}

// withLive does something with what the server knows of livestreams.
func (a *app) withLive(ctx context.Context, p *person, do func(*session, *client.Files) error) error {
	s, err := p.connect(ctx, nil)
	if err != nil {
		return err
	}
	defer s.close()
	f := s.Files()
	defer f.Close()
	return do(s, f)
}

// parseLive checks the id that somebody has typed.
func parseLive(text string) error {
	if _, err := proto.ParseLiveID(text); err != nil {
		return usagef("%w", err)
	}
	return nil
}

func (a *app) liveCreate() *cobra.Command {
	var to string
	var l client.NewLive
	cmd := &cobra.Command{
		Use: "create --to T", Short: "announce a livestream", Args: args(0, 0),
		Long: "Makes a livestream for the members of T (a user name, an id, d/… or g/…), announces\n" +
			"it there and prints where to publish it. The addresses hold the stream key, which\n" +
			"is shown this once: whoever has it can publish. With --record a recording is sent\n" +
			"to T when the livestream ends. You can have 16; a new one takes the place of the\n" +
			"oldest that is not on.",
		Example: "  waggle live create --to bob --title 'my garden' --record",
	}
	p := a.personFlags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "who may watch: `T`")
	cmd.Flags().StringVar(&l.Title, "title", "", "what it is called, at most 100 bytes")
	cmd.Flags().BoolVar(&l.Record, "record", false, "send a recording when it ends")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if to == "" {
			return usagef("--to T is missing: who may watch")
		}
		t, err := parseTarget(to)
		if err != nil {
			return err
		}
		return a.withLive(cmd.Context(), p, func(s *session, f *client.Files) error {
			made, err := s.createLive(cmd.Context(), f, t, l)
			if err != nil {
				return err
			}
			a.keepStreamKey(p, made)
			if p.json() {
				return printLine(a.out, made)
			}
			_, err = fmt.Fprintf(a.out, "livestream %s was announced to %s. Publish it at one of\n  %s\n  %s\n"+
				"The stream key in them is not shown again. `waggle live publish %s FILE` sends a file.\n",
				made.ID, to, made.RTSP, made.RTMP, made.ID)
			return err
		})
	}
	return cmd
}

func (a *app) liveShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show LIVE_ID", Short: "show what a livestream is doing", Args: args(1, 1),
		Long: "Shows a livestream's state, viewers and addresses. Where it is published can change\n" +
			"while nobody does: add ?key=STREAM_KEY to the address shown.",
		Example: "  waggle live show 4096-1",
	}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := parseLive(args[0]); err != nil {
			return err
		}
		return a.withLive(cmd.Context(), p, func(s *session, f *client.Files) error {
			l, err := f.ShowLive(cmd.Context(), args[0])
			if err != nil {
				return explain(s.server, err)
			}
			if p.json() {
				return printLine(a.out, liveShownOf(l))
			}
			return a.printLive(l)
		})
	}
	return cmd
}

// liveShownLine is a livestream in JSON.
type liveShownLine struct {
	Live      string `json:"live_id"`
	Thread    string `json:"thread"`
	Title     string `json:"title"`
	Record    bool   `json:"record"`
	State     string `json:"state"`
	Viewers   int    `json:"viewers"`
	StartedAt string `json:"started_at,omitempty"`
	EndedAt   string `json:"ended_at,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Video     string `json:"video,omitempty"`
	Audio     string `json:"audio,omitempty"`
	Node      string `json:"node"`
	RTSP      string `json:"rtsp"`
	RTMP      string `json:"rtmp"`
	HLS       string `json:"hls"`
}

func liveShownOf(l client.Live) liveShownLine {
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return jsonTime(t.UnixMilli())
	}
	return liveShownLine{
		Live: l.ID, Thread: l.Thread, Title: l.Title, Record: l.Record, State: l.State, Viewers: l.Viewers,
		StartedAt: at(l.StartedAt), EndedAt: at(l.EndedAt), Reason: l.Reason, Video: l.Video, Audio: l.Audio,
		Node: l.Node, RTSP: l.RTSP, RTMP: l.RTMP, HLS: l.HLS,
	}
}

func (a *app) printLive(l client.Live) error {
	state := l.State
	switch {
	case l.State == "on":
		state = fmt.Sprintf("on since %s, %d watch", l.StartedAt.Local().Format(time.DateTime), l.Viewers)
	case l.State == "ended" && l.Reason != "":
		state = fmt.Sprintf("ended at %s: %s", l.EndedAt.Local().Format(time.DateTime), harmless(l.Reason))
	}
	_, err := fmt.Fprintf(a.out, "livestream  %s  %s\nthread      %s\nstate       %s\n", l.ID, harmless(l.Title), l.Thread, state)
	if err == nil && l.Video+l.Audio != "" {
		_, err = fmt.Fprintf(a.out, "media       %s, %s\n", harmless(l.Video), harmless(l.Audio))
	}
	if err == nil {
		_, err = fmt.Fprintf(a.out, "rtsp        %s\nrtmp        %s\nhls         %s\n", l.RTSP, l.RTMP, l.HLS)
	}
	return err
}

func (a *app) liveTicket() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ticket LIVE_ID", Short: "get a ticket for a player", Args: args(1, 1),
		Long: "Prints a ticket with which any player can begin to watch within a minute, and the\n" +
			"addresses that have it in them. It is yours alone: it ends with your login, and\n" +
			"when you are no longer in the conversation.",
		Example: "  waggle live ticket 4096-1",
	}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := parseLive(args[0]); err != nil {
			return err
		}
		return a.withLive(cmd.Context(), p, func(s *session, f *client.Files) error {
			t, err := f.LiveTicket(cmd.Context(), args[0])
			if err != nil {
				return explain(s.server, err)
			}
			if p.json() {
				return printLine(a.out, liveTicketLine{t.Ticket, jsonTime(t.ExpiresAt.UnixMilli()), t.RTSP, t.RTMP, t.HLS})
			}
			_, err = fmt.Fprintf(a.out, "%s\n  until %s, as in\n  ffplay '%s'\n  ffplay '%s'\n  %s\n", t.Ticket,
				t.ExpiresAt.Local().Format(time.TimeOnly), t.RTSP, t.RTMP, t.HLS)
			return err
		})
	}
	return cmd
}

// liveTicketLine is a ticket in JSON. The addresses have it in them.
type liveTicketLine struct {
	Ticket    string `json:"ticket"`
	ExpiresAt string `json:"expires_at"`
	RTSP      string `json:"rtsp"`
	RTMP      string `json:"rtmp"`
	HLS       string `json:"hls"`
}

// liveLine is what became of a livestream, in JSON, beside the other fields of
// its event.
type liveLine struct {
	Live     string `json:"live_id"`
	Title    string `json:"title"`
	Record   bool   `json:"record"`
	Video    string `json:"video,omitempty"`
	Audio    string `json:"audio,omitempty"`
	Reason   string `json:"reason,omitempty"`    // of the end
	LastedMS uint64 `json:"lasted_ms,omitempty"` // until the end
}

// liveKinds are the kinds of events about livestreams.
var liveKinds = map[clientpb.LiveAction]string{ // never changed
	clientpb.LiveAction_LIVE_ACTION_ANNOUNCED: "live_announced",
	clientpb.LiveAction_LIVE_ACTION_STARTED:   "live_started",
	clientpb.LiveAction_LIVE_ACTION_ENDED:     "live_ended",
}

// live puts what became of a livestream into the line.
func (l *eventLine) live(m *clientpb.LiveMessage) {
	kind, known := liveKinds[m.GetAction()]
	if !known {
		return
	}
	l.Kind, l.liveLine = kind, &liveLine{
		Live: m.GetLive(), Title: m.GetTitle(), Record: m.GetRecord(), Video: m.GetVideo(), Audio: m.GetAudio(),
		Reason: m.GetReason(), LastedMS: m.GetDurationMs(),
	}
}

// words says for people what became of a livestream of this kind.
func (l *liveLine) words(kind string) string {
	name := l.Live
	if l.Title != "" {
		name = fmt.Sprintf("%s (%s)", oneLine(l.Title), l.Live)
	}
	switch kind {
	case "live_started":
		return fmt.Sprintf("live: %s is on: waggle live watch %s", name, l.Live)
	case "live_ended":
		lasted := (time.Duration(l.LastedMS) * time.Millisecond).Round(time.Second)
		if l.Reason == "" {
			return fmt.Sprintf("live: %s has ended after %s", name, lasted)
		}
		return fmt.Sprintf("live: %s has ended after %s: %s", name, lasted, oneLine(l.Reason))
	}
	return fmt.Sprintf("live: %s is announced", name)
}

// viewersLine is the count of a livestream's viewers in `tail`.
type viewersLine struct {
	Kind    string `json:"kind"` // live_viewers
	Thread  string `json:"thread"`
	Live    string `json:"live_id"`
	Viewers uint32 `json:"viewers"`
	Time    string `json:"time"`

	timeMS int64
}

func viewersLineOf(v *clientpb.LiveViewers, now time.Time) viewersLine {
	return viewersLine{
		Kind: "live_viewers", Thread: v.GetThread(), Live: v.GetLive(), Viewers: v.GetViewers(),
		Time: jsonTime(now.UnixMilli()), timeMS: now.UnixMilli(),
	}
}

func (l viewersLine) print(w io.Writer, json bool) error {
	if json {
		return printLine(w, l)
	}
	_, err := fmt.Fprintf(w, "%s  %s: %d watch livestream %s\n", time.UnixMilli(l.timeMS).Format(time.DateTime), l.Thread, l.Viewers, harmless(l.Live))
	return err
}
