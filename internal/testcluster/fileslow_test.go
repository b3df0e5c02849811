//go:build unix

package testcluster

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-im/waggle/internal/devcluster"
)

// slowTransfer is a person's request about a file on a connection of its own,
// over HTTP/1.1, whose content moves when it is told to.
type slowTransfer struct {
	conn net.Conn
	in   *bufio.Reader
}

// dialSlow connects with buffers so small that what does not move stays at the
// server.
func (c *Cluster) dialSlow(cfg *tls.Config) (*slowTransfer, error) {
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = setReceiveBuffer(fd, 8<<10) })
	}}
	conn, err := tls.DialWithDialer(&dialer, "tcp", c.options.Listen, cfg)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(4 * Wait))
	return &slowTransfer{conn, bufio.NewReaderSize(conn, 4<<10)}, nil
}

// begin writes the request's header and as much of its body as is given.
func (s *slowTransfer) begin(u User, method, path string, length int, body []byte, headers ...string) error {
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nTus-Resumable: 1.0.0\r\n", method, path, u.Token)
	for i := 0; i+1 < len(headers); i += 2 {
		head += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	if length > 0 {
		head += fmt.Sprintf("Content-Length: %d\r\n", length)
	}
	_, err := s.conn.Write(append([]byte(head+"\r\n"), body...))
	return err
}

// answer reads the header of the answer.
func (s *slowTransfer) answer(want int) (*http.Response, error) {
	resp, err := http.ReadResponse(s.in, nil)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("answered %s, not %d", resp.Status, want)
	}
	return resp, err
}

// residentBytes is the memory of all server processes.
func (c *Cluster) residentBytes() (sum int) {
	c.t.Helper()
	for node, pid := range c.Pids() {
		c.CollectGarbage(c.Admins()[node])
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			c.t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(raw), "VmRSS:")
		kib := 0
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			c.t.Fatalf("%s has no VmRSS: %v", node, err)
		}
		sum += kib << 10
	}
	return sum
}

// Many downloads that are hardly read and many uploads that hardly come, at
// once: they cost a bounded amount of memory each, at edge and nodes together,
// people's messages go on, and the contents are right when they move again.
func TestManySlowTransfers(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("memory of other processes is read from /proc")
	}
	people, each := 10, 10 // and as many uploads
	if long() {
		people, each = 40, 25
	}
	c := StartProcesses(t, devcluster.Options{})
	cfg := c.TLS()
	cfg.NextProtos, cfg.ServerName = []string{"http/1.1"}, "localhost"
	w := c.StartTalkers(4)
	content, sum := randomContent(1 << 20)
	web := c.webs()["HTTP/1.1"]
	var users []User
	var files, uploads []string
	for i := range people {
		u := c.AddUser(fmt.Sprintf("slow%d", i), fmt.Sprintf("c%d", i%2+1))
		location := web.create(u.Token, len(content), "slow.bin", sum)
		web.resume(u.Token, location, content, len(content))
		users, files = append(users, u), append(files, fileOf(location))
		for range each {
			uploads = append(uploads, web.create(u.Token, len(content), "slow.bin", sum))
		}
	}
	w.Talk(time.Second)
	calm := w.Talk(3 * time.Second)
	before := c.residentBytes()
	down, up := make([]*slowTransfer, people*each), make([]*slowTransfer, people*each)
	forAll := func(what string, do func(i int, u User) error) {
		t.Helper()
		var wg sync.WaitGroup
		places := make(chan struct{}, 32)
		for i := range people * each {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				if err := do(i, users[i/each]); err != nil {
					t.Errorf("%s %d: %v", what, i, err)
				}
			})
		}
		if wg.Wait(); t.Failed() {
			t.FailNow()
		}
	}
	const begun = 100_000
	forAll("download", func(i int, u User) (err error) {
		if down[i], err = c.dialSlow(cfg); err == nil {
			err = down[i].begin(u, "GET", "/files/"+files[i/each], 0, nil)
		}
		if err == nil {
			_, err = down[i].answer(200)
		}
		return err
	})
	forAll("upload", func(i int, u User) (err error) {
		_, path, _ := strings.Cut(strings.TrimPrefix(uploads[i], "https://"), "/")
		if up[i], err = c.dialSlow(cfg); err == nil {
			err = up[i].begin(u, "PATCH", "/"+path, len(content), content[:begun],
				"Content-Type", "application/offset+octet-stream", "Upload-Offset", "0")
		}
		return err
	})
	slow := w.Talk(3 * time.Second)
	held := c.residentBytes() - before
	transfers := 2 * people * each
	t.Logf("%d slow transfers cost %.1f MB, %d KiB each; messages: %s, without them %s", transfers, float64(held)/1e6, held/transfers>>10, slow, calm)
	// Per download at the node two blocks of 64 KiB and a window of 128 KiB,
	// at the edge the same window and a buffer; half of it for an upload.
	if bound := transfers*(768<<10) + 64<<20; held > bound {
		t.Errorf("%d slow transfers cost %d MB, above %d MB", transfers, held>>20, bound>>20)
	}
	forAll("download", func(i int, _ User) error {
		defer down[i].conn.Close()
		got := make([]byte, len(content))
		_, err := io.ReadFull(down[i].in, got)
		if err == nil && !bytes.Equal(got, content) {
			err = fmt.Errorf("other content came")
		}
		return err
	})
	forAll("upload", func(i int, _ User) error {
		defer up[i].conn.Close()
		if _, err := up[i].conn.Write(content[begun:]); err != nil {
			return err
		}
		_, err := up[i].answer(204)
		return err
	})
	w.Check()
}
