package files

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/cell/resource/seal"
	"github.com/waggle-im/waggle/proto"
	cellpb "github.com/waggle-im/waggle/proto/cell"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// TestStrangersGetNothing tries every verb as a stranger, as one who is in
// another thread, with another user's id and with a login that has ended.
func TestStrangersGetNothing(t *testing.T) {
	r := newRanges(t, 1, 2)
	ann, bob, eve, joe := r.person(1, "ann"), r.person(2, "bob"), r.person(1, "eve"), r.person(2, "joe")
	n := startNode(t, r, t.TempDir(), nil)
	content := randomBytes(1000)
	file, other := n.upload(ann, content), n.upload(ann, []byte("for joe"))
	at, atJoe := r.share(ann, bob, file), r.share(ann, joe, other)
	n.do(&bob, "GET", "/files/"+file+at, nil).want(t, 200)
	n.do(&joe, "GET", "/files/"+other+atJoe, nil).want(t, 200)

	path := n.create(ann, 1000)
	cases := []struct {
		who    person
		method string
		path   string
	}{}
	for _, who := range []person{eve, joe} {
		for _, query := range []string{"", at, atJoe, "?thread=d/1/2&seq=1", "?thread=../x&seq=1", at + "0", "?seq=1", at[:strings.Index(at, "&")]} {
			for _, verb := range [][2]string{{"GET", ""}, {"HEAD", ""}, {"DELETE", ""}, {"GET", "/info"}, {"POST", "/link"}} {
				cases = append(cases, struct {
					who    person
					method string
					path   string
				}{who, verb[0], "/files/" + file + verb[1] + query})
			}
		}
		for _, method := range []string{"HEAD", "PATCH", "DELETE"} {
			cases = append(cases, struct {
				who    person
				method string
				path   string
			}{who, method, path})
		}
	}
	for _, c := range cases {
		a := n.do(&c.who, c.method, c.path, nil, "Content-Type", "application/offset+octet-stream", "Upload-Offset", "0")
		if a.err != nil || a.status != http.StatusNotFound || bytes.Contains(a.body, content[:16]) {
			t.Errorf("%s %s as %s: %d (%v) %s", c.method, c.path, c.who.User, a.status, a.err, a.body)
		}
	}
	// The one who may read it may not remove it, nor its parts or its list.
	n.do(&bob, "DELETE", "/files/"+file+at, nil).want(t, 404)
	if list := n.do(&bob, "GET", "/files", nil).want(t, 200); strings.Contains(string(list.body), file) {
		t.Error("another's list has the file")
	}
	// The owner's override of a method is judged like the method.
	n.do(&eve, "POST", path, nil, "X-HTTP-Method-Override", "DELETE").want(t, 404)
	n.do(&ann, "HEAD", path, nil).want(t, 200)

	displaced, raised, unknown := ann, ann, ann
	displaced.Session--
	raised.Authority--
	unknown.Device = "tablet"
	refused := func(name string, who person) {
		t.Helper()
		for _, verb := range [][2]string{{"GET", "/files"}, {"GET", "/files/" + file}, {"DELETE", "/files/" + file}, {"POST", "/uploads"}, {"HEAD", path}, {"PATCH", path}} {
			if a := n.do(&who, verb[0], verb[1], nil, "Upload-Length", "1"); a.status != http.StatusUnauthorized {
				t.Errorf("%s: %s %s: %d", name, verb[0], verb[1], a.status)
			}
		}
	}
	refused("displaced", displaced)
	refused("of an older authority", raised)
	refused("another device", unknown)
	n.do(&ann, "GET", "/files", nil).want(t, 200)
	r.do(1, &cellpb.Command{Body: &cellpb.Command_RaiseAuthority{RaiseAuthority: &cellpb.RaiseAuthority{User: uint64(ann.User), Nonce: []byte("1")}}})
	refused("ended", ann)
}

// TestFormerFriendsKeepWhatTheyWereSent: who may read follows the thread, as
// with its texts; what was removed is gone for all.
func TestFormerFriendsKeepWhatTheyWereSent(t *testing.T) {
	r := newRanges(t, 1, 2)
	ann, bob := r.person(1, "ann"), r.person(2, "bob")
	n := startNode(t, r, t.TempDir(), nil)
	before, after := n.upload(ann, []byte("before")), n.upload(ann, []byte("after"))
	at := r.share(ann, bob, before)
	thread := proto.DirectThread(ann.User, bob.User)
	for i, action := range []clientpb.ContactAction{clientpb.ContactAction_CONTACT_ACTION_BLOCK} {
		id := proto.NewClientMsgID(timeOf(r, i))
		result := r.do(thread.OwnerRange(), &cellpb.Command{Body: &cellpb.Command_ChangeContact{ChangeContact: &cellpb.ChangeContact{
			Thread: thread.String(), From: uint64(ann.User), Action: action, ClientId: id[:], FromName: "ann", ToName: "bob",
		}}})
		if result.Code != 0 {
			t.Fatal(result.Message)
		}
	}
	n.do(&bob, "GET", "/files/"+before+at, nil).want(t, 200)
	n.do(&bob, "GET", "/files/"+after+at, nil).want(t, 404) // the message carries another
	msg := proto.NewClientMsgID(timeOf(r, 9))
	sent := r.do(thread.OwnerRange(), &cellpb.Command{Body: &cellpb.Command_AppendMessage{AppendMessage: &cellpb.AppendMessage{
		Thread: thread.String(), From: uint64(ann.User), ClientMsgId: msg[:],
		File: &clientpb.FileMessage{File: after, Blake3: make([]byte, 32)},
	}}})
	if proto.Code(sent.Code) != proto.CodeBlocked {
		t.Errorf("a file is sent to one who is blocked: %v", sent)
	}
	n.do(&ann, "DELETE", "/files/"+before, nil).want(t, 204)
	n.do(&bob, "GET", "/files/"+before+at, nil).want(t, 404)
}

func TestAddressesAreNoPaths(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	own := ann.User.String()
	for _, id := range []string{
		"..", "%2e%2e", "..%2f..%2fetc%2fpasswd", own + "-0", own + "-01", own + "--1", own + "-1%00", own + "-99999999999999999999",
		own + "-1%2f..", "-1", "0-1", strings.Repeat("9", 1000) + "-1", own + "-1~c1-n1", "links.key", "keys",
	} {
		for _, path := range []string{"/files/" + id, "/uploads/" + id, "/uploads/" + id + "~c1-n1", "/uploads/" + own + "-1~" + id} {
			for _, method := range []string{"GET", "HEAD", "PATCH", "DELETE"} {
				a := n.do(&ann, method, path, nil, "Content-Type", "application/offset+octet-stream", "Upload-Offset", "0")
				if a.err == nil && a.status < 300 {
					t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
				}
			}
		}
	}
}

func TestSizesAreChecked(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	for _, size := range []string{"-1", "", "x", "1e3", "99999999999999999999", fmt.Sprint(int64(math.MaxInt64)), fmt.Sprint(int64(proto.FileBytesMax) + 1)} {
		if a := n.do(&ann, "POST", "/uploads", nil, "Upload-Length", size); a.status != 400 && a.status != 413 {
			t.Errorf("an upload of %q bytes: %d %s", size, a.status, a.body)
		}
	}
	path := n.create(ann, 100)
	for offset, want := range map[int]int{-1: 400, 1: 409, math.MaxInt64: 409} {
		n.patch(ann, path, offset, strings.NewReader("x")).want(t, want)
	}
	n.patch(ann, path, 0, bytes.NewReader(randomBytes(101))).want(t, 413)
	n.patch(ann, path, 0, strings.NewReader("x"), "Content-Type", "text/plain").want(t, 400)
	n.patch(ann, path, 0, strings.NewReader("x"), "Upload-Length", "5").want(t, 400)
	for _, metadata := range []string{
		meta("blake3", "zz"), meta("blake3", "00"), meta("a", strings.Repeat("x", metaBytesMax)), "a\u00e4 eHg=",
	} {
		if a := n.do(&ann, "POST", "/uploads", nil, "Upload-Length", "1", "Upload-Metadata", metadata); a.status != 400 && a.status != 413 {
			t.Errorf("metadata %.40q: %d", metadata, a.status)
		}
	}
	for _, concat := range []string{"final;", "final;x", "final;/uploads/", "final;/uploads/" + ann.User.String() + "-99~c1-n1", "odd", "final;/uploads/../x~c1-n1"} {
		if a := n.do(&ann, "POST", "/uploads", nil, "Upload-Concat", concat); a.status != 400 && a.status != 404 {
			t.Errorf("joining %q: %d", concat, a.status)
		}
	}
	for _, query := range []string{"?before=-1", "?limit=x", "?before=99999999999999999999"} {
		n.do(&ann, "GET", "/files"+query, nil).want(t, 400)
	}
	n.do(&ann, "GET", "/files?limit=4294967296", nil).want(t, 200)
}

// TestUploadsCutShortGoOn breaks the body in the middle: what came counts.
func TestUploadsCutShortGoOn(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	content := randomBytes(4*seal.BlockBytes + 5)
	path := n.create(ann, int64(len(content)), "Upload-Metadata", meta("blake3", hashOf(content)))
	// An upload that broke may still be stored when it is asked how far it is:
	// then the next piece is refused, and asked again.
	for tries, cuts := 0, 0; ; tries++ {
		at := n.offset(ann, path)
		if at == len(content) {
			break
		}
		if tries == 1000 {
			t.Fatalf("at %d after %d tries", at, tries)
		}
		end := min(len(content), at+seal.BlockBytes+100)
		if cuts < 4 {
			cuts++
			if a := n.patch(ann, path, at, brokenBody(content[at:end])); a.err == nil && a.status < 300 {
				t.Fatalf("a body that broke is answered %d", a.status)
			}
			continue
		}
		if a := n.patch(ann, path, at, bytes.NewReader(content[at:end])); a.err != nil || a.status != 204 && a.status != 409 {
			t.Fatalf("answered %d (%v): %s", a.status, a.err, a.body)
		}
	}
	if got := n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Fatal("other bytes came back")
	}
}

func TestNamesAreCleaned(t *testing.T) {
	for given, want := range map[string]string{
		"a.txt": "a.txt", "../../etc/passwd": "passwd", `C:\Users\x\a.txt`: "a.txt", "": "file", ".": "file", "..": "file", "/": "file",
		".bashrc": "bashrc", "a\x00b\n\r.txt": "ab.txt", "\u202egnp.exe": "gnp.exe", " a b ": "a b", "ä.png": "ä.png", "\xff\xfe": "file",
		strings.Repeat("ä", 200): strings.Repeat("ä", 127),
	} {
		if got := cleanName(given); got != want {
			t.Errorf("%q becomes %q, want %q", given, got, want)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	f.Add("../a")
	f.Fuzz(func(t *testing.T, name string) {
		got := cleanName(name)
		if got == "" || len(got) > proto.FileNameBytesMax || strings.ContainsAny(got, "/\\\x00\n\r") || strings.HasPrefix(got, ".") {
			t.Fatalf("%q becomes %q", name, got)
		}
		if disposition(&cellpb.StoredFile{Name: got}) == "attachment" && !strings.ContainsRune(got, 0xfffd) {
			t.Fatalf("%q cannot be named in a header", got)
		}
	})
}

// TestComingBackInterruptsTheDeadConnection: a client whose connection hangs
// comes back by another and goes on.
func TestComingBackInterruptsTheDeadConnection(t *testing.T) {
	r := newRanges(t, 1)
	ann := r.person(1, "ann")
	n := startNode(t, r, t.TempDir(), nil)
	content := randomBytes(3 * seal.BlockBytes)
	path := n.create(ann, int64(len(content)))
	var pw *io.PipeWriter
	hanging := make(chan answer, 1)
	at := 0
	for pause := time.Millisecond; at == 0; pause *= 2 {
		if pause > time.Minute {
			t.Fatal("nothing of what was sent is there")
		}
		var pr *io.PipeReader
		pr, pw = io.Pipe()
		go func() { hanging <- n.patch(ann, path, 0, pr) }() // ends when it is interrupted
		if _, err := pw.Write(content[:seal.BlockBytes+1]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause) // for what was written to reach the node
		if at = n.offset(ann, path); at == 0 {
			// It was interrupted before it had a block: the next try waits longer.
			_ = pw.CloseWithError(io.ErrClosedPipe)
			<-hanging
		}
	}
	n.patch(ann, path, at, bytes.NewReader(content[at:])).want(t, 204)
	_ = pw.CloseWithError(io.ErrClosedPipe)
	if a := <-hanging; a.err == nil && a.status < 300 {
		t.Errorf("the hanging request is answered %d", a.status)
	}
	if got := n.do(&ann, "GET", "/files/"+fileIn(path), nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Fatal("other bytes came back")
	}
}
