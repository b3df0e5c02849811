package client

import (
	"context"
	"sync"
	"time"

	clientpb "github.com/waggle-im/waggle/proto/client"
)

// redirectWaitMax bounds what a server can have a client wait before it goes
// elsewhere.
const redirectWaitMax = 10 * time.Second

// mover leaves one connection for another edge when the server asks for that:
// it connects there first, so that the client is never without a connection.
type mover struct {
	client   *Client
	conn     *connection
	received <-chan struct{} // closed when nothing more comes on conn

	mu    sync.Mutex         // guards the fields below
	done  chan struct{}      // closed when no attempt is under way; nil: none was made
	asked *clientpb.Redirect // while one is: the next to try
	busy  bool
	next  *reached // where to go on
}

// start tries the alternatives, after those of an attempt under way.
func (m *mover) start(ctx context.Context, r *clientpb.Redirect) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = r
	if m.busy || m.next != nil {
		return
	}
	done := make(chan struct{})
	m.busy, m.done = true, done
	go func() { // awaited by wait
		defer close(done)
		for r := m.take(); r != nil; r = m.take() {
			m.move(ctx, r)
		}
	}()
}

// take is the next redirect to follow; nil ends the attempt.
func (m *mover) take() *clientpb.Redirect {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.asked
	m.asked = nil
	if r == nil || m.next != nil {
		m.busy = false
		return nil
	}
	return r
}

func (m *mover) move(ctx context.Context, r *clientpb.Redirect) {
	pause := time.NewTimer(min(time.Duration(r.WaitMs)*time.Millisecond, redirectWaitMax))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-m.received: // the connection is lost already: at once, then
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, m.client.cfg.DialTimeout)
	defer cancel()
	for _, server := range r.Alternatives {
		next, err := m.client.reach(ctx, server)
		if err != nil {
			m.client.cfg.Logger.Debug("not moved to another edge", "server", server, "err", err)
			continue
		}
		m.client.preferServers([]string{server})
		m.mu.Lock()
		m.next = next
		m.mu.Unlock()
		m.client.sayGoodbye(m.conn.wire, m.received)
		m.conn.close()
		return
	}
}

// arrived tells whether there is where to go on.
func (m *mover) arrived() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.next != nil
}

// wait waits for the attempt under way and is where to go on, nil if nowhere.
func (m *mover) wait() *reached {
	m.mu.Lock()
	done := m.done
	m.mu.Unlock()
	if done != nil {
		<-done
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.next
}
