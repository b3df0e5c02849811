package testcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// needFFmpeg skips a test where ffmpeg is missing; a machine that decides about
// changes must have it.
func needFFmpeg(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ffmpeg"); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("ffmpeg is missing: deploy/dev/programs.sh installs it")
	}
	t.Skip("ffmpeg is missing")
}

// program is a program that runs beside a test.
type program struct {
	cmd  *exec.Cmd
	errs *bytes.Buffer
	done chan struct{} // closed when it has ended
	err  error         // then
}

// start runs ffmpeg until the test ends, at the latest.
func (c *Cluster) ffmpeg(args ...string) *program {
	c.t.Helper()
	p := &program{
		cmd:  exec.Command("ffmpeg", append([]string{"-hide_banner", "-loglevel", "error", "-nostdin"}, args...)...),
		errs: new(bytes.Buffer), done: make(chan struct{}),
	}
	p.cmd.Stderr = p.errs
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { // awaited by the clean-up
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	c.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// publish sends a test picture and a tone.
func (c *Cluster) publish(format, address string) *program {
	args := []string{
		"-re", "-f", "lavfi", "-i", "testsrc=size=320x180:rate=15", "-f", "lavfi", "-i", "sine=frequency=440",
		"-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p", "-g", "15", "-c:a", "aac", "-f", format,
	}
	if format == "rtsp" {
		args = append(args, "-rtsp_transport", "tcp")
	}
	return c.ffmpeg(append(args, address)...)
}

// untilEnded waits for a program's end.
func (c *Cluster) untilEnded(what string, p *program) {
	c.t.Helper()
	c.Until(what, func() error {
		select {
		case <-p.done:
			return nil
		default:
			return errors.New("it runs")
		}
	})
}

// lives are the events about livestreams that a device was told.
func lives(d *Device, action clientpb.LiveAction) []*clientpb.Event {
	var out []*clientpb.Event
	for _, u := range d.Updates() {
		if l := u.Event.GetLive(); l != nil && l.Action == action {
			out = append(out, u.Event)
		}
	}
	return out
}

// untilLive waits until a device was told n events of an action, no more.
func (c *Cluster) untilLive(d *Device, action clientpb.LiveAction, n int) []*clientpb.Event {
	c.t.Helper()
	var got []*clientpb.Event
	c.Until(fmt.Sprintf("%s is told %s", d.User.Name, action), func() error {
		if got = lives(d, action); len(got) != n {
			return fmt.Errorf("%d times, not %d", len(got), n)
		}
		return nil
	})
	return got
}

// code is the code of a problem.
func (a webAnswer) code() string {
	var p struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(a.body, &p) // what is none has no code
	return p.Code
}

// watching counts what a device is told of viewers.
type watching struct {
	mu   sync.Mutex // guards most
	most uint32
}

func (w *watching) hear(v *clientpb.LiveViewers) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most = max(w.most, v.GetViewers())
}

func (w *watching) atLeast(n uint32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.most < n {
		return fmt.Errorf("%d at most", w.most)
	}
	return nil
}

// liveArena is a cluster with Ann in one cell, who shows something to Bob in the
// other, and Eve.
type liveArena struct {
	*Cluster
	ann, bob, eve     User
	annHere, bobHere  *Device
	annFiles, bobAsks *client.Files
	viewers           watching
	live              client.CreatedLive
	webs              map[string]*web
}

func newLiveArena(t *testing.T) *liveArena {
	a := &liveArena{Cluster: Start(t, devcluster.Options{Cells: 2, Edges: 2, NoDemo: true})}
	a.ann, a.bob, a.eve = a.AddUser("ann", "c1"), a.AddUser("bob", "c2"), a.AddUser("eve", "c2")
	a.annHere = a.Connect(a.ann, client.TCP, nil)
	a.bobHere = a.Connect(a.bob, client.TCP, func(c *client.Config) { c.OnLiveViewers = a.viewers.hear })
	a.must(a.annHere, a.bob, clientpb.ContactAction_CONTACT_ACTION_REQUEST, sent)
	a.untilRelation(a.bobHere, a.ann, received)
	a.must(a.bobHere, a.ann, clientpb.ContactAction_CONTACT_ACTION_ACCEPT, friend)
	a.annFiles, a.bobAsks = a.filesOf(a.annHere), a.filesOf(a.bobHere)
	a.webs = a.Cluster.webs()
	return a
}

// ticket is one for bob.
func (a *liveArena) ticket() client.LiveTicket {
	a.t.Helper()
	ticket, err := a.bobAsks.LiveTicket(a.Context(), a.live.ID)
	if err != nil {
		a.t.Fatal(err)
	}
	return ticket
}

// sessionOf finds the session in a playlist.
var sessionOf = regexp.MustCompile(`s/[A-Za-z0-9_.-]+/[a-z0-9_]+_stream\.m3u8`)

// watchHLS begins to watch at an edge and gives the path of the video's playlist,
// with a session in it.
func (a *liveArena) watchHLS(w *web, edge string) string {
	a.t.Helper()
	var playlist webAnswer
	ticket := a.ticket().Ticket
	a.Until("there is a playlist at "+edge, func() error {
		playlist = w.try("", "GET", "https://"+edge+"/live/"+a.live.ID+"/index.m3u8?ticket="+ticket, nil)
		if playlist.err != nil || playlist.status != 200 {
			return fmt.Errorf("%d, %w: %s", playlist.status, playlist.err, playlist.body)
		}
		return nil
	})
	uri := sessionOf.FindString(string(playlist.body))
	if uri == "" {
		a.t.Fatalf("no playlist with a session in %s", playlist.body)
	}
	return "/live/" + a.live.ID + "/" + uri
}

// segments are the files that a playlist names, without the gaps it begins with.
func segments(playlist []byte) []string {
	var out []string
	for line := range strings.Lines(string(playlist)) {
		if line = strings.TrimSpace(line); line != "" && line != "gap.mp4" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// untilNews waits until a playlist has a segment that was not among those before.
func (a *liveArena) untilNews(w *web, path string) {
	a.t.Helper()
	before := segments(w.do(200, "", "GET", path, nil).body)
	a.Until("the playlist goes on", func() error {
		now := w.try("", "GET", path, nil)
		if now.err != nil || now.status != 200 {
			return fmt.Errorf("%d, %w: %s", now.status, now.err, now.body)
		}
		for _, s := range segments(now.body) {
			if !slices.Contains(before, s) {
				return nil
			}
		}
		return errors.New("no new segment")
	})
}

// TestLiveVideoAmongFriends: Ann shows something to Bob, who lives in another
// cell and watches through two edges and by RTSP, while her range moves; he is
// cut off when she ends the friendship. A stranger sees nothing at any time.
func TestLiveVideoAmongFriends(t *testing.T) {
	needFFmpeg(t)
	a := newLiveArena(t)
	thread := proto.DirectThread(a.ann.ID, a.bob.ID).String()
	var err error
	if a.live, err = a.annFiles.CreateLive(a.Context(), client.NewLive{Thread: thread, Title: "my garden", Record: true}); err != nil {
		t.Fatal(err)
	}
	told := a.untilLive(a.bobHere, clientpb.LiveAction_LIVE_ACTION_ANNOUNCED, 1)[0]
	if told.GetLive().Title != "my garden" || told.GetLive().Live != a.live.ID || proto.EntityID(told.From) != a.ann.ID {
		t.Fatalf("bob is told %v", told)
	}
	a.strangers(t)

	publisher := a.publish("rtsp", a.live.RTSP)
	started := a.untilLive(a.bobHere, clientpb.LiveAction_LIVE_ACTION_STARTED, 1)[0]
	if !strings.Contains(started.GetLive().Video, "320x180") || started.Messages != told.Messages {
		t.Fatalf("bob is told %v, after %v", started, told)
	}
	a.untilLive(a.annHere, clientpb.LiveAction_LIVE_ACTION_STARTED, 1)

	paths := a.watchEverywhere(t)
	a.untilViewers(t)
	a.moveWhileOn(t, paths)
	a.cutOff(t, paths)

	a.nodeGoes(t, publisher)
	a.recorded(t)
}

// nodeGoes stops the node that carries the livestream, whose owner lives
// elsewhere by now, and publishes it anew where it is to be published then.
func (a *liveArena) nodeGoes(t *testing.T, publisher *program) {
	a.StopNode("c1-n1")
	ended := a.untilLive(a.bobHere, clientpb.LiveAction_LIVE_ACTION_ENDED, 1)[0]
	if ended.GetLive().Reason != "this node is stopping" || ended.GetLive().DurationMs == 0 {
		t.Errorf("bob is told %v", ended)
	}
	a.untilEnded("its publisher is let go", publisher)
	a.must(a.annHere, a.bob, clientpb.ContactAction_CONTACT_ACTION_REQUEST, sent)
	a.untilRelation(a.bobHere, a.ann, received)
	a.must(a.bobHere, a.ann, clientpb.ContactAction_CONTACT_ACTION_ACCEPT, friend)
	shown, err := a.annFiles.ShowLive(a.Context(), a.live.ID)
	if err != nil || shown.State != "ended" || shown.Node != "c2-n1" {
		t.Fatalf("%+v, %v", shown, err)
	}
	again := a.publish("flv", shown.RTMP+"?key="+a.live.StreamKey)
	a.untilLive(a.bobHere, clientpb.LiveAction_LIVE_ACTION_STARTED, 2)
	if got := a.segmentsAt(a.options.Listen); len(got) == 0 {
		t.Error("nothing can be watched")
	}
	_ = again.cmd.Process.Signal(syscall.SIGINT)
	a.StartNode("c1-n1") // which has the first recording
}

// segmentsAt begins to watch at an edge and waits for something to be there.
func (a *liveArena) segmentsAt(edge string) (got []string) {
	a.t.Helper()
	w := a.webs["HTTP/2.0"]
	path := a.watchHLS(w, edge)
	a.Until("a segment is there", func() error {
		if got = segments(w.do(200, "", "GET", "https://"+edge+path, nil).body); len(got) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	return got
}

// strangers tries what Eve, and what nobody, can ask.
func (a *liveArena) strangers(t *testing.T) {
	other, err := a.bobAsks.CreateLive(a.Context(), client.NewLive{Thread: proto.DirectThread(a.bob.ID, a.eve.ID).String()})
	if err != nil {
		t.Fatal(err)
	}
	ticket := a.ticket().Ticket
	base := "/live/" + a.live.ID
	for version, w := range a.webs {
		for _, try := range []struct {
			token, method, path string
			status              int
			code                string
		}{
			{a.eve.Token, "GET", base, 403, "unknown_live"},
			{a.eve.Token, "POST", base + "/ticket", 403, "unknown_live"},
			{a.eve.Token, "POST", "/live/" + a.eve.ID.String() + "-1/ticket", 403, "unknown_live"},
			{a.eve.Token, "POST", "/live/99999999-1/ticket", 403, "unknown_live"},
			{"", "GET", base, 401, "bad_token"},
			{"", "POST", base + "/ticket", 401, "bad_token"},
			{"", "POST", "/live", 401, "bad_token"},
			{a.bob.Token, "GET", base + "/index.m3u8", 403, "bad_ticket"},
			{"", "GET", base + "/index.m3u8?ticket=x", 403, "bad_ticket"},
			{"", "GET", "/live/" + other.ID + "/index.m3u8?ticket=" + ticket, 403, "bad_ticket"},
			{"", "GET", base + "/s/" + ticket + "/index.m3u8", 403, "bad_ticket"}, // a ticket is no session
			{"", "GET", base + "/s/x/index.m3u8", 403, "bad_ticket"},
			{"", "POST", base + "/admit", 405, ""},
			{"", "POST", base + "/check", 405, ""},
		} {
			if got := w.try(try.token, try.method, try.path, strings.NewReader("{}")); got.err != nil || got.status != try.status || got.code() != try.code {
				t.Errorf("%s: %s %.60s answered %d %q (%v), want %d %q: %.300s", version, try.method, try.path, got.status, got.code(), got.err, try.status, try.code, got.body)
			}
		}
		// Bob's words for Eve's thread with Ann, and Ann's own.
		for token, status := range map[string]int{a.bob.Token: 403, a.eve.Token: 400} {
			thread := proto.DirectThread(a.ann.ID, a.eve.ID).String()
			if token == a.eve.Token {
				thread = "d/1/x"
			}
			body := fmt.Sprintf(`{"thread":%q}`, thread)
			if got := w.try(token, "POST", "/live", strings.NewReader(body)); got.status != status {
				t.Errorf("%s: created in %s: %d %s", version, thread, got.status, got.body)
			}
		}
	}
	_, err = a.annFiles.LiveTicket(a.Context(), other.ID)
	if proto.CodeOf(err) != proto.CodeUnknownLive {
		t.Errorf("ann has a ticket for what bob shows eve: %v", err)
	}
	if refused := a.ffmpeg("-rtsp_transport", "tcp", "-i", strings.Replace(a.live.RTSP, "?key=", "?ticket=", 1), "-t", "1", "-f", "null", "-"); true {
		a.untilEnded("the stream key is no ticket", refused)
		if refused.err == nil {
			t.Error("the stream key let somebody watch")
		}
	}
}

// watchEverywhere has Bob watch through both edges, over each HTTP, and by RTSP.
// It gives the paths of playlists by edge.
func (a *liveArena) watchEverywhere(t *testing.T) map[string]string {
	edges := []string{a.options.Listen, a.EdgeAddr("e2")}
	paths := map[string]string{}
	for version, w := range a.webs {
		edge := edges[len(paths)%2]
		path := a.watchHLS(w, edge)
		paths[edge] = path
		var playlist webAnswer
		a.Until("a segment is there", func() error {
			playlist = w.do(200, "", "GET", "https://"+edge+path, nil)
			if len(segments(playlist.body)) == 0 {
				return fmt.Errorf("%s", playlist.body)
			}
			return nil
		})
		if playlist.proto != version {
			t.Errorf("%s, not %s", playlist.proto, version)
		}
		folder := path[:strings.LastIndexByte(path, '/')+1]
		segment := w.do(200, "", "GET", "https://"+edge+folder+segments(playlist.body)[0], nil)
		if len(segment.body) < 1000 || string(segment.body[4:8]) != "moof" && string(segment.body[4:8]) != "styp" {
			t.Errorf("a segment of %d bytes: %.16q", len(segment.body), segment.body)
		}
		w.do(404, "", "GET", "https://"+edge+folder+"nothing.mp4", nil)
		// What was begun at one edge goes on at the other.
		for _, other := range edges {
			w.do(200, "", "GET", "https://"+other+path, nil)
		}
	}
	if len(paths) != 2 {
		t.Fatalf("%d edges were used", len(paths))
	}
	reader := a.ffmpeg("-rtsp_transport", "tcp", "-i", a.ticket().RTSP, "-t", "1", "-f", "null", "-")
	a.untilEnded("RTSP gives a second", reader)
	if reader.err != nil {
		t.Fatalf("RTSP: %v: %s", reader.err, reader.errs)
	}
	player := a.ffmpeg("-ca_file", a.options.DataDir+"/ca.pem", "-i", a.ticket().HLS, "-t", "1", "-f", "null", "-")
	a.untilEnded("HLS gives a second", player)
	if player.err != nil {
		t.Fatalf("HLS: %v: %s", player.err, player.errs)
	}
	return paths
}

// untilViewers waits until those who watch are counted and told.
func (a *liveArena) untilViewers(t *testing.T) {
	a.Until("bob is told that somebody watches", func() error { return a.viewers.atLeast(1) })
	shown, err := a.annFiles.ShowLive(a.Context(), a.live.ID)
	if err != nil || shown.State != "on" {
		t.Fatalf("%+v, %v", shown, err)
	}
}

// moveWhileOn moves Ann's range to the other cell: nobody is to notice.
func (a *liveArena) moveWhileOn(t *testing.T, paths map[string]string) {
	before, err := a.annFiles.ShowLive(a.Context(), a.live.ID)
	if err != nil {
		t.Fatal(err)
	}
	move := a.Move(a.ann.ID.Range(), "c2")
	a.UntilMove(move, "published")
	for edge, path := range paths {
		a.untilNews(a.webs["HTTP/2.0"], "https://"+edge+path)
	}
	a.Until("it is shown as before", func() error {
		after, err := a.annFiles.ShowLive(a.Context(), a.live.ID)
		if err != nil || after.State != "on" || after.Node != before.Node || !after.StartedAt.Equal(before.StartedAt) {
			return fmt.Errorf("%+v, %w; before %+v", after, err, before)
		}
		return nil
	})
	reader := a.ffmpeg("-rtsp_transport", "tcp", "-i", a.ticket().RTSP, "-t", "1", "-f", "null", "-")
	a.untilEnded("RTSP gives a second after the move", reader)
	if reader.err != nil {
		t.Fatalf("RTSP: %v: %s", reader.err, reader.errs)
	}
}

// cutOff ends the friendship while Bob watches.
func (a *liveArena) cutOff(t *testing.T, paths map[string]string) {
	old := a.ticket().Ticket
	watcher := a.ffmpeg("-rtsp_transport", "tcp", "-i", a.ticket().RTSP, "-f", "null", "-")
	a.must(a.annHere, a.bob, clientpb.ContactAction_CONTACT_ACTION_REMOVE, none)
	w := a.webs["HTTP/1.1"]
	for edge, path := range paths {
		a.Until("bob is cut off at "+edge, func() error {
			if got := w.try("", "GET", "https://"+edge+path, nil); got.status != 403 || got.code() != "not_friends" {
				return fmt.Errorf("%d %s", got.status, got.code())
			}
			return nil
		})
	}
	a.untilEnded("RTSP is cut off", watcher)
	if got := w.try("", "GET", "/live/"+a.live.ID+"/index.m3u8?ticket="+old, nil); got.status != 403 {
		t.Errorf("an old ticket gives %d: %s", got.status, got.body)
	}
	if _, err := a.bobAsks.LiveTicket(a.Context(), a.live.ID); proto.CodeOf(err) != proto.CodeNotFriends {
		t.Errorf("bob has another ticket: %v", err)
	}
	if len(lives(a.bobHere, clientpb.LiveAction_LIVE_ACTION_ENDED)) != 0 {
		t.Error("the livestream has ended by that")
	}
}

// recorded looks at the recording that comes as a message.
func (a *liveArena) recorded(t *testing.T) {
	var file *clientpb.Event
	a.Until("the recording is in the thread", func() error {
		for _, u := range a.bobHere.Updates() {
			if u.Event.GetFile() != nil {
				file = u.Event
				return nil
			}
		}
		return errors.New("it is not")
	})
	f := file.GetFile()
	if f.Kind != clientpb.FileKind_FILE_KIND_VIDEO || f.Type != "video/mp4" || f.Size < 10_000 || !strings.HasPrefix(f.Name, "my garden") {
		t.Fatalf("the recording is %v", f)
	}
	ctx, cancel := context.WithTimeout(t.Context(), Wait)
	defer cancel()
	path, _, err := a.bobAsks.Download(ctx, client.DownloadOptions{
		File: f.File, At: client.Place{Thread: file.Thread, Seq: proto.Seq(file.Seq)}, Dir: t.TempDir(), Locks: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	played := a.ffmpeg("-xerror", "-i", path, "-f", "null", "-")
	a.untilEnded("the recording is played", played)
	if played.err != nil {
		t.Fatalf("the recording cannot be played: %v: %s", played.err, played.errs)
	}
}
