package chatscreen

import (
	"context"
	"errors"
	"io"
	"sync"

	tea "charm.land/bubbletea/v2"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// Who says whose screen it is.
type Who struct {
	User   proto.EntityID
	Name   string // the user's own
	Thread string // to open first; empty: the newest
	// Uploads is where it is kept how far uploads are, Locks those of downloads.
	Uploads, Locks string
}

// Screen is a chat on a terminal: [New] makes it, Configure hooks it into the
// configuration of a client, Run draws until the user leaves, Close frees the
// client's callbacks, before the client is waited for.
type Screen struct {
	in     io.Reader
	out    io.Writer
	events chan tea.Msg  // from the client's callbacks to the screen
	left   chan struct{} // closed: nobody looks any more
	once   sync.Once
}

// eventsWaiting bounds what the client has handed out and the screen has not
// taken yet; past it the client waits.
const eventsWaiting = 256

// New makes a screen on a terminal and draws nothing.
func New(in io.Reader, out io.Writer) *Screen {
	return &Screen{in: in, out: out, events: make(chan tea.Msg, eventsWaiting), left: make(chan struct{})}
}

// Close lets callbacks of the client return without being seen.
func (s *Screen) Close() { s.once.Do(func() { close(s.left) }) }

// Configure makes the screen see what the client is told.
func (s *Screen) Configure(c *client.Config) {
	tell := c.OnState
	c.Subscribe, c.FromConfirmed = true, true
	c.OnUpdate = func(u client.Update) { s.post(updateMsg{u}) }
	c.OnBody = func(u client.Update) { s.post(bodyMsg{u}) }
	c.OnResync = func(r client.Resync) { s.post(resyncMsg{r}) }
	c.OnPresence = func(p *clientpb.Presence) { s.post(presentMsg{p}) }
	c.OnTyping = func(t *clientpb.TypingNow) { s.post(typingMsg{t}) }
	c.OnLiveViewers = func(v *clientpb.LiveViewers) { s.post(viewersMsg{v}) }
	c.OnState = func(state client.State, err error) {
		if tell != nil {
			tell(state, err)
		}
		s.post(stateMsg{state, err})
	}
}

// post hands an event to the screen, in order.
func (s *Screen) post(msg tea.Msg) {
	select {
	case s.events <- msg:
	case <-s.left:
	}
}

// Run draws until the user leaves or ctx ends. ended waits for the end of the
// client's Run and returns its error.
//
// Errors: what the server has ended the session with for good; the terminal's.
func (s *Screen) Run(ctx context.Context, srv *client.Client, who Who, ended func() error) error {
	m := newModel(srv, who.User, who.Name)
	defer m.openFiles(ctx, srv, who)()
	m.start = func() tea.Cmd {
		m.link, m.transport = client.Connected, srv.Transport()
		if who.Thread != "" {
			return tea.Batch(m.open(who.Thread), m.readAll())
		}
		return m.readAll()
	}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(s.in), tea.WithOutput(s.out), tea.WithoutSignalHandler())
	gone := make(chan error, 1)
	go func() { gone <- ended() }() // ends with the client
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case msg := <-s.events:
				p.Send(msg)
			case err := <-gone:
				p.Send(endedMsg{err})
			case <-s.left:
				return
			}
		}
	}()
	_, err := p.Run()
	s.Close()
	<-forwarded
	switch {
	case m.ended != nil:
		return m.ended
	case ctx.Err() != nil, errors.Is(err, tea.ErrInterrupted):
		return nil
	}
	return err
}
