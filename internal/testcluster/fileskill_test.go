//go:build unix

package testcluster

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/devcluster"
)

// An upload goes on after SIGKILL of the edge and of the node that writes it,
// in the middle of a body, and what comes out is what went in. A file that is
// complete stays.
func TestUploadsSurviveKills(t *testing.T) {
	c := StartProcesses(t, devcluster.Options{Cells: 1, NoDemo: true})
	ann := c.AddUser("ann", "c1")
	w := &web{t, c, &http.Transport{TLSClientConfig: c.TLS(), ForceAttemptHTTP2: true, ResponseHeaderTimeout: 5 * time.Second}}
	t.Cleanup(func() { w.trip.(*http.Transport).CloseIdleConnections() })
	kept, keptSum := randomContent(3 << 20)
	keptAt := w.create(ann.Token, len(kept), "kept", keptSum)
	w.resume(ann.Token, keptAt, kept, len(kept))

	content, sum := randomContent(48<<20 + 321)
	location := w.create(ann.Token, len(content), "big", sum)
	for _, victim := range []string{"c1-n1", "e1", "c1-n1"} {
		var at int
		c.Until("the upload is found", func() error {
			head := w.try(ann.Token, "HEAD", location, nil)
			var err error
			if at, err = strconv.Atoi(head.header.Get("Upload-Offset")); head.err != nil {
				err = head.err
			}
			return err
		})
		// The node dies while the body is on its way.
		half := at + 14<<20
		body := io.MultiReader(bytes.NewReader(content[at:half]), killer(func() { c.Kill(victim) }), bytes.NewReader(content[half:]))
		a := w.try(ann.Token, "PATCH", location, body, "Content-Type", "application/offset+octet-stream", "Upload-Offset", strconv.Itoa(at))
		t.Logf("%s killed at %d: %d (%v)", victim, half, a.status, a.err)
		c.UntilSettled()
	}
	w.resume(ann.Token, location, content, 8<<20)
	for location, want := range map[string][]byte{keptAt: kept, location: content} {
		path := "/files/" + fileOf(location)
		if got := w.do(200, ann.Token, "GET", path, nil); !bytes.Equal(got.body, want) {
			t.Fatalf("%d of %d bytes came back, or others", len(got.body), len(want))
		}
	}
}

// killer is an empty reader that does something when it is reached.
type killer func()

// Read implements [io.Reader].
func (k killer) Read([]byte) (int, error) {
	k()
	return 0, io.EOF
}
