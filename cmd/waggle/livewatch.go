package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/cmd/waggle/livewatch"
	"github.com/waggle-im/waggle/proto"
)

const transportHLS = "hls"

func (a *app) liveWatch() *cobra.Command {
	var out string
	transport := choice{value: transportRTP, allowed: []string{transportRTP, transportFLV, transportHLS}}
	cmd := &cobra.Command{
		Use: "watch LIVE_ID", Short: "receive a livestream and tell how it arrives", Args: args(1, 1),
		Long: "Receives a livestream until it ends or is interrupted, and says every second on\n" +
			"standard error at which rate it comes, what was lost, and how long the newest media\n" +
			"was on its way (by the clocks of the two machines; RTMP does not tell). --out FILE\n" +
			"keeps it: MPEG-TS from rtsp and rtmp, fragmented MP4 from hls, whose sound, if it is\n" +
			"apart, goes to FILE.audio.mp4. To see it, give a player the address that\n" +
			"`waggle live ticket` prints.",
		Example: "  waggle live watch 4096-1\n  waggle live watch 4096-1 --transport hls --out garden.mp4",
	}
	p := a.personFlags(cmd)
	cmd.Flags().Var(&transport, "transport", "rtsp, rtmp or hls")
	cmd.Flags().StringVar(&out, "out", "", "keep it in `FILE`, which must not exist")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := parseLive(args[0]); err != nil {
			return err
		}
		prof, err := p.loggedIn()
		if err != nil {
			return err
		}
		return a.withLive(cmd.Context(), p, func(s *session, f *client.Files) error {
			w := &liveWatcher{a: a, live: args[0], transport: transport.value, out: out, json: p.json(), prof: prof}
			return w.run(cmd.Context(), s, f)
		})
	}
	return cmd
}

// liveWatcher is one livestream that is being received.
type liveWatcher struct {
	a                    *app
	live, transport, out string
	json                 bool
	prof                 profile
	meter                livewatch.Meter
	files                []*os.File
}

func (w *liveWatcher) run(ctx context.Context, s *session, f *client.Files) (err error) {
	ticket, err := f.LiveTicket(ctx, w.live)
	if err != nil {
		return explain(s.server, err)
	}
	if w.out != "" {
		if _, err := w.create(w.out); err != nil {
			return err
		}
	}
	defer func() {
		for _, file := range w.files {
			err = errors.Join(err, file.Close())
		}
	}()
	telling, stop := context.WithCancel(ctx)
	told := make(chan error, 1)
	go func() { told <- w.tell(telling) }() // awaited below
	err = w.receive(ctx, ticket)
	stop()
	err = errors.Join(err, <-told)
	if ctx.Err() != nil {
		return nil // interrupting it is a good end
	}
	return w.why(ctx, f, err)
}

// create makes a file that is not there yet.
func (w *liveWatcher) create(name string) (io.Writer, error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	w.files = append(w.files, file)
	return file, nil
}

func (w *liveWatcher) receive(ctx context.Context, ticket client.LiveTicket) error {
	o := livewatch.Options{Meter: &w.meter}
	if len(w.files) > 0 {
		o.Out = w.files[0]
	}
	switch w.transport {
	case transportFLV:
		o.Address = ticket.RTMP
		return livewatch.RTMP(ctx, o)
	case transportHLS:
		o.Address = ticket.HLS
		transport := &http.Transport{ForceAttemptHTTP2: true}
		if w.prof.Transport != string(client.Plain) {
			var err error
			if transport.TLSClientConfig, err = roots(w.prof.CA); err != nil {
				return err
			}
		}
		defer transport.CloseIdleConnections()
		return livewatch.HLS(ctx, livewatch.HLSOptions{
			Options: o, Client: &http.Client{Transport: transport},
			Sound: func() (io.Writer, error) { return w.create(w.out + ".audio.mp4") },
		})
	}
	o.Address = ticket.RTSP
	return livewatch.RTSP(ctx, o)
}

// watchedLine is how a livestream has arrived during a second.
type watchedLine struct {
	Time    string  `json:"time"`
	Bytes   uint64  `json:"bytes"`    // since the beginning
	Rate    float64 `json:"rate_bps"` // bits per second, of this second
	Packets uint64  `json:"packets"`
	Lost    uint64  `json:"lost"`
	DelayMS *int64  `json:"delay_ms,omitempty"`
}

// tell says every second how it goes.
func (w *liveWatcher) tell(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	w.meter.Measure(time.Now())
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			m := w.meter.Measure(now)
			if w.json {
				l := watchedLine{Time: jsonTime(now.UnixMilli()), Bytes: m.Bytes, Rate: m.Rate, Packets: m.Packets, Lost: m.Lost}
				if m.Known {
					ms := m.Delay.Milliseconds()
					l.DelayMS = &ms
				}
				if err := printLine(w.a.out, l); err != nil {
					return err
				}
				continue
			}
			delay := "not told"
			if m.Known {
				delay = m.Delay.Round(time.Millisecond).String()
			}
			fmt.Fprintf(w.a.err, "%s  %.2f Mbit/s  %d lost  delay %s\n", now.Format(time.TimeOnly), m.Rate/1e6, m.Lost, delay)
		}
	}
}

// why finds out why nothing comes any more.
func (w *liveWatcher) why(ctx context.Context, f *client.Files, err error) error {
	// Viewers are let go a moment before the end is told.
	l, showErr := f.ShowLive(ctx, w.live)
	for tries := 0; tries < 6 && showErr == nil && l.State == "on" && ctx.Err() == nil; tries++ {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
		l, showErr = f.ShowLive(ctx, w.live)
	}
	switch code := proto.CodeOf(showErr); {
	case code == proto.CodeNotFriends || code == proto.CodeUnknownLive || code == proto.CodeSessionEnded:
		return fmt.Errorf("you may not watch %s any more: %w", w.live, showErr)
	case showErr == nil && l.State == "ended":
		reason := l.Reason
		if reason == "" {
			reason = "its publisher has ended it"
		}
		fmt.Fprintf(w.a.err, "waggle: the livestream has ended: %s\n", harmless(reason))
		return nil
	case showErr == nil && l.State != "on":
		return fmt.Errorf("livestream %s is not on (%s): `waggle tail` says when it starts", w.live, l.State)
	case err == nil:
		return errors.New("the connection has ended")
	}
	return fmt.Errorf("%s: %w", w.transport, err)
}
