package live

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"
	"github.com/bluenviron/gortmplib/pkg/message"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/flac"
)

func rtmpClient(t *testing.T, to string, publish bool) *gortmplib.Client {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	c := &gortmplib.Client{URL: u, Publish: publish}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Initialize(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// told waits for a status of the server.
func told(t *testing.T, c *gortmplib.Client, text string) {
	t.Helper()
	for {
		m, err := c.Read()
		if err != nil {
			t.Errorf("%q is not said before %v", text, err)
			return
		}
		cmd, ok := m.(*message.CommandAMF0)
		if ok && cmd.Name == "onStatus" && strings.Contains(strings.ToLower(stringsOf(cmd.Arguments)), strings.ToLower(text)) {
			return
		}
	}
}

func stringsOf(args []any) string {
	var out strings.Builder
	for _, a := range args {
		if o, ok := a.(interface{ GetString(string) (string, bool) }); ok {
			for _, key := range []string{"level", "code", "description"} {
				s, _ := o.GetString(key)
				out.WriteString(s + " ")
			}
		}
	}
	return out.String()
}

// What RTP cannot carry is refused, and the publisher is told.
func TestRTMPWithNothingThatCanBeCarried(t *testing.T) {
	n := start(t, Config{}, newFakeRights())
	c := rtmpClient(t, n.publishURL("rtmp", "right"), true)
	track := &gortmplib.Track{Codec: &codecs.FLAC{StreamInfo: &flac.StreamInfo{MinBlockSize: 4096, MaxBlockSize: 4096, SampleRate: 48000, ChannelCount: 2, BitDepth: 16}}}
	w := &gortmplib.Writer{Conn: c, Tracks: []*gortmplib.Track{track}}
	if err := w.Initialize(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 { // tracks are known after two seconds of them
		if err := w.WriteFLAC(track, time.Duration(i)*time.Second, []byte{0xff, 0xf8, 1, 2}); err != nil {
			break // refused already
		}
	}
	told(t, c, "of what it sends 0 tracks can be carried")
	n.log.until(t, "track left out")
	waitFor(t, "the livestream to be forgotten", func() bool { return n.stream(testID) == nil })
	n.rights.mu.Lock()
	defer n.rights.mu.Unlock()
	if len(n.rights.reports) != 0 {
		t.Errorf("it was reported: %+v", n.rights.reports)
	}
}

// A publisher that sends nothing that says what it is, is let go.
func TestRTMPPublisherThatIsSilent(t *testing.T) {
	n := start(t, Config{AdmitWithin: 200 * time.Millisecond}, newFakeRights())
	c := rtmpClient(t, n.publishURL("rtmp", "right"), true)
	for {
		if _, err := c.Read(); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			break
		}
	}
	waitFor(t, "the livestream to be forgotten", func() bool { return n.stream(testID) == nil })
	mustSynthetic(t, n, spsA) // and it is free
}
