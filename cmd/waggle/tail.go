package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// confirmWait is how long the end of tail waits for the client, which confirms
// every 100 ms, to confirm the last update that was printed.
const confirmWait = 300 * time.Millisecond

func (a *app) tail() *cobra.Command {
	var from uint64
	var noReconnect bool
	cmd := &cobra.Command{
		Use: "tail", Short: "print what happens, as it happens", Args: args(0, 0),
		Long: "Prints every update once and in order, own messages too, and confirms what it has\n" +
			"printed. It starts after the last update this device has confirmed (a new device:\n" +
			"at its login), or after --from PTS. It connects again by itself, with a line on\n" +
			"standard error for each loss and each return; with --no-reconnect it ends with\n" +
			"status 1 instead. Interrupting it is a good end, with status 0.\n\n" +
			"The text of an update comes from its thread's owner. Where that cannot be reached,\n" +
			"the update is printed when its text has come, after later ones, with \"late\":true.\n" +
			"If tail ends before, it is printed without text and with \"body_missing\":true.",
		Example: "  waggle tail -o json",
	}
	p := a.personFlags(cmd)
	cmd.Flags().Uint64Var(&from, "from", 0, "start after this `PTS`; 0: from the beginning")
	cmd.Flags().BoolVar(&noReconnect, "no-reconnect", false, "end when the connection is lost")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t := &tailer{out: a.out, err: a.err, json: p.json(), once: noReconnect, late: map[proto.Pts]client.Update{}, failed: make(chan error, 1), ended: make(chan struct{})}
		s, err := p.connect(cmd.Context(), func(c *client.Config) {
			c.Subscribe, c.NoReconnect = true, noReconnect
			c.FromConfirmed = !cmd.Flags().Changed("from")
			c.LastPts = proto.Pts(from)
			c.OnUpdate, c.OnBody, c.OnResync, c.OnState = t.update, t.body, t.resync, t.state
			c.OnLiveViewers = t.viewers
		})
		if err != nil {
			return err
		}
		return t.run(cmd.Context(), s)
	}
	return cmd
}

// tailer prints updates.
//
// An update counts as processed, and is confirmed, once the callback that
// prints it has returned. So the end must not let a callback return without
// printing: halt holds those that come later until the connection is gone.
type tailer struct {
	out, err io.Writer
	json     bool
	once     bool          // a lost connection is the end
	failed   chan error    // printing failed
	ended    chan struct{} // closed: the connection is gone, nothing more is confirmed

	mu     sync.Mutex // guards the fields below, and orders what is printed
	halted bool
	late   map[proto.Pts]client.Update // waiting for their text
	lost   bool                        // the connection, and that was said
	stood  bool                        // there was one
}

func (t *tailer) run(ctx context.Context, s *session) error {
	var err error
	select {
	case <-ctx.Done():
		t.halt(s)
	case err = <-t.failed:
		t.halt(s)
	case <-s.done:
		err = s.err
		if errors.Is(err, client.ErrClosed) || err == nil {
			err = errors.New("the connection has ended")
		}
		if proto.CodeOf(err) == proto.CodeDisplaced {
			t.displaced(err)
		}
		err = &statusError{statusFailed, explain(s.server, err)}
	}
	s.cancel()
	close(t.ended)
	<-s.done
	return errors.Join(err, t.missing())
}

// halt prints nothing more and waits for what was printed to be confirmed.
func (t *tailer) halt(s *session) {
	t.mu.Lock()
	t.halted = true
	t.mu.Unlock()
	wait := time.NewTimer(confirmWait)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-s.done:
	}
}

// update is the client's OnUpdate.
func (t *tailer) update(u client.Update) {
	t.mu.Lock()
	if t.halted {
		t.mu.Unlock()
		<-t.ended
		// Returning would count the update as processed.
		runtime.Goexit()
	}
	defer t.mu.Unlock()
	if u.Event.GetBodyMissing() {
		t.late[u.Pts] = u
		return
	}
	if t.print(lineOfUpdate(u)) {
		return
	}
	t.halted = true
	t.mu.Unlock()
	<-t.ended
	t.mu.Lock()
	runtime.Goexit()
}

// body is the client's OnBody, called beside update.
func (t *tailer) body(u client.Update) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, waiting := t.late[u.Pts]; !waiting {
		return
	}
	l := lineOf(u.Pts, u.Event)
	l.Late = true
	if t.print(l) {
		delete(t.late, u.Pts)
	}
}

// print needs mu. The first failure ends tail.
func (t *tailer) print(l printer) bool {
	err := l.print(t.out, t.json)
	if err != nil {
		select {
		case t.failed <- err:
		default:
		}
	}
	return err == nil
}

// missing prints the updates whose text did not come: they are confirmed and
// would never be shown.
func (t *tailer) missing() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, pts := range slices.Sorted(maps.Keys(t.late)) {
		if err := lineOf(pts, t.late[pts].Event).print(t.out, t.json); err != nil {
			return err
		}
	}
	return nil
}

// viewers is the client's OnLiveViewers: a signal, which needs no confirmation.
func (t *tailer) viewers(v *clientpb.LiveViewers) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.halted {
		t.print(viewersLineOf(v, time.Now()))
	}
}

func (t *tailer) resync(r client.Resync) {
	fmt.Fprintf(t.err, "waggle: updates up to %d cannot be had (%s): `waggle threads ls` and `waggle history T` show what there is\n", r.Pts, harmless(r.Reason))
}

// state says each loss and each return once.
func (t *tailer) state(s client.State, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.halted, t.once:
	case s == client.Connected && t.lost:
		t.lost = false
		fmt.Fprintln(t.err, "waggle: connected again")
	case s == client.Connected:
		t.stood = true
	case s == client.Disconnected && t.stood && !t.lost && !loginOver(err):
		t.lost = true
		fmt.Fprintf(t.err, "waggle: the connection is lost (%s): connecting again\n", harmless(oneLine(fmt.Sprint(err))))
	}
}
