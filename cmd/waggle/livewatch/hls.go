package livewatch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// hlsPause is the time between two looks at a playlist: half of the shortest
	// segment.
	hlsPause = 500 * time.Millisecond
	// hlsPatience is how long nothing new may come.
	hlsPatience = 20 * time.Second
	// hlsBytesMax bounds a playlist or a segment.
	hlsBytesMax = 64 << 20
)

// HLSOptions are what to watch by HLS.
type HLSOptions struct {
	Options
	Client *http.Client
	// Sound is where the sound goes if the livestream has it apart from the
	// picture, which goes to Out. It is asked for at most once; nil: nowhere.
	Sound func() (io.Writer, error)
}

// HLS watches, segment by segment, until ctx ends or nothing comes any more.
func HLS(ctx context.Context, o HLSOptions) error {
	main, err := o.get(ctx, o.Address)
	if err != nil {
		return err
	}
	picture, sound, err := renditions(o.Address, main)
	if err != nil {
		return err
	}
	r := &rendition{o: o, address: picture, out: o.Out, measured: true}
	var beside *rendition
	if sound != "" {
		beside = &rendition{o: o, address: sound}
		if o.Out != nil && o.Sound != nil {
			if beside.out, err = o.Sound(); err != nil {
				return err
			}
		}
	}
	tick := time.NewTicker(hlsPause)
	defer tick.Stop()
	last := time.Now()
	for {
		news, err := r.look(ctx)
		if err == nil && beside != nil {
			_, err = beside.look(ctx)
		}
		if news {
			last = time.Now()
		}
		if gone, ok := errors.AsType[*statusError](err); ok && gone.status != http.StatusForbidden && time.Since(last) < hlsPatience {
			err = nil // the publisher may come back
		}
		if err != nil {
			return err
		}
		if time.Since(last) > hlsPatience {
			return errors.New("nothing comes any more")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// statusError is an answer that is no success.
type statusError struct {
	status int
	body   string
}

// Error implements error.
func (e *statusError) Error() string {
	return fmt.Sprintf("the edge answered %d: %s", e.status, strings.TrimSpace(e.body))
}

func (o HLSOptions) get(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, hlsPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := o.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, hlsBytesMax+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, &statusError{resp.StatusCode, string(body[:min(len(body), 500)])}
	case len(body) > hlsBytesMax:
		return nil, fmt.Errorf("a segment has more than %d bytes", hlsBytesMax)
	}
	return body, nil
}

// attribute is one of a tag's, without quotes.
func attribute(line, name string) string {
	for _, begin := range []string{":", ","} {
		if _, rest, ok := strings.Cut(line, begin+name+"="); ok {
			if quoted, ok := strings.CutPrefix(rest, `"`); ok {
				value, _, _ := strings.Cut(quoted, `"`)
				return value
			}
			value, _, _ := strings.Cut(rest, ",")
			return value
		}
	}
	return ""
}

func resolve(base, ref string) (string, error) {
	b, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	u, err := b.Parse(ref)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

// renditions finds the playlists of picture and sound in the main one; sound is
// empty where it is in the picture's.
func renditions(base string, playlist []byte) (picture, sound string, err error) {
	for line := range strings.Lines(string(playlist)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#EXT-X-MEDIA:") && attribute(line, "TYPE") == "AUDIO" && sound == "":
			sound = attribute(line, "URI")
		case line != "" && !strings.HasPrefix(line, "#") && picture == "":
			picture = line
		}
	}
	if picture == "" {
		return "", "", errors.New("the playlist names no media")
	}
	if picture, err = resolve(base, picture); err == nil && sound != "" {
		sound, err = resolve(base, sound)
	}
	return picture, sound, err
}

// rendition is one playlist that is followed.
type rendition struct {
	o        HLSOptions
	address  string
	out      io.Writer
	measured bool // its delay is the livestream's

	begun bool
	next  int64  // the number of the next segment
	head  string // the header written last
}

// segment is one of a playlist's.
type segment struct {
	number int64
	uri    string
	end    time.Time // on the publisher's side; zero: not told
	gap    bool
}

// parseMedia reads a media playlist.
func parseMedia(playlist []byte) (head string, segments []segment) {
	var at time.Time
	var lasts time.Duration
	var number int64
	gap := false
	scan := bufio.NewScanner(bytes.NewReader(playlist))
	for scan.Scan() {
		line := strings.TrimSpace(scan.Text())
		switch {
		case strings.HasPrefix(line, "#EXT-X-MAP:"):
			head = attribute(line, "URI")
		case strings.HasPrefix(line, "#EXT-X-MEDIA-SEQUENCE:"):
			number, _ = strconv.ParseInt(strings.TrimPrefix(line, "#EXT-X-MEDIA-SEQUENCE:"), 10, 64)
		case strings.HasPrefix(line, "#EXT-X-PROGRAM-DATE-TIME:"):
			at, _ = time.Parse(time.RFC3339Nano, strings.TrimPrefix(line, "#EXT-X-PROGRAM-DATE-TIME:"))
		case strings.HasPrefix(line, "#EXTINF:"):
			text, _, _ := strings.Cut(strings.TrimPrefix(line, "#EXTINF:"), ",")
			seconds, _ := strconv.ParseFloat(text, 64)
			lasts = time.Duration(seconds * float64(time.Second))
		case line == "#EXT-X-GAP":
			gap = true
		case line != "" && !strings.HasPrefix(line, "#"):
			s := segment{number: number, uri: line, gap: gap}
			if !at.IsZero() {
				at = at.Add(lasts)
				s.end = at
			}
			segments = append(segments, s)
			number++
			gap = false
		}
	}
	return head, segments
}

// look fetches what is new.
func (r *rendition) look(ctx context.Context) (news bool, err error) {
	playlist, err := r.o.get(ctx, r.address)
	if err != nil {
		return false, err
	}
	head, segments := parseMedia(playlist)
	segments = slices.DeleteFunc(segments, func(s segment) bool { return s.gap || r.begun && s.number < r.next })
	if len(segments) == 0 {
		return false, nil
	}
	if !r.begun {
		segments = segments[len(segments)-1:] // live, not what was
	} else if missed := segments[0].number - r.next; missed > 0 {
		r.o.Meter.lose(uint64(missed))
	}
	for _, s := range segments {
		if err := r.take(ctx, head, s); err != nil {
			return news, err
		}
		r.begun, r.next, news = true, s.number+1, true
	}
	return news, nil
}

func (r *rendition) take(ctx context.Context, head string, s segment) error {
	if head != r.head && r.out != nil && head != "" {
		if err := r.copy(ctx, head); err != nil {
			return err
		}
	}
	r.head = head
	if err := r.copy(ctx, s.uri); err != nil {
		return err
	}
	if r.measured && !s.end.IsZero() {
		r.o.Meter.delayed(time.Since(s.end))
	}
	return nil
}

// copy fetches something and appends it to the file, if there is one.
func (r *rendition) copy(ctx context.Context, ref string) error {
	address, err := resolve(r.address, ref)
	if err != nil {
		return err
	}
	body, err := r.o.get(ctx, address)
	if err != nil {
		return err
	}
	r.o.Meter.add(len(body))
	if r.out == nil {
		return nil
	}
	if _, err := r.out.Write(body); err != nil {
		return fmt.Errorf("the file cannot be written: %w", err)
	}
	return nil
}
