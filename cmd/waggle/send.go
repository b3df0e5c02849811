package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
)

// sendsInFlight bounds the messages of `send --stdin` that are read and not
// yet acknowledged; the client sends as many of them at once as the server
// takes. It stays below the client's outbox.
const sendsInFlight = 4096

func (a *app) send() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use: "send T TEXT | send T --stdin | send T --location LAT,LON[,NAME] | send T --card U", Short: "send a message, or one per line", Args: args(1, 2),
		Long: fmt.Sprintf("Sends TEXT to T (a user name, an id, d/… or g/…), or each line of standard input as\n"+
			"a message, in order and without waiting in between. Prints each acknowledgement,\n"+
			"in order; status 0 says that all were stored. Empty lines are skipped. A line\n"+
			"over %d bytes, or not in UTF-8, is an error, and nothing after it is sent.", proto.TextBytesMax),
		Example: "  waggle send bob 'hello'\n  seq 1 1000 | waggle send bob --stdin -o json",
	}
	p := a.personFlags(cmd)
	cmd.Flags().BoolVar(&f.stdin, "stdin", false, "send each line of standard input")
	cmd.Flags().StringVar(&f.location, "location", "", "send a place: `LAT,LON[,NAME]` in degrees")
	cmd.Flags().StringVar(&f.card, "card", "", "send the card of user `U`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		if err := f.check(args, usageOf(cmd)); err != nil {
			return err
		}
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		thread, err := s.threadOf(cmd.Context(), t)
		if err != nil {
			return err
		}
		if f.stdin {
			w := &sender{a: a, json: p.json(), thread: thread, post: s.post, explain: s.failed}
			return w.run(cmd.Context(), a.in)
		}
		m, err := s.message(cmd.Context(), thread, strings.Join(args[1:], ""), f)
		if err != nil {
			return err
		}
		pending, err := s.PostBody(m)
		if err != nil {
			return s.failed(err)
		}
		sent, err := pending.Result(cmd.Context())
		if err != nil {
			return s.failed(err)
		}
		return printSent(a.out, sent, p.json())
	}
	return cmd
}

// checkText refuses what cannot be a message's text.
func checkText(text []byte) error {
	switch {
	case len(text) > proto.TextBytesMax:
		return fmt.Errorf("has %d bytes, the limit is %d: send it in parts", len(text), proto.TextBytesMax)
	case !utf8.Valid(text):
		return errors.New("is not in UTF-8: convert it first, as with iconv")
	}
	return nil
}

// pending is a message on its way; *client.Pending is one.
type pending interface {
	Result(context.Context) (client.Sent, error)
}

func (s *session) post(thread, text string) (pending, error) { return s.Post(thread, text) }

// failed says why a message was not acknowledged.
func (s *session) failed(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted before the acknowledgement: the message may have been stored (`waggle history T`)")
	case errors.Is(err, client.ErrClosed):
		<-s.done
		return fmt.Errorf("before the acknowledgement, so the message may have been stored: %w", explain(s.server, s.err))
	}
	return explain(s.server, err)
}

// sender sends lines.
type sender struct {
	a       *app
	json    bool
	thread  string
	post    func(thread, text string) (pending, error)
	explain func(error) error
}

// posted is a line on its way.
type posted struct {
	line    int // from 1
	message pending
}

// run sends the lines of in and prints the acknowledgements, in order. It
// waits for what was sent even when a later line is wrong.
func (w *sender) run(ctx context.Context, in io.Reader) error {
	queue := make(chan posted, sendsInFlight)
	stop := make(chan struct{}) // send nothing more
	reading := make(chan error, 1)
	go func() { // ends with the input, or after stop: then with the process
		err := w.read(ctx, in, queue, stop)
		reading <- err
		close(queue)
	}()
	var failed error
	done := 0
	progress := w.a.newProgress("messages stored")
	fail := func(err error) {
		if failed == nil {
			failed = err
			close(stop)
		}
	}
	for {
		q, more, err := w.next(ctx, queue, failed != nil)
		if err != nil {
			fail(w.explain(err))
			break
		}
		if !more {
			break
		}
		sent, err := q.message.Result(ctx)
		if err != nil {
			fail(fmt.Errorf("line %d: %w", q.line, w.explain(err)))
			continue
		}
		if err := printSent(w.a.out, sent, w.json); err != nil {
			fail(err)
		}
		done++
		progress.show(done)
	}
	progress.end()
	if failed != nil {
		return fmt.Errorf("%w; %d messages were stored", failed, done)
	}
	if err := <-reading; err != nil {
		return fmt.Errorf("%w; the %d messages before it were stored", err, done)
	}
	return nil
}

// next waits for the next line that was sent. When one has failed, only those
// that are on their way already count: the reader may wait for input for ever.
func (w *sender) next(ctx context.Context, queue <-chan posted, stopped bool) (q posted, more bool, err error) {
	if stopped {
		select {
		case q, more = <-queue:
		default:
		}
		return q, more, nil
	}
	select {
	case q, more = <-queue:
		return q, more, nil
	case <-ctx.Done():
		return q, false, ctx.Err()
	}
}

// read posts the lines of in.
func (w *sender) read(ctx context.Context, in io.Reader, queue chan<- posted, stop <-chan struct{}) error {
	// One byte more than a line may have, and its end.
	lines := bufio.NewReaderSize(in, proto.TextBytesMax+3)
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("standard input, line %d: %w", n, err)
		}
		end := errors.Is(err, io.EOF)
		text := bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("line %d has more than %d bytes, the limit of a message: nothing from it on was sent", n, proto.TextBytesMax)
		}
		if err := checkText(text); err != nil {
			return fmt.Errorf("line %d %w: nothing from it on was sent", n, err)
		}
		if len(text) > 0 {
			if err := w.postLine(ctx, posted{line: n}, string(text), queue, stop); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// errStopped ends the reader when an earlier line has failed.
var errStopped = errors.New("an earlier message failed")

func (w *sender) postLine(ctx context.Context, q posted, text string, queue chan<- posted, stop <-chan struct{}) error {
	select {
	case <-stop:
		return errStopped
	default:
	}
	var err error
	if q.message, err = w.post(w.thread, text); err != nil {
		return fmt.Errorf("line %d: %w", q.line, w.explain(err))
	}
	select {
	case queue <- q:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
