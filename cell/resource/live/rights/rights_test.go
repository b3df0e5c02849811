package rights

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waggle-im/waggle/cell/resource/live"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	"github.com/waggle-im/waggle/sharding"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ann = proto.EntityID(4096)
	bob = proto.EntityID(8192)
	eve = proto.EntityID(12288)
	key = "the stream key"
)

var garden = proto.LiveID{Owner: ann, Number: 1} // never changed

// ranges are those of Ann and Bob, as far as livestreams go.
type ranges struct {
	mu        sync.Mutex // guards the fields below
	row       *cellpb.StoredLive
	away      error // not nil: nobody answers
	friends   bool
	authority uint64 // of everybody
	refuse    map[string]error
	reports   []*cellpb.ReportLive
	posts     []*cellpb.PostMessage
	told      []uint32
	removed   int
}

func newRanges() *ranges {
	hash := sha256.Sum256([]byte(key))
	return &ranges{friends: true, refuse: map[string]error{}, row: &cellpb.StoredLive{
		Thread: proto.DirectThread(ann, bob).String(), Title: "my garden", KeyHash: hash[:], TicketKey: bytes.Repeat([]byte{7}, 32),
	}}
}

func (r *ranges) set(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
}

// Do implements [Ranges].
func (r *ranges) Do(_ context.Context, _ proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away != nil {
		return nil, r.away
	}
	result := func(what string, res *cellpb.Result) (*cellpb.RelayReply, error) {
		if err := r.refuse[what]; err != nil {
			return nil, err
		}
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_Result{Result: res}}, nil
	}
	switch body := req.Body.(type) {
	case *cellpb.RelayRequest_ReadLive:
		row := &cellpb.LiveRow{User: body.ReadLive.User, Number: body.ReadLive.Number}
		if proto.EntityID(row.User) == garden.Owner && row.Number == garden.Number {
			row.Live = r.row
		}
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_Live{Live: row}}, nil
	case *cellpb.RelayRequest_ReadMembers:
		if !r.friends {
			return nil, proto.Errorf(proto.CodeNotFriends, "no friends")
		}
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_Members{Members: &cellpb.Members{Users: []uint64{uint64(ann), uint64(bob)}}}}, nil
	case *cellpb.RelayRequest_ReadUser:
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_User{User: &cellpb.UserInfo{
			User: body.ReadUser.User, Profile: &cellpb.Profile{Name: "x", AuthorityVersion: r.authority},
			Devices: []*cellpb.DeviceInfo{{Device: "phone", Row: &cellpb.Device{SessionNumber: 3}}},
		}}}, nil
	case *cellpb.RelayRequest_CreateLive:
		return result("create", &cellpb.Result{Live: &cellpb.LiveRow{User: body.CreateLive.User, Number: 1, Live: r.row}})
	case *cellpb.RelayRequest_RemoveLive:
		r.removed++
		return result("remove", &cellpb.Result{Live: &cellpb.LiveRow{}})
	case *cellpb.RelayRequest_ReportLive:
		r.reports = append(r.reports, body.ReportLive)
		return result("report", &cellpb.Result{Live: &cellpb.LiveRow{Live: r.row}})
	case *cellpb.RelayRequest_LiveTold:
		r.told = append(r.told, body.LiveTold.Viewers.Viewers)
		return result("told", &cellpb.Result{})
	case *cellpb.RelayRequest_PostMessage:
		r.posts = append(r.posts, body.PostMessage)
		return result("post", &cellpb.Result{Seq: 1})
	}
	return nil, errors.New("not asked here")
}

// town has the nodes that are said to live.
type town struct{ alive []proto.NodeID }

func (town) Routes() *sharding.Map {
	return sharding.New([]sharding.Route{{Range: ann.Range(), Cell: "c1", Epoch: 1}, {Range: bob.Range(), Cell: "c2", Epoch: 1}, {Range: eve.Range(), Cell: "c2", Epoch: 1}})
}

func (town) LiveAddrs(n proto.NodeID) (rtsp, rtmp string, ok bool) {
	return string(n) + ":7554", string(n) + ":7935", true
}

func (t town) FilesNodes(proto.CellID) []proto.NodeID { return t.alive }

// shelf keeps what it is given.
type shelf struct{ names []string }

func (s *shelf) Keep(_ context.Context, _ proto.EntityID, name, _ string) (proto.FileID, error) {
	s.names = append(s.names, name)
	return proto.FileID{Owner: ann, Number: uint64(len(s.names))}, nil
}

func newService(t testing.TB, r *ranges, dir string) (*Service, *shelf) {
	files := new(shelf)
	s, err := New(Config{Node: "c1-n1", Cell: "c1", Dir: dir}, Deps{Ranges: r, Directory: town{[]proto.NodeID{"c1-n1", "c1-n2"}}, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return s, files
}

func wantErr(t *testing.T, what string, err error, want proto.Code) {
	t.Helper()
	if got := proto.CodeOf(err); got != want {
		t.Errorf("%s: %s (%v), want %s", what, got, err, want)
	}
}

var phone = cellclient.Caller{User: bob, Device: "phone", Session: 3, Authority: 0} // never changed

func TestOnlyTheKeyPublishes(t *testing.T) {
	r := newRanges()
	s, _ := newService(t, r, t.TempDir())
	pub, err := s.Publish(t.Context(), garden, key)
	if err != nil || pub.Title != "my garden" {
		t.Fatalf("%v, %v", pub, err)
	}
	_, err = s.Publish(t.Context(), garden, "another")
	_, err2 := s.Publish(t.Context(), proto.LiveID{Owner: ann, Number: 2}, key)
	_, err3 := s.Publish(t.Context(), proto.LiveID{Owner: 99 << 12, Number: 1}, key)
	for _, err := range []error{err, err2, err3} {
		wantErr(t, "a stranger publishes", err, proto.CodeForbidden)
	}
	if a, b := strings.ReplaceAll(err.Error(), "-1 ", "-N "), strings.ReplaceAll(err2.Error(), "-2 ", "-N "); a != b {
		t.Errorf("whether it exists is told: %q, %q", a, b)
	}
	for node, want := range map[string]proto.Code{"c1-n1": proto.CodeOK, "c1-n2": proto.CodeConflict, "c1-n3": proto.CodeOK} {
		r.set(func() { r.row.Node, r.row.Cell, r.row.State = node, "c1", cellpb.LiveState_LIVE_STATE_ON })
		_, err := s.Publish(t.Context(), garden, key)
		wantErr(t, "while it is on at "+node, err, want)
	}
	r.set(func() { r.away = proto.Errorf(proto.CodeUnavailable, "away") })
	_, err = s.Publish(t.Context(), garden, key)
	wantErr(t, "nobody can be asked", err, proto.CodeUnavailable)
}

// ticketOf is a ticket as the service gives it.
func ticketOf(r *ranges, change func(*claims)) string {
	c := claims{Kind: kindTicket, Live: garden.String(), Thread: r.row.Thread, Login: phone, Viewer: "v", Expires: time.Now().Add(time.Minute).UnixMilli()}
	if change != nil {
		change(&c)
	}
	return sign(r.row, c)
}

func TestTicketsAreOfOneLivestreamAndSoon(t *testing.T) {
	r := newRanges()
	s, _ := newService(t, r, t.TempDir())
	v, err := s.Watch(t.Context(), garden, ticketOf(r, nil))
	if err != nil || v.User != bob || v.Login != phone {
		t.Fatalf("%+v, %v", v, err)
	}
	other := *newRanges()
	other.row.TicketKey = bytes.Repeat([]byte{8}, 32)
	good := ticketOf(r, nil)
	for name, ticket := range map[string]string{
		"none": "", "short": "x", "dots": "...", "of another key": ticketOf(&other, nil), "long": good + strings.Repeat("A", 2000),
		"expired":    ticketOf(r, func(c *claims) { c.Expires = time.Now().UnixMilli() }),
		"of another": ticketOf(r, func(c *claims) { c.Live = "4096-2" }),
		"a session":  ticketOf(r, func(c *claims) { c.Kind = kindSession }),
		"a thread":   ticketOf(r, func(c *claims) { c.Thread = "d/1/2" }),
		"cut":        good[:len(good)-4], "without claims": good[strings.IndexByte(good, '.'):],
	} {
		_, err := s.Watch(t.Context(), garden, ticket)
		wantErr(t, name, err, proto.CodeBadTicket)
	}
	for i := range len(good) {
		raw := []byte(good)
		raw[i] ^= 1
		if _, err := s.Watch(t.Context(), garden, string(raw)); err == nil && i != len(good)-1 { // whose last bits are padding
			t.Fatalf("changed at %d: taken", i)
		}
	}
	_, err = s.Watch(t.Context(), proto.LiveID{Owner: ann, Number: 2}, good)
	wantErr(t, "unknown", err, proto.CodeUnknownLive)
}

func TestWhoMayStay(t *testing.T) {
	r := newRanges()
	s, _ := newService(t, r, t.TempDir())
	bobs := live.Viewer{Live: garden, User: bob, Thread: r.row.Thread, Login: phone}
	anns := live.Viewer{Live: garden, User: ann, Thread: r.row.Thread, Login: cellclient.Caller{User: ann, Device: "phone", Session: 3}}
	eves := live.Viewer{Live: garden, User: eve, Thread: r.row.Thread, Login: cellclient.Caller{User: eve, Device: "phone", Session: 3}}
	old := bobs
	old.Login.Session = 2
	lost := bobs
	lost.Login.Device = "lost"
	for _, step := range []struct {
		what   string
		change func()
		viewer live.Viewer
		want   proto.Code
	}{
		{"a friend", func() {}, bobs, proto.CodeOK},
		{"the owner", func() {}, anns, proto.CodeOK},
		{"a stranger", func() {}, eves, proto.CodeNotMember},
		{"another login of the device", func() {}, old, proto.CodeDisplaced},
		{"a device that is not known", func() {}, lost, proto.CodeSessionEnded},
		{"no friend any more", func() { r.friends = false }, bobs, proto.CodeNotFriends},
		{"the owner, without friends", func() {}, anns, proto.CodeOK},
		{"logged out everywhere", func() { r.friends, r.authority = true, 1 }, bobs, proto.CodeSessionEnded},
		{"nobody answers", func() { r.away = errors.New("away") }, bobs, proto.CodeUnavailable},
	} {
		r.set(step.change)
		wantErr(t, step.what, s.MayStay(t.Context(), step.viewer), step.want)
	}
}

func report(state live.State, started int64, viewers int) live.Report {
	return live.Report{Live: garden, State: state, Started: time.UnixMilli(started), Viewers: viewers}
}

func (r *ranges) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, c := range r.reports {
		out = append(out, fmt.Sprintf("%s %d %d", strings.TrimPrefix(c.State.String(), "LIVE_STATE_"), c.StartedMs, c.Viewers))
	}
	return strings.Join(out, ", ")
}

func TestReportsComeInTheEnd(t *testing.T) {
	r := newRanges()
	dir := t.TempDir()
	s, _ := newService(t, r, dir)
	tell := func(rep live.Report) {
		t.Helper()
		if err := s.Report(t.Context(), rep); err != nil {
			t.Fatal(err)
		}
	}
	tell(report(live.On, 100, 0))
	tell(report(live.On, 100, 0)) // nothing new
	tell(report(live.On, 100, 2))
	tell(report(live.Interrupted, 100, 2))
	if got, want := r.said(), "ON 100 0, ON 100 2, INTERRUPTED 100 2"; got != want || fmt.Sprint(r.told) != "[2]" {
		t.Fatalf("%s; viewers %v; want %s", got, r.told, want)
	}
	r.set(func() { r.reports, r.away = nil, proto.Errorf(proto.CodeUnavailable, "away") })
	tell(report(live.Ended, 100, 0))
	s.tellWaiting(t.Context())
	r.set(func() { r.away = nil })
	s.tellWaiting(t.Context())
	s.tellWaiting(t.Context())
	if got := r.said(); got != "ENDED 100 0" {
		t.Fatal(got)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "carried.json")); err != nil || string(raw) != "[]" {
		t.Fatalf("%s, %v", raw, err)
	}
	// A start of which the answer was lost may have been taken: its end is told.
	r.set(func() { r.reports, r.refuse["report"] = nil, proto.Errorf(proto.CodeUnavailable, "the answer is lost") })
	tell(report(live.On, 200, 0))
	tell(report(live.Interrupted, 200, 0)) // the range must hear of the start first
	r.set(func() { delete(r.refuse, "report") })
	tell(report(live.Interrupted, 200, 0))
	tell(report(live.Interrupted, 200, 0))
	tell(report(live.Ended, 200, 0))
	if got, want := r.said(), "ON 200 0, ON 200 0, ON 200 0, INTERRUPTED 200 0, ENDED 200 0"; got != want {
		t.Fatalf("%s; want %s", got, want)
	}
	// What is published elsewhere ends here.
	r.set(func() { r.refuse["report"] = proto.Errorf(proto.CodeConflict, "elsewhere") })
	ended := ""
	s.deps.End = func(id proto.LiveID, reason string) { ended += id.String() + " " + reason }
	wantErr(t, "elsewhere", s.Report(t.Context(), report(live.On, 300, 0)), proto.CodeConflict)
	if ended != "4096-1 elsewhere" {
		t.Fatalf("ended: %q", ended)
	}
	tell(report(live.Ended, 300, 0)) // is of no interest
}

// A node that died tells of the ends when it is back.
func TestEndsAreToldAfterADeath(t *testing.T) {
	r := newRanges()
	dir := t.TempDir()
	s, _ := newService(t, r, dir)
	if err := s.Report(t.Context(), report(live.On, 100, 0)); err != nil {
		t.Fatal(err)
	}
	r.set(func() { r.reports, r.away = nil, proto.Errorf(proto.CodeUnavailable, "away") })
	next, _ := newService(t, r, dir)
	next.endLeft(t.Context())
	r.set(func() { r.away = nil })
	third, _ := newService(t, r, dir) // it died again before anybody could be told
	third.endLeft(t.Context())
	third.endLeft(t.Context())
	if got := r.said(); got != "ENDED 100 0" {
		t.Fatal(got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := third.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "carried.json"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Node: "c1-n1", Cell: "c1", Dir: dir}, Deps{}); err == nil {
		t.Fatal("a damaged list is taken")
	}
}

// A recording whose message was perhaps stored is sent under the same id again.
func TestARecordingIsSentOnce(t *testing.T) {
	r := newRanges()
	s, files := newService(t, r, t.TempDir())
	path := filepath.Join(t.TempDir(), "4096-1.7.mp4")
	if err := os.WriteFile(path, []byte("video"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.set(func() { r.refuse["post"] = proto.Errorf(proto.CodeUnavailable, "the answer was lost") })
	wantErr(t, "the first time", s.Keep(t.Context(), garden, path), proto.CodeUnavailable)
	r.set(func() { delete(r.refuse, "post") })
	if err := s.Keep(t.Context(), garden, path); err != nil {
		t.Fatal(err)
	}
	if len(r.posts) != 2 || !bytes.Equal(r.posts[0].ClientMsgId, r.posts[1].ClientMsgId) || !strings.HasPrefix(files.names[0], "my garden 20") {
		t.Fatalf("%v, %v", r.posts, files.names)
	}
	if _, err := proto.ClientMsgIDFromBytes(r.posts[0].ClientMsgId); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(t.Context(), garden, path+"x"); err == nil {
		t.Fatal("nothing is kept")
	}
}

// media is the media side, as far as edges see it.
type media struct {
	mu   sync.Mutex // guards said
	said []string
}

func (*media) HLS() http.Handler { return http.NotFoundHandler() }

func (m *media) SetHLSViewers(id proto.LiveID, source string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said = append(m.said, fmt.Sprintf("%s %s %d", id, source, n))
}

func ask(t *testing.T, h http.Handler, caller *cellclient.Caller, method, path string, body any, out any) int {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest(method, path, bytes.NewReader(raw))
	cellclient.SetCaller(req.Header, caller)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, w.Body)
		}
	}
	return w.Code
}

func TestWhatEdgesAsk(t *testing.T) {
	r := newRanges()
	s, _ := newService(t, r, t.TempDir())
	m := new(media)
	h := s.Handler(m)
	base := "/live/" + garden.String()
	var ticket cellclient.LiveTicket
	if got := ask(t, h, &phone, "POST", base+"/ticket", nil, &ticket); got != 200 || !strings.Contains(ticket.RTSP, "rtsp://c1-n1:7554/live/4096-1?ticket=") {
		t.Fatalf("%d %+v", got, ticket)
	}
	var admitted cellclient.LiveAdmitted
	if got := ask(t, h, nil, "POST", base+"/admit", cellclient.LiveAdmit{Ticket: ticket.Ticket}, &admitted); got != 200 {
		t.Fatalf("%d %+v", got, admitted)
	}
	check := cellclient.LiveCheck{Sessions: []string{admitted.Session, ticket.Ticket, "x"}, Source: "e1", Viewers: 5}
	var checked cellclient.LiveChecked
	if got := ask(t, h, nil, "POST", base+"/check", check, &checked); got != 200 || len(checked.Verdicts) != 3 || checked.Node != "c1-n1" {
		t.Fatalf("%d %+v", got, checked)
	}
	if v := checked.Verdicts; v[0].Err() != nil || v[0].Viewer != admitted.Viewer || v[1].Code != "bad_ticket" || v[2].Code != "bad_ticket" {
		t.Fatalf("%+v", v)
	}
	if fmt.Sprint(m.said) != "[4096-1 e1 5]" {
		t.Fatalf("%v", m.said)
	}
	// People ask nothing of that, nor does anybody for no livestream.
	for path, want := range map[string]int{base + "/admit": 403, base + "/check": 403} {
		if got := ask(t, h, &phone, "POST", path, check, nil); got != want {
			t.Errorf("%s by a person: %d", path, got)
		}
	}
	for _, path := range []string{"/live/x/admit", "/live/4096-2/check", "/live/x/check"} {
		if got := ask(t, h, nil, "POST", path, check, nil); got != 403 {
			t.Errorf("%s: %d", path, got)
		}
	}
	stranger := phone
	stranger.User = eve
	for _, path := range []string{base + "/ticket", "/live/4096-2/ticket", "/live/x/ticket"} {
		if got := ask(t, h, &stranger, "POST", path, nil, nil); got != 403 {
			t.Errorf("%s by a stranger: %d", path, got)
		}
	}
	if got := ask(t, h, nil, "POST", base+"/ticket", nil, nil); got != 401 {
		t.Errorf("by nobody: %d", got)
	}
	r.set(func() { r.friends = false })
	if got := ask(t, h, nil, "POST", base+"/check", check, &checked); got != 200 || checked.Verdicts[0].Code != "not_friends" {
		t.Fatalf("%d %+v", got, checked)
	}
	if got := ask(t, h, nil, "POST", base+"/admit", cellclient.LiveAdmit{Ticket: ticket.Ticket}, nil); got != 403 {
		t.Fatalf("admitted: %d", got)
	}
}

// A livestream that cannot be announced is none.
func TestWhatCannotBeAnnouncedIsRemoved(t *testing.T) {
	r := newRanges()
	s, _ := newService(t, r, t.TempDir())
	h := s.Handler(new(media))
	owner := cellclient.Caller{User: ann, Device: "phone", Session: 3}
	body := map[string]any{"thread": r.row.Thread, "title": "my garden"}
	var made cellclient.LiveCreated
	if got := ask(t, h, &owner, "POST", "/live", body, &made); got != 200 || made.Live != "4096-1" || len(made.StreamKey) < 40 {
		t.Fatalf("%d %+v", got, made)
	}
	if !strings.HasSuffix(made.RTMP, "/live/4096-1?key="+made.StreamKey) {
		t.Errorf("%+v", made)
	}
	r.set(func() { r.refuse["post"] = proto.Errorf(proto.CodeUnavailable, "perhaps") })
	if got := ask(t, h, &owner, "POST", "/live", body, nil); got != 503 || r.removed != 0 {
		t.Errorf("%d, %d removed", got, r.removed)
	}
	r.set(func() { r.refuse["post"] = proto.Errorf(proto.CodeNotFriends, "only friends") })
	if got := ask(t, h, &owner, "POST", "/live", body, nil); got != 403 || r.removed != 1 {
		t.Errorf("%d, %d removed", got, r.removed)
	}
	for _, bad := range []any{"x", map[string]any{"thread": "x"}, map[string]any{"thread": r.row.Thread, "client_id": "x"}} {
		if got := ask(t, h, &owner, "POST", "/live", bad, nil); got != 400 {
			t.Errorf("%v: %d", bad, got)
		}
	}
	limited := 0
	for range 2 * asksBurst {
		if ask(t, h, &owner, "POST", "/live", body, nil) == 429 {
			limited++
		}
	}
	if limited == 0 {
		t.Error("nothing limits what one user asks")
	}
}

func FuzzOpen(f *testing.F) {
	r := newRanges()
	s, _ := newService(f, r, f.TempDir())
	good := ticketOf(r, nil)
	f.Add(good)
	f.Add(strings.Repeat(".", 10))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := s.open(r.row, garden, kindTicket, text)
		if err == nil && c.Login.User != bob {
			t.Fatalf("%q is a ticket of %v", text, c)
		}
		if err != nil && proto.CodeOf(err) != proto.CodeBadTicket {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
