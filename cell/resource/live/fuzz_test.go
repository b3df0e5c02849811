package live

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/bytecounter"
	"github.com/bluenviron/gortmplib/pkg/message"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/bluenviron/gortsplib/v4/pkg/sdp"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
	"github.com/pion/rtp"
)

// FuzzRequest reads addresses as RTSP, RTMP and HLS bring them.
func FuzzRequest(f *testing.F) {
	f.Add("/live/4096-17", "key=K")
	f.Add("/live/4096-17/index.m3u8", "ticket=T&_HLS_msn=3")
	f.Fuzz(func(t *testing.T, path, query string) {
		r, err := parseRequest(path, query)
		if err == nil {
			again, err := parseRequest("/live/"+r.id.String(), url.Values{"key": {r.key}, "ticket": {r.ticket}}.Encode())
			if err != nil || again != r {
				t.Errorf("%q?%q is %+v, and written anew %+v, %v", path, query, r, again, err)
			}
		} else if query != "" && len(query) > 20 && strings.Contains(err.Error(), query) {
			t.Errorf("the error has the query: %v", err)
		}
		if id, file, ok := parseHLS(path); ok {
			if strings.ContainsAny(file, "/") || file == ".." || !strings.HasPrefix(path, "/live/"+id.String()+"/") {
				t.Errorf("%q asks for %q of %s", path, file, id)
			}
		}
	})
}

// FuzzDescription reads what a publisher says of its tracks and then sends.
func FuzzDescription(f *testing.F) {
	f.Add([]byte("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=0\r\n"), []byte{0x80, 0x60, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x65, 1, 2, 3})
	f.Fuzz(func(t *testing.T, text, raw []byte) {
		var parsed sdp.SessionDescription
		var desc description.Session
		if parsed.Unmarshal(text) != nil || desc.Unmarshal(&parsed) != nil {
			return
		}
		sources, err := rtspSources(&desc)
		if err != nil {
			return
		}
		if len(sources) == 0 || len(sources) > tracksMax {
			t.Fatalf("%d tracks", len(sources))
		}
		out := &description.Session{}
		for _, s := range sources {
			if s.track.name() == "" && s.track.known() || !s.track.fits(s.track) {
				t.Errorf("track %+v does not fit itself", s.track)
			}
			out.Medias = append(out.Medias, s.track.media)
			hlsCodec(s.track)
			mp4Codec(s.track)
			var packet rtp.Packet
			if s.depack == nil || packet.Unmarshal(raw) != nil {
				continue
			}
			parts, err := s.depack(&packet)
			u := unit{parts: parts}
			if err != nil || !s.track.refine(&u) {
				continue
			}
			packets, err := s.track.pack(u.parts)
			for _, p := range packets {
				if p.MarshalSize() > packetBytesMax {
					t.Errorf("a packet of %d bytes", p.MarshalSize())
				}
			}
			_ = err
		}
		if _, err := out.Marshal(false); err != nil {
			t.Errorf("viewers cannot be told: %v", err)
		}
	})
}

// discard is an RTMP viewer that takes everything.
type discard struct{}

func (discard) BytesReceived() uint64          { return 0 }
func (discard) BytesSent() uint64              { return 0 }
func (discard) Read() (message.Message, error) { return nil, io.EOF }
func (discard) Write(message.Message) error    { return nil }

var _ gortmplib.Conn = discard{}

// typed is a connection on which everything has been said already.
type typed struct{ io.Reader }

func (typed) Write(b []byte) (int, error)      { return len(b), nil }
func (typed) Close() error                     { return nil }
func (typed) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1935} }
func (typed) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000} }
func (typed) SetDeadline(time.Time) error      { return nil }
func (typed) SetReadDeadline(time.Time) error  { return nil }
func (typed) SetWriteDeadline(time.Time) error { return nil }

// rtmpHello is what an RTMP client says until it publishes or plays.
func rtmpHello(t testing.TB, command, stream string) []byte {
	t.Helper()
	out := bytes.NewBuffer(append([]byte{3}, make([]byte, 2*1536)...))
	w := message.NewWriter(out, bytecounter.NewWriter(out), false)
	for _, m := range []message.Message{
		&message.CommandAMF0{ChunkStreamID: 3, Name: "connect", CommandID: 1, Arguments: []any{amf0.Object{{Key: "app", Value: "live"}, {Key: "tcUrl", Value: "rtmp://127.0.0.1/live"}}}},
		&message.CommandAMF0{ChunkStreamID: 3, Name: "createStream", CommandID: 2, Arguments: []any{nil}},
		&message.CommandAMF0{ChunkStreamID: 8, MessageStreamID: 1, Name: command, CommandID: 3, Arguments: []any{nil, stream}},
	} {
		if err := w.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// FuzzRTMP publishes, or plays, and says anything then. Whatever it is, the
// connection ends and nothing is left of it.
func FuzzRTMP(f *testing.F) {
	f.Add(true, "4096-17?key=right", []byte("\x08\x00\x00\x00\x00\x00\x04\x08\x01\x00\x00\x00\xaf\x00\x11\x90"))
	f.Fuzz(func(t *testing.T, publish bool, stream string, said []byte) {
		if len(stream) > 1000 {
			return
		}
		command := "play"
		if publish {
			command = "publish"
		}
		s, err := New(Config{ReconnectWithin: time.Nanosecond}, Deps{Rights: newFakeRights()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.work.Wait()
		defer s.Close()
		g := newGuard(nowhere{}, patience, 1)
		c := g.take(typed{io.MultiReader(bytes.NewReader(rtmpHello(t, command, stream)), bytes.NewReader(said))})
		s.rtmpConn(c)
		if len(g.conns) != 0 || g.strangers != 0 {
			t.Errorf("%d connections are left", len(g.conns))
		}
		if ls := s.stream(testID); ls != nil {
			ls.mu.Lock()
			defer ls.mu.Unlock()
			if ls.pub != nil {
				t.Error("the publisher is still there")
			}
		}
	})
}

// nowhere is a listener that nobody calls.
type nowhere struct{ net.Listener }

// FuzzUnits takes units of every codec through all outputs. In data, a length of
// one byte stands before each part, and 0 ends a unit.
func FuzzUnits(f *testing.F) {
	f.Add(uint8(0), []byte("\x16\x67\x42\xc0\x0d\xda\x05\x07\xec\x04\x40\x00\x00\x03\x00\x40\x00\x00\x0c\x83\xc5\x0a\xa8\x04\x68\xce\x0f\xc8\x02\x65\x88\x00\x02\x41\x9a\x00"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		formats := []format.Format{
			&format.H264{PacketizationMode: 1}, &format.H265{}, &format.Opus{ChannelCount: 2},
			&format.AV1{}, &format.VP9{}, &format.MPEG1Audio{}, &format.AC3{SampleRate: 48000, ChannelCount: 2},
			&format.G711{SampleRate: 8000, ChannelCount: 1}, &format.LPCM{BitDepth: 16, SampleRate: 44100, ChannelCount: 2},
			&format.MPEG4Audio{Config: &mpeg4audio.AudioSpecificConfig{Type: mpeg4audio.ObjectTypeAACLC, SampleRate: 48000, ChannelConfig: 2}, SizeLength: 13, IndexLength: 3, IndexDeltaLength: 3},
		}
		tr, err := newTrack(0, description.MediaTypeVideo, formats[int(kind)%len(formats)])
		if err != nil {
			t.Fatal(err)
		}
		rights := newFakeRights()
		s, err := New(Config{Dir: dir}, Deps{Rights: rights})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ls := newLivestream(s, testID, Publication{Record: true})
		o, err := s.newOutputs(ls, []*track{tr})
		if err != nil {
			t.Fatal(err)
		}
		ls.tracks, ls.hls, ls.rec, ls.video, ls.state = []*track{tr}, o.hls, o.rec, tr.video, On
		p := &publisher{ls: ls, sources: []*source{{track: tr}}, limit: newByteLimit(1 << 30)}
		ls.pub = p
		q := newQueue(func(int) {})
		ls.queues[q] = struct{}{}
		pts := int64(0)
		for rest := data; len(rest) > 0; pts += 3600 {
			var parts [][]byte
			for len(rest) > 0 {
				n := int(rest[0])
				rest = rest[1:]
				if n == 0 {
					break
				}
				n = min(n, len(rest))
				parts = append(parts, rest[:n])
				rest = rest[n:]
			}
			p.write(0, pts, parts)
		}
		q.close()
		rtmp := newRTMPOutput(discard{}, ls.tracks)
		_ = q.each(rtmp.write)
		o.close("")
		left, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, path := range left {
			if strings.HasSuffix(path, unfinished) {
				t.Errorf("%s is not finished", path)
			}
			_ = os.Remove(path)
		}
	})
}

// FuzzRecording looks for the end of recordings that a crash has cut.
func FuzzRecording(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x08moov\x00\x00\x00\x08moof\x00\x00\x00\x09mdatx\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		end, content := complete(bytes.NewReader(data), int64(len(data)))
		if end < 0 || end > int64(len(data)) || content != (end > 0) {
			t.Fatalf("%d of %d bytes, %v", end, len(data), content)
		}
		if again, _ := complete(bytes.NewReader(data[:end]), end); again != end {
			t.Errorf("%d bytes are complete, and then %d of them", end, again)
		}
	})
}

// FuzzHLS asks for what is there and what is not.
func FuzzHLS(f *testing.F) {
	f.Add("/live/4096-17/index.m3u8", "x=secret")
	f.Add("/live/4096-17/video1_stream.m3u8", "_HLS_msn=7&_HLS_part=0&_HLS_skip=YES")
	s, err := New(Config{}, Deps{Rights: newFakeRights()})
	if err != nil {
		f.Fatal(err)
	}
	ls := newLivestream(s, testID, Publication{})
	tr, err := newTrack(0, description.MediaTypeVideo, &format.H264{SPS: spsA, PPS: ppsA, PacketizationMode: 1})
	if err != nil {
		f.Fatal(err)
	}
	o, err := s.newOutputs(ls, []*track{tr})
	if err != nil {
		f.Fatal(err)
	}
	ls.tracks, ls.hls, ls.video, ls.state = []*track{tr}, o.hls, true, On
	p := &publisher{ls: ls, sources: []*source{{track: tr}}, limit: newByteLimit(1 << 30)}
	ls.pub = p
	for i := range 100 {
		p.write(0, int64(i*syntheticTicks), [][]byte{picture(i, 50)})
	}
	o.close("") // nothing waits for what comes next; what is there can still be asked for
	s.streams[testID] = ls
	f.Fuzz(func(t *testing.T, path, query string) {
		w := httptest.NewRecorder()
		s.HLS().ServeHTTP(w, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{}})
		if w.Code == http.StatusOK && w.Body.Len() == 0 {
			t.Errorf("%q?%q has an empty answer", path, query)
		}
	})
}
