package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
)

// fakeOutbox stores what is posted; the test decides when it is acknowledged.
type fakeOutbox struct {
	mu     sync.Mutex // guards the fields below
	texts  []string
	refuse string // the text that is refused
	acks   chan struct{}
}

type fakePending struct {
	box  *fakeOutbox
	seq  int
	text string
}

func (p fakePending) Result(ctx context.Context) (client.Sent, error) {
	select {
	case <-p.box.acks:
	case <-ctx.Done():
		return client.Sent{}, ctx.Err()
	}
	if p.text == p.box.refuse {
		return client.Sent{}, proto.Errorf(proto.CodeNotMember, "not yours")
	}
	return client.Sent{Thread: "d/1/2", Seq: proto.Seq(p.seq)}, nil
}

func (b *fakeOutbox) post(_, text string) (pending, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.texts = append(b.texts, text)
	return fakePending{b, len(b.texts), text}, nil
}

func (b *fakeOutbox) posted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.texts...)
}

func newSender(out io.Writer, b *fakeOutbox) *sender {
	return &sender{a: &app{out: out, err: io.Discard}, json: true, thread: "d/1/2", post: b.post, explain: func(err error) error { return err }}
}

// acknowledged is an outbox whose server answers at once.
func acknowledged() *fakeOutbox {
	b := &fakeOutbox{acks: make(chan struct{})}
	close(b.acks)
	return b
}

func TestSendLines(t *testing.T) {
	const most = proto.TextBytesMax
	for _, c := range []struct {
		name, in string
		stored   int
		want     string // of the error; empty: none
	}{
		{"lines", "a\nb\nc\n", 3, ""},
		{"no final newline", "a\nb", 2, ""},
		{"empty lines are skipped", "\n\na\n\r\n\nb\r\n", 2, ""},
		{"nothing", "", 0, ""},
		{"the longest", strings.Repeat("x", most) + "\n" + strings.Repeat("y", most) + "\r\n" + strings.Repeat("z", most), 3, ""},
		{"one byte too long", "a\n\nb\n" + strings.Repeat("x", most+1) + "\nc\n", 2, "line 4"},
		{"much too long", "a\n" + strings.Repeat("x", 5*most) + "\nc\n", 1, "line 2"},
		{"not UTF-8", "a\n\xff\nc\n", 1, "line 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			b := acknowledged()
			err := newSender(&out, b).run(t.Context(), strings.NewReader(c.in))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if got := b.posted(); len(got) != c.stored {
				t.Errorf("%d lines were sent, want %d", len(got), c.stored)
			}
			lines := strings.SplitAfter(out.String(), "\n")
			if len(lines) != c.stored+1 {
				t.Fatalf("%d acknowledgements were printed, want %d", len(lines)-1, c.stored)
			}
			for i, l := range lines[:c.stored] {
				if want := fmt.Sprintf(`"seq":"%d"`, i+1); !strings.Contains(l, want) {
					t.Errorf("line %d is %s, want %s", i, l, want)
				}
			}
			for _, text := range b.posted() {
				if strings.ContainsAny(text, "\r\n") {
					t.Errorf("%q was sent with its end", text)
				}
			}
		})
	}
}

// Lines go out without waiting for the answers to those before, and the end
// waits for all of them.
func TestSendIsPipelined(t *testing.T) {
	b := &fakeOutbox{acks: make(chan struct{})}
	in, input := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- newSender(io.Discard, b).run(t.Context(), in) }()
	for i := range 100 { // returns once the line is read
		if _, err := fmt.Fprintf(input, "%d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	_ = input.Close()
	for range 100 {
		select {
		case b.acks <- struct{}{}:
		case err := <-done:
			t.Fatalf("ended before the last acknowledgement: %v", err)
		}
	}
	if err := <-done; err != nil || len(b.posted()) != 100 {
		t.Errorf("%d sent, %v", len(b.posted()), err)
	}
}

// A refused message ends it, though input would go on for ever.
func TestSendStopsAtARefusal(t *testing.T) {
	b := acknowledged()
	b.refuse = "b"
	in, input := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- newSender(io.Discard, b).run(t.Context(), in) }()
	if _, err := io.WriteString(input, "a\nb\n"); err != nil {
		t.Fatal(err)
	}
	err := <-done
	if !errors.Is(err, proto.Errorf(proto.CodeNotMember, "")) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("%v", err)
	}
	_ = input.Close()
}

func TestSendInterrupted(t *testing.T) {
	b := &fakeOutbox{acks: make(chan struct{})}
	in, input := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- newSender(io.Discard, b).run(ctx, in) }()
	if _, err := io.WriteString(input, "a\n"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	_ = input.Close()
}
