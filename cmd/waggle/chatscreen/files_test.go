package chatscreen

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func fileMessage(seq uint64, from proto.EntityID, name string) *clientpb.Event {
	e := message(seq, from)
	e.TimeMs = drawn(80, 24).now().UnixMilli()
	e.Body = &clientpb.Event_File{File: &clientpb.FileMessage{File: "17-2", Name: name, Size: 3 << 20, Type: "image/png"}}
	return e
}

// A file is a bubble with its name, size, type and how far the message got;
// a name cannot command the terminal.
func TestAFileIsABubble(t *testing.T) {
	m := drawn(80, 24)
	m.store.newest(direct, nil, false)
	m.store.event(fileMessage(1, me, "holi\x1b[2Jday.png"))
	m.store.event(fileMessage(2, peer, "reply.png"))
	m.open(direct)
	wantOnScreen(t, m, "▤ holi", "day.png", "3.0 MiB · image/png  12:00 ✓", "▤ reply.png")
	if strings.Contains(m.View().Content, "\x1b[2J") {
		t.Error("the name commands the terminal")
	}
	ctrlF := tea.KeyPressMsg{Code: 'f', Mod: tea.ModCtrl}
	m.Update(ctrlF)
	wantOnScreen(t, m, "▸ ▤ reply.png")
	m.Update(ctrlF)
	wantOnScreen(t, m, "▸ ▤ holi")
	m.Update(ctrlF)
	wantOnScreen(t, m, "there is no file above")
	if s := strings.Join(screenOf(m), "\n"); strings.Contains(s, "▸") {
		t.Errorf("still chosen:\n%s", s)
	}
}

// An upload is seen with its progress from the start, and when it fails.
func TestAnUploadIsSeenWithItsProgress(t *testing.T) {
	m := drawn(80, 24)
	talk(m, "hi")
	type_ := func(line string) {
		m.compose.SetValue(line)
		m.Update(tea.KeyPressMsg{Code: tea.KeyEnter})
	}
	type_("/upload /nowhere/x.png")
	wantOnScreen(t, m, "there is no file /nowhere/x.png", "/upload /nowhere/x.png")
	path := filepath.Join(t.TempDir(), "my song.ogg")
	if err := os.WriteFile(path, []byte("la"), 0o600); err != nil {
		t.Fatal(err)
	}
	type_("/upload '" + path + "'")
	wantOnScreen(t, m, "▤ sending my song.ogg  12:00 …")
	r := m.current().outbox[0]
	r.upload.progress(client.Progress{Stage: client.StageMoving, Done: 45 << 20, Total: 100 << 20})
	wantOnScreen(t, m, "▤ sending my song.ogg: 45 % of 100.0", "MiB   ")
	r.upload.progress(client.Progress{Stage: client.StageChecking, Done: 100 << 20, Total: 100 << 20})
	wantOnScreen(t, m, "▤ verifying my song.ogg")
	r.failed = "no"
	wantOnScreen(t, m, "▤ my song.ogg  12:00 ✗ failed")
	type_("/download")
	wantOnScreen(t, m, "there is no file to fetch")
	m.files.fetching = &transfer{name: "b\x1bc", what: "fetching"}
	m.files.fetching.progress(client.Progress{Done: 1, Total: 4})
	wantOnScreen(t, m, "─ fetching b", "c: 25 % of 4 B ─")
	if cmd, is := m.fileVerb(m.current(), "/uploads are nice"); cmd != nil || is {
		t.Error("a text is taken for a verb")
	}
}

// What runs when the screen is left is waited for, and nothing begins after.
func TestTransfersEndWithTheScreen(t *testing.T) {
	g := new(gate)
	if !g.enter() {
		t.Fatal("shut from the start")
	}
	left := make(chan struct{})
	go func() { g.shut(); close(left) }()
	for g.enter() { // until it is being shut
		g.running.Done()
	}
	select {
	case <-left:
		t.Fatal("it was not waited for")
	default:
	}
	g.running.Done()
	<-left
}
