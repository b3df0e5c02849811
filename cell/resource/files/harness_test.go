package files

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	pb "google.golang.org/protobuf/proto"
	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/cell/storage/state"
	"github.com/waggle-im/waggle/client/cellclient"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
	"github.com/waggle-im/waggle/sharding"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2/internal/manifest.(*ObsoleteFiles).loop"))
}

// quiet keeps Pebble's notes out of the tests' output.
type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// ranges is a cluster of ranges without a network: the real machines, applied
// at once.
type ranges struct {
	t testing.TB

	mu       sync.Mutex // guards the fields below
	machines map[proto.RangeID]*machine
	refuse   func(*cellpb.RelayRequest) error // before a request is served
	after    func(*cellpb.RelayRequest) error // after it was: the answer is lost
	nowMs    int64
	addrs    map[proto.NodeID]string
}

type machine struct {
	m     *state.Machine
	db    *pebble.DB
	index uint64
}

func newRanges(t testing.TB, ids ...proto.RangeID) *ranges {
	r := &ranges{t: t, machines: map[proto.RangeID]*machine{}, nowMs: time.Now().UnixMilli()}
	for _, id := range ids {
		db, err := pebble.Open("db", &pebble.Options{FS: vfs.NewMem(), MemTableSize: 256 << 10, Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		m, err := state.Create(db, &cellpb.Descriptor{Range: uint64(id), Cell: "c1", Epoch: 1}, []byte("incarnation-0001"))
		if err != nil {
			t.Fatal(err)
		}
		r.machines[id] = &machine{m: m, db: db}
		r.apply(id, nil, &cellpb.Command{Body: &cellpb.Command_GrantHost{GrantHost: &cellpb.GrantHost{Number: 1, Node: "n1"}}})
	}
	return r
}

func (r *ranges) apply(id proto.RangeID, grant *cellpb.GrantRef, c *cellpb.Command) *cellpb.Result {
	one := r.machines[id]
	raw, err := pb.Marshal(&cellpb.Entry{Range: uint64(id), Epoch: 1, Grant: grant, TimeMs: r.nowMs, Commands: []*cellpb.Command{c}})
	if err != nil {
		r.t.Fatal(err)
	}
	one.index++
	applied := one.m.Apply(one.index, 1, raw)
	if err := one.m.Commit(); err != nil {
		r.t.Fatal(err)
	}
	for _, row := range applied.ChannelRows {
		row := pb.CloneOf(row)
		row.Event = nil
		r.apply(proto.RangeID(row.Dest), &cellpb.GrantRef{Term: 1, Number: 1}, &cellpb.Command{Body: &cellpb.Command_TakeChannelRows{TakeChannelRows: &cellpb.ChannelRows{
			Source: uint64(id), Incarnation: []byte("incarnation-0001"), Rows: []*cellpb.ChannelRow{row},
		}}})
	}
	return applied.Results[0]
}

func (r *ranges) do(id proto.RangeID, c *cellpb.Command) *cellpb.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.apply(id, &cellpb.GrantRef{Term: 1, Number: 1}, c)
}

// Do implements [Ranges] as a relay does.
func (r *ranges) Do(_ context.Context, id proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		if err := r.refuse(req); err != nil {
			return nil, err
		}
	}
	reply, err := r.serve(id, req)
	if err == nil && r.after != nil {
		err = r.after(req)
	}
	return reply, err
}

func (r *ranges) serve(id proto.RangeID, req *cellpb.RelayRequest) (*cellpb.RelayReply, error) {
	c, q := new(cellpb.Command), new(cellpb.LeadRead)
	switch body := req.Body.(type) {
	case *cellpb.RelayRequest_CreateFile:
		c.Body = &cellpb.Command_CreateFile{CreateFile: body.CreateFile}
	case *cellpb.RelayRequest_ReserveFile:
		c.Body = &cellpb.Command_ReserveFile{ReserveFile: body.ReserveFile}
	case *cellpb.RelayRequest_CompleteFile:
		c.Body = &cellpb.Command_CompleteFile{CompleteFile: body.CompleteFile}
	case *cellpb.RelayRequest_RemoveFile:
		c.Body = &cellpb.Command_RemoveFile{RemoveFile: body.RemoveFile}
	case *cellpb.RelayRequest_ReadFiles:
		q.Body = &cellpb.LeadRead_Files{Files: body.ReadFiles}
	case *cellpb.RelayRequest_ReadUser:
		q.Body = &cellpb.LeadRead_User{User: body.ReadUser}
	case *cellpb.RelayRequest_ReadThread:
		q.Body = &cellpb.LeadRead_Thread{Thread: body.ReadThread}
	}
	if c.Body != nil {
		result := r.apply(id, &cellpb.GrantRef{Term: 1, Number: 1}, c)
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_Result{Result: result}}, proto.FromWire(result.Code, result.Message, result.RetryMs)
	}
	out, err := state.NewReader(r.machines[id].db, id).Read(q)
	switch {
	case err != nil:
		return nil, err
	case out.User != nil:
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_User{User: out.User}}, nil
	case out.Files != nil:
		return &cellpb.RelayReply{Body: &cellpb.RelayReply_Files{Files: out.Files}}, nil
	}
	return &cellpb.RelayReply{Body: &cellpb.RelayReply_Events{Events: out.Events}}, nil
}

// Routes, FilesAddr and FilesNodes implement [cellclient.FilesDirectory].
func (r *ranges) Routes() *sharding.Map {
	var list []sharding.Route
	for id := range r.machines {
		list = append(list, sharding.Route{Range: id, Cell: "c1", Epoch: 1})
	}
	return sharding.New(list)
}

func (r *ranges) FilesAddr(n proto.NodeID) (string, bool) { a, ok := r.addrs[n]; return a, ok }
func (r *ranges) FilesNodes(proto.CellID) []proto.NodeID  { return nil }
func (r *ranges) setRefuse(f func(*cellpb.RelayRequest) error) {
	r.mu.Lock()
	r.refuse = f
	r.mu.Unlock()
}

// person is a user with a login.
type person struct{ cellclient.Caller }

func (r *ranges) person(id proto.RangeID, name string) person {
	key := make([]byte, 16)
	copy(key, name)
	user := r.do(id, &cellpb.Command{Body: &cellpb.Command_CreateUser{CreateUser: &cellpb.CreateUser{AccountKey: key, Name: name}}}).User
	login := r.do(id, &cellpb.Command{Body: &cellpb.Command_LoginDevice{LoginDevice: &cellpb.LoginDevice{User: user, Device: "phone", Nonce: key}}})
	return person{cellclient.Caller{User: proto.EntityID(user), Device: "phone", Session: login.SessionNumber, Authority: login.AuthorityVersion}}
}

// share sends a file of from to another, and says where it is.
func (r *ranges) share(from, to person, file string) string {
	r.t.Helper()
	thread := proto.DirectThread(from.User, to.User)
	id, err := proto.ParseFileID(file)
	if err != nil {
		r.t.Fatal(err)
	}
	claimed := r.do(from.User.Range(), &cellpb.Command{Body: &cellpb.Command_ClaimFile{ClaimFile: &cellpb.ClaimFile{User: uint64(from.User), Number: id.Number}}})
	if claimed.Code != 0 {
		r.t.Fatal(claimed.Message)
	}
	f := claimed.File.File
	msg := proto.NewClientMsgID(time.UnixMilli(r.nowMs))
	sent := r.do(thread.OwnerRange(), &cellpb.Command{Body: &cellpb.Command_AppendMessage{AppendMessage: &cellpb.AppendMessage{
		Thread: thread.String(), From: uint64(from.User), ClientMsgId: msg[:],
		File: &clientpb.FileMessage{File: file, Name: f.Name, Size: f.Size, Type: f.Type, Blake3: f.Blake3},
	}}})
	if sent.Code != 0 {
		r.t.Fatal(sent.Message)
	}
	return fmt.Sprintf("?thread=%s&seq=%d", thread, sent.Seq)
}

// node is a resource node over a real HTTP/2 port.
type node struct {
	t      testing.TB
	s      *Service
	server *httptest.Server
	dir    string
	logs   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startNode(t testing.TB, r *ranges, dir string, change func(*Config)) *node {
	t.Helper()
	cfg := Config{Node: "c1-n1", Cell: "c1", Dir: dir}
	if change != nil {
		change(&cfg)
	}
	n := &node{t: t, dir: dir, logs: new(lockedBuffer)}
	var err error
	n.s, err = New(cfg, Deps{Ranges: r, Directory: r, Proxy: cellclient.NewFilesProxy(r, nil), Log: slog.New(slog.NewTextHandler(n.logs, nil))})
	if err != nil {
		t.Fatal(err)
	}
	n.server = httptest.NewUnstartedServer(n.s.Handler())
	n.server.EnableHTTP2 = true
	n.server.StartTLS()
	t.Cleanup(n.stop)
	return n
}

func (n *node) stop() {
	n.server.CloseClientConnections()
	n.server.Close()
}

// answer is an answer read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

func (n *node) do(p *person, method, path string, body io.Reader, headers ...string) answer {
	n.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = n.server.URL + path
	}
	req, err := http.NewRequest(method, path, body)
	if err != nil {
		n.t.Fatal(err)
	}
	if p != nil {
		cellclient.SetCaller(req.Header, &p.Caller)
	}
	req.Header.Set("Tus-Resumable", "1.0.0")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := n.server.Client().Transport.RoundTrip(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: got, err: err}
}

func (a answer) want(t testing.TB, status int) answer {
	t.Helper()
	if a.err != nil || a.status != status {
		t.Fatalf("answered %d (%v), want %d: %s", a.status, a.err, status, a.body)
	}
	return a
}

func meta(pairs ...string) string {
	var out []string
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return strings.Join(out, ",")
}

// create opens an upload and gives its path.
func (n *node) create(p person, size int64, headers ...string) string {
	n.t.Helper()
	a := n.do(&p, "POST", "/uploads", nil, append([]string{"Upload-Length", strconv.FormatInt(size, 10)}, headers...)...).want(n.t, 201)
	return n.pathOf(a)
}

func (n *node) pathOf(a answer) string {
	n.t.Helper()
	location := a.header.Get("Location")
	if !strings.HasPrefix(location, n.server.URL+"/uploads/") {
		n.t.Fatalf("the upload is at %q", location)
	}
	return strings.TrimPrefix(location, n.server.URL)
}

func (n *node) patch(p person, path string, offset int, body io.Reader, headers ...string) answer {
	n.t.Helper()
	return n.do(&p, "PATCH", path, body, append([]string{"Content-Type", "application/offset+octet-stream", "Upload-Offset", strconv.Itoa(offset)}, headers...)...)
}

// offset asks how far an upload is.
func (n *node) offset(p person, path string) int {
	n.t.Helper()
	at, err := strconv.Atoi(n.do(&p, "HEAD", path, nil).want(n.t, 200).header.Get("Upload-Offset"))
	if err != nil {
		n.t.Fatal(err)
	}
	return at
}

// upload brings a whole file up and gives its id.
func (n *node) upload(p person, content []byte, headers ...string) string {
	n.t.Helper()
	path := n.create(p, int64(len(content)), headers...)
	if len(content) > 0 {
		n.patch(p, path, 0, bytes.NewReader(content)).want(n.t, 204)
	}
	return fileIn(path)
}

func fileIn(path string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(path, "/uploads/"), "~")
	return id
}

func randomBytes(size int) []byte {
	out := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size), 1}).Read(out)
	return out
}

func hashOf(b []byte) string {
	sum := blake3.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// contains tells whether a file of the node's folder holds text.
func (n *node) contains(text string) bool {
	found := false
	_ = fsWalk(n.dir, func(path string) {
		raw, err := os.ReadFile(path)
		found = found || err == nil && bytes.Contains(raw, []byte(text))
	})
	return found
}

// timeOf is a time near that of the ranges, another one for each i.
func timeOf(r *ranges, i int) time.Time {
	return time.UnixMilli(r.nowMs).Add(time.Duration(i+1) * time.Millisecond)
}

func setCaller(req *http.Request, p person) { cellclient.SetCaller(req.Header, &p.Caller) }

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}
