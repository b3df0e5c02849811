package testcluster

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"lukechampine.com/blake3"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/devcluster"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// web speaks HTTP to an edge in one version.
type web struct {
	t    testing.TB
	c    *Cluster
	trip http.RoundTripper
}

// webs are clients of HTTP/1.1, 2 and 3.
func (c *Cluster) webs() map[string]*web {
	one := &http.Transport{TLSClientConfig: c.TLS(), TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	two := &http.Transport{TLSClientConfig: c.TLS(), ForceAttemptHTTP2: true}
	three := &http3.Transport{TLSClientConfig: c.TLS()}
	c.t.Cleanup(func() {
		one.CloseIdleConnections()
		two.CloseIdleConnections()
		_ = three.Close()
	})
	return map[string]*web{"HTTP/1.1": {c.t, c, one}, "HTTP/2.0": {c.t, c, two}, "HTTP/3.0": {c.t, c, three}}
}

type webAnswer struct {
	status int
	proto  string
	header http.Header
	body   []byte
	err    error
}

func (w *web) try(token, method, path string, body io.Reader, headers ...string) webAnswer {
	if !strings.HasPrefix(path, "https:") {
		path = "https://" + w.c.options.Listen + path
	}
	req, err := http.NewRequestWithContext(w.c.Context(), method, path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Tus-Resumable", "1.0.0")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := w.trip.RoundTrip(req)
	if err != nil {
		return webAnswer{err: err}
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return webAnswer{resp.StatusCode, resp.Proto, resp.Header, got, err}
}

func (w *web) do(want int, token, method, path string, body io.Reader, headers ...string) webAnswer {
	w.t.Helper()
	a := w.try(token, method, path, body, headers...)
	if a.err != nil || a.status != want {
		w.t.Fatalf("%s %s answered %d (%v), want %d: %s", method, path, a.status, a.err, want, a.body)
	}
	return a
}

func randomContent(size int) (content []byte, sum string) {
	content = make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(content)
	hash := blake3.Sum256(content)
	return content, hex.EncodeToString(hash[:])
}

// create opens an upload and gives its address.
func (w *web) create(token string, size int, name, sum string) string {
	w.t.Helper()
	b64 := base64.StdEncoding.EncodeToString
	return w.do(201, token, "POST", "/uploads", nil, "Upload-Length", strconv.Itoa(size),
		"Upload-Metadata", "filename "+b64([]byte(name))+",blake3 "+b64([]byte(sum))).header.Get("Location")
}

// resume brings the rest of an upload up in pieces, from where it is, however
// often it breaks.
func (w *web) resume(token, location string, content []byte, piece int) {
	w.t.Helper()
	w.c.Until("the upload is whole", func() error {
		head := w.try(token, "HEAD", location, nil)
		if head.err != nil || head.status != 200 {
			return fmt.Errorf("HEAD: %d (%v)", head.status, head.err)
		}
		at, err := strconv.Atoi(head.header.Get("Upload-Offset"))
		if err != nil {
			return err
		}
		for at < len(content) {
			end := min(len(content), at+piece)
			a := w.try(token, "PATCH", location, bytes.NewReader(content[at:end]),
				"Content-Type", "application/offset+octet-stream", "Upload-Offset", strconv.Itoa(at))
			if a.err != nil || a.status != 204 {
				return fmt.Errorf("PATCH at %d: %d (%v): %s", at, a.status, a.err, a.body)
			}
			at = end
		}
		return nil
	})
}

func fileOf(location string) string {
	id, _, _ := strings.Cut(location[strings.LastIndexByte(location, '/')+1:], "~")
	return id
}

// sendFile sends a file in the thread of two people and gives the query that
// names the message.
func (c *Cluster) sendFile(d *Device, to User, file string) string {
	c.t.Helper()
	thread := proto.DirectThread(d.User.ID, to.ID).String()
	p, err := d.Client.PostBody(client.FileMessage(thread, &clientpb.FileMessage{File: file, Kind: clientpb.FileKind_FILE_KIND_FILE}))
	if err != nil {
		c.t.Fatal(err)
	}
	sent, err := p.Result(c.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprintf("?thread=%s&seq=%d", thread, sent.Seq)
}

// TestFilesGoFromFriendToFriend uploads over each version of HTTP, in pieces,
// sends the file to a friend of another cell, who reads it; a stranger does not.
func TestFilesGoFromFriendToFriend(t *testing.T) {
	c := Start(t, devcluster.Options{Cells: 2, NoDemo: true})
	ann, bob, eve := c.AddUser("ann", "c1"), c.AddUser("bob", "c2"), c.AddUser("eve", "c2")
	sender, receiver := c.Connect(ann, client.TCP, nil), c.Connect(bob, client.TCP, nil)
	i := 0
	for version, w := range c.webs() {
		i++
		content, sum := randomContent(3<<20 + 12345*i)
		location := w.create(ann.Token, len(content), "holiday.bin", sum)
		if !strings.HasPrefix(location, "https://"+c.options.Listen+"/uploads/") {
			t.Fatalf("the upload is at %s", location)
		}
		w.resume(ann.Token, location, content, 1<<20+7)
		file := fileOf(location)
		w.do(404, bob.Token, "GET", "/files/"+file, nil) // not sent yet
		at := c.sendFile(sender, bob, file)
		c.Until("bob sees the file", func() error {
			for _, u := range receiver.Updates() {
				if f := u.Event.GetFile(); f.GetFile() == file {
					if f.Name != "holiday.bin" || f.Size != uint64(len(content)) || hex.EncodeToString(f.Blake3) != sum {
						return fmt.Errorf("it is %v", f)
					}
					return nil
				}
			}
			return fmt.Errorf("not among %d updates", len(receiver.Updates()))
		})
		got := w.do(200, bob.Token, "GET", "/files/"+file+at, nil)
		if !bytes.Equal(got.body, content) || got.proto != version {
			t.Fatalf("%s: %d of %d bytes came over %s", version, len(got.body), len(content), got.proto)
		}
		part := w.do(206, bob.Token, "GET", "/files/"+file+at, nil, "Range", "bytes=2000000-2000009")
		if !bytes.Equal(part.body, content[2000000:2000010]) {
			t.Fatal("another part came")
		}
		for _, method := range []string{"GET", "HEAD", "DELETE"} {
			w.do(404, eve.Token, method, "/files/"+file+at, nil)
			w.do(404, eve.Token, method, "/files/"+file, nil)
		}
		w.do(404, bob.Token, "DELETE", "/files/"+file+at, nil)
		w.do(401, "", "GET", "/files/"+file+at, nil)
		w.do(401, "", "GET", "/files/"+file+at, nil, "Waggle-Caller", base64.RawURLEncoding.EncodeToString(
			fmt.Appendf(nil, `{"user":%s,"device":%q,"session":99,"authority":99}`, ann.ID, ann.Device)))
		w.do(401, "", "GET", "/files/"+file+"?link=c1-n1~x~y", nil, "Waggle-Caller", base64.RawURLEncoding.EncodeToString(
			fmt.Appendf(nil, `{"user":%s,"device":%q,"session":99,"authority":99}`, ann.ID, ann.Device)))
		var info struct {
			Sent []struct {
				Thread string `json:"thread"`
			} `json:"sent"`
		}
		// The row that tells ann's range of her own message may be on its way.
		c.Until("the message is counted", func() error {
			err := json.Unmarshal(w.do(200, ann.Token, "GET", "/files/"+file+"/info", nil).body, &info)
			if err == nil && len(info.Sent) != 1 {
				err = fmt.Errorf("%+v", info)
			}
			return err
		})
		var link struct {
			URL string `json:"url"`
		}
		if err := json.Unmarshal(w.do(200, bob.Token, "POST", "/files/"+file+"/link"+at, nil).body, &link); err != nil {
			t.Fatal(err)
		}
		if got := w.do(200, "", "GET", link.URL, nil); !bytes.Equal(got.body, content) {
			t.Fatal("the link gives other bytes")
		}
	}
	// Another's file cannot be sent, nor one that does not exist.
	thread := proto.DirectThread(ann.ID, bob.ID).String()
	for _, file := range []string{fmt.Sprintf("%s-1", ann.ID), fmt.Sprintf("%s-77", bob.ID)} {
		p, err := receiver.Client.PostBody(client.FileMessage(thread, &clientpb.FileMessage{File: file}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Result(c.Context()); proto.CodeOf(err) != proto.CodeUnknownFile {
			t.Errorf("%s: %v", file, err)
		}
	}
}
