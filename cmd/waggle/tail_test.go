package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
)

func newTailer(out, errOut io.Writer) *tailer {
	return &tailer{out: out, err: errOut, json: true, late: map[proto.Pts]client.Update{}, failed: make(chan error, 1), ended: make(chan struct{})}
}

func update(pts proto.Pts, missing bool) client.Update {
	e := event()
	if e.BodyMissing = missing; missing {
		e.Body = nil
	}
	return client.Update{Pts: pts, Event: e}
}

// An update without its text is printed once: when the text has come, or at
// the end.
func TestTailLate(t *testing.T) {
	var out bytes.Buffer
	tl := newTailer(&out, io.Discard)
	tl.update(update(1, true))
	tl.update(update(2, true))
	tl.update(update(3, false))
	tl.body(update(2, false))
	tl.body(update(2, false))
	if err := tl.missing(); err != nil {
		t.Fatal(err)
	}
	want := [][]string{{`"pts":"3"`, `"text"`}, {`"pts":"2"`, `"text"`, `"late":true`}, {`"pts":"1"`, `"body_missing":true`}}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("printed\n%s", out.String())
	}
	for i, l := range lines {
		for _, w := range want[i] {
			if !strings.Contains(l, w) {
				t.Errorf("line %d is %s, want %s", i, l, w)
			}
		}
		if strings.Contains(l, "late") != (i == 1) || strings.Contains(l, "body_missing") != (i == 2) {
			t.Errorf("line %d is %s", i, l)
		}
	}
}

// returned tells whether f comes back, rather than ending its goroutine.
func returned(f func()) <-chan bool {
	out := make(chan bool, 1)
	go func() {
		back := false
		defer func() { out <- back }()
		f()
		back = true
	}()
	return out
}

// What was not printed must not count as processed.
func TestTailHalted(t *testing.T) {
	var out bytes.Buffer
	tl := newTailer(&out, io.Discard)
	tl.halted = true
	back := returned(func() { tl.update(update(1, false)) })
	close(tl.ended)
	if <-back || out.Len() > 0 {
		t.Errorf("an update after the end was taken, %q printed", out.String())
	}

	tl = newTailer(failingWriter{}, io.Discard)
	back = returned(func() { tl.update(update(1, false)) })
	if err := <-tl.failed; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the failure is %v", err)
	}
	close(tl.ended)
	if <-back {
		t.Error("an update that could not be printed counts as processed")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// One line for each loss and one for each return, however many attempts lie
// between.
func TestTailStates(t *testing.T) {
	var errOut bytes.Buffer
	tl := newTailer(io.Discard, &errOut)
	no := errors.New("no\nroute")
	for _, s := range []client.State{client.Connecting, client.Disconnected, client.Connecting, client.Connected,
		client.Disconnected, client.Connecting, client.Disconnected, client.Connecting, client.Connected,
		client.Disconnected, client.Connecting, client.Connected} {
		tl.state(s, no)
	}
	lost, back := "waggle: the connection is lost (no; route): connecting again\n", "waggle: connected again\n"
	if errOut.String() != lost+back+lost+back {
		t.Errorf("said\n%s", errOut.String())
	}
	errOut.Reset()
	tl.once = true
	tl.state(client.Disconnected, no)
	if errOut.Len() > 0 {
		t.Errorf("with --no-reconnect the error says it: %s", errOut.String())
	}
}

// A login that is over is not announced as a loss that will be mended.
func TestTailDoesNotPromiseToComeBack(t *testing.T) {
	for code, want := range map[proto.Code]bool{proto.CodeDisplaced: false, proto.CodeSessionEnded: false, proto.CodeShuttingDown: true, proto.CodeDisconnected: true} {
		var said bytes.Buffer
		tl := newTailer(io.Discard, &said)
		tl.state(client.Connected, nil)
		tl.state(client.Disconnected, proto.Errorf(code, "why"))
		if got := strings.Contains(said.String(), "connecting again"); got != want {
			t.Errorf("%s: said %q", code, said.String())
		}
	}
}
