package chatscreen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	tea "charm.land/bubbletea/v2"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/internal/bytesize"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// transfers are the files on their way, up and down. They end with the screen;
// an upload goes on when it is asked for again.
type transfers struct {
	srv      *client.Files
	ctx      context.Context // ends with the screen
	running  *gate
	who      Who
	fetching *transfer // the download, nil if there is none
}

// openFiles prepares transfers until end, which waits for them to end.
func (m *Model) openFiles(ctx context.Context, srv *client.Client, who Who) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	m.files = transfers{srv: srv.Files(), ctx: ctx, running: new(gate), who: who}
	return func() {
		cancel()
		m.files.running.shut()
		m.files.srv.Close()
	}
}

// gate counts what runs, until it is shut.
type gate struct {
	mu      sync.Mutex // guards shutting against entering
	closed  bool
	running sync.WaitGroup
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running.Add(1)
	}
	return !g.closed
}

// shut lets nobody in any more and waits for who is.
func (g *gate) shut() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.running.Wait()
}

// transfer is one file on its way. The screen draws how far it is once a
// second, and so reads it when it likes.
type transfer struct {
	name, path  string
	what        string // "sending" or "fetching"
	total, done atomic.Int64
	stage       atomic.Int32
}

func (t *transfer) progress(p client.Progress) {
	t.total.Store(p.Total)
	t.done.Store(p.Done)
	t.stage.Store(int32(p.Stage))
}

// words say how far it is, on one line.
func (t *transfer) words() string {
	name, total, done := oneLine(t.name), t.total.Load(), t.done.Load()
	switch {
	case client.Stage(t.stage.Load()) != client.StageMoving:
		return fmt.Sprintf("verifying %s", name)
	case total == 0:
		return fmt.Sprintf("%s %s", t.what, name)
	}
	return fmt.Sprintf("%s %s: %d %% of %s", t.what, name, 100*done/total, bytesize.Words(total))
}

// fileText is a file in a message: its name, then what it is.
func fileText(f *clientpb.FileMessage) string {
	kind := oneLine(f.GetType())
	if kind == "" {
		kind = "file"
	}
	return fmt.Sprintf("▤ %s\n%s · %s", oneLine(f.GetName()), bytesize.Words(int64(f.GetSize())), kind)
}

// shown is what a row says just now.
func (r *row) shown() string {
	if r.upload != nil && r.file == nil && r.failed == "" {
		return "▤ " + r.upload.words()
	}
	return r.text
}

// fileVerb does what a line about files says: /upload PATH, /download [DIR].
// False: it is a text.
func (m *Model) fileVerb(t *thread, text string) (tea.Cmd, bool) {
	verb, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	rest = strings.TrimSpace(rest)
	var cmd tea.Cmd
	switch verb {
	case "/upload":
		path := unquote(rest)
		if info, err := os.Stat(path); path == "" || err != nil || !info.Mode().IsRegular() {
			m.say("/upload PATH: there is no file " + path)
			return nil, true // what was typed stays, to be mended
		}
		r := t.post("▤ "+filepath.Base(path), nil, m.now())
		r.upload = &transfer{name: filepath.Base(path), path: path, what: "sending"}
		cmd = m.upload(t.id, r)
	case "/download":
		if cmd = m.download(t, unquote(rest)); cmd == nil {
			return nil, true
		}
	default:
		return nil, false
	}
	m.compose.Reset()
	m.layout()
	m.scroll, m.below = 0, 0
	return cmd, true
}

// unquote takes away what terminals put around a dropped path, and writes the
// home folder out.
func unquote(path string) string {
	if n := len(path); n >= 2 && path[0] == path[n-1] && (path[0] == '\'' || path[0] == '"') {
		path = path[1 : n-1]
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return path
}

// transfer runs beside the screen until the screen is left.
func (m *Model) transfer(run func(context.Context) (answer, error)) tea.Cmd {
	f := m.files
	if f.srv == nil {
		return nil
	}
	return func() tea.Msg {
		if !f.running.enter() {
			return nil
		}
		defer f.running.running.Done()
		done, err := run(f.ctx)
		if f.ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil
		}
		return done
	}
}

// upload uploads the file of a row and sends it.
func (m *Model) upload(thread string, r *row) tea.Cmd {
	f, up := m.files, r.upload
	r.failed = ""
	return m.transfer(func(ctx context.Context) (answer, error) {
		file, err := f.srv.Upload(ctx, client.UploadOptions{Path: up.path, Book: f.who.Uploads, Progress: up.progress})
		var message *clientpb.SendMessage
		if err == nil {
			message = client.MessageOf(ctx, thread, file, up.path)
		}
		return func(m *Model) tea.Cmd {
			var p *client.Pending
			if err == nil {
				p, err = m.srv.PostBody(message)
			}
			if err != nil {
				r.failed = oneLine(err.Error())
				m.say("not sent: " + r.failed + " (ctrl+r tries again)")
				return nil
			}
			r.file = &clientpb.FileMessage{File: file.ID, Name: file.Name, Size: uint64(file.Size), Type: file.Type}
			r.text, r.pending = fileText(r.file), p
			return m.await(r)
		}, err
	})
}

// sentFile forgets an upload whose message is stored.
func (m *Model) sentFile(r *row) tea.Cmd {
	if r.upload == nil {
		return nil
	}
	f, path := m.files, r.upload.path
	return m.transfer(func(ctx context.Context) (answer, error) {
		err := f.srv.ForgetUpload(ctx, f.who.Uploads, path)
		return func(m *Model) tea.Cmd {
			if err != nil {
				m.say(err.Error())
			}
			return nil
		}, err
	})
}

// chooseFile chooses the file above the one that is chosen, at first the last.
func (m *Model) chooseFile() tea.Cmd {
	t := m.current()
	if t == nil {
		return nil
	}
	chosen := uint64(0)
	for _, r := range slices.Backward(t.rows) {
		if r.file != nil && (t.chosen == 0 || r.seq < t.chosen) {
			chosen = r.seq
			break
		}
	}
	if t.chosen = chosen; chosen == 0 {
		m.say("there is no file above: ctrl+f begins at the last again")
	}
	return nil
}

// download fetches the chosen file of a thread, or the last one.
func (m *Model) download(t *thread, dir string) tea.Cmd {
	i := -1
	for j, r := range t.rows {
		if r.file != nil && (t.chosen == 0 || r.seq == t.chosen) {
			i = j
		}
	}
	switch {
	case i < 0:
		m.say("there is no file to fetch among the messages shown")
		return nil
	case m.files.fetching != nil:
		m.say("wait: " + m.files.fetching.words())
		return nil
	}
	r, f := t.rows[i], m.files
	at := client.Place{Thread: t.id, Seq: proto.Seq(r.seq)}
	if r.own {
		at = client.Place{}
	}
	down := &transfer{name: r.file.GetName(), what: "fetching"}
	cmd := m.transfer(func(ctx context.Context) (answer, error) {
		path, _, err := f.srv.Download(ctx, client.DownloadOptions{File: r.file.GetFile(), At: at, Dir: dir, Locks: f.who.Locks, Progress: down.progress})
		return func(m *Model) tea.Cmd {
			m.files.fetching = nil
			if err != nil {
				m.say("not fetched: " + err.Error())
				return nil
			}
			if whole, err := filepath.Abs(path); err == nil {
				path = whole
			}
			m.say("saved as " + path)
			return nil
		}, err
	})
	if cmd != nil {
		m.files.fetching = down
	}
	return cmd
}
