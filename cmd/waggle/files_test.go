package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/waggle-im/waggle/client"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// What cannot be right is refused before anything is asked.
func TestFilesWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{"upload", "x"}, {"upload", "--to", "bob"}, {"upload", "x", "--to", "bob", "--parts", "9"}, {"upload", "x", "--to", "b/b"},
		{"download"}, {"download", "17"}, {"download", "../17-1"}, {"download", "17-1", "--seq", "3"}, {"download", "17-1", "--thread", "x", "--seq", "3"},
		{"files"}, {"files", "show", "x"}, {"files", "rm"}, {"files", "rm", "17"},
		{"profile", "set", "--crop", "1,1,2,2"}, {"profile", "set", "--avatar", "x", "--crop", "1,1,0,2"}, {"profile", "set", "--avatar", "x", "--crop", "1,1,2,2,3"},
	} {
		var errs bytes.Buffer
		a := &app{in: strings.NewReader(""), out: new(bytes.Buffer), err: &errs}
		if status := a.run(t.Context(), append(args, "--profile", t.TempDir())); status != statusUsage {
			t.Errorf("waggle %s: status %d, %s", strings.Join(args, " "), status, errs.String())
		}
	}
}

// A file in a message is told to people harmlessly and on one line.
func TestFileWords(t *testing.T) {
	l := lineOf(0, &clientpb.Event{FromName: "ann", Body: &clientpb.Event_File{File: &clientpb.FileMessage{
		File: "17-2", Name: "a\x1b[2J\nb.png", Size: 3 << 20, Type: "image/png"}}})
	var out bytes.Buffer
	if err := l.print(&out, false); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "file 17-2: a") || !strings.Contains(s, "(3.0 MiB, image/png)") || strings.Count(s, "\n") != 1 || strings.Contains(s, "\x1b") {
		t.Errorf("%q", s)
	}
}

// A terminal sees a bar of what is left, with rate and time; elsewhere there
// are lines, and none for what is quick.
func TestTransferBar(t *testing.T) {
	const total = 100 << 20
	run := func(terminal bool) string {
		var errs bytes.Buffer
		b := (&app{err: &errs, errTerminal: terminal}).newTransferBar("a\x1bb")
		for done := int64(40 << 20); done <= total; done += 20 << 20 {
			b.told = b.told.Add(-2 * time.Second)
			b.begun = b.begun.Add(-time.Second)
			b.show(client.Progress{Stage: client.StageMoving, Done: done, Total: total})
		}
		b.show(client.Progress{Stage: client.StageChecking, Done: total, Total: total})
		b.end()
		return errs.String()
	}
	bar := run(true)
	for _, want := range []string{"on from 40.0 MiB", "100%", "60/60 MiB", "verifies and stores", "\r"} {
		if !strings.Contains(bar, want) {
			t.Errorf("%q is not in %q", want, bar)
		}
	}
	lines := run(false)
	if !strings.Contains(lines, "MiB of 100.0 MiB, ") || !strings.Contains(lines, "MiB/s, ") || strings.ContainsAny(lines, "\r\x1b") || strings.Count(lines, "\n") != 1 {
		t.Errorf("%q", lines)
	}
}
